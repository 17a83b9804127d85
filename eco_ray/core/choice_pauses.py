"""Runs of many jobs for which pausing costs time: Lagrangian relaxation of the work.

At a price per useful second a dynamic program over (slot, row) finds the most worthwhile runs; the price is searched
until the work just fits, and what is too much is trimmed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eco_ray.core.choice_parts import (
    INSTANT_S,
    ROUNDING,
    Batch,
    Bools,
    Floats,
    Ints,
    Spans,
    joined,
    parts,
)

#: more of them where each slot is a step in a loop
_LONGER = 4
#: prices that are tried per job
_ROUNDS = 16
#: the others are left out once so few of them are still to be decided
_FEWER = 0.6


@dataclass(frozen=True, slots=True)
class _Head:
    """The slots that a run fills at least, from each slot on: grams inf where they do not fit in the window."""

    #: how many there are
    slots: int
    #: (n,): a start in the first slot of the window takes one more, as that slot is partial
    longer: Bools
    #: (L, R, n): their grams; None: those of one slot
    grams: Floats | None
    #: (R, n): those from the first slot on
    first_g: Floats
    #: (L, n)
    room_s: Floats

    @classmethod
    def fitting(cls, grams: Floats, room_s: Floats, slots: int, least_s: Floats) -> _Head:
        """The fewest slots that hold `least_s`. A run that the window cuts short is the last one, so it may."""
        count = len(grams)
        total_g, total_s = grams, room_s.copy()
        if slots > 1:
            total_g = grams.copy()
            for i in range(1, min(slots, count)):
                total_g[:-i] += grams[i:]
                total_s[:-i] += room_s[i:]
            total_g[max(0, count - slots + 1) :] = np.inf
        longer = total_s[0] < least_s - INSTANT_S
        first_g = total_g[0]
        if longer.any():
            more_g = grams[slots] if slots < count else np.full_like(first_g, np.inf)
            first_g = np.where(longer, first_g + more_g, first_g)
            total_s[0] += np.where(longer, room_s[slots] if slots < count else 0.0, 0.0)
        return cls(slots, longer, total_g if slots > 1 else None, first_g, total_s)

    def plain(self, slot: int) -> bool:
        """Whether a start here is like going on."""
        return self.grams is None and (slot > 0 or not self.longer.any())

    def then(self, pauses: _Pauses, on: Floats, slot: int) -> Floats:
        """Value on each row after a start here, less its grams: (R, n)."""
        end, last = slot + self.slots, len(on) - 1
        value: Floats
        if slot == 0:
            value = np.where(self.longer, on[min(end + 1, last)], on[min(end, last)]) - self.first_g
            return value
        value = on[min(end, last)] - (pauses.grams if self.grams is None else self.grams)[slot]
        return value

    def of(self, some: Any) -> _Head:
        grams = None if self.grams is None else self.grams[:, :, some]
        return _Head(self.slots, self.longer[some], grams, self.first_g[:, some], self.room_s[:, some])


@dataclass(frozen=True, slots=True)
class _Pauses:
    """n pairs (job, level) on R rows in the L slots of their windows, each from its first slot on."""

    #: (L, R, n): grams of each slot, inf where it may not run
    grams: Floats
    #: (L, n)
    room_s: Floats
    #: (n,): useful run time [s]
    work_s: Floats
    #: (n,): run time without work at the first start and at the others [s]
    resumes_s: tuple[Floats, Floats]
    #: of the first run and of the others
    heads: tuple[_Head, _Head]

    def of(self, some: Any) -> _Pauses:
        first_s, later_s = (resume_s[some] for resume_s in self.resumes_s)
        first, later = (head.of(some) for head in self.heads)
        return _Pauses(
            self.grams[:, :, some], self.room_s[:, some], self.work_s[some], (first_s, later_s), (first, later)
        )

    def decide(self, price: Floats) -> tuple[Ints, Floats, Floats]:
        """The best runs when a useful second is worth `price` (n,) [g].

        Returns the row in each slot (L, n), -1 where off, and useful seconds and grams, (n,). Backwards in time: the
        value of what is to come for a job that never ran, that is off, and that is on a row. All that a start costs is
        its resume, which is not useful; its grams count like those of any time on.
        """
        slots, rows, jobs = self.grams.shape
        worth_g = self.room_s * price
        on, off, fresh = np.zeros((slots + 1, rows, jobs)), np.zeros((slots + 1, jobs)), np.zeros(jobs)
        starts = np.empty((2, slots, jobs), dtype=np.bool_)
        first, later = self.heads
        first_g, later_g = (resume_s * price for resume_s in self.resumes_s)
        same = first.slots == later.slots
        for t in range(slots - 1, -1, -1):
            run = np.subtract(on[t + 1], self.grams[t], out=on[t])
            run += worth_g[t]
            begun = run.max(axis=0) if later.plain(t) else later.then(self, on, t).max(axis=0) + later.room_s[t] * price
            if same and t:
                fresh_g = begun - first_g
            else:
                fresh_g = first.then(self, on, t).max(axis=0) + first.room_s[t] * price - first_g
            begun -= later_g
            np.greater_equal(begun, off[t + 1], out=starts[1, t])
            np.maximum(begun, off[t + 1], out=off[t])
            np.greater_equal(fresh_g, fresh, out=starts[0, t])
            np.maximum(fresh, fresh_g, out=fresh)
            np.maximum(run, off[t], out=run)
        row = self._follow(on, off, starts)
        busy = row >= 0
        begins = busy.copy()
        begins[1:] &= row[1:] != row[:-1]
        count = begins.sum(axis=0)
        lost_s = np.where(count > 0, self.resumes_s[0] + self.resumes_s[1] * (count - 1), 0.0)
        useful_s = (self.room_s * busy).sum(axis=0) - lost_s
        return row, useful_s, price * useful_s - fresh

    def _follow(self, on: Floats, off: Floats, starts: Bools) -> Ints:
        """The decisions forwards in time: the row in each slot (L, n), -1 where off."""
        slots, _, jobs = self.grams.shape
        cell = np.arange(jobs)  # row x jobs + job
        on_row, started = np.zeros((slots + 1, jobs), dtype=np.bool_), np.zeros(jobs, dtype=np.bool_)
        cells: Ints = np.empty((slots, jobs), dtype=np.int64)
        forced = any(head.slots > 1 or head.longer.any() for head in self.heads)
        until = np.zeros(jobs, dtype=np.int64)
        for t in range(slots):
            goes_on = on[t].reshape(-1).take(cell) > off[t]
            if forced:
                goes_on |= until > t
            busy = np.logical_and(on_row[t - 1], goes_on, out=on_row[t])
            begins = np.where(started, starts[1, t], starts[0, t]) > busy
            here = begins.nonzero()[0]
            if len(here):
                again = started[here]
                for head, which in zip(self.heads, (here[~again], here[again]), strict=True):
                    if len(which):
                        cell[which] = head.then(self, on, t)[:, which].argmax(axis=0) * jobs + which
                        until[which] = t + head.slots + (head.longer[which] if t == 0 else 0)
                busy |= begins
                started |= begins
            cells[t] = cell
        return np.where(on_row[:-1], cells // jobs, -1)


def paused_runs(batch: Batch, job: Ints, level: Ints, whole_g: Floats) -> tuple[Spans, Floats]:
    """Runs of pairs (job, level) that pause where it pays; `whole_g`: grams of the best contiguous run.

    Returns spans, whose jobs are the indices of the pairs, and the grams of each pair; inf where nothing was found.
    """
    inside = batch.room_s[job] > 0
    first, count = inside.argmax(axis=1), inside.sum(axis=1)
    later_s = batch.resume_s[job]
    resumes_s = np.stack([later_s * batch.paid_start[job], later_s])
    least_s = batch.min_run_s[job] + resumes_s
    fill = np.maximum(np.ceil((least_s - INSTANT_S) / batch.slot_s), 1.0).astype(np.int64)
    pair_g = np.full(len(job), np.inf)
    spans: list[Spans] = []
    order = np.lexsort((count, fill[1], fill[0]))
    cuts = np.flatnonzero((np.diff(fill[:, order], axis=1) != 0).any(axis=0)) + 1
    for group in np.split(order, cuts):
        for pairs in parts(group, batch.rate_g.shape[1] * int(count[group].max()) // _LONGER):
            slots = max(1, int(count[pairs].max()))
            slot = np.minimum(first[pairs] + np.arange(slots)[:, None], inside.shape[1] - 1)
            j, w = job[pairs], level[pairs]
            room_s = np.where(np.arange(slots)[:, None] < count[pairs], batch.room_s[j, slot], 0.0)
            rate = _aligned(batch, j, w, slot)
            with np.errstate(invalid="ignore"):
                grams = np.where((room_s > 0)[:, None], rate * room_s[:, None], np.inf)
            first_head = _Head.fitting(grams, room_s, int(fill[0, pairs[0]]), least_s[0, pairs])
            later_head = _Head.fitting(grams, room_s, int(fill[1, pairs[0]]), least_s[1, pairs])
            work_s = batch.work_s[j] / batch.speed[j, w]
            lost_s = (resumes_s[0, pairs], resumes_s[1, pairs])
            pauses = _Pauses(grams, room_s, work_s, lost_s, (first_head, later_head))
            at, t, row = _search(pauses, whole_g[pairs], batch.slot_s)
            if not len(at):
                continue
            start_s = np.maximum(slot[t, at] * batch.slot_s, batch.begin_s[j[at]])
            found = Spans(at, row, w[at], start_s, start_s + room_s[t, at])
            found, found_g = _trimmed(found, rate[t, row, at], work_s, lost_s, batch.min_run_s[j])
            pair_g[pairs] = found_g
            spans.append(replace(found, job=pairs[found.job]))
    every = joined(spans)
    return every.at(np.lexsort((every.start_s, every.job))), pair_g


def _aligned(batch: Batch, job: Ints, level: Ints, slot: Ints) -> Floats:
    """Rate of each pair at its level in its slots (L, n): (L, R, n)."""
    _, rows, slots = batch.rate_g.shape
    cell = (job * (rows * slots) + slot)[:, None, :] + (np.arange(rows) * slots)[:, None]
    rate: Floats = batch.rate_g.reshape(-1).take(cell)
    if level.any():
        rate *= batch.power[job, level]
        if batch.most is not None:
            rate[batch.most.reshape(-1).take(cell) < level] = np.inf
    return rate


def _search(pauses: _Pauses, whole_g: Floats, slot_s: float) -> tuple[Ints, Ints, Ints]:
    """The runs at the lowest price of time that do all the work: pair, slot of its window and row of each cell.

    Two solutions, with too little work and with enough, cost the same at the price where their lines cross; what is
    best at that price replaces one of them. A contiguous run (`whole_g` grams) does just enough.
    """
    work_s = pauses.work_s
    cheapest = pauses.grams.min(axis=1)
    known = np.isfinite(cheapest)
    mean_g = np.where(known, np.abs(cheapest), 0.0).sum(axis=0) / np.maximum((pauses.room_s * known).sum(axis=0), 1.0)
    lowest = 1e-9 * mean_g + 1e-300  # time is never worth less than nothing
    low_s, low_g = np.zeros(len(work_s)), np.zeros(len(work_s))
    high_s, high_g = work_s.copy(), whole_g.copy()
    price = np.maximum(np.where(np.isfinite(whole_g), whole_g / work_s, 2 * mean_g), lowest)
    rows = np.full((len(cheapest), len(work_s)), -1)
    active = among = np.arange(len(work_s))
    part = pauses
    for count in range(_ROUNDS):
        row, useful_s, grams = part.decide(price[among] * (1 + ROUNDING))
        live = np.isin(among, active) if len(active) < len(among) else slice(None)
        row, useful_s, grams = row[:, live], useful_s[live], grams[live]
        enough = useful_s >= work_s[active] - INSTANT_S
        high, low = active[enough], active[~enough]
        rows[:, high], high_s[high], high_g[high] = row[:, enough], useful_s[enough], grams[enough]
        low_s[low], low_g[low] = useful_s[~enough], grams[~enough]
        crossing = (high_g[active] - low_g[active]) / (high_s[active] - low_s[active])
        following = np.where(np.isfinite(crossing), crossing, price[active] * 1.5 ** (count + 1))
        following = np.maximum(following, lowest[active])
        done = enough & (useful_s < work_s[active] + slot_s)
        done |= np.abs(following - price[active]) <= 2 * ROUNDING * price[active]
        price[active] = following
        active = active[~done]
        if not len(active):
            break
        if len(active) < _FEWER * len(among):
            part, among = pauses.of(active), active
    at, slot = np.nonzero(rows.T >= 0)
    return at, slot, rows[slot, at]


def _trimmed(
    spans: Spans, rate: Floats, work_s: Floats, resumes_s: tuple[Floats, Floats], min_run_s: Floats
) -> tuple[Spans, Floats]:
    """Cut what is more than the work off the dearest ends of runs, or drop runs. Returns spans and grams (n,).

    Runs keep their least time, the last one does not have to: it is all that is left.
    """
    grams = np.full(len(work_s), np.inf)
    finished: list[Spans] = []
    while len(spans.job):
        begins = spans.begins()
        first, run = np.flatnonzero(begins), np.cumsum(begins) - 1
        job = spans.job[first]
        last_of_job = np.append(job[1:] != job[:-1], True)
        first_of_job = np.append(True, last_of_job[:-1])
        length_s = spans.end_s - spans.start_s
        useful_s = np.add.reduceat(length_s, first) - np.where(first_of_job, resumes_s[0][job], resumes_s[1][job])
        spare_s = np.bincount(job, useful_s, len(work_s)) - work_s
        spare = spare_s[spans.job]
        done = spare <= INSTANT_S
        if done.any():
            finished.append(spans.at(done))
            jobs = finished[-1].job
            grams[jobs] = np.bincount(jobs, (rate * length_s)[done], len(work_s))[jobs]
            spans, rate = spans.at(~done), rate[~done]
            continue
        # what a second less saves: at an end of a run, or on the average of a whole one
        slack_s = np.where(last_of_job, useful_s, useful_s - min_run_s[job])[run]
        ends = begins | np.append(begins[1:], True)
        cut_s = np.minimum(np.minimum(spare, length_s), slack_s)
        saved = np.where(ends & (cut_s > INSTANT_S), rate, -np.inf)
        whole = np.add.reduceat(rate * length_s, first) / np.maximum(useful_s, INSTANT_S)
        whole[useful_s > spare_s[job] + INSTANT_S] = -np.inf
        drop = whole > saved[first]
        saved[first] = np.maximum(saved[first], whole)
        firsts = first[first_of_job]
        most = np.repeat(np.maximum.reduceat(saved, firsts), np.diff(np.append(firsts, len(saved))))
        hit = np.flatnonzero((saved >= most) & (most > -np.inf))
        hit = hit[np.append(spans.job[hit][1:] != spans.job[hit][:-1], True)]  # of equal ones the last
        if len(hit) < len(firsts):
            break
        dropped = np.zeros(len(first), dtype=np.bool_)
        dropped[run[hit]] = begins[hit] & drop[run[hit]]
        cut = hit[~dropped[run[hit]]]
        late = np.append(begins[1:], True)[cut]  # the end of a run
        spans.end_s[cut[late]] -= cut_s[cut[late]]
        spans.start_s[cut[~late]] += cut_s[cut[~late]]
        kept = ~dropped[run] & (spans.end_s > spans.start_s + 1e-3 * INSTANT_S)
        spans, rate = spans.at(kept), rate[kept]
    return joined(finished), grams
