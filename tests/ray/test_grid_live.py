"""A cluster on a live grid source, down and then well: no job waits for it; status and metrics say what is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from grid_server import GridServer, as_json, as_text

pytestmark = pytest.mark.timeout(400)

KEY = "tok-live-1234567890"
CLUSTER = """
name: live
home_zone: DE
nodes:
  - {{name: de-1, zone: DE, num_cpus: 1, memory_gb: 2, power: {{idle_w: 50, max_w: 100, source: test}}}}
grid: {{source: electricity-maps, url: "{url}/v4"}}
serve: {{port: 8123}}
"""
JOB = """
name: seen
run: env | grep -c ECO_RAY_KEY || true
workdir: .
carbon: {expected_duration: 10s, max_delay: 1m}
"""
PORT = "import ray; ray.init(address='auto', log_to_driver=False); print([n['MetricsExportPort'] for n in ray.nodes()])"


class Cluster:
    """`eco-ray` in processes of its own: Ray keeps the token of the first cluster that a process has joined."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "ECO_RAY_STATE_DIR": str(folder / "state"), "ECO_RAY_KEY_ELECTRICITY_MAPS": KEY}
        self.env.pop("RAY_ADDRESS", None)
        self.said = ""

    def run(self, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "eco_ray.cli.main", *args],
            env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=150,
        )  # fmt: skip
        self.said += done.stdout + done.stderr
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def signal(self) -> dict[str, Any]:
        (signal,) = json.loads(self.run("status", "-o", "json"))["signals"]
        return signal

    def wait_for(self, rung: str, timeout_s: float) -> dict[str, Any]:
        give_up = time.monotonic() + timeout_s
        # a question that was asked while the server was half well waits for its next time
        while (signal := self.signal())["rung"] != rung or signal["why"]:
            assert time.monotonic() < give_up, signal
            time.sleep(1)
        return signal

    def metrics(self) -> str:
        record = json.loads((self.folder / "state" / "cluster.json").read_text())
        env = {**self.env, **record["env"], "RAY_ADDRESS": record["address"]}
        done = subprocess.run([sys.executable, "-c", PORT], env=env, capture_output=True, text=True, timeout=60)
        ports = json.loads(done.stdout.splitlines()[-1])
        return "\n".join(httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text for port in ports)


def serve(server: GridServer) -> None:
    hour = int(time.time() // 3600)

    def point(at: int) -> dict[str, Any]:
        stamp = time.strftime("%Y-%m-%dT%H:00:00.000Z", time.gmtime(at * 3600))
        told = {"zone": "DE", "carbonIntensity": 123, "datetime": stamp, "updatedAt": stamp, "isEstimated": False}
        return {**told, "emissionFactorType": "lifecycle", "estimationMethod": None, "temporalGranularity": "hourly"}

    past = [point(at) for at in range(hour - 24, hour + 1)]
    server.on("/v4/carbon-intensity/latest", as_json(past[-1]))
    server.on("/v4/carbon-intensity/history", as_json({"zone": "DE", "history": past}))
    server.on("/v4/carbon-intensity/past-range", as_json({"zone": "DE", "data": past}))
    ahead = [point(at) for at in range(hour, hour + 73)]
    server.on(
        "/v4/carbon-intensity/forecast", as_json({"zone": "DE", "forecast": ahead, "updatedAt": past[-1]["datetime"]})
    )


def test_no_job_waits_for_the_grid_and_everybody_sees_what_is_used(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    with GridServer() as server:
        server.on("/*", as_text(f"down, and your key was {KEY}", status=503))
        (tmp_path / "cluster.yaml").write_text(CLUSTER.format(url=server.url))
        try:
            cluster.run("up", "--cluster", "cluster.yaml")
            cluster.run("job", "submit", "job.yaml", "--id", "seen", "--wait")
            assert cluster.run("job", "logs", "seen").split()[-1] == "0"  # no job inherits a key
            signal = cluster.signal()
            assert signal["rung"] == "last-resort"
            assert signal["source"].startswith("eco_ray modelled profile")
            assert "HTTP 503" in signal["why"]
            serve(server)
            signal = cluster.wait_for("forecast", 150)
            assert (signal["intensity_g_per_kwh"], signal["why"]) == (123, "")
            give_up = time.monotonic() + 40
            while 'rung="forecast"' not in (shown := cluster.metrics()):
                assert time.monotonic() < give_up, shown[-2000:]
                time.sleep(2)
            assert 'grid_zone="DE"' in shown
            assert "ray_eco_grid_carbon_intensity_gco2e_per_kwh" in shown
            assert "ray_eco_signal_age_seconds" in shown
            cluster.run("job", "submit", "job.yaml", "--id", "again", "--wait")
            rows = json.loads(cluster.run("ledger", "query", "--by", "zone", "-o", "json"))
            assert rows
            cluster.run("grid", "now", "--zone", "DE", "--cluster", "cluster.yaml")
            cluster.run("config", "show", "--origin")
        finally:
            cluster.run("down")
    assert all(asked.headers["auth-token"] == KEY for asked in server.requests)
    assert KEY not in cluster.said
    assert KEY not in shown
    holders = [path for path in (tmp_path / "state").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holders == [tmp_path / "state" / "keys" / "electricity-maps"]
    assert holders[0].stat().st_mode & 0o077 == 0
