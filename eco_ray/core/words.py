"""Times, places and grams of plans in words and as plain values, the same in every document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from eco_ray.core.jobs import Plan, Segment

#: two plans emit the same where they differ by less than this share
_SAME = 5e-4
#: stretches that follow each other within this time touch [s]
TOUCH_S = 1.0


def iso(time_s: float) -> str:
    """A time as ISO 8601 UTC with seconds."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=1024)
def minute(time_s: float) -> str:
    """A time for people, with its date; remembered, as many jobs start at the same time."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def moment(time_s: float, now_s: float) -> str:
    """A time for people: without the date if that is today's, UTC."""
    time, now = datetime.fromtimestamp(time_s, UTC), datetime.fromtimestamp(now_s, UTC)
    return time.strftime("%H:%M UTC") if time.date() == now.date() else minute(time_s)


def stretches(plan: Plan, since_s: float = -math.inf) -> list[dict[str, Any]]:
    """The segments of a plan that end after a time, as plain values."""
    return [
        {"zone": s.zone, "node": s.node, "start": iso(s.start_s), "end": iso(s.end_s), "workers": s.workers}
        for s in plan.segments
        if s.end_s > since_s
    ]


def plan_values(plan: Plan) -> dict[str, Any]:
    """A plan as plain values; grams are those of the plan as it was made, None where an intensity is unknown."""
    known = plan.carbon_g is not None and plan.run_now_g is not None
    return {
        "segments": stretches(plan),
        "carbon_g": plan.carbon_g,
        "added_g": plan.added_g,
        "run_now_g": plan.run_now_g,
        "saved_g": (plan.run_now_g or 0.0) - (plan.carbon_g or 0.0) if known else None,
        "expected_duration_s": plan.length_s,
        "expected_duration_from": plan.length_from,
        "made": iso(plan.made_s),
        "nature": "modelled",
    }


def more_or_less(more_g: float, base_g: float) -> str:
    """`3.1 g more`, `3.1 g less` or `as much`, in comparison with `base_g` [g]."""
    if same(more_g, base_g):
        return "as much"
    return f"{abs(more_g):.3g} g {'more' if more_g > 0 else 'less'}"


def same(more_g: float, base_g: float) -> bool:
    """Whether a difference is none to speak of [g]."""
    return abs(more_g) <= _SAME * abs(base_g)


def share_of(part_g: float, whole_g: float) -> str:
    """In parentheses, ` (61%)`, or nothing where there is no whole."""
    return f" ({abs(part_g) / whole_g:.0%})" if whole_g > 0 else ""


def goes_on(before: Segment, after: Segment) -> bool:
    """Whether a job runs on from one stretch into the next: another number of workers is another start."""
    touches = after.start_s <= before.end_s + TOUCH_S
    return touches and (before.node, before.workers) == (after.node, after.workers)


def zones_of(segments: Sequence[Segment]) -> str:
    """`FR > DE`: the zones in order, each once."""
    return " > ".join(dict.fromkeys(segment.zone for segment in segments))


def most_workers(plan: Plan) -> int:
    """The largest number of workers in any stretch."""
    return max(segment.workers for segment in plan.segments)
