"""`eco-ray simulate`: replay jobs and carbon intensity through a policy, and say what it would have saved."""

from __future__ import annotations

import csv
import io
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.cli.simulation_setup import describe, make_setup
from eco_ray.config import Settings
from eco_ray.errors import EcoRayError, UsageError

if TYPE_CHECKING:
    from eco_ray.scenario_file import Scenario
    from eco_ray.sim.simulate import Setup, Simulated

#: where a command line is kept for the page that shows it
_ARGUMENTS = "eco_ray.simulate.arguments"
#: columns of the table of policies
_COLUMNS = (
    "policy",
    "saved_pct",
    "carbon_g",
    "mean_delay_h",
    "p95_delay_h",
    "peak_cpus",
    "missed_deadlines",
    "resumes",
)


class _Remembering(click.Command):
    """A command that knows how it was called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments, then parse them."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)


@click.command(cls=_Remembering)
@click.argument("scenario", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--jobs", type=click.Path(path_type=Path), help="CSV: job_id,arrival_s,duration_s,cpus,... (or GAIA's).")
@click.option("--workload", help="Instead of --jobs: lets-wait-awhile-ml or nightly, generated with --seed.")
@click.option("--seed", type=int, help="Of the generated workload [0].")
@click.option("--serving", type=click.Path(path_type=Path), help="CSV: model,start_s,end_s,replicas,cpus,...")
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
@click.option(
    "--replay",
    "replay_dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="State directory of a cluster: what was decided there is decided again; exit code 1 where it differs.",
)
@click.option("--schedule", type=click.Path(path_type=Path), help="Write what ran when to this CSV.")
@common_options
def simulate(
    scenario: Path | None,
    zones: str | None,
    forecast: tuple[str, ...],
    compare: str | None,
    html: Path | None,
    schedule: Path | None,
    replay_dir: Path | None,
    settings: Settings,
    **options: Any,
) -> None:
    """Replay jobs and carbon intensity through a policy; SCENARIO is a YAML file with the same words."""
    if replay_dir is not None:
        _decide_again(replay_dir, settings)
        return
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
    if html is not None and not described.compare:
        raise UsageError(f"--html {html}: the page compares policies; name them with --compare P,P,...")
    setup = make_setup(described)
    if described.compare:
        _compare(setup, described, html or Path("eco-ray-simulation.html"), settings)
        return
    document, done = _run(setup, described.policy)
    if schedule is not None:
        write_schedule(schedule, setup, done)
    emit(settings, document)


def _decide_again(state_dir: Path, settings: Settings) -> None:
    """What a live cluster decided, and whether the same is decided now."""
    from eco_ray.sim.recorded import decide_again

    rows, told = [], []
    for log in decide_again(state_dir):
        row = {"kind": log.kind, "file": str(log.file), "decisions": log.decisions, "different": len(log.different)}
        rows.append(row)
        told += [
            {"kind": one.kind, "about": one.about, "decided": str(one.decided), "again": str(one.again)}
            for one in log.different
        ]
    emit(settings, {"logs": rows, "differences": told}, table=rows)
    if told:
        one = told[0]
        raise EcoRayError(
            f"{len(told)} decisions are other ones now; the first, of {one['about']}: decided was "
            f"{one['decided'][:300]}, now it is {one['again'][:300]}"
        )


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
        "nature": str(setup.nature),
        "source": setup.source,
    }
    return document, done


def _compare(setup: Setup, described: Scenario, html: Path, settings: Settings) -> None:
    """Every policy on the same setup: one table, and the page."""
    from eco_ray.report.simulation import Comparison, PolicyRun, write_comparison

    # looked at first, as what runs before the page may take an hour; a device is written to, not replaced
    place = html if html.exists() and not html.is_file() else html.absolute().parent
    if html.is_dir() or not os.access(place, os.W_OK):
        raise UsageError(f"{html}: the page cannot be written there; give a file in a folder of yours with --html")
    documents, runs = [], []
    for policy in dict.fromkeys(described.compare):
        try:
            document, done = _run(setup, policy)
        except EcoRayError as error:
            raise type(error)(f"--compare, policy {policy}: {error}") from error
        documents.append(document)
        runs.append(PolicyRun(policy, document, *done.load, done.delay_h))
    zones = {}
    for trace in setup.traces:
        truth = trace.outlook(0.0, setup.span_s)
        zones[trace.zone] = (truth.edges_s[:-1], truth.g_per_kwh)
    jobs = described.jobs.name if described.jobs is not None else described.workload
    arguments = click.get_current_context().meta.get(_ARGUMENTS, ())
    comparison = Comparison(
        title=f"{jobs} in {', '.join(zones)}" if len(zones) <= 4 else f"{jobs} in {len(zones)} zones",
        command=shlex.join(["eco-ray", "simulate", *arguments]),
        begin_s=setup.begin_s,
        span_s=setup.span_s,
        zones=zones,
        notes=describe(described, setup),
        runs=runs,
    )
    write_comparison(html, comparison)
    rows = [{key: document[key] for key in _COLUMNS} for document in documents]
    emit(settings, {"policies": documents, "html": str(html)}, table=rows)
    if settings.output == "table":
        click.echo(f"Carbon is {setup.nature}: {setup.source}.", err=True)
    click.echo(f"{html}", err=True)


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


def write_schedule(path: Path, setup: Setup, done: Simulated) -> None:
    """The contract: job_id,segment,zone,start,end,workers, whole-second ISO times in UTC."""
    from eco_ray.times import iso_utc
    from eco_ray.whole_file import write_whole

    rows = done.schedule
    if rows is None:
        return
    ids, zones = setup.workload.ids, [trace.zone for trace in setup.traces]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job_id", "segment", "zone", "start", "end", "workers"])
    last, segment = -1, 0
    columns = (rows.job, rows.zone, rows.start_s, rows.end_s, rows.workers)
    for job, zone, start_s, end_s, workers in zip(*(column.tolist() for column in columns), strict=True):
        segment = segment + 1 if job == last else 0
        last = job
        start, end = iso_utc(setup.begin_s + start_s), iso_utc(setup.begin_s + end_s)
        writer.writerow([ids[job], segment, zones[zone], start, end, workers])
    try:
        write_whole(path, text.getvalue())
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); give another --schedule") from error
