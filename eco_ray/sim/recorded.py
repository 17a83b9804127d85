"""What a live cluster wrote down of its decisions, decided again: `eco-ray simulate --replay STATE_DIR`.

    STATE_DIR/scaling/APP.jsonl             replicas                       core/scaling_log.py
    STATE_DIR/decisions/KIND[.1].jsonl      nodes, traffic and variants    core/decision_log.py
    STATE_DIR/decisions/jobs-TIME.jsonl     jobs, and room for replicas    core/event_log.py (setting record_events)

A line that was cut off by a crash is left out where it is the last one of its file; elsewhere it is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from eco_ray.core.decision_log import Difference, differences, record_from_json
from eco_ray.core.event_log import beginning_from_json, replayed, step_from_json
from eco_ray.core.scaling_log import ScalingRecord
from eco_ray.errors import EcoRayError, UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Again:
    """A log that was decided again."""

    #: drain, jobs, mix, scaling or traffic
    kind: str
    file: Path
    #: of the log: decisions, and of jobs events
    decisions: int
    #: those that are other ones now
    different: tuple[Difference, ...]


def decide_again(state_dir: Path) -> list[Again]:
    """All logs of a state directory. Raises UsageError where there is none, or one is damaged."""
    found = []
    for path in sorted((state_dir / "scaling").glob("*.jsonl")):
        found.append(_records("scaling", path, ScalingRecord.from_json))
    for path in sorted((state_dir / "decisions").glob("*.jsonl")):
        kind = path.name.partition("-")[0].partition(".")[0]
        found.append(_events(path) if kind == "jobs" else _records(kind, path, record_from_json))
    if not found:
        raise UsageError(
            f"{state_dir}: no decisions are written down there; give the state directory of a cluster that served "
            "models, or that was started with the setting record_events (ECO_RAY_RECORD_EVENTS=true)"
        )
    return found


def _records(kind: str, path: Path, read: Callable[[Mapping[str, Any]], Any]) -> Again:
    records = list(_lines(path, read))
    return Again(kind, path, len(records), tuple(differences(records)))


def _events(path: Path) -> Again:
    """The first difference is the last one that is looked at: what comes after it may follow from it."""
    lines = _lines(path, lambda told: told)
    first = next(lines, None)
    if first is None:
        return Again("jobs", path, 0, ())
    began = _checked(path, 1, beginning_from_json, first)
    steps = (_checked(path, number, step_from_json, told) for number, told in enumerate(lines, 2))
    count = 0
    for step, now in replayed(began, steps):
        count += 1
        if now != step.decided:
            about = f"{type(step.event).__name__}, event {count}"
            return Again("jobs", path, count, (Difference("jobs", about, step.decided, now),))
    return Again("jobs", path, count, ())


def _lines(path: Path, read: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
    """What is in a file, line by line."""
    with path.open() as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return  # it was being written
            yield _checked(path, number, lambda text: read(json.loads(text)), line)


def _checked(path: Path, number: int, read: Callable[[Any], T], told: Any) -> T:
    try:
        return read(told)
    except (EcoRayError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}, line {number}: no record of a decision ({error}); remove the line, or the file"
        ) from error
