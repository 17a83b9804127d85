"""Until when a job waits or runs, and what would let it start sooner or at all: one sentence, from its record alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eco_ray.core.decide import decided_once
from eco_ray.core.durations import AS_GIVEN
from eco_ray.core.feasible import hours
from eco_ray.core.grants import GIVES_WAY
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobState, Plan, Reason
from eco_ray.core.scaling import in_words
from eco_ray.core.words import goes_on, iso, moment, more_or_less, plan_values, same, share_of


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a job can expect."""

    #: when its present wait or stretch ends, by its plan [s since epoch]; None: nobody knows, or it has ended
    until_s: float | None
    #: what would let it start sooner or at all; one sentence
    unblock: str


def prospect(job: Job, now_s: float) -> Prospect:
    """Until when a job is where it is, and what would change that. A time that has passed is not told as one to come.

    All of it is read from the record: places and forecasts may have changed since the plan was made.
    """
    attempt = job.live_attempt
    if job.state.is_final:
        found = Prospect(None, _ENDED[job.state].format(id=job.id))
    elif job.cancelling:
        found = Prospect(None, "nothing: it is being cancelled, and has ended once its attempt has stopped")
    elif attempt is not None:
        found = _LIVE.get(attempt.state, _is_running)(job, attempt, now_s)
    elif job.held:
        found = Prospect(None, _held(job))
    elif job.reason in _ANY_PLAN:
        found = _ANY_PLAN[job.reason](job, now_s)
    elif job.plan is None:
        found = Prospect(None, _PLANLESS.get(job.reason, _unexplained)(job, now_s))
    else:
        found = _waits_by_plan(job, job.plan, now_s)
    until_s = found.until_s if found.until_s is not None and now_s < found.until_s < math.inf else None
    return Prospect(until_s, found.unblock)


def explain_job(job: Job, now_s: float) -> dict[str, Any]:
    """Why a job is where it is, until when, what would change that, and its plan, as plain values for `job explain`."""
    found = prospect(job, now_s)
    return {
        "id": job.id,
        "state": str(job.state),
        "reason": str(job.reason),
        "message": job.message,
        "until": None if found.until_s is None else iso(found.until_s),
        "unblock": found.unblock,
        "plan": plan_values(job.plan) if job.plan else None,
        "scaling": in_words(job),
    }


_ENDED = {
    JobState.SUCCEEDED: "nothing: it is done",
    JobState.FAILED: "nothing starts it again: see `eco-ray job logs {id}`, mend the cause and submit it again",
    JobState.CANCELLED: "nothing starts it again: submit it again to run it",
}


# -- with an attempt ---------------------------------------------------------------------------------------------------


def _is_launching(_job: Job, attempt: Attempt, _now_s: float) -> Prospect:
    return Prospect(
        None,
        f"nothing: attempt {attempt.number} is being launched on {attempt.node}; if that lasts, `eco-ray status` says "
        "whether the node answers",
    )


def _is_running(job: Job, _attempt: Attempt, now_s: float) -> Prospect:
    plan = job.plan
    if plan is None:
        return Prospect(None, "nothing: it runs; how long is unknown, as it has no plan at this moment")
    last = 0
    while last + 1 < len(plan.segments) and goes_on(plan.segments[last], plan.segments[last + 1]):
        last += 1
    end_s = plan.segments[last].end_s
    if end_s <= now_s:
        return Prospect(
            None, f"nothing: its stretch was over at {moment(end_s, now_s)}; whether it goes on is decided in a moment"
        )
    if plan.length_s is None and plan.carbon_g is None:
        return Prospect(
            end_s,
            "nothing: it runs longer than was expected, and how long it still takes is unknown; it keeps its node "
            f"until {moment(end_s, now_s)} and is then looked at again",
        )
    if last + 1 == len(plan.segments):
        assumed = "" if plan.length_from in ("", AS_GIVEN) else f" ({plan.length_from})"
        return Prospect(
            end_s, f"nothing: it runs; by its plan{assumed} it is done at {moment(end_s, now_s)}, without a pause"
        )
    ahead = plan.segments[last + 1]
    where = f"on {ahead.node} in {ahead.zone}" + (f" with {ahead.workers} workers" if ahead.workers > 1 else "")
    if not (job.pausable and job.spec.suspend.allow):
        return Prospect(
            None,
            f"nothing: it runs on after {moment(end_s, now_s)}, as it may not be paused; until when is unknown",
        )
    if ahead.start_s <= end_s + 1.0:
        then = f"it then leaves with a checkpoint and continues at once {where}"
    else:
        then = f"it then pauses until {moment(ahead.start_s, now_s)} and continues {where}"
    better = "" if decided_once(job.spec.policy) else ", unless a plan made by then is better"
    return Prospect(end_s, f"nothing: it runs until {moment(end_s, now_s)}; {then}{better}")


