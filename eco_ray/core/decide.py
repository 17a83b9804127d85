"""Asks a published policy by its name: one table for the live planner, the dry run and the simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from eco_ray.core import policies
from eco_ray.core.jobs import ONE_WORKER, Workers
from eco_ray.core.outlook import S_PER_H, Outlook
from eco_ray.core.policies import Floats, Span

#: the slots of Let's Wait Awhile [s]
LWA_SLOT_S = 1800.0

#: (start, end, workers) [s since the decision]
Stretch = tuple[float, float, int]


@dataclass(frozen=True, slots=True)
class Question:
    """What a policy is told about one job."""

    #: the length that is believed in, on the least workers [s]
    length_s: float
    #: how much later than at once it may end [s]
    max_wait_s: float
    #: how much later than at once the job itself may end at most: no calendar oversteps it [s]
    own_wait_s: float = np.inf
    #: time of the decision on the clock that 9:00 and 1:00 are read from [s since epoch]
    clock_s: float = 0.0
    interruptible: bool = False
    #: as many as the least: not elastic; power grows in proportion
    max_workers: int = 1
    #: work per second of none, the least, ... the most workers, in terms of the least; empty: in proportion
    throughput: tuple[float, ...] = ()
    #: what all policies but carbon-scaler run on; they count it as one
    least_workers: int = 1
    #: intensity of the past 24 h, oldest first [g/kWh]
    past_g_per_kwh: Floats = field(default_factory=lambda: np.empty(0))
    #: the inclusive window of Let's Wait Awhile, one slot too long, and its ties
    published_quirks: bool = False
    #: windows that differ by less count as equal (relative)
    tolerance: float = 0.0

    @property
    def _extra_s(self) -> float:
        return LWA_SLOT_S if self.published_quirks else 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """Between which times a job may run."""

    #: earliest start before the decision [s], > 0 only for work that is known in advance
    lead_s: float
    #: latest end after that of a run without delay [s]
    wait_s: float
    #: how far the outlook should reach [s since the decision]
    reach_s: float


def window(policy: str, question: Question) -> Window:
    """The window in which a policy looks for a place, from the decision on."""
    length_s, wait_s, lead_s = question.length_s, question.max_wait_s, 0.0
    if policy in ("next-workday", "semi-weekly"):
        calendar = policies.next_workday if policy == "next-workday" else policies.semi_weekly
        wait_s = min(calendar(question.clock_s + length_s), question.own_wait_s)
    elif policy == "nightly":
        until_s = policies.nightly(question.clock_s)
        lead_s = wait_s if until_s == 0 else 0.0  # what comes at 1:00 is one of a series, known before
        wait_s = min(until_s + wait_s, question.own_wait_s)
    return Window(lead_s, wait_s, wait_s + length_s + question._extra_s)


def decide(policy: str, outlook: Outlook, question: Question, place: Window | None = None) -> list[Stretch]:
    """When the job runs, by the named policy; empty where the outlook does not reach far enough or leaves no room.

    The outlook begins at the earliest start of the window (`place`, or what `window` says), and so do the times that
    come back. Raises KeyError for a name that is not in `NAMES`.
    """
    place = place or window(policy, question)
    wait_s = place.wait_s + place.lead_s
    if policy == "carbon-scaler":
        return _scaled(outlook.until(question.length_s + wait_s), question)
    return [(start, end, 1) for start, end in POLICIES[policy](outlook, question, wait_s)]


def resumed(
    stretches: Sequence[Stretch], resume_s: float, latest_s: float, workers: Workers = ONE_WORKER
) -> list[Stretch]:
    """The stretches with what it takes to resume: each one after a pause begins with `resume_s` without work.

    A start is earlier by that, so that all the time which the policy chose does work. Where the pause is too short for
    it, the least workers make up for the work at the end; and where there is no time for that until `latest_s`, there
    is no pause.
    """
    if resume_s <= 0:
        return list(stretches)
    made: list[Stretch] = []
    behind_s = 0.0
    for start_s, end_s, count in stretches:
        lost_s = resume_s * workers.speed(max(count, workers.min))
        if not made or start_s <= made[-1][1]:
            made.append((start_s, end_s, count))
        elif start_s - resume_s >= made[-1][1]:
            made.append((start_s - resume_s, end_s, count))
        elif stretches[-1][1] + behind_s + lost_s <= latest_s:
            made.append((start_s, end_s, count))
            behind_s += lost_s
        else:
            made.append((made[-1][1], end_s, count))
    if behind_s > 0:
        start_s, end_s, count = made[-1]
        if count <= workers.min:
            made[-1] = (start_s, end_s + behind_s, count)
        else:
            made.append((end_s, end_s + behind_s, workers.min))
    return made


def _run_now(outlook: Outlook, question: Question, _wait_s: float) -> list[Span]:
    if question.published_quirks:  # the baseline of Let's Wait Awhile is not quite at once
        return policies.lowest_window(outlook, question.length_s, LWA_SLOT_S, LWA_SLOT_S)
    return policies.run_now(question.length_s)


def _lowest_slot(outlook: Outlook, question: Question, wait_s: float) -> list[Span]:
    return policies.lowest_slot(outlook, question.length_s, wait_s)


def _lowest_window(outlook: Outlook, question: Question, wait_s: float) -> list[Span]:
    if question.published_quirks:
        return _best_mean(outlook, question, wait_s)
    return policies.lowest_window(outlook, question.length_s, wait_s, S_PER_H, question.tolerance)


def _carbon_time(outlook: Outlook, question: Question, wait_s: float) -> list[Span]:
    return policies.carbon_time(outlook, question.length_s, wait_s, S_PER_H, question.tolerance)


def _wait_awhile(outlook: Outlook, question: Question, wait_s: float) -> list[Span]:
    quirks = question.published_quirks
    return policies.wait_awhile(outlook, question.length_s, wait_s + question._extra_s, with_ties=quirks)


def _threshold(outlook: Outlook, question: Question, wait_s: float) -> list[Span]:
    wait_s = min(wait_s, max(0.0, outlook.end_s - question.length_s))
    return policies.threshold(
        outlook, question.length_s, wait_s, question.past_g_per_kwh, interruptible=question.interruptible
    )


def _best_mean(outlook: Outlook, question: Question, wait_s: float) -> list[Span]:
    """Both strategies of Let's Wait Awhile in a window that its calendar gave."""
    if question.interruptible:
        return _wait_awhile(outlook, question, wait_s)
    wait_s += question._extra_s
    return policies.lowest_window(outlook, question.length_s, wait_s, LWA_SLOT_S, question.tolerance)


