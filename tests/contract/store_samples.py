"""Jobs and ledger rows for the store suites, and what a writing process does. Run as a script it is that process."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from eco_ray.core.avoided import Avoided
from eco_ray.core.cluster import Resources
from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobSpec, JobState, Plan, Reason, Segment, SuspendRule, Workers
from eco_ray.core.ledger import Interval, Sample, Share
from eco_ray.core.units import Nature
from eco_ray.store import open_store

T0_S = 1_763_800_000.0
BATCH = 25


def a_job(job_id: str = "train-1", **changes: Any) -> Job:
    job = Job(
        id=job_id,
        spec=JobSpec(
            name="train",
            run="python train.py",
            deadline_s=T0_S + 0.1 + 0.2,
            demand=Resources(cpus=1.5, memory_gb=0.1),
            tenant="vision",
            zones=("DE", "FR"),
            suspend=SuspendRule(allow=False, min_run_s=1 / 3),
            workers=Workers(1, 3, (1.0, 1.8, 2.4)),
            budget_g=1 / 3,
            checkpoint_gb=0.1,
            retry_exit_codes=(33,),
            runtime_env={"env_vars": {"A": "ü"}},
        ),
        state=JobState.QUEUED,
        reason=Reason.WAITING_FOR_CLEANER_WINDOW,
        message="until 14:00, saves 12 g",
        submitted_s=T0_S,
        attempts=(Attempt(1, f"{job_id}-1", "n1", "DE", AttemptState.PAUSED, T0_S, exit_code=0, workers=2),),
        plan=Plan((Segment("n1", "DE", T0_S, T0_S + 3600, 3),), 1.5, 2.5, T0_S),
        progress=0.3,
        metrics={"accuracy": 0.1 + 0.2, "steps": 2**40, "classes": [1, 2]},
    )
    return replace(job, **changes)


def an_avoided(number: int = 1, **changes: Any) -> Avoided:
    """Of 90 J at 400 g/kWh, with a PUE of 1.2."""
    whole = Avoided(
        *(f"r1/{number}", T0_S + number, T0_S + number + 60.0, "n1", "mnist:3", "vision", 12, 90_000, "DE"),
        *(400.0, "average-lifecycle", 1.2, Nature.MODELLED, "first computation less the hit; intensity: profile"),
    )
    return replace(whole, **changes)


def an_interval(
    seq: int = 0,
    *,
    node: str = "n1",
    boot_id: str = "boot",
    zone: str = "DE",
    start_s: float | None = None,
    length_s: float = 1.0,
    energy_mj: int = 50_000,
    shares: tuple[Share, ...] = (Share("job", "a", 1, 20_000), Share("model", "mnist:1", 0, 5_000)),
    intensity: float | None = 300.0,
    pue: float = 1.2,
    kind: str = "average-lifecycle",
    intensity_nature: Nature | None = Nature.MODELLED,
    age_s: float | None = 0.0,
    **sample: Any,
) -> Interval:
    start_s = T0_S + seq if start_s is None else start_s
    values: dict[str, Any] = {"idle_mj": 20_000, "error_rel": 0.3, "flags": ("clock-jump",), "system_cpu_s": 0.25}
    return Interval(
        sample=Sample(
            node=node, boot_id=boot_id, seq=seq, start_s=start_s, end_s=start_s + length_s, energy_mj=energy_mj,
            nature=Nature.MODELLED, source="modelled", **{**values, **sample},
        ),
        zone=zone, pue=pue, shares=shares, intensity_g_per_kwh=intensity, intensity_source="profile",
        intensity_kind=kind, intensity_nature=intensity_nature, intensity_age_s=age_s,
    )  # fmt: skip


def a_series(values: list[float], *, zone: str = "DE", start_s: float = T0_S, **changes: Any) -> IntensitySeries:
    series = IntensitySeries(
        zone, start_s, 3600.0, np.array(values), SignalKind.AVERAGE_LIFECYCLE, "profile DE", Nature.MODELLED
    )
    return replace(series, **changes)


def a_batch(number: int, boot_id: str) -> list[Interval]:
    return [an_interval(number * BATCH + i, boot_id=boot_id) for i in range(BATCH)]


def write_batches(url: str, boot_id: str, count: int, when_told: bool = False) -> int:
    """Write batches and a job with each; report each committed batch on stdout. Returns how many rows were new.

    `when_told`: a batch for each line on stdin, until it ends.
    """
    store = open_store(url)
    new = 0
    for number in range(count):
        if when_told and not sys.stdin.readline():
            break
        new += store.add_intervals(a_batch(number, boot_id))
        store.save_jobs([a_job(f"{boot_id}-{number}")])
        _say(str(number))
    store.close()
    return new


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    written = write_batches(sys.argv[1], sys.argv[2], int(sys.argv[3]), when_told="when-told" in sys.argv)
    _say(f"new {written}")
