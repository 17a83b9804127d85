"""Every row of the published tables, run through our simulator: what it says, what we get.

The tables are in ../shared/reference (not part of this repository); README.md there says where each comes from.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from eco_ray.cli.simulate import make_setup
from eco_ray.core.outlook import Outlook
from eco_ray.core.policies import carbon_scaler, carbon_scaler_share, wait_awhile
from eco_ray.scenario_file import load_scenario
from eco_ray.sim.simulate import Setup, Simulated, simulate
from eco_ray.sim.workload import Workload

SHARED = Path(__file__).resolve().parents[2] / "shared"
EM2022 = SHARED / "data" / "carbon" / "em2022_hourly_32zones.csv"
LWA2020 = SHARED / "data" / "carbon" / "lwa2020_30min_DE_GB_FR.csv"
GAIA_JOBS = SHARED / "data" / "jobs" / "gaia_pai_1k.csv"
GAIA = {
    "jobs": GAIA_JOBS,
    "intensity": EM2022,
    "zones": {"AU-SA": "AU-SA"},
    "start": "2022-10-19T16:00Z",
    "hours": 720.0,
    "resolution": "5s",
}


@dataclass(frozen=True)
class Row:
    """One published figure and ours."""

    table: str
    what: str
    published: float
    ours: float
    #: largest deviation that counts as the same; relative, or absolute where `points`
    bar: float
    points: bool = False
    note: str = ""

    @property
    def deviation(self) -> float:
        difference = abs(self.ours - self.published)
        return difference if self.points or not self.published else difference / abs(self.published)

    @property
    def holds(self) -> bool:
        return self.deviation <= self.bar


def reference(name: str) -> Any:
    return json.loads((SHARED / "reference" / name).read_text())


def setup(**options: Any) -> Setup:
    return make_setup(load_scenario(None, options))


def hourly_jobs(arrivals_h: np.ndarray, length_h: int, wait_h: int) -> Workload:
    """One job of one CPU at each of these hours."""
    count = len(arrivals_h)
    length_s = np.full(count, length_h * 3600, dtype=np.int64)
    return Workload(
        ids=[str(hour) for hour in arrivals_h.tolist()],
        arrival_s=arrivals_h.astype(np.int64) * 3600,
        length_s=length_s,
        expected_s=length_s,
        cpus=np.ones(count),
        gpus=np.zeros(count),
        max_wait_s=np.full(count, wait_h * 3600, dtype=np.int64),
        max_workers=np.ones(count, dtype=np.int64),
        zones=[()] * count,
    )


def first_starts_s(done: Simulated) -> np.ndarray:
    """Start of each job [s]: shape (J,)."""
    starts = np.full(done.outcome.jobs, np.inf)
    np.minimum.at(starts, done.schedule.job, done.schedule.start_s)
    return starts


def gaia() -> Iterator[Row]:
    """GAIA, ASPLOS'24: three policies with every start, and the bound of a fixed cluster."""
    table = reference("gaia.json")
    with (SHARED / "reference" / "gaia_jobs.csv").open() as file:
        jobs = list(csv.DictReader(file))
    case = setup(**GAIA, knows_duration="mean")
    for row in table["rows"]:
        policy = row["policy"]
        done = simulate(case, policy)
        starts = np.array([int(job[f"start[{policy}]"]) for job in jobs]) * 5
        differ = int((first_starts_s(done) != starts).sum())
        note = "every start equal" if differ == 0 else f"{differ} STARTS DIFFER"
        yield Row("gaia", f"{policy}: g", row["carbon_g"], done.outcome.carbon_g, 1e-4, note=note)
        yield Row("gaia", f"{policy}: starts that differ", 0, differ, 0)
        for key, ours in (
            ("mean_completion_delay_h", done.outcome.mean_delay_h),
            ("p95_completion_delay_h", done.outcome.p95_delay_h),
            ("peak_cpus", done.outcome.peak_cpus),
        ):
            yield Row("gaia", f"{policy}: {key}", row[key], float(ours or 0), 1e-4, points=True)
    bound = table["fixed_cluster_lp_bound"]
    done = simulate(replace(setup(**GAIA), capacity_cpus=(float(bound["cap_cpus"]),)), "bound")
    yield Row("gaia", "bound at 49 CPUs: g", bound["carbon_lower_bound_g"], done.outcome.carbon_g, 1e-4)