def _is_pausing(job: Job, attempt: Attempt, now_s: float) -> Prospect:
    leaving = f"it leaves {attempt.node} as soon as it has written a checkpoint"
    if job.held:
        return Prospect(None, f"{leaving}; `eco-ray job resume {job.id}` lets it go on")
    if job.plan is not None and job.plan.start_s > now_s:
        return Prospect(
            job.plan.start_s, f"nothing: {leaving}, and goes on by itself at {moment(job.plan.start_s, now_s)}"
        )
    return Prospect(None, f"nothing: {leaving}, and goes on by itself as planned next")


def _is_stopping(job: Job, attempt: Attempt, _now_s: float) -> Prospect:
    then = f"`eco-ray job resume {job.id}` then lets it go on" if job.held else "it is then planned again"
    return Prospect(None, f"nothing until attempt {attempt.number} on {attempt.node} has stopped; {then}")


_LIVE: dict[AttemptState, Callable[[Job, Attempt, float], Prospect]] = {
    AttemptState.LAUNCHING: _is_launching,
    AttemptState.RUNNING: _is_running,
    AttemptState.PAUSING: _is_pausing,
    AttemptState.STOPPING: _is_stopping,
}


# -- without one, whatever the plan ------------------------------------------------------------------------------------


def _held(job: Job) -> str:
    larger = " with a larger budget (--budget-g, --budget-kwh)" if job.over_budget else ""
    point = "from its checkpoint" if job.has_checkpoint else "from the beginning, as it has no checkpoint"
    return f"`eco-ray job resume {job.id}`{larger} lets it go on {point if job.attempts else 'when its time has come'}"


def _is_retrying(job: Job, now_s: float) -> Prospect:
    when_s = max(job.retry_at_s, job.plan.start_s if job.plan else 0.0)
    when = f"at {moment(when_s, now_s)}" if when_s > now_s else "as soon as its place is free"
    return Prospect(
        when_s,
        f"nothing: attempt {len(job.attempts) + 1} follows by itself {when}; `eco-ray job logs {job.id}` shows how the "
        "last one ended",
    )


def _is_misconfigured(job: Job, _now_s: float) -> Prospect:
    return Prospect(
        None,
        "a node that could take it must join, then it starts by itself; or mend what the message names: cancel it with "
        f"`eco-ray job cancel {job.id}` and submit it again",
    )


_ANY_PLAN: dict[Reason, Callable[[Job, float], Prospect]] = {
    Reason.RETRYING: _is_retrying,
    Reason.MISCONFIGURED: _is_misconfigured,
}


# -- without a plan ----------------------------------------------------------------------------------------------------


def _is_pending(_job: Job, _now_s: float) -> str:
    return (
        "nothing: it is about to be planned; if that lasts, `eco-ray status` says whether the controller answers and "
        "which nodes are there"
    )


def _needs_capacity(job: Job, now_s: float) -> str:
    return f"{_room(job)} before its deadline; when that will be is unknown; {_ease(job)}{_passed(job, now_s)}"


