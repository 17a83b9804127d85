"""A running job learns how it stands, and one that has spent its budget stops with a checkpoint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from live_cluster import Cluster

from eco_ray.core.jobs import JobState, Reason
from eco_ray.core.units import J_PER_KWH

JOBS = Path(__file__).parents[2] / "jobs"
_STANDS = """
import json, sys, time
from eco_ray import training
from eco_ray.train import session
with session.open() as run:
    told, until_s = None, time.monotonic() + 40
    while (told is None or told.spent is None) and time.monotonic() < until_s:
        sum(range(100_000))
        run.progress(None)
        told = training.standing()
    run.finish(
        energy_j=told.spent.energy_j, g=told.spent.operational_g, source=told.spent.source,
        intensity=told.stretches(time.time())[0].intensity_g_per_kwh, left_s=told.deadline_s - time.time(),
    )
"""


def test_an_attempt_is_told_what_its_job_has_used_and_what_lies_ahead(cluster: Cluster) -> None:
    script = cluster.folder / "stands.py"
    script.write_text(_STANDS)
    job_id = cluster.client.submit(cluster.job(f"{sys.executable} {script}", zones="CC", max_delay="20h"))
    ended = cluster.client.wait(job_id, 90)
    assert ended.state is JobState.SUCCEEDED, ended.message
    found = ended.metrics
    assert found["energy_j"] > 0
    assert found["g"] > 0
    assert found["source"].startswith("ledger, modelled")
    assert found["intensity"] == 200.0
    assert 0 < found["left_s"] < 20 * 3600 / 600  # in wall time, of a clock that is fast


def test_a_job_above_its_budget_stops_with_a_checkpoint_and_goes_on_with_a_larger_one(cluster: Cluster) -> None:
    steps = cluster.folder / "steps-budget"
    # it says that it takes 1 s, so that a slow start is no reason to refuse it, and takes 15; a second of this node is
    # 60 kJ or less
    job = cluster.script(
        "counts.py", str(steps), "150", policy="eco", zones="CC", expected_duration="1s", max_delay="20h",
        budget_kwh="0.1", name="budget",
    )  # fmt: skip
    job_id = cluster.client.submit(job)
    held = cluster.wait_for(job_id, lambda j: j.state is JobState.SUSPENDED and j.held, 60)
    assert held.reason is Reason.EXCEEDS_BUDGET
    assert "kWh of its budget of 0.1 kWh, by the ledger; its checkpoint is kept" in held.message
    assert held.attempts[-1].exit_code == 75
    assert held.has_checkpoint
    assert held.spec.budget_j == 0.1 * J_PER_KWH
    refused = cluster.cli("job", "resume", job_id, check=2)
    assert "a larger budget lets it go on" in refused.stderr
    cluster.cli("job", "resume", job_id, "--budget-kwh", "50")
    ended = cluster.client.wait(job_id, 90)
    assert ended.state is JobState.SUCCEEDED, ended.message
    done = Counter(line.split()[1] for line in steps.read_text().splitlines())
    assert set(done.values()) == {1}
    assert len(done) == 150


def test_the_example_job_of_asynchronous_sgd_starts_ray_by_itself(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("ECO_RAY_", "RAY_"))}
    options = ["--model", "linear", "--method", "async", "--workers", "2", "--codec", "int8", "--epochs", "20"]
    command = [sys.executable, str(JOBS / "train_sgd.py"), *options]
    out = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=220, check=True).stdout
    assert re.search(r"linear, async, 280 gradients in .* relative_gap 0\.0", out)
    assert re.search(r"staleness 0:\d+ .*0 workers lost", out)


def test_workers_of_asynchronous_sgd_run_where_its_job_holds_cpus(cluster: Cluster) -> None:
    command = f"{sys.executable} {JOBS}/train_sgd.py --model linear --method async --workers 2 --epochs 20"
    job_id = cluster.client.submit(cluster.job(command))  # its node has one CPU, which it holds
    job = cluster.client.wait(job_id, 90)
    assert job.state is JobState.SUCCEEDED, job.message
    assert job.metrics["gradients"] == 280
    assert job.metrics["staleness_max"] <= 2
    assert job.metrics["bytes_pushed"] == job.metrics["bytes_pulled"] == 280 * 88
