"""Nodes that share one machine, as those of `eco-ray up` do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from live_cluster import Cluster

from eco_ray.core.jobs import JobState

pytestmark = pytest.mark.timeout(120)

HOLDS = """
import pathlib, sys, time
begun, leave = map(pathlib.Path, sys.argv[1:])
begun.touch()
while not leave.exists():
    time.sleep(0.1)
print(pathlib.Path("here.txt").read_text())
"""


def test_a_job_keeps_its_work_directory_when_the_same_one_comes_to_another_node(cluster: Cluster) -> None:
    workdir, begun, leave = cluster.folder / "work", cluster.folder / "begun", cluster.folder / "leave"
    workdir.mkdir()
    (workdir / "here.txt").write_text("still here")
    (workdir / "holds.py").write_text(HOLDS)
    command = f"{sys.executable} holds.py {begun} {leave}"
    first = cluster.client.submit(cluster.job(command, zones="AA", workdir=str(workdir)))
    cluster.wait_for(first, lambda _: begun.exists())
    begun.unlink()
    second = cluster.client.submit(cluster.job(command, zones="BB", workdir=str(workdir)))
    cluster.wait_for(second, lambda _: begun.exists())
    leave.touch()
    for job_id in (first, second):
        ended = cluster.client.wait(job_id, 40)
        assert ended.state is JobState.SUCCEEDED, ended.message
        cluster.wait_for(job_id, lambda _, job_id=job_id: "still here" in cluster.cli("job", "logs", job_id).stdout)


def test_controller_and_agents_are_as_nice_as_what_started_them(cluster: Cluster) -> None:
    """Ray's default makes its workers nicer, so that they starve beside programs that use all CPUs."""
    cluster.client.status()
    ours = f"ECO_RAY_STATE_DIR={cluster.settings.state_dir}".encode()
    lines = subprocess.run(["ps", "-eo", "pid,ni,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = []
    for pid, nice, title in (line.split(maxsplit=2) for line in lines[1:]):
        is_actor = title.startswith(("ray::ControllerActor", "ray::AgentActor", "ray::eco_"))
        if is_actor and ours in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            found.append((title.split(".")[0], int(nice)))
    assert len(found) >= 4, found
    assert {nice for _, nice in found} == {os.nice(0)}, found
