"""Lanes of the main figure: what each job did, above what run-now would have done; and the figure as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from eco_ray.report.figures import (
    AXIS_HEIGHT,
    PANEL_HEIGHT,
    PANEL_TOP,
    Frame,
    intensity_panel,
    report_steps,
    tag,
    time_axis,
    time_span,
    zone_classes,
)
from eco_ray.report.words import (
    CARBON,
    ENERGY,
    UNKNOWN,
    Scale,
    duration,
    fitted,
    percent,
    settled,
    short_time,
    width_em,
)

#: with more jobs than this, lanes are low and hold no second line of text
ROOMY = 40
DASH = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Lane:
    """Heights [px] within a lane."""

    height: float
    bar_y: float
    bar: float
    ghost_y: float
    ghost: float
    text: float


LOW = Lane(height=17, bar_y=2, bar=8, ghost_y=11.5, ghost=3, text=10.5)
HIGH = Lane(height=50, bar_y=10, bar=17, ghost_y=32, ghost=7, text=13)


def main_figure(doc: Mapping[str, Any], width: int, key: str) -> Markup:
    """The figure at a width [px]; `key` keeps its ids apart from another figure's on the page."""
    steps = report_steps(doc)
    classes = zone_classes(doc)
    start_s, end_s = time_span(doc, steps)
    narrow = width < 900
    frame = Frame(width, 132 if narrow else 196, 84 if narrow else 104, start_s, end_s)
    lane = LOW if len(doc["jobs"]) > ROOMY else HIGH
    top = PANEL_TOP + PANEL_HEIGHT + AXIS_HEIGHT
    first = top + (22 if doc["jobs"] else 0)
    height = first + lane.height * len(doc["jobs"]) + 6
    body = [
        tag("title", "Carbon intensity over time, and when and where each job ran", id=f"{key}-title"),
        tag("desc", _description(doc), id=f"{key}-desc"),
        _patterns(key),
        time_axis(frame, PANEL_TOP, height - 4, PANEL_TOP + PANEL_HEIGHT + 18),
        intensity_panel(frame, steps, classes, _runs(doc)),
    ]
    scale = Scale.of([job["saved_g"] for job in doc["jobs"]], CARBON)
    if doc["jobs"]:
        body.append(tag("text", "Jobs", class_="panel", x=0, y=top + 8))
        body.append(tag("text", "saved", class_="panel", x=width, y=top + 8, text_anchor="end"))
    for i, job in enumerate(doc["jobs"]):
        body.append(_lane(job, doc, frame, lane, first + i * lane.height, classes, scale, key))
    body.append(tag("line", class_="cross", x1=-9, x2=-9, y1=PANEL_TOP, y2=height - 4))
    return tag(
        "svg",
        *body,
        class_=f"figure {'narrow' if narrow else 'wide'}",
        viewBox=f"0 0 {width} {height:.0f}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        data_start=f"{start_s:.0f}",
        data_end=f"{end_s:.0f}",
        data_left=frame.left,
        data_right=frame.plot_right,
        data_foot=top,
    )


def _description(doc: Mapping[str, Any]) -> str:
    zones, jobs = list(doc["series"]), doc["jobs"]
    return (
        f"Above: carbon intensity of {', '.join(zones) or 'no zone'} as step lines, thick where a job ran. "
        f"Below: a lane for each of {len(jobs)} jobs, with its attempts coloured by zone over the hollow bar of the "
        "run-now counterfactual. The table below holds the same numbers."
    )


def _patterns(key: str) -> Markup:
    """The hatching of overhead."""
    stroke = tag("line", class_="hatch", x1=0, y1=0, x2=0, y2=5)
    pattern = tag(
        "pattern",
        stroke,
        id=f"{key}-hatch",
        width=5,
        height=5,
        patternUnits="userSpaceOnUse",
        patternTransform="rotate(45)",
    )
    return tag("defs", pattern)


