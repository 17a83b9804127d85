"""Plot of a comparison of policies over time: running CPUs of each, above the carbon intensity of the zones.

Curves are thinned to a value per pixel column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from eco_ray.report.figures import (
    DAY_S,
    PANEL_HEIGHT,
    PANEL_TOP,
    Frame,
    intensity_panel,
    nice_top,
    tag,
    time_axis,
)
from eco_ray.report.simulation_figures import BOUND, MOST_POINTS, Drawn, Size, drawing, letters, named, stairs
from eco_ray.report.steps import Steps
from eco_ray.report.words import fitted, grouped, width_em

if TYPE_CHECKING:
    from eco_ray.report.simulation import Comparison, PolicyRun

Floats = NDArray[np.float64]

#: colour classes of zones: those of the report, in an order that keeps clear of the first policies
ZONE_CLASSES = ("z4", "z5", "z3", "z6", "z1", "z2", "z7", "z0")
#: beyond this the time axis counts in months
MONTHS_FROM_S = 75 * DAY_S


def binned(times_s: Floats, values: Floats, span_s: float, bins: int) -> tuple[Floats, Floats]:
    """Mean and highest value of a step curve in each of so many equal parts of [0, span]; 0 before its first step."""
    times = np.concatenate([[-1.0], times_s])
    steps = np.concatenate([[0.0], values])
    edges = np.linspace(0.0, span_s, bins + 1)
    ends = np.append(times[1:], max(span_s, float(times[-1])) + 1.0)
    total = np.concatenate([[0.0], np.cumsum(steps * (ends - times))])
    mean = np.diff(np.interp(edges, np.append(times, ends[-1]), total)) / (span_s / bins)
    every = np.union1d(edges, times[(times > 0) & (times < span_s)])[:-1]  # all but the end of the last part
    held = steps[np.searchsorted(times, every, side="right") - 1]
    highest = np.maximum.reduceat(held, np.searchsorted(every, edges[:-1]))
    return mean, highest


def shown_s(comparison: Comparison) -> float:
    """How much of the simulation is drawn [s]: all of it, or a little beyond the last job where that is far earlier."""
    last_s = 0.0
    for run in comparison.runs:
        busy = np.flatnonzero(run.load_cpus > 1e-9)  # sums of floats do not come back to zero exactly
        if len(busy):
            idle_s = run.load_times_s[busy[-1] + 1 :]
            last_s = max(last_s, float(idle_s[0]) if len(idle_s) else comparison.span_s)
    return 1.03 * last_s if 0 < last_s < 0.8 * comparison.span_s else comparison.span_s


def time_figure(comparison: Comparison, asked: Sequence[Drawn], size: Size) -> Markup:
    """Running CPUs of each policy above the carbon intensity of the zones, on one time axis."""
    names = list(comparison.zones)
    drawn = names[: len(ZONE_CLASSES)]
    longest = max((width_em(zone) * 13 for zone in drawn), default=0.0)
    right = min(longest + 14, 110.0 if not size.slim else 74.0)
    begin_s, span_s = comparison.begin_s, shown_s(comparison)
    frame = Frame(size.width, 46, max(20.0, right), begin_s, begin_s + span_s)
    bins = min(MOST_POINTS, math.floor(frame.plot_right - frame.left))
    curves: list[tuple[Floats, Floats]] = [binned(run.load_times_s, run.load_cpus, span_s, bins) for run, _ in asked]
    peaks = [float(highest.max()) for _, highest in curves]
    shared = max(peaks, default=0.0) <= 3 * float(np.median(peaks or [0.0]))  # else most would be flat
    tops = [nice_top(max(peaks) if shared else peak)[0] for peak in peaks]
    title, height, gap = 24.0, 62.0 if len(asked) > 5 else 76.0, 12.0
    panels: list[Markup] = []
    y = 22.0
    for (run, css), curve, top_cpus in zip(asked, curves, tops, strict=True):
        panels.append(_cpu_panel(run, css, frame, (y + title, height), top_cpus, *curve))
        y += title + height + gap
    y += 6
    steps = {zone: _intensity(*comparison.zones[zone], begin_s, span_s, bins) for zone in drawn}
    classes = dict(zip(drawn, ZONE_CLASSES, strict=False))
    bottom = y + PANEL_TOP + PANEL_HEIGHT
    axis = _months if span_s > MONTHS_FROM_S else time_axis
    scale = "all on one scale" if shared else "each on its own scale"
    described = (
        f"Above: running CPUs of {', '.join(run.name for run, _ in asked) or 'no policy'}, {scale}. "
        f"Below: carbon intensity of {', '.join(drawn) or 'no zone'} in grams of CO2e per kWh."
    )
    heading = f"Running CPUs, {scale}"
    body = [
        *named(size, "time", "Running CPUs of each policy over time, above the carbon intensity", described),
        axis(frame, 22.0, bottom, bottom + 18),
        letters(heading, 0, 14, "panel"),
        *panels,
        tag("g", intensity_panel(frame, steps, classes, {}), transform=f"translate(0 {y:.0f})"),
    ]
    return drawing(size, bottom + 40, "time", body)


def _cpu_panel(
    run: PolicyRun,
    css: str,
    frame: Frame,
    place: tuple[float, float],
    top_cpus: float,
    mean: Floats,
    highest: Floats,
) -> Markup:
    """One policy: an area of its running CPUs; `place` is where the plot begins and how high it is [px]."""
    top, height = place
    bottom = top + height
    xs = np.linspace(frame.left, frame.plot_right, len(mean) + 1)[:-1]

    def y(values: Floats) -> list[float]:
        return [float(v) for v in bottom - values / top_cpus * height]

    parts = []
    for share in (0.0, 0.5, 1.0):
        at = bottom - share * height
        parts.append(tag("line", class_="grid", x1=frame.left, x2=frame.plot_right, y1=at, y2=at))
        parts.append(letters(f"{share * top_cpus:g}", frame.left - 8, at + 4, "tick", "end"))
    peak = run.figures["peak_cpus"]
    figures = f"peak {_cpus(float(highest.max()) if peak is None else peak)} CPUs"
    told = f"{figures}, one of the ways to reach it" if run.name == BOUND and frame.width > 500 else figures
    name = fitted(run.name, max(60.0, frame.plot_right - frame.left - width_em(told) * 12.5 - 24), 13)
    for kind, values in (("peaks", highest), ("load", mean)):
        d = stairs([float(x) for x in xs], y(values), (frame.left, bottom)) + f"H{frame.plot_right:.1f}V{bottom:.1f}Z"
        parts.append(tag("path", class_=kind, d=d))
    at = top - 9
    swatch = tag("rect", class_="bar", x=frame.left, y=at - 9, width=10, height=10, rx=2)
    words = tag("text", tag("tspan", name, class_="name"), f"  {told}", class_="heading", x=frame.left + 16, y=at)
    return tag("g", tag("title", f"{run.name}: {figures}"), *parts, swatch, words, class_=f"tip {css}")


def _intensity(times_s: Floats, g_per_kwh: Floats, begin_s: float, span_s: float, bins: int) -> Steps:
    """The intensity of a zone; as the mean of each pixel column where it has more steps than that."""
    shown = times_s < span_s
    times_s, values = times_s[shown], g_per_kwh[shown]
    if len(times_s) > bins:
        values = binned(times_s, values, span_s, bins)[0]
        times_s = np.linspace(0.0, span_s, bins + 1)[:-1]
    rows = zip((times_s + begin_s).tolist(), values.tolist(), strict=True)
    return Steps.of(list(rows), span_s)


def _months(frame: Frame, top: float, bottom: float, label_y: float) -> Markup:
    """Vertical lines where months begin, at most one per 64 px."""
    room = max(2.0, (frame.plot_right - frame.left) / 64)
    months = (frame.end_s - frame.start_s) / (30.44 * DAY_S)
    step = next((s for s in (1, 2, 3, 6, 12) if months / s <= room), 12 * math.ceil(months / 12 / room))
    first = datetime.fromtimestamp(frame.start_s, UTC)
    parts: list[Markup] = []
    for number in range(first.year * 12, first.year * 12 + 12 + math.ceil(months) + 12, step):
        moment = datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
        if not frame.start_s <= moment.timestamp() <= frame.end_s:
            continue
        x = frame.x(moment.timestamp())
        label = f"{moment:%b %Y}" if moment.month == 1 or not parts else f"{moment:%b}"
        parts.append(tag("line", class_="grid", x1=x, x2=x, y1=top, y2=bottom))
        parts.append(letters(label, x, label_y, "tick", "middle"))
    return Markup("").join(parts)


def _cpus(value: float) -> str:
    return grouped(value, 1 if value < 100 and value % 1 else 0)
