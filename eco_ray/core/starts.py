"""What the starts of a whole plan add beside its work: waking nodes, moving the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from eco_ray.core.jobs import Job, Plan, Segment
from eco_ray.core.records import changed
from eco_ray.core.situation import Situation
from eco_ray.core.transfers import TRANSFER_J_PER_GB
from eco_ray.core.units import MJ_PER_J, grams

#: shorter than any time that matters [s]
_INSTANT_S = 1e-6


def plan_with_starts_g(
    job: Job, segments: Sequence[Segment], situation: Situation
) -> tuple[float | None, float | None]:
    """`Situation.plan_g`, whose second figure has the starts as well. The job must not be in the calendar."""
    carbon_g, added_g = situation.plan_g(segments, job.spec)
    return carbon_g, None if added_g is None else added_g + starts_g(job, segments, situation)


def as_of_now(job: Job, plan: Plan, situation: Situation) -> Plan:
    """A plan with what is ahead of it by what is known now. The job must not be in the calendar."""
    carbon_g, added_g = plan_with_starts_g(job, plan.segments, situation)
    return changed(plan, carbon_g=carbon_g, added_g=added_g)


def starts_g(job: Job, segments: Sequence[Segment], situation: Situation) -> float:
    """What the starts of planned segments, whose intensities are known, add [g].

    A checkpoint is moved from where the stretch before left it. A node that others, or the stretch before, leave in the
    moment of a start has not fallen asleep.
    """
    kwh = (job.checkpoint_gb or job.spec.checkpoint_gb) * TRANSFER_J_PER_GB / 3.6e6
    live, before, total_g = job.live_attempt, None, 0.0
    zone = job.attempts[-1].zone if job.attempts and (job.has_checkpoint or live is not None) else None
    for segment in segments:
        if segment.end_s <= situation.now_s:
            continue
        start_s = max(segment.start_s, situation.now_s)
        place, series = situation.fleet.place_of(segment.node), situation.forecast.get(segment.zone)
        goes_on = before is None and live is not None and segment.node == live.node
        goes_on = goes_on and segment.start_s <= situation.now_s + _INSTANT_S
        touches = before is not None and before.node == segment.node and before.end_s >= start_s - _INSTANT_S
        if place is not None and series is not None and not goes_on:
            node = place.node
            if kwh > 0 and zone not in (None, segment.zone):
                total_g += kwh * series.at(start_s)
            if node.sleeps and node.wake_j > 0 and not touches and _is_asleep(segment.node, start_s, situation):
                total_g += grams(node.wake_j * MJ_PER_J, series.at(start_s), node.pue)
        before, zone = segment, segment.zone
    return total_g


def _is_asleep(name: str, start_s: float, situation: Situation) -> bool:
    calendar, place = situation.calendar, situation.fleet.place_of(name)
    if place is None:
        return False
    slot = calendar.slot_of(start_s)
    at_edge = start_s - slot * calendar.slot_s <= _INSTANT_S
    first = slot - 1 if at_edge and slot > calendar.first_slot else slot
    return bool(calendar.idle(place, first, slot + 1 - first).all())
