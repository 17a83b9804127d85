"""What ran when: the outcome of a simulation, and the figures that are read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eco_ray.sim.trace import Trace
from eco_ray.sim.workload import Workload

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: (job, zone, start, end, workers)
Row = tuple[int, int, float, float, int]


@dataclass(frozen=True, slots=True)
class Schedule:
    """N stretches in which jobs ran, ordered by job and time; times in seconds since the simulation's start."""

    #: shape (N,): index of the job
    job: Ints
    #: index of the zone
    zone: Ints
    start_s: Floats
    end_s: Floats
    workers: Ints
    #: power that it draws, with the PUE of its site [kW]
    power_kw: Floats

    @classmethod
    def of(cls, rows: Sequence[Row], watts_per_worker: Floats) -> Schedule:
        """From rows in any order; `watts_per_worker`: of each row, shape (N,) [W]."""
        table = np.array(rows, dtype=np.float64).reshape(len(rows), 5)
        order = np.lexsort((table[:, 2], table[:, 0]))
        job, zone, start_s, end_s, workers = table[order].T
        job = job.astype(np.int64)
        power_kw = watts_per_worker[order] * workers / 1000
        return cls(job, zone.astype(np.int64), start_s, end_s, workers.astype(np.int64), power_kw)

    def of_jobs(self, keep: NDArray[np.bool_]) -> Schedule:
        """Only the stretches of some jobs: `keep` has one entry per job."""
        return self._rows(keep[self.job])

    def _rows(self, rows: NDArray[np.bool_]) -> Schedule:
        return Schedule(
            self.job[rows],
            self.zone[rows],
            self.start_s[rows],
            self.end_s[rows],
            self.workers[rows],
            self.power_kw[rows],
        )

    def carbon_g(self, jobs: int, traces: Sequence[Trace]) -> Floats:
        """Operational carbon of each job [g]: shape (J,)."""
        carbon = np.zeros(len(self.job))
        for index, trace in enumerate(traces):
            here = self.zone == index
            carbon[here] = trace.carbon(self.start_s[here], self.end_s[here])
        total: Floats = np.bincount(self.job, carbon * self.power_kw, minlength=jobs).astype(np.float64)
        return total

    def finish_s(self, jobs: int) -> Floats:
        """When each job was done [s]: shape (J,); -inf for a job that never ran."""
        finish_s = np.full(jobs, -np.inf)
        np.maximum.at(finish_s, self.job, self.end_s)
        return finish_s

    def load(self, workload: Workload) -> tuple[Floats, Floats]:
        """Running CPUs as steps: times [s], and the CPUs that run from each of them on. What ends makes room first."""
        return self.held(workload.cpus)

    def held(self, per_worker: Floats, zone: int | None = None) -> tuple[Floats, Floats]:
        """As `load`, what the workers of each job hold, shape (J,), of a zone or of all."""
        if zone is not None:
            return self._rows(self.zone == zone).held(per_worker)
        amount = per_worker[self.job] * self.workers
        times_s, first = np.unique(np.concatenate([self.start_s, self.end_s]), return_inverse=True)
        change = np.bincount(first, np.concatenate([amount, -amount]), minlength=len(times_s))
        return times_s, np.cumsum(change.astype(np.float64))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of one policy on one workload. Carbon is power times a trace: no better than what the power is."""

    policy: str
    #: jobs of the workload, with those that were truncated
    jobs: int
    #: jobs that do not end inside the simulation; they are in neither carbon figure
    truncated: int
    carbon_g: float
    #: the same jobs, run at once in the first zone that they may use
    baseline_carbon_g: float
    #: completion minus completion of run-now [h]; None where the policy has no schedule
    mean_delay_h: float | None
    p95_delay_h: float | None
    peak_cpus: float | None
    missed_deadlines: int | None
    resumes: int | None
    plan_changes_per_job: float | None

    @property
    def saved_pct(self) -> float:
        """Saved against run-now [%]; 0 where nothing ran."""
        return 100 * (1 - self.carbon_g / self.baseline_carbon_g) if self.baseline_carbon_g else 0.0


def run_now_schedule(workload: Workload, watts: Floats) -> Schedule:
    """Every job at once, on its least workers of so many watts, shape (J,), in the first zone that it may use."""
    zone = np.array([zones[0] if zones else 0 for zones in workload.zones], dtype=np.int64)
    start_s = workload.arrival_s.astype(np.float64)
    job, workers = np.arange(len(workload)), workload.least_workers
    return Schedule(job, zone, start_s, start_s + workload.length_s, workers, watts / 1000)


def outcome(
    policy: str,
    workload: Workload,
    schedule: Schedule,
    traces: Sequence[Trace],
    *,
    span_s: int,
    home_watts: Floats,
    latest_s: Floats,
    resumes: Ints,
    plan_changes: int = 0,
) -> tuple[Outcome, Schedule, NDArray[np.bool_]]:
    """Figures, the schedule without truncated jobs, and which jobs counted.

    `latest_s`: deadlines since the start [s]; `home_watts`: power of each job at once at home [W]; `resumes`: starts
    after the first; all of shape (J,).
    """
    finish_s = schedule.finish_s(len(workload))
    at_once_s = (workload.arrival_s + workload.length_s).astype(np.float64)
    counted = np.isfinite(finish_s) & (finish_s <= span_s) & (at_once_s <= span_s)
    schedule = schedule.of_jobs(counted)
    now = run_now_schedule(workload, home_watts).of_jobs(counted)
    delay_h = (finish_s - at_once_s)[counted] / 3600
    _, load = schedule.load(workload)
    return (
        Outcome(
            policy=policy,
            jobs=len(workload),
            truncated=int((~counted).sum()),
            carbon_g=float(schedule.carbon_g(len(workload), traces).sum()),
            baseline_carbon_g=float(now.carbon_g(len(workload), traces).sum()),
            mean_delay_h=float(delay_h.mean()) if len(delay_h) else None,
            p95_delay_h=float(np.percentile(delay_h, 95)) if len(delay_h) else None,
            peak_cpus=float(load.max(initial=0.0)),
            missed_deadlines=int((finish_s[counted] > latest_s[counted] + 1e-6).sum()),
            resumes=int(resumes[counted].sum()),
            plan_changes_per_job=plan_changes / max(1, int(counted.sum())),
        ),
        schedule,
        counted,
    )