def lets_wait_awhile() -> Iterator[Row]:
    """Let's Wait Awhile, Middleware'21: ML project and nightly jobs, with its quirks; corrected in the note."""
    table = reference("lets_wait_awhile.json")
    with (SHARED / "reference" / "lets_wait_awhile_jobs.csv").open() as file:
        jobs = list(csv.DictReader(file))
    words = {
        "intensity": LWA2020,
        "zones": {"DE": "DE"},
        "start": "2020-01-01T00:00Z",
        "hours": 8999.0,  # the last half hour of the file has no value for DE
        "resolution": "30m",
        "workload": "lets-wait-awhile-ml",
    }
    policies = {"0": "run-now", "next_workday": "next-workday", "semi_weekly": "semi-weekly"}
    for row in table["ml"]:
        case = setup(**words, interruptible=row["interruptible"], published_quirks=True)
        if row["window"] == "0":
            case = replace(case, workload=replace(case.workload, max_wait_s=np.zeros(len(case.workload), np.int64)))
        policy = policies[row["window"]]
        done = simulate(case, policy)
        mended = simulate(replace(case, published_quirks=False), policy).outcome
        what = f"{policy}{', interruptible' if row['interruptible'] else ''}"
        scale = 2000.0  # 1 W for half an hour: g x 2000 is the sum of intensity over slots
        key = f"DE|{row['window']}|{'int' if row['interruptible'] else 'nonint'}"
        starts = np.array([int(job[f"start[{key}]"]) for job in jobs]) * 1800
        finish = np.array([int(job[f"finish[{key}]"]) for job in jobs]) * 1800
        differ = (first_starts_s(done) != starts) | (done.schedule.finish_s(len(jobs)) != finish)
        note = f"corrected: {mended.carbon_g * scale:.0f}, {mended.missed_deadlines} late"
        yield Row("lets_wait_awhile", f"{what}: sum", row["ci_sum"], done.outcome.carbon_g * scale, 1e-6, note=note)
        yield Row("lets_wait_awhile", f"{what}: starts or ends that differ", 0, int(differ.sum()), 0)
        late = row["jobs_finishing_after_their_own_deadline"]
        yield Row("lets_wait_awhile", f"{what}: late jobs", late, done.outcome.missed_deadlines or 0, 0, points=True)
        delay_h = row["mean_completion_delay_h"]
        yield Row("lets_wait_awhile", f"{what}: delay h", delay_h, done.outcome.mean_delay_h or 0, 5e-4, points=True)
    for window, value in enumerate(table["nightly_mean_ci_by_window_0_to_16"]["DE"]):
        case = setup(**{**words, "workload": "nightly"}, max_delay_short=f"{window * 30}m", published_quirks=True)
        ours = simulate(case, "nightly").outcome.carbon_g * 2000 / 365
        yield Row("lets_wait_awhile", f"nightly, window {window}: mean intensity", value, ours, 1e-6)


@lru_cache(maxsize=64)
def zone_year(zone: str) -> np.ndarray:
    """Intensity of every hour of 2022."""
    return setup(**{**GAIA, "zones": {zone: zone}, "start": "2022-01-01T00:00Z", "hours": 8760.0}).traces[0].g_per_kwh


