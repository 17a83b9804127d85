"""`eco-ray simulate`: replay jobs and carbon intensity through a policy, and say what it would have saved."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings
from eco_ray.errors import UsageError

if TYPE_CHECKING:
    from eco_ray.grid.trace import CsvTrace
    from eco_ray.scenario_file import Scenario
    from eco_ray.sim.foresight import Foresight
    from eco_ray.sim.simulate import Setup, Simulated
    from eco_ray.sim.trace import Trace
    from eco_ray.sim.workload import Workload

#: what a time of 1 means in the jobs file [s]
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: history that causal forecasts look back on [s]
_HISTORY_S = 8 * 86_400.0


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--jobs", type=click.Path(path_type=Path), help="CSV: job_id,arrival_s,duration_s,cpus,... (or GAIA's).")
@click.option("--workload", help="Instead of --jobs: lets-wait-awhile-ml or nightly, generated with --seed.")
@click.option("--seed", type=int, help="Of the generated workload [0].")
@click.option("--intensity", type=click.Path(path_type=Path), help="CSV: time, then gCO2e/kWh, one column per zone.")
@click.option("--zones", help="AU-SA[,DE...]; the first is home; AU-SA=direct names another column.")
@click.option("--start", help="ISO time [where the intensity file begins].")
@click.option("--hours", type=float, help="[to the end of the intensity file].")
@click.option("--policy", help="run-now, lowest-slot, lowest-window, carbon-time, wait-awhile, ... [eco].")
@click.option("--compare", help="P,P,...: several policies in one table, and an HTML page with plots.")
@click.option("--html", type=click.Path(path_type=Path), help="Where --compare writes it [eco-ray-simulation.html].")
@click.option("--capacity-cpus", type=float, help="CPUs of each zone [no limit].")
@click.option(
    "--forecast", multiple=True, help="oracle, [ZONE=]FILE, profile, persistence, week-mean [oracle]; may be repeated."
)
@click.option("--short-max", help="Jobs below it are in the short queue [2h].")
@click.option("--max-delay-short", help="How long a job of the short queue may wait [6h].")
@click.option("--max-delay-long", help="How long every other job may wait [24h].")
@click.option("--resolution", help="Length of a tick [5m].")
@click.option(
    "--knows-duration", type=click.Choice(["yes", "mean", "no"]), help="What a policy knows of lengths [yes]."
)
@click.option("--resume-cost", help="What every start after a pause takes [0].")
@click.option("--min-run", help="Shortest run between two pauses, for eco [0].")
@click.option("--min-saving-pct", type=float, help="Do not wait for less, for eco [0].")
@click.option("--watts-per-cpu", type=float, help="[1].")
@click.option("--interruptible", is_flag=True, default=None, help="Jobs may be paused.")
@click.option("--published-quirks", is_flag=True, default=None, help="The inclusive window of Let's Wait Awhile.")
@click.option("--time-unit", type=click.Choice(["s", "m", "h"]), help="Of the times in the jobs file [s].")
@click.option("--schedule", type=click.Path(path_type=Path), help="Write what ran when to this CSV.")
@common_options
def simulate(
    scenario: Path | None,
    zones: str | None,
    forecast: tuple[str, ...],
    compare: str | None,
    html: Path | None,
    schedule: Path | None,
    settings: Settings,
    **options: Any,
) -> None:
    """Replay jobs and carbon intensity through a policy; SCENARIO is a YAML file with the same words."""
    from eco_ray.scenario_file import load_scenario
    from eco_ray.sim.simulate import POLICIES

    options["zones"] = _zones(zones) if zones is not None else None
    options["forecast"] = _forecasts(forecast) if forecast else None
    options["compare"] = tuple(name.strip() for name in compare.split(",") if name.strip()) if compare else None
    described = load_scenario(scenario, options)
    names = described.compare or (described.policy,)
    for name in names:
        if name not in POLICIES:
            raise UsageError(f"policy {name!r} is not known; choose among {', '.join(POLICIES)}")
    if schedule is not None and (described.compare or names == ("bound",)):
        what = "--compare" if described.compare else "a bound"
        raise UsageError(f"--schedule with {what}: one policy that runs something is needed; name it with --policy")
    setup = make_setup(described)
    if described.compare:
        _compare(setup, described, html or Path("eco-ray-simulation.html"), settings)
        return
    document, done = _run(setup, described.policy)
    if schedule is not None:
        write_schedule(schedule, setup, done)
    emit(settings, document)


def _run(setup: Setup, policy: str) -> tuple[dict[str, Any], Simulated]:
    from eco_ray.sim.simulate import simulate as run_policy

    before_s = time.process_time()
    done = run_policy(setup, policy)
    deciding_s = time.process_time() - before_s
    figures = done.outcome
    document = {
        "policy": policy,
        "jobs": figures.jobs,
        "truncated": figures.truncated,
        "carbon_g": figures.carbon_g,
        "baseline_carbon_g": figures.baseline_carbon_g,
        "saved_pct": figures.saved_pct,
        "mean_delay_h": figures.mean_delay_h,
        "p95_delay_h": figures.p95_delay_h,
        "peak_cpus": figures.peak_cpus,
        "missed_deadlines": figures.missed_deadlines,
        "resumes": figures.resumes,
        "plan_changes_per_job": figures.plan_changes_per_job,
        "cpu_s": round(time.process_time(), 3),
        "decisions_per_s": round(done.decisions / max(deciding_s, 1e-6), 1),
        "nature": "modelled",
    }
    return document, done


def _compare(setup: Setup, described: Scenario, html: Path, settings: Settings) -> None:
    raise UsageError("--compare comes with the page")


def _zones(text: str) -> dict[str, str]:
    """`AU-SA=direct,DE` -> {AU-SA: direct, DE: DE}."""
    zones: dict[str, str] = {}
    for part in text.split(","):
        zone, _, column = part.strip().partition("=")
        if not zone or zone in zones:
            what = "is there twice" if zone else "is empty"
            raise UsageError(f"--zones {text!r}: a zone {what}; write ZONE[=COLUMN],ZONE[=COLUMN],...")
        zones[zone] = column or zone
    return zones


def _forecasts(given: tuple[str, ...]) -> dict[str, str]:
    """`DE=forecast.csv` -> {DE: forecast.csv}; without a zone it is for all of them ("*")."""
    forecasts: dict[str, str] = {}
    for text in given:
        zone, equals, file = text.partition("=")
        key, source = (zone, file) if equals and not Path(text).exists() else ("*", text)
        if not source or key in forecasts:
            what = "names a zone twice" if source else "has no file"
            raise UsageError(f"--forecast {text!r} {what}; write oracle, profile, persistence, week-mean or ZONE=FILE")
        forecasts[key] = source
    return forecasts


def make_setup(described: Scenario) -> Setup:
    """Open what a scenario names. Raises UsageError."""
    from eco_ray.grid.trace import CsvTrace
    from eco_ray.sim.simulate import Setup
    from eco_ray.sim.trace import Trace
    from eco_ray.times import parse_instant

    begin_s = parse_instant(described.start) if described.start is not None else None
    wanted_s = described.hours * 3600 if described.hours is not None else None
    end_s = begin_s + wanted_s if begin_s is not None and wanted_s is not None else None
    file = CsvTrace(described.intensity, columns=described.zones, start_s=begin_s, end_s=end_s)
    begin_s = file.start_s if begin_s is None else begin_s
    known_s = min(file.end_s(zone) for zone in described.zones) - begin_s
    if begin_s < file.start_s or known_s <= 0:
        from eco_ray.times import iso_utc

        raise UsageError(
            f"{described.intensity}: start {iso_utc(begin_s)} is outside the file, which covers {iso_utc(file.start_s)} "
            f"to {iso_utc(begin_s + known_s)}; choose a start inside it"
        )
    span_s = int(known_s if wanted_s is None else min(wanted_s, known_s))
    resolution_s = int(described.resolution)
    traces = [
        Trace.of(file.rows(zone, max(file.start_s, begin_s - _HISTORY_S), begin_s + span_s), begin_s, resolution_s)
        for zone in described.zones
    ]
    span_s = min([span_s, *(trace.end_s for trace in traces)])
    return Setup(
        workload=_workload(described, span_s),
        traces=traces,
        beliefs=[_belief(described, file, trace, begin_s, begin_s + span_s) for trace in traces],
        begin_s=begin_s,
        span_s=span_s,
        resolution_s=resolution_s,
        watts_per_cpu=described.watts_per_cpu,
        capacity_cpus=(described.capacity_cpus,) * len(traces) if described.capacity_cpus is not None else None,
        nodes=_nodes(described),
        interruptible=described.interruptible,
        published_quirks=described.published_quirks,
        resume_cost_s=int(described.resume_cost),
        min_run_s=int(described.min_run),
        min_saving_pct=described.min_saving_pct,
        utc_offset_s=int(file.utc_offset_s),
    )


def _nodes(described: Scenario) -> tuple[Any, ...]:
    from eco_ray.core.cluster import Node, Resources

    return tuple(
        Node(
            node.name,
            node.zone,
            Resources(float(node.num_cpus), float(node.num_gpus), node.memory_gb),
            node.power.to_curve(),
            node.pue,
        )
        for node in described.nodes
    )


def _workload(described: Scenario, span_s: int) -> Workload:
    if described.jobs is None:
        from eco_ray.sim import paper_workloads as papers

        wait_s, tick_s = int(described.max_delay_long), int(described.resolution)
        if described.workload == "nightly":
            return papers.nightly(max_wait_s=int(described.max_delay_short), resolution_s=tick_s)
        return papers.lets_wait_awhile_ml(described.seed, max_wait_s=wait_s, resolution_s=tick_s)
    from eco_ray.sim.jobs_csv import read_jobs

    largest = max((float(node.num_cpus) for node in described.nodes), default=described.capacity_cpus)
    return read_jobs(
        described.jobs,
        resolution_s=int(described.resolution),
        zones=list(described.zones),
        span_s=span_s,
        time_unit_s=_UNIT_S[described.time_unit],
        short_max_s=int(described.short_max),
        max_delay_short_s=int(described.max_delay_short),
        max_delay_long_s=int(described.max_delay_long),
        knows_duration=described.knows_duration,
        capacity_cpus=largest,
    )


def _belief(described: Scenario, file: CsvTrace, trace: Trace, begin_s: float, end_s: float) -> Foresight:
    """What is believed to come in a zone."""
    from eco_ray.sim import foresight

    source = described.forecast.get(trace.zone, described.forecast.get("*", "oracle"))
    if source == "oracle":
        return foresight.Known(trace)
    if source == "profile":
        from eco_ray.grid.profile import ModelledProfile
        from eco_ray.sim.trace import Trace as SimTrace

        series = ModelledProfile().actual(trace.zone, begin_s - 3600, end_s + 3600)
        return foresight.Known(SimTrace.of(series, begin_s, int(described.resolution)))
    if 86_400 % trace.step_s:
        raise UsageError(
            f"--forecast {source}: zone {trace.zone} has steps of {trace.step_s} s, which do not fill a day; "
            "use oracle or profile, or a trace whose steps divide 24 h"
        )
    if source == "persistence":
        return foresight.persistence(trace)
    if source == "week-mean":
        return foresight.week_mean(trace)
    if "*" in described.forecast and trace.zone not in described.forecast and len(described.zones) > 1:
        raise UsageError(
            f"--forecast {source}: one file for the zones {', '.join(described.zones)}; say whose it is: ZONE={source}"
        )
    from eco_ray.grid.trace import ForecastFile

    issued = ForecastFile.read(Path(source), begin_s, end_s)
    return foresight.issued(issued.issues_s - begin_s, issued.values, trace)


def write_schedule(path: Path, setup: Setup, done: Simulated) -> None:
    """The contract: job_id,segment,zone,start,end,workers, whole-second ISO times in UTC."""
    from eco_ray.times import iso_utc

    rows = done.schedule
    if rows is None:
        return
    ids, zones = setup.workload.ids, [trace.zone for trace in setup.traces]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["job_id", "segment", "zone", "start", "end", "workers"])
            last, segment = -1, 0
            for job, zone, start_s, end_s, workers in zip(
                rows.job.tolist(),
                rows.zone.tolist(),
                rows.start_s.tolist(),
                rows.end_s.tolist(),
                rows.workers.tolist(),
                strict=True,
            ):
                segment = segment + 1 if job == last else 0
                last = job
                start, end = iso_utc(setup.begin_s + start_s), iso_utc(setup.begin_s + end_s)
                writer.writerow([ids[job], segment, zones[zone], start, end, workers])
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); give another --schedule") from error
