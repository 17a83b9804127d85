"""`eco-ray up --address`: controller and agents on a Ray cluster that somebody else started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eco_ray.on_ray import local_cluster

pytestmark = pytest.mark.timeout(180)

CLUSTER = """
name: theirs
home_zone: DE
nodes:
  - {name: described, zone: DE, num_cpus: 1, memory_gb: 2, power: {idle_w: 50, max_w: 100, source: test}}
  - {name: herd, group: true, zone: FR, num_cpus: 1, memory_gb: 2, power: {idle_w: 7, max_w: 9, source: of the herd}}
serve: {port: 8000}
"""

START = """
import os, sys
from pathlib import Path
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.power import PowerCurve
from eco_ray.on_ray import local_cluster
curve = PowerCurve((0, 1), (50, 100), "test")
nodes = [Node(name, "DE", Resources(1.0, 0.0, 2.0), curve) for name in ("described", "unheard-of", "one-of-many")]
record = local_cluster.start("theirs", nodes[:2], 0, 8000, Path(sys.argv[1]))
os.environ["RAY_NODE_TYPE_NAME"] = "herd"  # as autoscalers and KubeRay tell a node its group
local_cluster.add_node(record, nodes[2], Path(sys.argv[1]))
"""


def eco_ray(env: dict[str, str], *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "eco_ray.cli.main", *args], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_existing_cluster_gets_controller_and_agents_and_keeps_running_after_down(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    # in a process of its own: Ray keeps the token of the first cluster that a process has joined
    started = subprocess.run([sys.executable, "-c", START, str(theirs)], capture_output=True, text=True, timeout=90)
    assert started.returncode == 0, started.stderr
    record = local_cluster.ClusterRecord.load(theirs)
    assert record is not None
    try:
        env = {**os.environ, **record.env, "ECO_RAY_STATE_DIR": str(ours)}
        (tmp_path / "cluster.yaml").write_text(CLUSTER)
        (tmp_path / "job.yaml").write_text("name: there\nrun: echo hi\ncarbon: {policy: run-now}\n")
        eco_ray(env, "up", "--address", record.address, "--cluster", str(tmp_path / "cluster.yaml"))
        status = json.loads(eco_ray(env, "status", "-o", "json"))
        zones = {node["name"]: node["zone"] for node in status["nodes"]}
        assert zones.keys() == {"head", "described", "unheard-of", "one-of-many"}
        assert (zones["unheard-of"], zones["one-of-many"]) == ("DE", "FR")
        listed = json.loads(eco_ray(env, "node", "list", "-o", "json"))
        assert "of the herd" in next(row["power_source"] for row in listed if row["node"] == "one-of-many")
        eco_ray(env, "job", "submit", str(tmp_path / "job.yaml"), "--id", "there", "--wait")
        listed = json.loads(eco_ray(env, "job", "list", "-o", "json"))
        assert [(job["id"], job["state"]) for job in listed] == [("there", "succeeded")]
        eco_ray(env, "down")
        assert local_cluster.is_alive(record)  # it is not ours to end
        script = (
            "import ray; ray.init(address='auto', namespace='eco_ray', log_to_driver=False);"
            "names = [a['name'] for a in ray.util.list_named_actors(all_namespaces=True)];"
            "print([name for name in names if name.startswith('eco_')])"
        )
        env["RAY_ADDRESS"] = record.address
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr
    finally:
        local_cluster.stop(record, theirs)