def _cannot_be_in_time(job: Job, now_s: float) -> str:
    """Its time is too short, whoever gives way; or it would do, and what is missing is room."""
    spec = job.spec
    left_s = max((spec.expected_duration_s or 0.0) - job.productive_s, 0.0) / max(spec.workers.speeds)
    begin_s = max(now_s, spec.not_before_s)
    if spec.deadline_s >= begin_s + left_s and spec.deadline_s > now_s:
        return f"{_room(job)} in time for its deadline; {_ease(job, later=True)}"
    needs = f"needs {hours(left_s)}" if spec.expected_duration_s else "has an unknown length"
    left = (
        f"its deadline leaves {hours(spec.deadline_s - begin_s)}"
        if spec.deadline_s > now_s
        else f"its deadline passed {hours(now_s - spec.deadline_s)} ago"
    )
    return f"the job {needs} and {left}: submit it again with a later deadline, or a shorter job"


def _needs_signal(job: Job, now_s: float) -> str:
    zones = ", ".join(job.spec.zones) or "the cluster's zones"
    return (
        f"a new forecast for {zones}: when one arrives is unknown, `eco-ray grid now` shows what is known; "
        f"--policy run-now does not ask for one{_passed(job, now_s)}"
    )


#: `needed`, as core/budget.py says it
_NEEDED = re.compile(r"would (?:emit|use) (\d[\d.e+-]*) (g|kWh)\b")


def _over_budget(job: Job, now_s: float) -> str:
    spec, found = job.spec, _NEEDED.search(job.message)
    unit = found[2] if found else "g" if spec.budget_g is not None else "kWh"
    key = "carbon.budget.carbon_g" if unit == "g" else "carbon.budget.energy_kwh"
    limit = spec.budget_g if unit == "g" else None if spec.budget_j is None else spec.budget_j / 3.6e6
    if found is None or limit is None:
        more = f"a larger {key} (how much it needs is not known)"
    else:
        # the message has three digits, rounded to the nearest: what is asked for has to suffice
        enough = _up(float(found[1]))
        more = f"{key} of at least {enough:.3g} {unit} ({enough - limit:.3g} {unit} more)"
    ways = [more]
    if unit == "g":
        if spec.zones:
            ways.append(f"more zones than {', '.join(spec.zones)}")
        ways.append(f"a later deadline than {moment(spec.deadline_s, now_s)}")
    else:
        ways.append("a shorter job")
    itself = "; it starts by itself when a forecast allows less" if unit == "g" else ""
    return f"{_again(job)} with {_either(ways)}{itself}{_passed(job, now_s)}"


def _is_between(_job: Job, _now_s: float) -> str:
    return "nothing: it has left its node and goes on by itself; when is not planned yet"


def _unexplained(job: Job, _now_s: float) -> str:
    return (
        f"unknown: it is {job.state} with the reason {job.reason} and has neither an attempt nor a plan; it is looked "
        "at again at the controller's next tick, and `eco-ray status` says whether that answers"
    )


_PLANLESS: dict[Reason, Callable[[Job, float], str]] = {
    Reason.PENDING_EVALUATION: _is_pending,
    Reason.WAITING_FOR_CAPACITY: _needs_capacity,
    Reason.WAITING_FOR_CLEANER_WINDOW: _is_pending,
    Reason.SIGNAL_STALE: _needs_signal,
    Reason.DEADLINE_INFEASIBLE: _cannot_be_in_time,
    Reason.EXCEEDS_BUDGET: _over_budget,
    Reason.SUSPENDED: _is_between,
}


# -- by a plan ---------------------------------------------------------------------------------------------------------


