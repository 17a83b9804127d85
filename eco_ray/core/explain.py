"""Plans in words: one token and one sentence, and why this plan and no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eco_ray.core.alternatives import Alternative, ordered_alike, runner_up
from eco_ray.core.durations import AS_GIVEN
from eco_ray.core.feasible import hours
from eco_ray.core.jobs import Job, Plan, Reason
from eco_ray.core.situation import NoPlan
from eco_ray.core.words import minute, moment, more_or_less, most_workers, plan_values, same, share_of, zones_of


def plan_message(job: Job, plan: Plan, now_s: float) -> tuple[Reason, str]:
    """Why a job is not running now, and until when."""
    first = plan.segments[0]
    where = f"on {first.node} in {first.zone}"
    assumed = "" if plan.length_s is None or plan.length_from == AS_GIVEN else _assumes(plan)
    late = _late(job, plan)
    if first.start_s <= now_s + 1e-6:
        return Reason.PENDING_EVALUATION, f"starts now {where}{assumed}{without_signal(plan)}{late}"
    when = minute(first.start_s)
    if late:
        return (
            Reason.DEADLINE_INFEASIBLE,
            f"starts {when} {where}, when a node is free{_shape(plan)}{_saves(plan)}{assumed}{late}",
        )
    if first.start_s <= job.spec.not_before_s + 1e-6:
        return Reason.PENDING_EVALUATION, f"starts {when} {where}, not before, as it asks{assumed}"
    if job.spec.policy == "run-now":
        return Reason.WAITING_FOR_CAPACITY, f"starts {when} {where}, or as soon as a node is free{assumed}"
    return _waits_for_start(plan, f"starts {when} {where}", assumed)


def _waits_for_start(plan: Plan, starts: str, assumed: str) -> tuple[Reason, str]:
    """Whether it is the signal, room or the grid that a job waits for."""
    if plan.no_signal_in:
        stale = f"; {_no_forecast(plan)}, so it takes the earliest place"
        return Reason.SIGNAL_STALE, f"{starts}, when a node is free{_shape(plan)}{assumed}{stale}"
    if plan.could_start_s is None or plan.start_s <= plan.could_start_s + 1e-6:
        details = f"{_shape(plan)}{_saves(plan)}{assumed}"
        return Reason.WAITING_FOR_CAPACITY, f"{starts}, when a node is free{details}"
    return Reason.WAITING_FOR_CLEANER_WINDOW, f"{starts}{_shape(plan)}{_saves(plan)}{assumed}"


def without_signal(plan: Plan | None) -> str:
    """That a plan was made without a current forecast; nothing where it had one, or does not ask for it."""
    missing = plan is not None and plan.no_signal_in
    return f"; {_no_forecast(plan)}, so it did not wait for cleaner power" if plan and missing else ""


def _no_forecast(plan: Plan) -> str:
    return f"no forecast for {' or '.join(plan.no_signal_in)} is current"


def _shape(plan: Plan) -> str:
    return f", in {len(plan.segments)} stretches" if len(plan.segments) > 1 else ""


def _saves(plan: Plan) -> str:
    """What a plan saves against running at once."""
    if plan.carbon_g is None or plan.run_now_g is None or plan.run_now_g <= 0:
        return "; the saving is unknown (no intensity)"
    saved_g = plan.run_now_g - plan.carbon_g
    verb, than = ("saves", "against") if saved_g >= 0 else ("emits", "more than")
    return f"; {verb} {abs(saved_g):.3g} g ({abs(saved_g) / plan.run_now_g:.0%}) {than} running now in the home zone"


def _assumes(plan: Plan) -> str:
    """The length that was planned with, where it is not the one that its owner gave."""
    return f"; assumes {(plan.length_s or 0.0) / 60:.0f} min of work ({plan.length_from})"


def describe_plan(
    job: Job, plan: Plan | NoPlan, now_s: float, others: Sequence[Alternative] = (), home_zone: str = "the home zone"
) -> dict[str, Any]:
    """A plan as plain values, with why it is the best and its runners-up, for `job plan`; times as ISO 8601 UTC.

    Without a plan that is in time, `others` are the plans that the job would have if it were allowed more.
    """
    chosen = None if isinstance(plan, NoPlan) else plan
    rivals = [
        {
            "what": other.what,
            **{key: value for key, value in plan_values(other.plan).items() if key in _OF_A_RIVAL},
            "more_g": other.more_g(chosen) if chosen else None,
            "more_added_g": other.more_added_g(chosen) if chosen else None,
        }
        for other in others
    ]
    if isinstance(plan, NoPlan):
        return {
            "reason": str(plan.reason),
            "message": plan.message,
            "unblock": _what_would_help(others, now_s),
            "segments": [],
            "alternatives": rivals,
        }
    reason, message = plan_message(job, plan, now_s)
    late = _late(job, plan)
    return {
        "reason": str(reason),
        "message": message,
        "why": why_this_one(job, plan, others, now_s, home_zone),
        **({"unblock": _what_would_help(others, now_s, "be in time")} if late else {}),
        **plan_values(plan),
        "home_zone": home_zone,
        "same_order": ordered_alike(plan, others),
        "alternatives": rivals,
    }


def why_this_one(job: Job, plan: Plan, others: Sequence[Alternative], now_s: float, home_zone: str) -> str:
    """What a plan saves, and what the next best one would cost: one sentence."""
    against = _late(job, plan).removeprefix("; ") or _against_the_next(job, plan, others, now_s)
    return f"{_saving(plan, home_zone)}; {against}"


def _late(job: Job, plan: Plan) -> str:
    """How late a plan ends; nothing where it is in time."""
    late_s = plan.end_s - job.spec.deadline_s
    return f"; it ends {hours(late_s)} after its deadline: nothing is free in time" if late_s > 1.0 else ""


#: what is told of a runner-up
_OF_A_RIVAL = ("segments", "carbon_g", "added_g")


def _saving(plan: Plan, home_zone: str) -> str:
    if plan.carbon_g is None or plan.run_now_g is None:
        return f"what it saves against running now in {home_zone} is unknown (no intensity)"
    saved_g = plan.run_now_g - plan.carbon_g
    if same(saved_g, plan.run_now_g):
        return f"emits as much as running now in {home_zone}"
    verb, than = ("saves", "against") if saved_g > 0 else ("emits", "more than")
    return f"{verb} {abs(saved_g):.3g} g{share_of(saved_g, plan.run_now_g)} {than} running now in {home_zone}"


def _against_the_next(job: Job, plan: Plan, others: Sequence[Alternative], now_s: float) -> str:
    following = runner_up(plan, others)
    if following is None:
        return "none of the other plans that were tried is in time"
    name = f"the runner-up, {following.what} ({_place(following.plan, now_s)}),"
    share_g, added_g = following.more_g(plan), following.more_added_g(plan)
    behind_g = following.behind_g(plan)
    if behind_g is None:
        return f"{name} cannot be compared (no intensity)"
    base_g = abs((plan.carbon_g if added_g is None else plan.added_g) or 0.0)
    if share_g is None or added_g is None or _alike(share_g, added_g, plan):
        shown_g = behind_g if share_g is None else share_g
        text = f"{name} emits {more_or_less(shown_g, (plan.carbon_g if share_g is not None else base_g) or 0.0)}"
    else:  # the two figures disagree: tell both
        text = (
            f"{name} adds {more_or_less(added_g, base_g)} to the nodes' emissions, which decides, while its own share "
            f"is {more_or_less(share_g, plan.carbon_g or 0.0)}"
        )
    return text if behind_g >= 0 or same(behind_g, base_g) else f"{text}, {_why_not(job, plan, now_s)}"


def _alike(share_g: float, added_g: float, plan: Plan) -> bool:
    """Whether both differences say more, less or the same."""

    def sign(more_g: float, base_g: float | None) -> int:
        return 0 if same(more_g, base_g or 0.0) else 1 if more_g > 0 else -1

    return sign(share_g, plan.carbon_g) == sign(added_g, plan.added_g)


#: why a plan was chosen that the figures do not explain
_INEXACT = "the search is not exact where"
_PRICES = "what a slot is worth to other jobs counts as well"


def _why_not(job: Job, plan: Plan, now_s: float) -> str:
    """Why a plan that emits less was not chosen."""
    spec = job.spec
    if spec.policy != "eco":
        return f"but the policy {spec.policy} does not ask for the fewest grams"
    if spec.min_saving_pct > 0 and plan.start_s <= max(now_s, spec.not_before_s) + 1.0 and len(plan.segments) == 1:
        return f"but waiting has to save carbon.min_saving_pct, {spec.min_saving_pct:g}%"
    if plan.length_s is not None and plan.length_from != AS_GIVEN:
        return "but how long it lasts is in doubt, and what it may emit after that counts as well"
    if spec.workers.max > spec.workers.min:
        return f"but {_INEXACT} the number of workers may change; {_PRICES}"
    if job.pausable and spec.suspend.allow and spec.suspend.resume_cost_s + spec.suspend.min_run_s > 0:
        return f"but {_INEXACT} a pause takes time; {_PRICES}"
    return f"but {_PRICES}"


def _what_would_help(others: Sequence[Alternative], now_s: float, goal: str = "have a plan") -> str:
    """What a job without a plan that is in time needs: one sentence."""
    if not others:
        return (
            "neither more zones nor a deadline a day later would give it a place now; ask for less, free nodes, "
            "or let it wait"
        )
    ways = [f"with {one.what} ({_place(one.plan, now_s)}{_emitting(one.plan)})" for one in others]
    return f"it would {goal} {' or '.join(ways)}"


def _emitting(plan: Plan) -> str:
    return "" if plan.carbon_g is None else f", {plan.carbon_g:.3g} g"


def _place(plan: Plan, now_s: float) -> str:
    """`FR from 02:00 UTC, 2 stretches, up to 4 workers`."""
    when = "at once" if plan.start_s <= now_s + 1.0 else f"from {moment(plan.start_s, now_s)}"
    parts = [f"{zones_of(plan.segments)} {when}"]
    if len(plan.segments) > 1:
        parts.append(f"{len(plan.segments)} stretches")
    most = most_workers(plan)
    if most > 1:
        alike = all(segment.workers == most for segment in plan.segments)
        parts.append(f"{most} workers" if alike else f"up to {most} workers")
    return ", ".join(parts)
