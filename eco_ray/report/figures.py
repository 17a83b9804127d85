"""The main figure: carbon intensity of each zone, and below it, on the same time axis, one lane per job.

Drawn as SVG text in the size it is shown at, so that letters keep their size; colours are CSS variables, so that one
drawing serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from eco_ray.report.steps import Steps, epoch_s
from eco_ray.report.words import fitted

#: number of zone colours in the style sheet; further zones reuse them
COLOURS = 8
PANEL_TOP = 34
PANEL_HEIGHT = 210
AXIS_HEIGHT = 44
TICK_STEPS_S = (60, 300, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000)
HOUR_S, DAY_S = 3600, 86_400


@dataclass(frozen=True, slots=True)
class Frame:
    """Where time lies on the page."""

    width: float
    left: float
    right: float
    start_s: float
    end_s: float

    @property
    def plot_right(self) -> float:
        """Right edge of the plot [px]."""
        return self.width - self.right

    def x(self, time_s: float) -> float:
        """Place [px] of a time, kept inside the plot."""
        share = (time_s - self.start_s) / (self.end_s - self.start_s)
        return self.left + min(1.0, max(0.0, share)) * (self.plot_right - self.left)


def tag(name: str, *content: str | Markup, **attributes: Any) -> Markup:
    """An SVG element; text and attributes are escaped, `class_` is class and `_` in names is `-`."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(part) for part in content)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), pairs, inner)  # noqa: S704 - name is ours