def scaler() -> Iterator[Row]:
    """CarbonScaler, SIGMETRICS'24: naive, wait-awhile and the greedy, summed over 100 starts."""
    table = reference("carbon_scaler.json")
    for row in table["rows"]:
        profile = table["profiles"][row["profile"]]
        throughput, kwh = np.array(profile["throughput_per_h"]), np.array(profile["kwh_per_h"])
        slots, work = round(row["hours"] * row["slack"]), throughput[1] * row["hours"]
        total = {"naive": 0.0, "waitawhile": 0.0, "carbonscaler": 0.0}
        for start in table["starts"]:
            intensity = zone_year(row["zone"])[start : start + slots]
            workers = carbon_scaler(intensity, throughput, kwh, work)
            share = carbon_scaler_share(intensity, throughput, kwh, work, workers)
            total["carbonscaler"] += float((kwh[workers] * intensity * share).sum())
            total["naive"] += float(kwh[1] * intensity[: row["hours"]].sum())
            ahead = Outlook(np.arange(slots + 1) * 3600.0, intensity)
            for begin_s, end_s in wait_awhile(ahead, row["hours"] * 3600.0, (slots - row["hours"]) * 3600.0):
                total["waitawhile"] += float(kwh[1] * ahead.carbon(begin_s, end_s - begin_s))
        for policy, ours in total.items():
            what = f"{row['profile']} {row['hours']} h x {row['slack']} {row['zone']}: {policy}"
            yield Row("carbon_scaler", what, row[policy], ours, 1e-4)


def eurosys(every: int = 1) -> Iterator[Row]:
    """EuroSys'24, upper bounds: one job at every hour of 2022; `every`: only each so-manieth row."""
    with (SHARED / "reference" / "eurosys24_oracle.csv").open() as file:
        rows = list(csv.DictReader(file))[::every]
    for row in rows:
        job_h, slack_h, count = int(row["job_h"]), int(row["slack_h"]), int(row["n_arrivals"])
        zone = row["zone"]
        case = setup(
            **{**GAIA, "zones": {zone: zone}, "start": "2022-01-01T00:00Z", "hours": 8760.0, "resolution": "1h"}
        )
        case = replace(case, workload=hourly_jobs(np.arange(count), job_h, slack_h))
        for key, policy in (("sum_defer", "lowest-window"), ("sum_interrupt", "wait-awhile")):
            done = simulate(case, policy).outcome
            what = f"{zone} {job_h} h + {slack_h} h: {policy}"
            yield Row("eurosys24", what, float(row[key]), done.carbon_g * 1000, 1e-5)
        yield Row("eurosys24", f"{zone} {job_h} h: run-now", float(row["sum_now"]), done.baseline_carbon_g * 1000, 1e-5)


def real_forecasts(lengths_h: tuple[int, ...] = (1, 6, 12, 24)) -> Iterator[Row]:
    """What is left under real forecasts: one job at every hour from 9 January to 26 December 2022, 24 h of slack."""
    for row in reference("real_forecasts.json")["rows"]:
        zone, job_h = row["zone"], row["job_h"]
        if job_h not in lengths_h:
            continue
        for key, forecast in (
            ("oracle", "oracle"),
            ("sundial96", str(SHARED / "data" / "carbon" / f"carbonx_sundial96h_{zone}_2022.csv")),
            ("persistence", "persistence"),
            ("weekmean", "week-mean"),
        ):
            case = setup(
                jobs=GAIA_JOBS,
                intensity=SHARED / "data" / "carbon" / f"carbonx_actual_{zone}_2022.csv",
                zones={zone: "direct"},
                start="2022-01-09T00:00Z",
                hours=8700.0,
                resolution="1h",
                forecast=forecast,
                policy="threshold",  # so that the days before the start are read for it
            )
            case = replace(case, workload=hourly_jobs(np.arange(row["n"]), job_h, row["slack_h"]))
            for kind, policy in (("nonint", "lowest-window"), ("int", "wait-awhile")):
                ours = simulate(case, policy).outcome.saved_pct
                what = f"{zone} {job_h} h: {policy}, {key}"
                yield Row("real_forecasts", what, row[f"{key}_{kind}_saved_pct"], ours, 0.1, points=True)
            if key == "oracle":
                for kind in ("nonint", "int"):
                    done = simulate(replace(case, interruptible=kind == "int"), "threshold").outcome
                    published = row[f"quantile30_past24h_{kind}_saved_pct"]
                    what = f"{zone} {job_h} h: threshold, {kind}"
                    yield Row("real_forecasts", what, published, done.saved_pct, 0.1, points=True)


TABLES = {
    "gaia": gaia,
    "lets_wait_awhile": lets_wait_awhile,
    "carbon_scaler": scaler,
    "eurosys24": eurosys,
    "real_forecasts": real_forecasts,
}