def _runs(doc: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """When some job ran in each zone: spans that do not overlap."""
    runs: dict[str, list[tuple[float, float]]] = {}
    spans = sorted((s["start_s"], s["end_s"], s["zone"]) for job in doc["jobs"] for s in job["segments"])
    for start_s, end_s, zone in spans:
        known = runs.setdefault(zone, [])
        if known and start_s <= known[-1][1]:
            known[-1] = (known[-1][0], max(known[-1][1], end_s))
        else:
            known.append((start_s, end_s))
    return runs


def _lane(
    job: Mapping[str, Any],
    doc: Mapping[str, Any],
    frame: Frame,
    lane: Lane,
    y: float,
    classes: Mapping[str, str],
    scale: Scale,
    key: str,
) -> Markup:
    """One job: name, waiting, attempts, run-now, submission, deadline, saving."""
    parts = [tag("line", class_="rule", x1=0, x2=frame.width, y1=y - 0.5, y2=y - 0.5)] if lane is HIGH else []
    parts += _names(job, frame, lane, y, scale)
    ghost = _ghost(job, doc, frame, lane, y)
    if ghost:
        parts.append(ghost)
    spans = sorted((s["start_s"], s["end_s"]) for s in job["segments"])
    last_s = max((end for _, end in spans), default=job["submitted_s"])
    middle = y + lane.bar_y + lane.bar / 2
    x1, x2 = frame.x(job["submitted_s"]), frame.x(last_s)
    if x2 - x1 > 1:
        parts.append(tag("line", class_="wait", x1=x1, x2=x2, y1=middle, y2=middle))
    for segment in job["segments"]:
        parts.append(_segment(segment, job, frame, lane, y, classes, key))
    parts += _ticks(job, frame, lane, y)
    return tag("g", *parts, class_="lane")


def _names(job: Mapping[str, Any], frame: Frame, lane: Lane, y: float, scale: Scale) -> list[Markup]:
    """The job's name on the left and its saving on the right."""
    room = frame.left - 14
    base = y + (21 if lane is HIGH else 11)
    name = tag(
        "text",
        tag("title", job["name"]),
        fitted(job["name"], room, lane.text),
        class_="name",
        x=0,
        y=base,
        font_size=lane.text,
    )
    saved_g = settled(job["saved_g"], job["baseline_g"])
    share = percent(saved_g, job["baseline_g"]) or (UNKNOWN if saved_g is None else DASH)
    grams = scale.text(saved_g, signed=True) if job["energy_j"] else DASH
    tone = "better" if saved_g and saved_g > 0 else "worse" if saved_g else "minor"
    if lane is LOW:
        text = tag("text", share, class_=tone, x=frame.width, y=base, text_anchor="end", font_size=lane.text)
        return [name, text]
    lines = [
        tag("text", _sentence(job, room), class_="minor", x=0, y=base + 16),
        tag("text", grams, class_=f"saved {tone}", x=frame.width, y=base, text_anchor="end"),
    ]
    if grams not in (DASH, UNKNOWN):
        lines.append(tag("text", share, class_=f"minor {tone}", x=frame.width, y=base + 16, text_anchor="end"))
    return [name, *lines]


def _sentence(job: Mapping[str, Any], room: float) -> str:
    """The second line of a lane: what became of the job, as far as there is room."""
    words = [] if job["state"] == "succeeded" else [job["state"]]
    if job["segments"]:
        delay_s = min(s["start_s"] for s in job["segments"]) - job["submitted_s"]
        words.append(f"after {duration(delay_s)}" if delay_s >= 60 else "at once")
    if job["resumes"]:
        words.append("resumed" if job["resumes"] == 1 else f"{job['resumes']} resumes")
    while len(words) > 1 and width_em(" · ".join(words)) * 11 > room:
        words.pop()
    return fitted(" · ".join(words), room, 11)


def _ghost(job: Mapping[str, Any], doc: Mapping[str, Any], frame: Frame, lane: Lane, y: float) -> Markup | None:
    """The hollow bar of the run-now counterfactual."""
    if job["productive_s"] <= 0:
        return None
    x1, x2 = frame.x(job["baseline_start_s"]), frame.x(job["baseline_end_s"])
    tip = (
        f"{job['name']}: run-now counterfactual\n"
        f"{doc['home_zone']}, {short_time(job['baseline_start_s'])} to {short_time(job['baseline_end_s'])} UTC\n"
        f"{Scale.of([job['baseline_g']], CARBON).co2e(job['baseline_g'])} for "
        f"{Scale.of([job['productive_j']], ENERGY).text(job['productive_j'])} of productive energy"
    )
    rect = tag(
        "rect",
        x=x1,
        y=y + lane.ghost_y,
        width=max(2.0, x2 - x1),
        height=lane.ghost,
        rx=min(2.0, lane.ghost / 2),
        class_="ghost",
    )
    return tag("g", tag("title", tip), rect, class_="tip")


def _segment(
    segment: Mapping[str, Any],
    job: Mapping[str, Any],
    frame: Frame,
    lane: Lane,
    y: float,
    classes: Mapping[str, str],
    key: str,
) -> Markup:
    """One attempt: a bar in its zone's colour with its number, hatched where it was overhead."""
    x1, x2 = frame.x(segment["start_s"]), frame.x(segment["end_s"])
    width = max(2.5, x2 - x1)
    lines = [
        f"{job['name']}: " + (f"attempt {segment['attempt']}, " if segment["attempt"] else "") + segment["state"],
        f"node {segment['node']} in {segment['zone']}",
        f"{short_time(segment['start_s'])} to {short_time(segment['end_s'])} UTC "
        f"({duration(segment['end_s'] - segment['start_s'])})",
        f"{Scale.of([segment['energy_j']], ENERGY).text(segment['energy_j'])}, "
        f"{Scale.of([segment['operational_g']], CARBON).co2e(segment['operational_g'])}, {job['carbon_nature']}",
    ]
    if segment["overhead_s"]:
        overhead = Scale.of([segment["overhead_j"]], ENERGY).text(segment["overhead_j"])
        lines.append(f"overhead (hatched): {duration(segment['overhead_s'])}, {overhead}")
    top = y + lane.bar_y
    parts = [
        tag("title", "\n".join(lines)),
        tag("rect", class_="bar", x=x1, y=top, width=width, height=lane.bar, rx=2.5 if lane is HIGH else 1),
    ]
    for start_s, end_s in segment["overhead"]:
        a, b = frame.x(start_s), frame.x(end_s)
        if b - a >= 1:
            parts.append(tag("rect", x=a, y=top, width=b - a, height=lane.bar, fill=f"url(#{key}-hatch)"))
    label = str(segment["attempt"] or "")
    if label and lane is HIGH and width > 9 + 7 * len(label):
        parts.append(tag("text", label, class_="number", x=x1 + width / 2, y=top + 12.5, text_anchor="middle"))
    return tag("g", *parts, class_=f"tip {classes[segment['zone']]}")


def _ticks(job: Mapping[str, Any], frame: Frame, lane: Lane, y: float) -> list[Markup]:
    """Submission (a dot on a stem) and deadline (a flag; an arrow at the edge when it lies beyond the figure)."""
    top, bottom = y + lane.bar_y - 4, y + lane.ghost_y + lane.ghost
    radius = 3.0 if lane is HIGH else 1.8
    x = frame.x(job["submitted_s"])
    parts = [
        tag(
            "g",
            tag("title", f"{job['name']}: submitted {short_time(job['submitted_s'])} UTC"),
            tag("line", class_="stem", x1=x, x2=x, y1=top, y2=bottom),
            tag("circle", class_="dot", cx=x, cy=top, r=radius),
            class_="tip",
        )
    ]
    if job["deadline_s"] is None:
        return parts
    title = tag("title", f"{job['name']}: deadline {short_time(job['deadline_s'])} UTC")
    size = 7.0 if lane is HIGH else 4.0
    if job["deadline_s"] > frame.end_s:
        x, middle = frame.plot_right, y + lane.bar_y + lane.bar / 2
        points: Sequence[tuple[float, float]] = [
            (x + 4, middle - size / 2),
            (x + 4, middle + size / 2),
            (x + 4 + size, middle),
        ]
        mark = [_polygon(points)]
    else:
        x = frame.x(job["deadline_s"])
        points = [(x, top - 3), (x - size, top - 3 + size / 2), (x, top - 3 + size)]
        mark = [tag("line", class_="due", x1=x, x2=x, y1=top - 3, y2=bottom), _polygon(points)]
    return [*parts, tag("g", title, *mark, class_="tip")]


def _polygon(points: Sequence[tuple[float, float]]) -> Markup:
    return tag("polygon", class_="flag", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))
