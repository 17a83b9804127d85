"""Plots of a comparison of policies: what each saves, and how long jobs wait for it; the rest is in simulation_time.

Each is drawn in three widths, of which the style sheet shows the one that fits the window, so that letters keep their
size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from eco_ray.report.figures import nice_top, tag
from eco_ray.report.words import GAP, MINUS, Scale, fitted, grouped, width_em

if TYPE_CHECKING:
    from eco_ray.report.simulation import PolicyRun

#: a policy and its colour class
Drawn = tuple["PolicyRun", str]

BOUND, RUN_NOW = "bound", "run-now"
#: colours of policies in the style sheet; further policies reuse them with other dashes
COLOURS = 7
#: most points of a curve
MOST_POINTS = 800
HOUR_STEPS = (0.1, 0.25, 0.5, 1, 2, 3, 6, 12, 24, 48, 72, 96, 168, 336, 672, 1344, 2688)


@dataclass(frozen=True, slots=True)
class Size:
    """A width [px] in which a figure is drawn; `key` is its class and keeps its ids apart."""

    key: str
    width: int

    @property
    def slim(self) -> bool:
        """Whether it is for a telephone."""
        return self.key == "slim"


SIZES = (Size("wide", 1112), Size("narrow", 720), Size("slim", 420))


def classes_of(runs: Sequence[PolicyRun]) -> list[str]:
    """The colour class of each policy: run-now is grey, and the bound is no policy."""
    fixed = {RUN_NOW: "neutral", BOUND: "bound"}
    others = list(dict.fromkeys(run.name for run in runs if run.name not in fixed))
    colours = {name: f"p{i % COLOURS}" + (" again" if i >= COLOURS else "") for i, name in enumerate(others)}
    return [fixed.get(run.name) or colours[run.name] for run in runs]


def savings_figure(ranked: Sequence[Drawn], carbon: Scale, nature: str, size: Size) -> Markup:
    """A bar per policy, and the bound as the line that none can pass."""
    policies = [pair for pair in ranked if pair[0].name != BOUND]
    bound = next((settled_pct(run.figures["saved_pct"]) for run, _ in ranked if run.name == BOUND), None)
    saved = [settled_pct(run.figures["saved_pct"]) for run, _ in policies]
    low, high, step = _percent_axis([*saved, *([bound] if bound is not None else [])])
    longest = max((width_em(run.name) * 13 for run, _ in policies), default=0.0)
    left = min(max(70.0, longest + 18), 0.34 * size.width)
    right = size.width - (62.0 if size.slim else 196.0)
    percent_x = size.width if size.slim else right + 64
    top, row, bar = 26.0, 30.0, 16.0
    bottom = top + row * max(1, len(policies)) + 4

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    body = [*named(size, "savings", "Carbon saved against run-now by policy, in percent", _told(policies, bound))]
    if bound is not None:
        fill = f"url(#{size.key}-hatch)"
        body.append(_hatching(size))
        body.append(tag("rect", x=x(bound), y=top, width=right - x(bound), height=bottom - top, fill=fill))
    body += _upright(x, (low, high, step), top, bottom)
    title = f"saved, % of {nature} carbon" if size.slim else f"saved against run-now, % of the {nature} carbon"
    body.append(letters(title, left, bottom + 37, "panel"))
    if not size.slim:
        body.append(letters("saved", percent_x, 14, "panel", "end"))
        body.append(letters(f"{carbon.unit} CO₂e, {nature}", size.width, 14, "panel", "end"))
    for i, ((run, css), value) in enumerate(zip(policies, saved, strict=True)):
        y = top + row * i + (row - bar) / 2 + 2
        base = y + bar / 2 + 4.5
        percent = f"{_signed(value, 1)}{GAP}%"
        name = fitted(run.name, left - 12, 13)
        width = max(1.5, abs(x(value) - x(0)))
        told = f"{run.name}: {percent} saved against run-now; {carbon.co2e(run.figures['carbon_g'])} emitted, {nature}"
        rect = tag("rect", class_="bar", x=min(x(0), x(value)), y=y, width=width, height=bar, rx=2)
        body.append(tag("text", tag("title", run.name), name, class_="name small", x=0, y=base))
        body.append(tag("g", tag("title", told), rect, class_=f"tip {css}"))
        body.append(letters(percent, percent_x, base, "value", "end"))
        if not size.slim:
            body.append(letters(carbon.number(run.figures["carbon_g"]), size.width, base, "value plain", "end"))
    if bound is not None:
        side = -6 if x(bound) > (left + right) / 2 else 6
        limit = f"bound {_signed(bound, 1)}{GAP}%"
        body.append(tag("line", class_="limit", x1=x(bound), x2=x(bound), y1=top - 8, y2=bottom))
        body.append(letters(limit, x(bound) + side, top - 7, "limit-name", "end" if side < 0 else "start"))
    return drawing(size, bottom + 42, "savings", body)


def delay_figure(delays: Sequence[Drawn], size: Size) -> Markup:
    """The share of jobs that were done with at most a delay, for each policy."""
    values = [np.sort(run.delay_h[np.isfinite(run.delay_h)]) for run, _ in delays]
    left, right, top, height = 46.0, size.width - 14.0, 30.0, 230.0 if size.slim else 290.0
    bottom = top + height
    least = min(0.0, *(float(v[0]) for v in values))
    most = max(float(v[-1]) for v in values)
    room = (right - left) / 64
    span_h = max(most - least, 0.5)
    step = next(
        (s for s in HOUR_STEPS if span_h / s <= room), HOUR_STEPS[-1] * math.ceil(span_h / HOUR_STEPS[-1] / room)
    )
    low = math.floor(least / step + 1e-9) * step
    high = max(math.ceil(most / step - 1e-9) * step, low + step)

    def x(hours: float) -> float:
        return left + (hours - low) / (high - low) * (right - left)

    def y(share: float) -> float:
        return bottom - share * height

    told = "; ".join(
        f"{run.name}: half within {_hours(np.percentile(v, 50))}, 95 % within {_hours(np.percentile(v, 95))}, "
        f"all within {_hours(v[-1])}"
        for (run, _), v in zip(delays, values, strict=True)
    )
    body = [*named(size, "delay", "Cumulative distribution of the delay of jobs by policy", told)]
    body.append(letters("Jobs that were done with at most that delay, %", 0, 14, "panel"))
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(tag("line", class_="grid", x1=left, x2=right, y1=y(part), y2=y(part)))
        body.append(letters(f"{100 * part:.0f}", left - 8, y(part) + 4, "tick", "end"))
    body += _upright(x, (low, high, step), top, bottom)
    body.append(letters("delay of completion against run-now, hours", left, bottom + 37, "panel"))
    points = np.linspace(low, high, min(MOST_POINTS, round(right - left)))
    for (run, css), v in zip(delays, values, strict=True):
        share = np.searchsorted(v, points + 1e-9, side="right") / len(v)
        last = float(v[-1])
        inside = points <= last
        d = stairs([x(p) for p in points[inside]], [y(s) for s in share[inside]], (x(float(v[0])), bottom))
        d += f"H{x(last):.1f}V{y(1.0):.1f}"
        curve = tag("path", class_="curve", d=d)
        dot = tag("circle", class_="end", cx=x(last), cy=y(1.0), r=3.5)
        half = f"{run.name}: half of the jobs within {_hours(np.percentile(v, 50))}, all within {_hours(last)}"
        body.append(tag("g", tag("title", half), curve, dot, class_=f"tip {css}"))
    return drawing(size, bottom + 42, "delay", body)


def letters(text: str, x: float, y: float, css: str, anchor: str | None = None) -> Markup:
    """A text of the figure; `anchor` is the side of it that stands at x."""
    return tag("text", text, class_=css, x=x, y=y, text_anchor=anchor)


def _upright(x: Callable[[float], float], axis: tuple[float, float, float], top: float, bottom: float) -> list[Markup]:
    """Lines at round values of an axis (low, high, step), the one at zero stronger, each with its number below."""
    low, high, step = axis
    parts = []
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        zero = abs(value) < step / 1e3
        at = x(value)
        parts.append(tag("line", class_="axis" if zero else "grid", x1=at, x2=at, y1=top, y2=bottom))
        parts.append(letters("0" if zero else _signed(value), at, bottom + 17, "tick", "middle"))
    return parts


def stairs(xs: Sequence[float], ys: Sequence[float], start: tuple[float, float]) -> str:
    """A path of steps: from `start`, at each x to its y. What is level to a tenth of a pixel is one step."""
    words = [f"M{start[0]:.1f} {start[1]:.1f}"]
    reached = f"{start[1]:.1f}"
    for x, y in zip(xs, ys, strict=True):
        level = f"{y:.1f}"
        if level != reached:
            words.append(f"H{x:.1f}V{level}")
            reached = level
    return "".join(words).replace(".0", "")


def _percent_axis(values: Sequence[float]) -> tuple[float, float, float]:
    """Both ends of an axis that holds zero and all values, with room beyond them, and the distance of its lines."""
    most, least = max([0.0, *values]) * 1.03, min([0.0, *values]) * 1.03
    top, step = nice_top(max(most, -least))
    if not most and not least:
        return 0.0, top, step
    return math.floor(least / step) * step, math.ceil(most / step) * step, step


def _told(policies: Sequence[Drawn], bound: float | None) -> str:
    """The bars in words."""
    words = [f"{run.name} {_signed(settled_pct(run.figures['saved_pct']), 1)} %" for run, _ in policies]
    if bound is not None:
        words.append(f"the bound is {_signed(bound, 1)} %")
    return "; ".join(words)


def named(size: Size, what: str, title: str, described: str) -> tuple[Markup, Markup]:
    """What a screen reader says of a figure."""
    key = f"{what}-{size.key}"
    return tag("title", title, id=f"{key}-title"), tag("desc", described, id=f"{key}-desc")


def drawing(size: Size, height: float, what: str, body: Sequence[Markup]) -> Markup:
    """The figure as a whole: what `named` says first, then its parts."""
    key = f"{what}-{size.key}"
    return tag(
        "svg",
        *body,
        class_=f"figure {size.key}",
        viewBox=f"0 0 {size.width} {height:.0f}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )


def _hatching(size: Size) -> Markup:
    """The pattern of what no schedule can reach."""
    stroke = tag("line", class_="beyond", x1=0, y1=0, x2=0, y2=6)
    return tag(
        "defs",
        tag(
            "pattern",
            stroke,
            id=f"{size.key}-hatch",
            width=6,
            height=6,
            patternUnits="userSpaceOnUse",
            patternTransform="rotate(45)",
        ),
    )


def settled_pct(percent: float) -> float:
    """What is shown as zero is zero: rounding of floats has no sign."""
    return 0.0 if abs(percent) < 0.05 else percent


def _signed(value: float, decimals: int | None = None) -> str:
    """A number with a real minus sign; without `decimals` as short as it is."""
    body = f"{abs(value):g}" if decimals is None else grouped(abs(value), decimals)
    return (MINUS if value < 0 and body.strip("0.") else "") + body


def _hours(value: float) -> str:
    return f"{_signed(float(value), 1)} h"
