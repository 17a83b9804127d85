"""What there is for jobs that ask for the same: grams by place and slot, as places are taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from eco_ray.core.calendar import Needs
from eco_ray.core.cluster import Resources
from eco_ray.core.fleet import Place
from eco_ray.core.jobs import JobSpec
from eco_ray.core.one_piece import EQUAL, INSTANT_S, Rates
from eco_ray.core.picks import Cut, Pick, Slots, Starts, Window
from eco_ray.core.situation import Floats, Situation
from eco_ray.core.spread import Choice, Ints, Stretch, emptiest, shifts

#: times that resumes are added to the work
_TRIES = 8


class Offer:
    """Grams per second on each place in each slot, for jobs of the same zones, demand and workers."""

    def __init__(
        self,
        spec: JobSpec,
        situation: Situation,
        places: Sequence[Place],
        span: tuple[int, int],
        intensity: Floats,
        price_g: Floats | None,
    ) -> None:
        """`span`: first slot, number of slots; intensity: (places, slots) [g/kWh]; price_g: (places, slots, KINDS)."""
        self.spec, self._calendar, self._span = spec, situation.calendar, span
        self._slot_s = situation.calendar.slot_s
        self._least, self._most = spec.workers.min, spec.workers.max
        self._demands = {count: spec.demand * count for count in range(self._least, self._most + 1)}
        #: by pool and workers
        self._needs: dict[tuple[int, int], Needs] = {}
        #: by first slot, last and slots of work: what `least_g` knows
        self._ideals: dict[tuple[int, int, int, bool], float] = {}
        demand = self._demands[self._least]
        self._places = {place.pool: place for place in places}
        self._allowed = [(place.pool, place) for place in situation.fleet.places(spec.zones, demand)]
        self._rate_g = np.full(intensity.shape, np.inf)
        #: by row and workers: the job's share of the power, and what it adds [W]
        self.watts: dict[tuple[int, int], tuple[float, float]] = {}
        fleet = situation.fleet
        for row, place in self._allowed:
            self._rate_g[row] = intensity[row] * (situation.added_w(place, demand, *span) / 3.6e6)
            for count, held in self._demands.items():
                self.watts[row, count] = fleet.attributed_w(place, held), fleet.added_w(place, held)
        #: by row and by additional workers: what so many add, in terms of the least; and the least of that by row
        self._powers = {
            row: [self.watts[row, count][1] / max(self.watts[row, self._least][1], 1e-12) for count in self._demands]
            for row, _ in self._allowed
        }
        self._least_power = [min(column) for column in zip(*self._powers.values(), strict=True)]
        #: by slot: the least of them as if all were free, and without prices; their running sums
        self._ideal_g = self._rate_g.min(axis=0, initial=np.inf)
        self._ideal_sums = np.append(0.0, np.cumsum(self._ideal_g))
        if price_g is not None:
            self._add_prices(price_g @ np.array(demand.amounts))
        self._steps = self._levels() if self._most > self._least else None
        #: whether what more workers add depends on the place, so that `_levels` is right for one of them alone
        self.bends = self._steps is not None and any(place.bends for _, place in self._allowed)
        rows = len(intensity)
        #: (rows, slots): the same, inf where there is no room
        self._open_g = np.full(intensity.shape, np.inf)
        #: (rows, slots): how many more workers than the least fit
        self._more = np.zeros(intensity.shape, dtype=np.int64)
        #: far more than any run, but not so much that what is small gets lost beside it
        self._shut_g = 1e4 * float(np.max(self._rate_g, where=np.isfinite(self._rate_g), initial=1e-12))
        self._seen, self._free = [-1] * rows, [True] * rows
        #: by row, what `refresh` found in the calendar; empty: nothing that it may rely on
        self._room = [b""] * rows
        self._speeds = spec.workers.speeds
        self._rank()
        #: whether every place is free all the time
        self.is_free = True

    def demand(self, workers: int) -> Resources:
        """What so many workers hold."""
        return self._demands.get(workers) or self.spec.demand * workers

    def needs(self, pool: int, workers: int) -> Needs:
        """What is to be kept for so many workers on a node of a pool."""
        found = self._needs.get((pool, workers))
        if found is None:
            found = self._needs[pool, workers] = self._calendar.needs(pool, self.demand(workers))
        return found

    def refresh(self) -> None:
        """Look at the places that were taken, or given back, since the last time."""
        calendar, seen, stale = self._calendar, self._seen, False
        for row, place in self._allowed:
            if (version := seen[row]) == calendar.versions[row]:
                continue
            seen[row] = calendar.versions[row]
            # most of what others take leaves enough: then nothing has to be looked at, nor ranked, again
            if self._room[row] and calendar.left(row, version, self.needs(row, self._most)):
                continue
            fits, most = calendar.has_room(place, self.needs(row, self._least), *self._span), None
            if self._steps is not None:
                most = calendar.most_workers([place], self.spec.demand, *self._span, self._most)[0]
            room = fits.tobytes() if most is None else fits.tobytes() + most.tobytes()
            if room == self._room[row]:
                continue
            self._room[row], stale = room, True
            self._open_g[row] = np.where(fits, self._rate_g[row], np.inf)
            self._free[row] = bool(fits.all())
            if most is not None:
                self._more[row] = np.maximum(most - self._least, 0)
        if stale:
            self._rank()
            self.is_free = all(self._free)

    def close(self, pick: Pick) -> None:
        """No node of that pool has room for a pick, though all together have: leave it out until they change."""
        low, high = int(pick.start_s / self._slot_s + 1e-9), math.ceil(pick.end_s / self._slot_s - 1e-9)
        self._open_g[pick.row, low:high] = np.inf
        self._room[pick.row] = b""
        self._rank()

    def _rank(self) -> None:
        self._best_g = np.minimum.reduce(self._open_g, axis=0)
        known = self._best_g < np.inf
        first = int(known.argmax())
        #: when the first place is free [s from the first slot]; inf: never
        self.open_s = first * self._slot_s if known[first] else math.inf
        #: by additional workers
        self._by_level: dict[int, Rates] = {}
        self._best_sums: Floats | None = None
        self._each_g: Floats | None = None
        self._rows: Ints | None = None

    @property
    def _row(self) -> Ints:
        """The first place where a slot costs least: shape (slots,)."""
        if self._rows is None:
            self._rows = self._open_g.argmin(axis=0)
        return self._rows

    def _with_more(self, level: int) -> Rates:
        """What slots cost where so many more workers fit."""
        found = self._by_level.get(level)
        if found is None:
            rate_g = self._open_g if not level else np.where(self._more >= level, self._open_g, np.inf)
            found = self._by_level[level] = Rates.of(rate_g, self._shut_g)
        return found

    def _next_g(self, ratio: Floats) -> Floats:
        """Grams per additional work of each next worker: shape (slots, levels)."""
        if self._each_g is None:
            self._each_g = self._best_g[:, None] * ratio
            more = self._more[self._row, np.arange(len(self._row))]
            self._each_g[np.arange(len(ratio)) > more[:, None]] = np.inf
        return self._each_g

    def least_g(self, window: Window, work_s: float, *, in_one_piece: bool) -> float:
        """A lower bound of the grams of so much work in the window if every place were free; 0 where they are [g]."""
        if self.is_free:
            return 0.0
        first, stop, work = window.first, window.stop, max(1, math.ceil(work_s / window.slot_s - 1e-9))
        if work > stop - first:
            return 0.0
        one_run = in_one_piece and self._steps is None
        found = self._ideals.get((first, stop, work, one_run))
        if found is None:
            if one_run:
                sums = self._ideal_sums
                found = float((sums[first + work : stop + 1] - sums[first : stop + 1 - work]).min())
            else:
                found = float(np.partition(self._ideal_g[first:stop], work - 1)[:work].sum())
            self._ideals[first, stop, work, one_run] = found
        return found * work_s / work

    def cheapest_slots(self, window: Window, work_s: float, starts: Starts) -> Slots | None:
        """The cheapest slots, where a pause costs nothing but its resume's time; None where there are too few.

        With more workers: slots and additional workers in the order of grams per additional work, as CarbonScaler does
        (SIGMETRICS'24). The dearest slot may be more than is needed: `picks` leaves that out.
        """
        rate, room_s = self._best_g[window.first : window.stop], window.room_s()
        price, gain_s = rate, room_s
        if self._steps is not None:
            price = self._next_g(self._steps[0])[window.first : window.stop].ravel()
            gain_s = (room_s[:, None] * self._steps[1]).ravel()
        order = price.argsort(kind="stable")
        total_s = gain_s[order].cumsum()
        known, runs, needed_s = -1, [], work_s + starts.first_s
        for _ in range(_TRIES):
            last = int(total_s.searchsorted(needed_s - INSTANT_S))
            if last >= len(order) or price[order[last]] == np.inf:
                return None
            if last != known:
                known, runs = last, self._runs(window, order[: last + 1])
            takes_s = work_s + self._started_s(runs, starts)
            if takes_s <= total_s[last] + INSTANT_S:
                levels = len(self._steps[0]) if self._steps is not None else 1
                tied = last + 1 < len(order) and bool(price[order[last + 1]] <= price[order[last]] * (1 + EQUAL))
                return Slots(runs, float(total_s[last]) - takes_s, int(order[last]) // levels + window.first, tied)
            needed_s = max(needed_s, takes_s)
        return None

    def _started_s(self, runs: Sequence[tuple[int, int, int, int]], starts: Starts) -> float:
        """What the starts of runs take of their work [s with the least workers]."""
        if self._steps is None:
            return starts.first_s + (len(runs) - 1) * starts.again_s
        speeds = [self._speeds[level] for _, level, _, _ in runs]
        return speeds[0] * starts.first_s + sum(speeds[1:]) * starts.again_s

    def _runs(self, window: Window, chosen: Ints) -> list[tuple[int, int, int, int]]:
        """Chosen slots of a window, or pairs of slot and next worker, as runs: row, level, first and last slot."""
        level = None
        if self._steps is None:
            chosen = np.sort(chosen) + window.first
        else:
            levels = np.bincount(chosen // len(self._steps[0]), minlength=window.stop - window.first) - 1
            chosen = np.flatnonzero(levels >= 0)
            level = levels[chosen]
            chosen = chosen + window.first
        rows = self._row[chosen]
        breaks = (chosen[1:] - chosen[:-1] > 1) | (rows[1:] != rows[:-1])
        if level is not None:
            breaks |= level[1:] != level[:-1]
        ends = breaks.nonzero()[0].tolist()
        heads, tails = [0, *(end + 1 for end in ends)], [*ends, len(chosen) - 1]
        slots, on = chosen.tolist(), rows.tolist()
        counts = level.tolist() if level is not None else None
        return [
            (on[head], counts[head] if counts else 0, slots[head], slots[tail])
            for head, tail in zip(heads, tails, strict=True)
        ]

    def least_run_g(self, window: Window, run_s: float) -> float:
        """A lower bound of the grams of a run of that length with the least workers, wherever each part is cheapest."""
        sums = self._best_sums
        if sums is None:
            sums = self._best_sums = np.zeros(len(self._best_g) + 1)
            np.add.accumulate(np.minimum(self._best_g, self._shut_g), out=sums[1:])
        whole = int(run_s / window.slot_s + 1e-9) - 1  # slots that it fills, wherever it begins
        if whole < 1 or whole > window.stop - window.first:
            return 0.0
        windows = sums[window.first + whole : window.stop + 1] - sums[window.first : window.stop + 1 - whole]
        least_g: float = windows.item(windows.argmin())
        return least_g * window.slot_s

    def cheapest_run(self, window: Window, work_s: float, start_s: float) -> tuple[list[Pick], float] | None:
        """The cheapest contiguous run with a number of workers that stays; `start_s` [s] of it do no work."""
        best = self._run(window, work_s / self._speeds[0] + start_s, 0)
        if len(self._speeds) == 1 or not self._allowed:
            return best
        cleanest = self._best_g[window.first : window.stop]
        cleanest_g = cleanest.item(cleanest.argmin())
        for level, speed in enumerate(self._speeds[1:], 1):
            run_s = work_s / speed + start_s
            less_g = best[1] * (1 - EQUAL) if best else math.inf
            if cleanest_g * run_s * self._least_power[level] * (1 - EQUAL) > max(less_g, 0.0):
                continue  # in the cleanest slot all the time it would be no better
            found = self._run(window, run_s, level)
            if found is not None and found[1] < less_g:
                best = found
        return best

    def _run(self, window: Window, run_s: float, level: int) -> tuple[list[Pick], float] | None:
        """The cheapest run of that length with so many workers more than the least."""
        found = self._with_more(level).cheapest(window, run_s, self._emptiest)
        if found is None:
            return None
        best_g, row, begin_s = found
        workers = self._least + level
        return [Pick(row, workers, begin_s, begin_s + run_s)], best_g * window.slot_s * self._power(row, workers)

    def _emptiest(self, row: int, starts: Ints) -> int:
        """Of equal starts, counted in slots, the least crowded one."""
        start = starts.item(0)
        return start if len(starts) < 2 else emptiest(starts, self._load(row), start)

    def _load(self, row: int) -> Floats:
        return self._calendar.load(self._places[row], self._demands[self._least], *self._span)

    def spread(self, window: Window, picks: list[Pick]) -> list[Pick]:
        """The same runs where of equal slots the least crowded ones are."""
        if picks[-1].start_s < (window.first + 1) * window.slot_s - INSTANT_S:
            return picks
        slot_s, shift_s = window.slot_s, window.first * window.slot_s
        stretches = [
            Stretch.of(one.row, one.workers, (one.start_s - shift_s) / slot_s, (one.end_s - shift_s) / slot_s)
            for one in picks
        ]
        window_slots = slice(window.first, window.stop)

        def costs(row: int, workers: int) -> Floats:
            rate, more = self._open_g[row, window_slots], workers - self._least
            if not more:
                return rate
            return np.where(self._more[row, window_slots] >= more, rate * self._power(row, workers), np.inf)

        choice = Choice(costs, lambda row: self._load(row)[window_slots])
        end = (window.end_s - shift_s) / slot_s
        moved = shifts(stretches, choice, end, dearest=self._steps is None)
        return [
            one._replace(start_s=one.start_s + by * slot_s, end_s=one.end_s + by * slot_s) if by else one
            for one, by in zip(picks, moved, strict=True)
        ]

    def picks(self, window: Window, slots: Slots, starts: Starts) -> list[Pick]:
        """Chosen slots as runs in time, which do just the work."""
        slot_s, spare_s, dearest = window.slot_s, slots.spare_s, slots.dearest
        picks: list[Pick] = []
        for row, level, first, last in slots.runs:
            start_s, end_s = max(first * slot_s, window.begin_s), min((last + 1) * slot_s, window.end_s)
            # the dearest slot of a longer run is used in part, where that begins or ends with it
            if dearest in (first, last) and first < last and self._steps is None:
                least_s = starts.min_run_s + starts.again_s
                if slot_s - INSTANT_S > spare_s > 0.0 and end_s - start_s - spare_s >= least_s:
                    start_s, end_s = (start_s + spare_s, end_s) if dearest == first else (start_s, end_s - spare_s)
                    spare_s = 0.0
            picks.append(Pick(row, self._least + level, start_s, end_s))
        return self._cut(picks, spare_s, starts) if spare_s > INSTANT_S else picks

    def _cut(self, picks: list[Pick], spare_s: float, starts: Starts) -> list[Pick]:
        """The runs without so much work [s with the least workers]: whole runs or their ends, the dearest first."""
        speed = self.spec.workers.speed
        while spare_s > INSTANT_S:
            cut = max(self._cuts(picks, spare_s, starts), default=None)
            if cut is None:
                break
            pick = picks[cut.number]
            if cut.start_s < cut.end_s:
                picks[cut.number] = pick._replace(start_s=cut.start_s, end_s=cut.end_s)
            else:
                del picks[cut.number]
                if cut.number == 0:  # the next is the first now
                    spare_s += (starts.again_s - starts.first_s) * speed(picks[0].workers)
            spare_s -= cut.work_s
        return picks

    def _cuts(self, picks: Sequence[Pick], spare_s: float, starts: Starts) -> Iterator[Cut]:
        """What may be left out. All runs but the last one keep their least time: what is last is all that is left."""
        slot_s = self._slot_s
        for number, pick in enumerate(picks):
            row, workers, start_s, end_s = pick
            speed, power = self.spec.workers.speed(workers), self._power(row, workers)
            useful_s = end_s - start_s - (starts.again_s if number else starts.first_s)
            if len(picks) > 1 and useful_s * speed <= spare_s + INSTANT_S:
                price = self._pick_g(pick) / max(useful_s * speed, INSTANT_S)
                yield Cut(price, number, True, end_s, end_s, useful_s * speed)
                continue
            most_s = min(spare_s / speed, useful_s - (starts.min_run_s if number < len(picks) - 1 else 0.0))
            low, high = int(start_s / slot_s + 1e-9), math.ceil(end_s / slot_s - 1e-9) - 1
            head_s, tail_s = min((low + 1) * slot_s, end_s) - start_s, end_s - max(high * slot_s, start_s)
            rate = self._open_g[row]
            if (cut_s := min(most_s, head_s)) > INSTANT_S:
                yield Cut(float(rate[low]) * power / speed, number, False, start_s + cut_s, end_s, cut_s * speed)
            if (cut_s := min(most_s, tail_s)) > INSTANT_S:
                yield Cut(float(rate[high]) * power / speed, number, True, start_s, end_s - cut_s, cut_s * speed)

    def grams(self, picks: Sequence[Pick]) -> float:
        """What they add, with prices [g]."""
        return sum(self._pick_g(pick) for pick in picks)

    def _pick_g(self, pick: Pick) -> float:
        """Grams of a run, with prices."""
        slot_s, best_g = self._slot_s, self._open_g[pick.row]
        low, high = int(pick.start_s / slot_s + 1e-9), math.ceil(pick.end_s / slot_s - 1e-9) - 1
        seconds_g = float(best_g[low : high + 1].sum()) * slot_s
        seconds_g -= float(best_g[low]) * (pick.start_s - low * slot_s)
        seconds_g -= float(best_g[high]) * ((high + 1) * slot_s - pick.end_s)
        return seconds_g * self._power(pick.row, pick.workers)

    def _power(self, row: int, workers: int) -> float:
        """What so many workers add, in terms of the least."""
        return self._powers[row][workers - self._least]

    def _add_prices(self, price_g: Floats) -> None:
        """Add what slots are worth to others; nothing is worth more than what it saves against the worst slot."""
        known = np.isfinite(self._rate_g)
        worst_g = float(np.max(self._rate_g, where=known, initial=0.0))
        self._rate_g[known] += np.minimum(price_g, worst_g - self._rate_g)[known]

    def _held_by(self, place: Place) -> int:
        """The most workers that fit on the empty place."""
        return max((count for count, held in self._demands.items() if held.fits_node(place.node.capacity)), default=0)

    def _levels(self) -> tuple[Floats, Floats]:
        """Power per work of each next worker, in terms of the least workers', and its work: (levels,) each."""
        speeds = np.array(self.spec.workers.speeds)
        # a place that is too small for so many workers does not tell what they draw
        row = max(self._allowed, key=lambda one: self._held_by(one[1]))[0] if self._allowed else 0
        watts = [self.watts[row, count][1] for count in self._demands] if self._allowed else [1.0] * len(speeds)
        power = np.array(watts) / max(watts[0], 1e-12)
        gain, more = np.diff(speeds, prepend=0.0), np.diff(power, prepend=0.0)
        # a worker comes after those before it: it waits until the dearest of them is taken
        ratio = np.maximum.accumulate(more / np.maximum(gain, 1e-9))
        return ratio, gain