def _nightly(outlook: Outlook, question: Question, wait_s: float) -> list[Span]:
    """Around 1:00 the window is meant to include both ends: there is no quirk in it."""
    return _best_mean(outlook, replace(question, published_quirks=False), wait_s)


def _scaled(outlook: Outlook, question: Question) -> list[Stretch]:
    """CarbonScaler for a job whose power grows in proportion to its workers."""
    if not np.isfinite(outlook.g_per_kwh).any():
        return []
    step_s = np.diff(outlook.edges_s)  # per second, not per hour: sums of whole seconds are exact
    least = question.least_workers
    power = np.append(0.0, np.arange(least, question.max_workers + 1) / least)
    table = np.array(question.throughput or power)
    try:
        workers = policies.carbon_scaler(outlook.g_per_kwh, table, power, question.length_s, step_s)
    except ValueError:  # no room for all of it
        return []
    share = policies.carbon_scaler_share(outlook.g_per_kwh, table, power, question.length_s, workers, step_s)
    stretches: list[Stretch] = []
    for slot in np.flatnonzero(share > 0):
        start_s, count = float(outlook.edges_s[slot]), int(workers[slot]) + least - 1
        end_s = start_s + float(share[slot] * step_s[slot])
        if stretches and stretches[-1][1:] == (start_s, count):
            stretches[-1] = (stretches[-1][0], end_s, count)
        else:
            stretches.append((start_s, end_s, count))
    return stretches


#: the published policies by name
POLICIES: dict[str, Callable[[Outlook, Question, float], list[Span]]] = {
    "run-now": _run_now,
    "lowest-slot": _lowest_slot,
    "lowest-window": _lowest_window,
    "carbon-time": _carbon_time,
    "wait-awhile": _wait_awhile,
    "threshold": _threshold,
    "next-workday": _best_mean,
    "semi-weekly": _best_mean,
    "nightly": _nightly,
}
NAMES = (*POLICIES, "carbon-scaler")


def decided_once(policy: str) -> bool:
    """Whether a plan of the policy stays as it was made at submission, as published, while its place is there.

    run-now is taken again, because what it wants is the earliest place.
    """
    return policy in NAMES and policy != "run-now"