def _short(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def zone_classes(doc: Mapping[str, Any]) -> dict[str, str]:
    """The colour class of each zone of a report: home zone first."""
    zones = [doc["home_zone"]] if doc["home_zone"] else []
    zones += list(doc["series"]) + [s["zone"] for job in doc["jobs"] for s in job["segments"]]
    return {zone: f"z{i % COLOURS}" for i, zone in enumerate(dict.fromkeys(zones))}


def report_steps(doc: Mapping[str, Any]) -> dict[str, Steps]:
    """The series of a report as steps."""
    return {
        zone: Steps.of([(epoch_s(t), v) for t, v in rows], doc["step_s"].get(zone))
        for zone, rows in doc["series"].items()
    }


def time_span(doc: Mapping[str, Any], steps: Mapping[str, Steps]) -> tuple[float, float]:
    """What the figure shows [s since epoch]: all that happened, and deadlines that are not far beyond it."""
    jobs = doc["jobs"]
    starts = [min(job["submitted_s"], job["baseline_start_s"]) for job in jobs]
    ends = [job["baseline_end_s"] for job in jobs] + [s["end_s"] for job in jobs for s in job["segments"]]
    if not jobs:
        starts = [part.times_s[0] for part in steps.values() if part.times_s]
        ends = [part.end_of(len(part.times_s) - 1) for part in steps.values() if part.times_s]
    if not starts:
        now_s = epoch_s(doc["generated"])
        return now_s - DAY_S, now_s
    start_s, end_s = min(starts), max([*ends, min(starts) + 60])
    reach_s = end_s + 0.15 * (end_s - start_s)
    near = [job["deadline_s"] for job in jobs if job["deadline_s"] is not None and job["deadline_s"] <= reach_s]
    end_s = max([end_s, *near])
    margin_s = 0.012 * (end_s - start_s)
    return start_s - margin_s, end_s + margin_s


def nice_top(value: float) -> tuple[float, float]:
    """The top of an axis from zero, and the distance of its lines: 3 to 5 of them at round numbers."""
    if value <= 0:
        return 100.0, 25.0
    base = 10 ** math.floor(math.log10(value))
    step = next(s for s in (0.2 * base, 0.25 * base, 0.5 * base, base, 2 * base, 2.5 * base) if value / s <= 5)
    return math.ceil(value / step - 1e-9) * step, step


def time_axis(frame: Frame, top: float, bottom: float, label_y: float) -> Markup:
    """Vertical lines at round times, with the time, and with the date where a day begins."""
    room = max(2.0, (frame.plot_right - frame.left) / 82)
    span_s = frame.end_s - frame.start_s
    step_s = next((s for s in TICK_STEPS_S if span_s / s <= room), TICK_STEPS_S[-1])
    parts: list[Markup] = []
    dated: str | None = None
    time_s = math.ceil(frame.start_s / step_s) * step_s
    while time_s <= frame.end_s:
        x, moment = frame.x(time_s), datetime.fromtimestamp(time_s, UTC)
        day = f"{moment:%a} {moment.day} {moment:%b}"
        new_day = day != dated
        parts.append(tag("line", class_="grid day" if new_day and dated else "grid", x1=x, x2=x, y1=top, y2=bottom))
        if step_s < DAY_S:
            parts.append(tag("text", f"{moment:%H:%M}", class_="tick", x=x, y=label_y, text_anchor="middle"))
        if new_day:
            y = label_y + (15 if step_s < DAY_S else 0)
            parts.append(tag("text", day, class_="tick date", x=x, y=y, text_anchor="middle"))
        dated = day
        time_s += step_s
    return Markup("").join(parts)


def intensity_panel(
    frame: Frame,
    steps: Mapping[str, Steps],
    classes: Mapping[str, str],
    runs: Mapping[str, Sequence[tuple[float, float]]],
) -> Markup:
    """Step lines of each zone, thick where jobs ran, each with its name at its right end."""
    bottom = PANEL_TOP + PANEL_HEIGHT
    highest = max((v for part in steps.values() for v in part.values_g_per_kwh), default=0.0)
    top_value, line_step = nice_top(highest)

    def y(value: float) -> float:
        return bottom - value / top_value * PANEL_HEIGHT

    parts = [tag("text", "Carbon intensity, g CO₂e per kWh", class_="panel", x=0, y=14)]
    for i in range(round(top_value / line_step) + 1):
        value = i * line_step
        parts.append(tag("line", class_="grid", x1=frame.left, x2=frame.plot_right, y1=y(value), y2=y(value)))
        label = f"{value:g}"
        parts.append(tag("text", label, class_="tick", x=frame.left - 8, y=y(value) + 4, text_anchor="end"))
    ends: list[tuple[float, str]] = []
    for zone, part in steps.items():
        for start_s, end_s in runs.get(zone, ()):
            d = _path(frame, part, y, start_s, end_s)
            if d:
                parts.append(tag("path", class_=f"ran {classes[zone]}", d=d))
    for zone, part in steps.items():
        d = _path(frame, part, y, frame.start_s, frame.end_s)
        if d:
            parts.append(tag("path", tag("title", f"{zone}: carbon intensity"), class_=f"line {classes[zone]}", d=d))
            ends.append((y(part.values_g_per_kwh[_last(part, frame.end_s)]), zone))
    if not ends:
        middle = (frame.left + frame.plot_right) / 2
        parts.append(
            tag(
                "text",
                "no intensity is kept for this time",
                class_="none",
                x=middle,
                y=bottom - 90,
                text_anchor="middle",
            )
        )
    for (_, zone), label_y in zip(sorted(ends), _apart([at for at, _ in sorted(ends)], 15, bottom), strict=True):
        name = fitted(zone, frame.right - 12, 13)
        parts.append(
            tag(
                "text",
                tag("title", zone),
                name,
                class_=f"zone {classes[zone]}",
                x=frame.plot_right + 8,
                y=label_y + 4.5,
            )
        )
    return Markup("").join(parts)


def _last(part: Steps, end_s: float) -> int:
    """Index of the last step that begins before the figure ends."""
    return max(i for i, t in enumerate(part.times_s) if t <= end_s or i == 0)


def _path(frame: Frame, part: Steps, y: Any, start_s: float, end_s: float) -> str:
    """A step line over [start_s, end_s], interrupted where the intensity is unknown."""
    words: list[str] = []
    reached: float | None = None
    for i, (time_s, value) in enumerate(zip(part.times_s, part.values_g_per_kwh, strict=True)):
        a, b = max(time_s, start_s), min(part.end_of(i), end_s)
        if b <= a:
            continue
        words.append(f"{'M' if reached != a else 'L'}{frame.x(a):.1f} {y(value):.1f}H{frame.x(b):.1f}")
        reached = b
    return "".join(words)


def _apart(places: Sequence[float], distance: float, limit: float) -> list[float]:
    """Sorted places, moved as little as needed to keep a distance."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + distance) if moved else place)
    for i in range(len(moved) - 1, -1, -1):
        ceiling = limit if i == len(moved) - 1 else moved[i + 1] - distance
        moved[i] = min(moved[i], ceiling)
    return moved
