"""A minute of jobs that come and go while controller and agents are killed at random. Part of `make test-all`."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from ledger_checks import assert_ledger_sound
from live_cluster import SPEED, Cluster

from eco_ray.core.jobs import JobState
from eco_ray.on_ray.local_cluster import _with_descendants, start_ticks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def processes_titled(cluster: Cluster, title: bytes) -> list[int]:
    """Processes of the cluster that Ray gave this title."""
    roots = [pid for pid, ticks in cluster.client.record.processes if start_ticks(pid) == ticks]
    found = []
    for pid, _ in _with_descendants(roots):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title):
                found.append(pid)
        except OSError:
            continue
    return found


def test_random_kills_lose_nothing_and_count_nothing_twice(cluster: Cluster) -> None:
    dice = random.Random(20261122)
    jobs: dict[str, int] = {}
    end = time.monotonic() + 60
    while time.monotonic() < end:
        steps = dice.randint(20, 60)
        name = f"soak-{len(jobs)}"
        job = cluster.script(
            "counts.py", str(cluster.folder / name), str(steps), policy=dice.choice(["eco", "run-now"]), name=name,
            expected_duration=f"{steps / 10 + 1:.0f}s", max_delay="60h", min_run="1s", resume_cost="1s",
        )  # fmt: skip
        jobs[cluster.client.submit(job, name)] = steps
        time.sleep(dice.uniform(2, 6))
        victim = dice.choice([b"ray::ControllerActor", b"ray::AgentActor", None])
        if victim:
            for pid in processes_titled(cluster, victim)[:1]:
                os.kill(pid, signal.SIGKILL)
    for job_id, steps in jobs.items():
        ended = cluster.client.wait(job_id, 200)
        assert ended.state is JobState.SUCCEEDED, (job_id, ended.message)
        done = Counter(line.split()[1] for line in (cluster.folder / job_id).read_text().splitlines())
        assert set(done.values()) == {1}, job_id
        assert len(done) == steps
    time.sleep(3)
    assert cluster.client.store.check_ledger().residual_mj == 0
    assert_ledger_sound(cluster.settings.state_dir, longest_gap_s=0.2 * SPEED)
