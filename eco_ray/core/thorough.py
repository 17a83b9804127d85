"""The least of all plans of a job that may pause: where a quicker choice finds no time, or is not exact.

A plan is runs in whole slots, each in a *state*: on one place, with one number of workers. Only two things matter of
what was before a slot: the work that is done, and what it cost. So of all ways to have stopped by a slot, or to run in
a state for at least the minimum run, those are kept that no other one beats in both. Two bounds drop most of them:
the most work that can still be done, exactly, and the least that the work that is left can cost, as if starts were for
nothing and runs could be of any length. The first one also tells at once whether there is a plan in time.

Exact as long as no more than `_MOST` ways are to be kept by a slot. Beyond that the most promising ones are: each of
them still ends in time, but may not be the cheapest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eco_ray.core.choice_parts import Bools, Ints
from eco_ray.core.jobs import Segment
from eco_ray.core.situation import Floats, Situation
from eco_ray.core.slots import ROUNDING
from eco_ray.core.task import INSTANT_S, Task

#: ways that are kept by a slot, and fewer where there are many slots and states: so many states x slots x ways in all
_MOST, _LEAST, _CELLS = 256, 16, 1 << 21


def thorough_segments(
    task: Task,
    situation: Situation,
    intensity: Floats,
    allowed: Bools,
    start_g: Floats | None,
    below_g: float = math.inf,
) -> tuple[Segment, ...] | None:
    """The segments of a job that may pause that cost least by the task's measure, of those that end in time.

    intensity, allowed, start_g: shape (places, slots); `allowed`: where it may run if there is room, `start_g`: what a
    start adds. None where nothing ends in time and costs less than `below_g`.
    """
    spec, now = task.job.spec, task.job.live_attempt
    if not (task.job.pausable and spec.suspend.allow):
        return None
    again_s = spec.suspend.resume_cost_s + task.launch_s
    first_s = again_s if task.pays_at_start or task.current is not None else task.launch_s
    stays = None
    if task.current is not None and now is not None and spec.workers.min <= now.workers <= spec.workers.max:
        stays = task.current * len(spec.workers.speeds) + now.workers - spec.workers.min
    ways = _Ways.of(task, situation, intensity, allowed, start_g)
    runs = _Search(ways, task.at(spec.workers.min).left_s, below_g).runs(first_s, again_s, stays)
    return _segments(task, runs) if runs else None


@dataclass(frozen=True, slots=True)
class _Ways:
    """What running gives and costs in S states and T slots."""

    #: (T + 1,): beginning of each slot and end of the last one, from the earliest start on [s]
    edges_s: Floats
    #: (S,): work per second
    speeds: Floats
    #: (S, T): grams per second; inf where it may not run
    rate_g: Floats
    #: (S, T): what a start adds [g]
    start_g: Floats
    #: (S, T): the first slot from each one on in which it may not run
    until: Ints
    #: (S, T + 1): running sums of the grams, where what is shut counts nothing
    total_g: Floats
    min_run_s: float

    @classmethod
    def of(cls, task: Task, situation: Situation, intensity: Floats, allowed: Bools, start_g: Floats | None) -> _Ways:
        """Of a job, by its measure and with the prices of the market. Places come first, then numbers of workers."""
        spec, (rows, slots) = task.job.spec, intensity.shape
        least, most = spec.workers.min, spec.workers.max
        fits = situation.calendar.most_workers(task.places, spec.demand, task.first, slots, most)
        lengths_s = task.lengths_s(slots)
        rates_g = np.full((rows, most - least + 1, slots), np.inf)
        for count in range(least, most + 1):
            one = task.at(count)
            cost_g = one.cost(situation, intensity)
            free = allowed & (fits >= count) & np.isfinite(cost_g)
            market_g = one.market_g(situation, np.where(free, cost_g, np.inf))
            rates_g[:, count - least][free] = ((cost_g if market_g is None else cost_g + market_g) / lengths_s)[free]
        rate_g = rates_g.reshape(-1, slots)
        if start_g is None:
            start_g = np.zeros((rows, slots))
        begins_s = task.passed_s + np.concatenate([[0.0], np.cumsum(lengths_s)])
        latest_s = max(spec.deadline_s - task.first * task.slot_s, task.passed_s)
        edges_s = np.minimum(begins_s, latest_s) - task.passed_s
        free = np.isfinite(rate_g)
        closed = np.where(free, slots, np.arange(slots))
        total_g = np.zeros((len(rate_g), slots + 1))
        np.cumsum(np.where(free, rate_g, 0.0) * np.diff(edges_s), axis=1, out=total_g[:, 1:])
        return cls(
            edges_s,
            np.tile(spec.workers.speeds, rows),
            rate_g,
            np.repeat(start_g, most - least + 1, axis=0),
            np.minimum.accumulate(closed[:, ::-1], axis=1)[:, ::-1],
            total_g,
            spec.suspend.min_run_s,
        )

    def ripe(self, slot: int, start_s: float) -> int:
        """The first slot before which a run that begins in a slot may stop; beyond the last one where none is."""
        ripe_s = self.edges_s[slot] + start_s + self.min_run_s
        return max(slot + 1, int(np.searchsorted(self.edges_s, ripe_s - INSTANT_S)))

    def most_work(self, again_s: float) -> tuple[Floats, Floats]:
        """The most that can be done from each slot on, by who has stopped, (T + 1,), and who runs on, (S, T + 1)."""
        states, slots = self.rate_g.shape
        stopped, running = np.zeros(slots + 1), np.zeros((states, slots + 1))
        for slot in range(slots - 1, -1, -1):
            stopped[slot] = max(stopped[slot + 1], float(self.after_start(slot, again_s, running).max()))
            on = (self.edges_s[slot + 1] - self.edges_s[slot]) * self.speeds + running[:, slot + 1]
            running[:, slot] = np.maximum(stopped[slot], np.where(self.until[:, slot] > slot, on, 0.0))
        return stopped, running

    def after_start(self, slot: int, start_s: float, running: Floats) -> Floats:
        """The most that can be done from a start on, by state: (S,). `running`: by who runs on, (S, T + 1)."""
        until, ripe, began_s = self.until[:, slot], self.ripe(slot, start_s), self.edges_s[slot] + start_s
        work_s: Floats = (self.edges_s[until] - began_s) * self.speeds
        if ripe < len(self.edges_s):
            then_s = (self.edges_s[ripe] - began_s) * self.speeds + running[:, ripe]
            work_s = np.where(until >= ripe, np.maximum(work_s, then_s), work_s)
        return work_s

    def least_g(self) -> list[tuple[Floats, Floats]]:
        """By slot: work, and the least that so much can cost from there on, to be read in between."""
        lengths_s = np.diff(self.edges_s)
        price = (self.rate_g / self.speeds[:, None]).min(axis=0, initial=np.inf)
        gain_s = np.where(np.isfinite(self.rate_g), self.speeds[:, None], 0.0).max(axis=0, initial=0.0) * lengths_s
        order = np.argsort(price)
        order = order[np.isfinite(price[order])]
        curves = []
        for slot in range(len(price) + 1):
            some = order[order >= slot]
            work_s = np.concatenate([[0.0], np.cumsum(gain_s[some])])
            cost_g = np.concatenate([[0.0], np.cumsum(gain_s[some] * price[some])])
            # where running is worth something, more of it may cost less
            curves.append((work_s, np.minimum.accumulate(cost_g[::-1])[::-1]))
        return curves


@dataclass(frozen=True, slots=True)
class _Labels:
    """Ways to have done some work; all (n,)."""

    #: who runs, and since which slot; -1: who has stopped
    state: Ints
    begin: Ints
    #: number of the stop before, or of this one of who has stopped; -1: none
    stop: Ints
    work_s: Floats
    cost_g: Floats

    @classmethod
    def one(cls, state: int) -> _Labels:
        """Who has done nothing yet, and is in that state from the first slot on."""
        return cls(np.array([state]), np.array([0]), np.array([-1]), np.zeros(1), np.zeros(1))

    def at(self, which: Any) -> _Labels:
        return _Labels(*(column[which] for column in self._columns))

    def beside(self, *others: _Labels) -> _Labels:
        columns = zip(self._columns, *(other._columns for other in others), strict=True)
        return _Labels(*(np.concatenate(column) for column in columns))

    @property
    def _columns(self) -> tuple[Any, ...]:
        return self.state, self.begin, self.stop, self.work_s, self.cost_g

    def unbeaten(self) -> _Labels:
        """Those of each state that no other one beats in work and cost."""
        if not len(self.work_s):
            return self
        some = self.at(np.lexsort((self.cost_g, -self.work_s, self.state)))
        # with each state lower by more than all costs, so that the least so far is of this one
        below_g = 2 * float(np.ptp(some.cost_g)) or 1.0
        level_g = some.cost_g - (some.state - some.state[0]) * below_g
        least_g = np.minimum.accumulate(level_g)
        return some.at(np.append(True, level_g[1:] < least_g[:-1]))


class _Search:
    """Looks for the cheapest plan that does some work [s with the least workers], and costs less than a limit."""

    def __init__(self, ways: _Ways, work_s: float, below_g: float) -> None:
        self._ways = ways
        self._work_s = work_s
        #: what a plan has to cost less than, the best one so far included
        self._below_g = below_g - ROUNDING * abs(below_g) if math.isfinite(below_g) else below_g
        #: state, slot and end [s] of the last run of the best plan, and the number of the stop before
        self._best: tuple[int, int, float, int] | None = None
        #: of each stop: state, first slot, slot after the last, and the number of the stop before
        self._stops: list[tuple[Ints, Ints, Ints, Ints]] = []
        self._stop_count = 0
        #: by slot, who will have run for long enough to stop before it
        self._arriving: dict[int, list[_Labels]] = {}
        self._least_g = ways.least_g()
        states, slots = ways.rate_g.shape
        #: the most work that can be done from each slot on, (S, T + 1)
        self._running_s = np.zeros((states, slots + 1))

    def runs(self, first_s: float, again_s: float, stays: int | None) -> list[tuple[int, float, float]] | None:
        """State, start and end of each run [s since the earliest start]; None where there is no such plan.

        What the first start and all others take [s], and the state that goes on without one.
        """
        ways, (states, slots) = self._ways, self._ways.rate_g.shape
        if self._least_g[0][0][-1] < self._work_s - INSTANT_S:
            return None  # not even if starts took no time
        stopped_s, self._running_s = ways.most_work(again_s)
        most_s = max(float(ways.after_start(slot, first_s, self._running_s).max()) for slot in range(slots))
        if max(most_s, 0.0 if stays is None else self._running_s[stays, 0]) < self._work_s - INSTANT_S:
            return None
        fresh, nobody = _Labels.one(-1), _Labels.one(-1).at(slice(0))
        stopped, running = nobody, nobody
        if stays is not None:
            running = _Labels.one(stays)
            self._finish(0, fresh, 0.0, np.array([stays]), np.zeros(states))
        most = int(np.clip(_CELLS // (states * slots), _LEAST, _MOST))
        for slot in range(slots):
            self._start(slot, fresh, first_s)
            if len(stopped.work_s):
                self._start(slot, stopped, again_s)
            running = self._go_on(running, slot).beside(*self._arriving.pop(slot + 1, ()))
            running = self._promising(running, slot + 1, self._running_s[running.state, slot + 1], most * 4)
            stopped = stopped.beside(self._stop(running, slot + 1))
            stopped = self._promising(stopped, slot + 1, stopped_s[slot + 1], most)
        return self._told()

    def _start(self, slot: int, before: _Labels, start_s: float) -> None:
        """All starts in a slot of who has stopped."""
        ways, count = self._ways, len(before.work_s)
        start_g, until, ripe = ways.start_g[:, slot], ways.until[:, slot], ways.ripe(slot, start_s)
        self._finish(slot, before, start_s, np.flatnonzero(until > slot), start_g)
        states = np.flatnonzero(until >= ripe)
        if ripe >= len(ways.edges_s) or not len(states):
            return
        state, which = np.repeat(states, count), np.tile(np.arange(count), len(states))
        run_s = ways.edges_s[ripe] - ways.edges_s[slot] - start_s
        run_g = start_g + ways.total_g[:, ripe] - ways.total_g[:, slot]
        begun = _Labels(
            state,
            np.full(len(state), slot),
            before.stop[which],
            before.work_s[which] + run_s * ways.speeds[state],
            before.cost_g[which] + run_g[state],
        )
        begun = begun.at(self._may_win(begun, ripe, self._running_s[state, ripe]))
        self._arriving.setdefault(ripe, []).append(begun)

    def _finish(self, slot: int, before: _Labels, start_s: float, states: Ints, start_g: Floats) -> None:
        """Is one of the runs that begin in a slot and do all that is left the end of the best plan so far?"""
        ways = self._ways
        ends_s = ways.edges_s[slot] + start_s + (self._work_s - before.work_s) / ways.speeds[states, None]
        state, which = np.nonzero(ends_s <= ways.edges_s[ways.until[states, slot]][:, None] + INSTANT_S)
        if not len(state):
            return
        end_s, state = ends_s[state, which], states[state]
        last = np.maximum(np.searchsorted(ways.edges_s, end_s - INSTANT_S) - 1, slot)
        cost_g = before.cost_g[which] + start_g[state] + ways.total_g[state, last] - ways.total_g[state, slot]
        cost_g += ways.rate_g[state, last] * (end_s - ways.edges_s[last])
        best = int(cost_g.argmin())
        if cost_g[best] < self._below_g:
            self._below_g = float(cost_g[best])
            self._best = int(state[best]), slot, float(end_s[best]), int(before.stop[which[best]])

    def _go_on(self, running: _Labels, slot: int) -> _Labels:
        """Who may run on in a slot, after it."""
        ways = self._ways
        on = running.at(ways.until[running.state, slot] > slot)
        work_s = on.work_s + (ways.edges_s[slot + 1] - ways.edges_s[slot]) * ways.speeds[on.state]
        cost_g = on.cost_g + ways.total_g[on.state, slot + 1] - ways.total_g[on.state, slot]
        return replace(on, work_s=work_s, cost_g=cost_g)

    def _stop(self, running: _Labels, slot: int) -> _Labels:
        """Those who run, stopped before a slot."""
        count = len(running.state)
        self._stops.append((running.state, running.begin, np.full(count, slot), running.stop))
        numbers = self._stop_count + np.arange(count)
        self._stop_count += count
        return replace(running, state=np.full(count, -1), stop=numbers)

    def _may_win(self, labels: _Labels, slot: int, most_s: Any) -> Bools:
        """Who can still be in time, and cheaper than the best plan. `most_s`: work that can be done from a slot on."""
        left_s = self._work_s - labels.work_s
        found: Bools = (left_s > INSTANT_S) & (most_s >= left_s - INSTANT_S)
        return found & (labels.cost_g + np.interp(left_s, *self._least_g[slot]) < self._below_g)

    def _promising(self, labels: _Labels, slot: int, most_s: Any, count: int) -> _Labels:
        """Of these the ones to keep."""
        labels = labels.at(self._may_win(labels, slot, most_s)).unbeaten()
        if len(labels.work_s) <= count:
            return labels
        expected_g = labels.cost_g + np.interp(self._work_s - labels.work_s, *self._least_g[slot])
        return labels.at(np.argpartition(expected_g, count)[:count])

    def _told(self) -> list[tuple[int, float, float]] | None:
        """The best plan, from its last run back."""
        if self._best is None:
            return None
        state, begin, end_s, stop = self._best
        edges_s = self._ways.edges_s
        runs = [(state, float(edges_s[begin]), end_s)]
        states, begins, ends, before = (np.concatenate(column) for column in zip(*self._stops, strict=True))
        while stop >= 0:
            state, start_s, end_s = int(states[stop]), float(edges_s[begins[stop]]), float(edges_s[ends[stop]])
            if (state, end_s) == runs[-1][:2]:  # it goes on: where starts take no time that is the same
                end_s = runs.pop()[2]
            runs.append((state, start_s, end_s))
            stop = int(before[stop])
        return runs[::-1]


def _segments(task: Task, runs: Sequence[tuple[int, float, float]]) -> tuple[Segment, ...]:
    workers = task.job.spec.workers
    found = []
    for state, start_s, end_s in runs:
        row, level = divmod(state, len(workers.speeds))
        node = task.places[row].node
        found.append(Segment(node.name, node.zone, task.begin_s + start_s, task.begin_s + end_s, workers.min + level))
    return tuple(found)
