"""What attempts report, as the events that the orchestrator is told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from eco_ray.core.clock import Clock
from eco_ray.core.events import AttemptProgressed
from eco_ray.on_ray.watcher import report_event

CLOCK = Clock(600.0, 1_000.0, 50_000.0)
REPORT: dict[str, Any] = {
    "submission_id": "train-a1-a2", "done": 0.25, "metrics": {"loss": 0.5}, "resumed_s": 1_010.0,
    "checkpoint_s": 1_020.0, "checkpoint_bytes": 2_500_000_000, "time_s": 1_030.0,
}  # fmt: skip


def test_a_report_is_an_event_in_grid_time() -> None:
    assert report_event(REPORT, CLOCK) == AttemptProgressed(
        "train-a1", 2, 0.25, {"loss": 0.5}, 56_000, 62_000, 2.5, 68_000
    )


def test_what_is_not_said_is_unknown() -> None:
    assert report_event({"submission_id": "j-a1"}, CLOCK) == AttemptProgressed("j", 1, None)


@pytest.mark.parametrize("size", [None, -1, "8", True, math.nan, math.inf, [1]])
def test_a_size_that_is_none_is_unknown(size: Any) -> None:
    event = report_event({**REPORT, "checkpoint_bytes": size}, CLOCK)
    assert event is not None
    assert (event.checkpoint_gb, event.checkpoint_s) == (None, 62_000)


@pytest.mark.parametrize("name", ["", "a1", "job", "job-a", "job-ax", "-a1"])
def test_reports_of_nobody_are_none(name: str) -> None:
    assert report_event({**REPORT, "submission_id": name}, CLOCK) is None


def test_integers_that_are_no_float_are_no_progress() -> None:
    huge = {**REPORT, "done": 10**400, "resumed_s": -(10**400), "checkpoint_bytes": 10**400}
    event = report_event(huge, CLOCK)
    assert event is not None
    assert (event.done, event.productive_s, event.checkpoint_gb) == (None, None, None)
