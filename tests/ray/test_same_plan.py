"""The same job files through `job plan`, the live controller and the simulator: one planner, one plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_cluster import CLUSTER, SPEED, START, intensities

from eco_ray.cluster_file import load_cluster_file
from eco_ray.config import load_settings
from eco_ray.core.actions import Action
from eco_ray.core.events import Event, JobSubmitted
from eco_ray.core.jobs import Job, Plan
from eco_ray.core.orchestrator import Orchestrator, OrchestratorConfig
from eco_ray.core.situation import PlannerConfig
from eco_ray.job_file import load_job_file
from eco_ray.sim.foresight import Known
from eco_ray.sim.news import News
from eco_ray.sim.replay import Replay, Submission
from eco_ray.sim.trace import Trace
from eco_ray.store import open_store

HOUR_S = 3600.0
#: what each asks for, beside its window; the last one can only be in time if another one gives way
JOBS = {
    "in-one-piece": "expected_duration: 30s, suspend: {allow: false}",
    "in-stretches": "expected_duration: 24s, zones: [BB], suspend: {resume_cost: 0s, min_run: 0s}",
    "costly-pauses": "expected_duration: 30s, suspend: {resume_cost: 2s, min_run: 3s}",
    "lowest-window": "policy: lowest-window, expected_duration: 20s",
    "tight": "expected_duration: 24s, zones: [BB], suspend: {allow: false}",
}
#: until when each has to be done, after it may begin [h]
DEADLINE_H = dict.fromkeys(JOBS, 20.0) | {"tight": 4.5}


def iso(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Fresh]:
    """A cluster that has learned nothing from the jobs of other tests."""
    rows = [
        f"{(START + timedelta(hours=h)).isoformat()},{','.join(str(v) for v in intensities(h).values())}"
        for h in range(-24, 24 * 60)
    ]
    trace = tmp_path / "trace.csv"
    trace.write_text("\n".join([f"time,{','.join(intensities(0))}", *rows]))
    (tmp_path / "cluster.yaml").write_text(CLUSTER.format(trace=trace, speed=SPEED))
    made = Fresh(tmp_path)
    made.cli("up", "--cluster", str(tmp_path / "cluster.yaml"))
    try:
        yield made
    finally:
        made.cli("down")


class Fresh:
    """A cluster of its own, through the command line and its database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = load_settings({"state_dir": str(folder / "state")})

    def cli(self, *args: str) -> str:
        env = {**os.environ, "ECO_RAY_STATE_DIR": str(self.folder / "state")}
        env.pop("RAY_AUTH_TOKEN_PATH", None)
        command = [sys.executable, "-m", "eco_ray.cli.main", *args]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def job(self, job_id: str) -> Job:
        store = open_store(self.settings.store_url, create=False)
        try:
            job = store.get_job(job_id)
        finally:
            store.close()
        assert job is not None
        return job


@pytest.mark.timeout(180)
def test_one_jobs_file_gets_one_plan_from_dry_run_controller_and_simulator(fresh: Fresh) -> None:
    begin_s = START.timestamp() + 30 * HOUR_S  # minutes of the fast clock after the start of the cluster
    dry, live, gives_way = {}, {}, {}
    for name, carbon in JOBS.items():
        path = fresh.folder / f"{name}.yaml"
        times = f"not_before: {iso(begin_s)}, deadline: {iso(begin_s + DEADLINE_H[name] * HOUR_S)}"
        path.write_text(f"name: {name}\nrun: echo hi\ncarbon: {{{carbon}, {times}}}\n")
        planned = json.loads(fresh.cli("job", "plan", str(path), "-o", "json"))
        dry[name], gives_way[name] = told(planned["segments"]), planned["gives_way"]
        for other in gives_way[name]:
            assert told(other["from"]) == shape(fresh.job(other["id"]).plan)
            dry[other["id"]] = told(other["to"])
        fresh.cli("job", "submit", str(path), "--id", name)
        for one in (name, *(other["id"] for other in gives_way[name])):
            live[one] = shape(fresh.job(one).plan)
    simulated = {name: shape(plan) for name, plan in in_simulator(fresh).items()}
    assert len(live["in-stretches"]) > 1, "a plan without a pause shows little"
    assert [one["id"] for one in gives_way.pop("tight")] == ["in-stretches"]
    assert not any(gives_way.values())
    assert dry == live
    assert simulated == live


def told(segments: list[dict[str, Any]]) -> list[tuple[str, str, str, str, int]]:
    return [(s["zone"], s["node"], s["start"], s["end"], s["workers"]) for s in segments]


def shape(plan: Plan | None) -> list[tuple[str, str, str, str, int]]:
    assert plan is not None
    return [(s.zone, s.node, iso(s.start_s), iso(s.end_s), s.workers) for s in plan.segments]


def in_simulator(fresh: Fresh) -> dict[str, Plan]:
    """The plans of a replay with the cluster file's nodes and the trace of its grid, at the moments of submission."""
    described = load_cluster_file(fresh.folder / "cluster.yaml", fresh.settings)
    start_s, hours = START.timestamp(), 24 * 60
    traces = [
        Trace(zone, 0, 3600, np.array([intensities(hour)[zone] for hour in range(hours)], dtype=float))
        for zone in described.zones
    ]
    news = News(traces, [Known(trace) for trace in traces], start_s, start_s + hours * HOUR_S)
    planner = PlannerConfig(slot_s=900.0, horizon_s=48 * HOUR_S)
    brain = Recorder(described.home_zone, start_s, OrchestratorConfig(planner=planner))
    submissions = []
    for name in JOBS:
        at_s = fresh.job(name).submitted_s
        spec = load_job_file(fresh.folder / f"{name}.yaml").to_spec(at_s, SPEED, 24 * HOUR_S)
        submissions.append(Submission(name, at_s, spec, spec.expected_duration_s or 0.0))
    end_s = submissions[-1].arrival_s + 60
    Replay(brain, described.to_nodes(), submissions, news, begin_s=start_s, end_s=end_s, tick_s=300.0).run()
    return brain.plans


class Recorder(Orchestrator):
    """Keeps the plans that jobs got by submissions, their own or another one's."""

    def __init__(self, home_zone: str, now_s: float, config: OrchestratorConfig) -> None:
        super().__init__(home_zone, now_s, config)
        self.plans: dict[str, Plan] = {}

    def handle(self, event: Event, now_s: float) -> list[Action]:
        before = dict(self.book.jobs)
        actions = super().handle(event, now_s)
        if isinstance(event, JobSubmitted):
            for job in self.book.jobs.values():
                if job.plan is not None and before.get(job.id) is not job:
                    self.plans[job.id] = job.plan
        return actions