def _waits_by_plan(job: Job, plan: Plan, now_s: float) -> Prospect:
    first, start_s = plan.segments[0], plan.start_s
    start = moment(start_s, now_s)
    late_s = plan.end_s - job.spec.deadline_s
    late = f"; by its plan it ends {hours(late_s)} after its deadline" if late_s > 1.0 else ""
    if start_s <= now_s:
        unblock = (
            f"its start was due at {start}: it starts as soon as {first.node} is there and has room; if that lasts, "
            "`eco-ray status` says whether controller and node answer"
        )
    elif job.reason is Reason.DEADLINE_INFEASIBLE:
        unblock = _cannot_be_in_time(job, now_s)
    elif job.reason is Reason.WAITING_FOR_CLEANER_WINDOW:
        unblock = _sooner(job, plan, now_s)
    elif job.reason is Reason.WAITING_FOR_CAPACITY:
        unblock = f"{_room(job)} before {start}; {_ease(job)}"
    elif job.reason is Reason.SIGNAL_STALE:
        unblock = f"{_needs_signal(job, now_s)}; without one it starts at {start}"
    elif job.spec.not_before_s > now_s and start_s <= job.spec.not_before_s + 1.0:
        unblock = f"nothing before {start}, as carbon.not_before says; {_again(job)} with an earlier one"
    elif job.reason is Reason.SUSPENDED and job.message.startswith(GIVES_WAY):
        unblock = f"it goes on by itself at {start} on {first.node}, or as soon as the model gives its room back"
    elif job.reason is Reason.SUSPENDED:
        unblock = f"nothing: it goes on by itself at {start} on {first.node}, as the policy {job.spec.policy} decided"
    else:
        unblock = f"nothing: it starts by itself at {start} on {first.node}"
    return Prospect(start_s, unblock + late)


def _sooner(job: Job, plan: Plan, now_s: float) -> str:
    """When a job that waits for cleaner power could start, for how many grams more, and how."""
    could_s, does = plan.could_start_s, "go on" if job.attempts else "start"
    if could_s is None or could_s >= plan.start_s:
        return f"{_room(job)} before {moment(plan.start_s, now_s)}; {_ease(job)}"
    when = "now" if could_s <= now_s else f"at {moment(could_s, now_s)}"
    limits = "an earlier deadline"
    if job.spec.max_intensity is not None:
        limits += f" or carbon.max_intensity above {job.spec.max_intensity:g} g/kWh"
    fresh = could_s > now_s or plan.made_s >= now_s - 60.0
    known = "" if fresh else f", if what was free at {moment(plan.made_s, now_s)} still is"
    return f"it could {does} {when}{known}, and {_price(plan)}: {_again(job)} with --policy run-now, or {limits}"


def _price(plan: Plan) -> str:
    """What running at once emits in comparison: the counterfactual runs in the home zone, when the plan was made."""
    if plan.carbon_g is None or plan.run_now_g is None:
        return "what waiting saves is unknown (no intensity)"
    more_g = plan.run_now_g - plan.carbon_g
    amount = more_or_less(more_g, plan.run_now_g)
    part = "" if same(more_g, plan.run_now_g) else share_of(more_g, plan.run_now_g)
    return f"running at once in the home zone would emit {amount}{part}"


# -- words -------------------------------------------------------------------------------------------------------------


def _room(job: Job) -> str:
    """What must become free."""
    spec = job.spec
    zones = f"in {' or '.join(spec.zones)}" if spec.zones else "in any zone"
    return f"{spec.demand * spec.workers.min} must become free on one node {zones}, or such a node join,"


def _ease(job: Job, *, later: bool = False) -> str:
    """What else gives a job a place sooner, or `later` one that is in time."""
    spec = job.spec
    ways = ["a later deadline"] * later + ["a smaller demand"]
    if spec.zones:
        ways.insert(0, f"more zones than {', '.join(spec.zones)}")
    if spec.workers.min > 1:
        ways.append(f"fewer workers than {spec.workers.min}")
    if spec.priority < 1000:
        ways.append(f"a priority above {spec.priority}")
    return f"suspend a job that runs there, or {_again(job)} with {_either(ways)}"


def _again(job: Job) -> str:
    lost = ", which begins from the start," if job.has_checkpoint else ""
    return f"cancel it and submit it again{lost}"


def _passed(job: Job, now_s: float) -> str:
    late_s = now_s - job.spec.deadline_s
    return f"; its deadline passed {hours(late_s)} ago" if late_s > 0 else ""


def _either(ways: list[str]) -> str:
    return " or ".join([", ".join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]


def _up(value: float) -> float:
    """The next number of three digits above a positive one."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return (math.floor(value / unit + 1e-6) + 1) * unit
