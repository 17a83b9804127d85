"""The whole path with PostgreSQL as the store, as a user would set it up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from postgres_server import PostgresServer

pytestmark = pytest.mark.timeout(180)

CLUSTER = """
name: on-postgres
home_zone: DE
nodes:
  - {name: one, zone: DE, num_cpus: 1, memory_gb: 2, power: {idle_w: 50, max_w: 100, source: test}}
"""


def test_jobs_and_ledger_live_in_postgresql_by_url(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.new_database()
    env = {**os.environ, "ECO_RAY_STATE_DIR": str(tmp_path / "state"), "ECO_RAY_STORE_URL": url}
    env.pop("RAY_AUTH_TOKEN_PATH", None)

    def eco_ray(*args: str) -> str:
        command = [sys.executable, "-m", "eco_ray.cli.main", *args]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    (tmp_path / "job.yaml").write_text("name: kept\nrun: sleep 3\ncarbon: {policy: run-now}\n")
    eco_ray("up", "--cluster", str(tmp_path / "cluster.yaml"))
    try:
        eco_ray("job", "submit", str(tmp_path / "job.yaml"), "--id", "kept", "--wait")
    finally:
        eco_ray("down")
    assert [(job["id"], job["state"]) for job in json.loads(eco_ray("job", "list", "-o", "json"))] == [
        ("kept", "succeeded")
    ]
    check = json.loads(eco_ray("ledger", "verify", "-o", "json"))
    assert check["ok"] is True
    assert check["rows"] > 0
    assert not (tmp_path / "state" / "eco_ray.db").exists()
    assert postgres_server.execute(url.rpartition("/")[2], "select count(*) from jobs") == [[1]]
