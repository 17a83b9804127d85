"""One page that compares policies on the same simulated jobs: no network, no script, every number with its unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eco_ray import __version__
from eco_ray.errors import UsageError
from eco_ray.report.page import page
from eco_ray.report.simulation_figures import (
    BOUND,
    SIZES,
    classes_of,
    delay_figure,
    savings_figure,
    settled_pct,
)
from eco_ray.report.simulation_time import shown_s, time_figure
from eco_ray.report.words import CARBON, GAP, MINUS, Scale, clock_time, duration, grouped
from eco_ray.whole_file import write_whole

Floats = NDArray[np.float64]

DASH = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """What one policy came to."""

    #: `bound` is drawn as a limit and not as a policy
    name: str
    #: the JSON document of `eco-ray simulate` for it
    figures: Mapping[str, Any]
    #: running CPUs as steps: times since the begin [s], and the CPUs that run from each of them on
    load_times_s: Floats
    load_cpus: Floats
    #: shape (J,): completion minus that of run-now [h]; nan: did not count
    delay_h: Floats


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several policies on one workload."""

    title: str
    #: the command line that makes this page again
    command: str
    #: start [s since epoch]
    begin_s: float
    span_s: float
    #: zone: times of its steps since the begin [s], and the intensity of each [g/kWh]; the first zone is home
    zones: Mapping[str, tuple[Floats, Floats]]
    #: how it was made, in words: name -> text
    notes: Mapping[str, str]
    runs: Sequence[PolicyRun]


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the page, whole or not at all. Raises UsageError where the path cannot be written."""
    text = render_comparison(comparison)
    try:
        write_whole(path, text)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"{path}: the page cannot be written ({reason}); give another file with --html") from error


def render_comparison(comparison: Comparison) -> str:
    """The page as text."""
    runs = sorted(comparison.runs, key=lambda run: (run.name == BOUND, -run.figures["saved_pct"]))
    # colours go by the order that was asked for, so that a policy keeps its own when its rank changes
    classes = dict(zip(map(id, comparison.runs), classes_of(comparison.runs), strict=True))
    ranked = [(run, classes[id(run)]) for run in runs]
    asked = [(run, classes[id(run)]) for run in comparison.runs]
    delays = [pair for pair in asked if np.isfinite(pair[0].delay_h).any()]
    end_s = comparison.begin_s + comparison.span_s
    carbon = Scale.of([run.figures[key] for run in runs for key in ("carbon_g", "baseline_carbon_g")], CARBON)
    return page("simulation.html.j2").render(
        comparison=comparison,
        version=__version__,
        headline=_headline(runs),
        span=f"{clock_time(comparison.begin_s)} to {clock_time(end_s)} UTC ({duration(comparison.span_s)})",
        nature=_nature(runs),
        carbon_unit=carbon.unit,
        rows=[_row(run, css, carbon) for run, css in ranked],
        same_jobs=len({(run.figures["truncated"], round(run.figures["baseline_carbon_g"], 6)) for run in runs}) <= 1,
        beyond=[run.name for run in _beyond(runs)],
        cut=None if shown_s(comparison) == comparison.span_s else clock_time(comparison.begin_s + shown_s(comparison)),
        has_bound=any(run.name == BOUND for run in runs),
        zones=list(comparison.zones),
        delays=delays,
        undelayed=[run.name for run, _ in asked if run.name != BOUND and not np.isfinite(run.delay_h).any()],
        savings=[savings_figure(ranked, carbon, _nature(runs), size) for size in SIZES],
        time=[time_figure(comparison, asked, size) for size in SIZES],
        delay=[delay_figure(delays, size) for size in SIZES] if delays else [],
    )


def _nature(runs: Sequence[PolicyRun]) -> str:
    """What the carbon of the page is: the same for all policies of one setup."""
    return str(next((run.figures["nature"] for run in runs), "assumed"))


def _headline(runs: Sequence[PolicyRun]) -> dict[str, Any] | None:
    """The first of ranked policies against run-now; where there is none, the bound; None where nothing ran."""
    if not runs:
        return None
    best = runs[0]  # they are ranked, and the bound comes last
    figures = best.figures
    saved_g = figures["baseline_carbon_g"] - figures["carbon_g"]
    carbon = Scale.of([figures["carbon_g"], figures["baseline_carbon_g"]], CARBON)
    bound = next((run for run in runs if run.name == BOUND), None)
    saved_pct = settled_pct(figures["saved_pct"])
    return {
        "name": best.name,
        "is_bound": best is bound,
        "tone": "better" if saved_pct > 0 else "worse" if saved_pct < 0 else "",
        "saved_pct": f"{abs(saved_pct):.1f}{GAP}%",
        "baseline": carbon.co2e(figures["baseline_carbon_g"]),
        "difference": carbon.co2e(abs(saved_g)),
        "jobs": grouped(figures["jobs"] - figures["truncated"], 0),
        "one_job": figures["jobs"] - figures["truncated"] == 1,
        "mean_delay": None if figures["mean_delay_h"] is None else duration(3600 * figures["mean_delay_h"]),
        "missed": figures["missed_deadlines"],
        "bound_pct": None if bound is None else _number(bound.figures["saved_pct"], 1) + f"{GAP}%",
        "reached": _reached(best, bound),
    }


def _reached(best: PolicyRun, bound: PolicyRun | None) -> str | None:
    """How much of what could be saved the best policy saves; None where they are not about the same jobs."""
    if bound is None or best is bound or best.figures["truncated"] != bound.figures["truncated"]:
        return None
    if best.figures["saved_pct"] <= 0 or best in _beyond([best, bound]):
        return None
    return f"{100 * best.figures['saved_pct'] / bound.figures['saved_pct']:.1f}{GAP}%"


def _beyond(runs: Sequence[PolicyRun]) -> list[PolicyRun]:
    """Policies that save more than the bound, which they can where they break its rules."""
    bound = next((run.figures["saved_pct"] for run in runs if run.name == BOUND), math.inf)
    return [run for run in runs if run.figures["saved_pct"] > bound + 0.05]


def _row(run: PolicyRun, css: str, carbon: Scale) -> dict[str, Any]:
    """A row of the table, in words; every column has one unit and number of decimals."""
    figures = run.figures
    return {
        "name": run.name,
        "class": css,
        "is_bound": run.name == BOUND,
        "saved_pct": _number(figures["saved_pct"], 1),
        "tone": "worse" if settled_pct(figures["saved_pct"]) < 0 else "",
        "carbon": carbon.number(figures["carbon_g"]),
        "mean_delay_h": _number(figures["mean_delay_h"], 2),
        "p95_delay_h": _number(figures["p95_delay_h"], 2),
        "peak_cpus": _number(figures["peak_cpus"], 1 if (figures["peak_cpus"] or 0) % 1 else 0),
        "missed_deadlines": _number(figures["missed_deadlines"], 0),
        "late": bool(figures["missed_deadlines"]),
        "resumes": _number(figures["resumes"], 0),
        "truncated": _number(figures["truncated"], 0),
    }


def _number(value: float | None, decimals: int) -> str:
    """A number; a dash where there is none."""
    if value is None:
        return DASH
    if round(abs(value), decimals) == 0:
        return f"{0:.{decimals}f}"
    return (MINUS if value < 0 else "") + grouped(abs(value), decimals)
