"""What a scenario names, opened for a simulation, and told in words."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from eco_ray.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from eco_ray.core.events import ServingNeeds
    from eco_ray.grid.trace import CsvTrace
    from eco_ray.scenario_file import Scenario
    from eco_ray.sim.foresight import Foresight
    from eco_ray.sim.simulate import Setup
    from eco_ray.sim.trace import Trace
    from eco_ray.sim.workload import Workload

#: what a time of 1 means in the jobs file [s]
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: length of a tick where none was asked for and 5 minutes fit [s]
_TICK_S = 300
#: history that causal forecasts look back on [s]
_HISTORY_S = 8 * 86_400.0


def make_setup(described: Scenario) -> Setup:
    """Open what a scenario names. Raises UsageError."""
    from eco_ray.grid.csv_table import first_time_s
    from eco_ray.grid.trace import CsvTrace
    from eco_ray.sim.simulate import Setup
    from eco_ray.sim.trace import Trace
    from eco_ray.times import parse_instant

    begin_s = parse_instant(described.start) if described.start is not None else None
    wanted_s = described.hours * 3600 if described.hours is not None else None
    if begin_s is None and wanted_s is not None:
        begin_s = first_time_s(described.intensity)
    end_s = begin_s + wanted_s if begin_s is not None and wanted_s is not None else None
    file = CsvTrace(described.intensity, columns=described.zones, start_s=begin_s, end_s=end_s, look_back_s=0.0)
    begin_s = file.start_s if begin_s is None else begin_s
    known_s = min(file.end_s(zone) for zone in described.zones) - begin_s
    if begin_s < file.start_s or known_s <= 0:
        from eco_ray.times import iso_utc

        raise UsageError(
            f"{described.intensity}: start {iso_utc(begin_s)} is outside the file, which covers "
            f"{iso_utc(file.start_s)} to {iso_utc(begin_s + known_s)}; choose a start inside it"
        )
    span_s = int(known_s if wanted_s is None else min(wanted_s, known_s))
    resolution_s = _resolution_s(described, file, begin_s)
    described = described.model_copy(update={"resolution": float(resolution_s)})
    known = _with_history(described, file, begin_s, end_s)
    traces = [
        Trace.of(known.rows(zone, max(known.start_s, begin_s - _HISTORY_S), begin_s + span_s), begin_s, resolution_s)
        for zone in described.zones
    ]
    span_s = min([span_s, *(trace.end_s for trace in traces)])
    return Setup(
        workload=_workload(described, begin_s + file.utc_offset_s, span_s),
        traces=traces,
        beliefs=[_belief(described, file, trace, begin_s, begin_s + span_s) for trace in traces],
        begin_s=begin_s,
        span_s=span_s,
        resolution_s=resolution_s,
        watts_per_cpu=described.watts_per_cpu,
        capacity_cpus=(described.capacity_cpus,) * len(traces) if described.capacity_cpus is not None else None,
        nodes=tuple(node.to_node() for node in described.nodes),
        interruptible=described.interruptible,
        published_quirks=described.published_quirks,
        resume_cost_s=int(described.resume_cost),
        min_run_s=int(described.min_run),
        min_saving_pct=described.min_saving_pct,
        utc_offset_s=int(file.utc_offset_s),
        source=f"{described.intensity.name} x {_power(described)}",
        needs=_needs(described, begin_s),
    )


def _needs(described: Scenario, begin_s: float) -> tuple[tuple[float, ServingNeeds], ...]:
    """What served models need, if anything."""
    if described.serving is None:
        return ()
    from eco_ray.sim.needs_csv import read_needs

    unit_s = _UNIT_S[described.time_unit]
    return read_needs(described.serving, zones=list(described.zones), begin_s=begin_s, time_unit_s=unit_s)


def _with_history(described: Scenario, file: CsvTrace, begin_s: float, end_s: float | None) -> CsvTrace:
    """The trace with the days before the start, where they are needed and sound; they are not what is simulated."""
    from eco_ray.grid.trace import CsvTrace

    ahead = all(source in ("oracle", "profile") for source in described.forecast.values())
    if ahead and "threshold" not in (described.policy, *described.compare):
        return file
    try:
        return CsvTrace(described.intensity, columns=described.zones, start_s=begin_s, end_s=end_s)
    except UsageError:  # the range itself was read before: the fault is in the past
        return file


def _resolution_s(described: Scenario, file: CsvTrace, begin_s: float) -> int:
    """The tick that was asked for, or the longest up to 5 minutes that fits the steps of the file [s]."""
    if described.resolution is not None:
        return int(described.resolution)
    return math.gcd(_TICK_S, int(file.step_s), int(begin_s - file.start_s))


def _workload(described: Scenario, clock_s: float, span_s: int) -> Workload:
    """The jobs; `clock_s`: the start on the clock of the intensity file."""
    tick_s = int(described.resolution or _TICK_S)
    if described.jobs is None:
        from eco_ray.sim import paper_workloads as papers

        begin = datetime.fromtimestamp(clock_s, UTC)
        if begin != datetime(begin.year, 1, 1, tzinfo=UTC):
            raise UsageError(
                f"workload {described.workload} from {begin:%Y-%m-%dT%H:%M} on: it is made for a calendar year; "
                f"start at {begin.year}-01-01T00:00, or {begin.year + 1}-01-01T00:00, of the intensity file's clock"
            )
        wait_s = int(described.max_delay_long)
        if described.workload == "nightly":
            return papers.nightly(begin.year, max_wait_s=int(described.max_delay_short), resolution_s=tick_s)
        return papers.lets_wait_awhile_ml(described.seed, year=begin.year, max_wait_s=wait_s, resolution_s=tick_s)
    from eco_ray.sim.jobs_csv import read_jobs

    return read_jobs(
        described.jobs,
        resolution_s=tick_s,
        zones=list(described.zones),
        span_s=span_s,
        time_unit_s=_UNIT_S[described.time_unit],
        short_max_s=int(described.short_max),
        max_delay_short_s=int(described.max_delay_short),
        max_delay_long_s=int(described.max_delay_long),
        knows_duration=described.knows_duration,
        capacity_cpus=described.capacity_cpus,
        machines=[
            (list(described.zones).index(node.zone), float(node.num_cpus), float(node.num_gpus))
            for node in described.nodes
        ],
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

        try:
            series = ModelledProfile().actual(trace.zone, begin_s - 3600, end_s + 3600)
        except NotFoundError as error:
            raise UsageError(f"--forecast profile: {error}") from None
        return foresight.Known(SimTrace.of(series, begin_s, int(described.resolution or _TICK_S)))
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


def _power(described: Scenario) -> str:
    if not described.nodes:
        return f"{described.watts_per_cpu:g} W per CPU"
    sources = dict.fromkeys(node.to_node().power_source for node in described.nodes)
    return f"the power curve of each node ({'; '.join(sources)})"


#: what a policy is told, in words
_KNOWS = {
    "yes": "the true length of every job",
    "mean": "the expected length that the jobs file gives, else the mean length of the job's queue",
    "no": "the expected length that the jobs file gives, else nothing",
}


def describe(described: Scenario, setup: Setup) -> dict[str, str]:
    """How a simulation was made: name -> text, for people to read."""
    from eco_ray.times import human_duration

    jobs = f"{described.workload}, generated with seed {described.seed}"
    zones = [zone if zone == column else f"{zone} (column {column})" for zone, column in described.zones.items()]
    forecasts = [source if zone == "*" else f"{zone}: {source}" for zone, source in described.forecast.items()]
    capacity = "no limit"
    if described.nodes:
        machines = (f"{node.name} in {node.zone} with {node.num_cpus:g} CPUs" for node in described.nodes[:12])
        more = len(described.nodes) - 12
        capacity = "; ".join(machines) + (f"; and {more} more nodes" if more > 0 else "")
    elif described.capacity_cpus is not None:
        capacity = f"{described.capacity_cpus:g} CPUs in each zone"
    short, waits = described.short_max, (described.max_delay_short, described.max_delay_long)
    pauses = "jobs may be paused" if described.interruptible else "only by policies that pause by themselves"
    if described.resume_cost:
        pauses += f"; every start after a pause takes {human_duration(described.resume_cost)}"
    if described.min_run:
        pauses += f"; at least {human_duration(described.min_run)} between two pauses (eco)"
    found = {
        "Jobs": f"{described.jobs or jobs} ({len(setup.workload)} jobs)",
        **({"Served models": f"{described.serving} ({len(setup.needs)} times)"} if described.serving else {}),
        "Carbon intensity": f"{described.intensity}, {', '.join(zones[:12])}{', …' if len(zones) > 12 else ''}",
        "Forecast": ", ".join(forecasts),
        "A policy knows": _KNOWS[described.knows_duration],
        "Longest wait": f"{human_duration(waits[0])} for jobs below {human_duration(short)}, "
        f"{human_duration(waits[1])} for the others, where the jobs file does not say",
        "Capacity": capacity,
        "Power": _power(described),
        "Pauses": pauses,
        "Tick": human_duration(setup.resolution_s),
    }
    if described.min_saving_pct:
        found["Do not wait for less"] = f"{described.min_saving_pct:g} % (eco)"
    if described.published_quirks:
        found["Published quirks"] = "the inclusive window of Let's Wait Awhile"
    return found
