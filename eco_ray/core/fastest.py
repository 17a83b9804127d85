"""The earliest end of a job that may pause, exactly: what is left to try where the greenest choice has no time.

A dynamic programme over slots. Its states are (place, workers); going on in one costs nothing, beginning in one takes
the time of a start, whichever was before. So the most work that can be done by the end of a slot needs the most of the
slot before only, and all slots take O(slots x places x workers).
"""

from __future__ import annotations

import numpy as np

from eco_ray.core.jobs import Segment
from eco_ray.core.situation import Floats, Situation
from eco_ray.core.slots import Costs
from eco_ray.core.task import INSTANT_S, Task


def fastest_segments(task: Task, situation: Situation, cost_g: Costs) -> tuple[Segment, ...] | None:
    """The segments of a job that may pause that end first, whatever they emit; None where none end in time.

    cost_g: shape (places, slots), inf where it may not run. No other choice is looked at where a run would be shorter
    than the job's minimum.
    """
    spec, now = task.job.spec, task.job.live_attempt
    if not (task.job.pausable and spec.suspend.allow):
        return None
    least, most, slots = spec.workers.min, spec.workers.max, cost_g.shape[1]
    fits = situation.calendar.most_workers(task.places, spec.demand, task.first, slots, most)
    counts = np.arange(least, most + 1)
    #: whether a state may run in a slot: shape (places, counts, slots)
    free = (counts[None, :, None] <= fits[:, None, :]) & np.isfinite(cost_g)[:, None, :]
    begins_s = np.array([task.time_s(slot) for slot in range(slots)])
    room_s = np.clip(np.minimum(begins_s + task.lengths_s(slots), spec.deadline_s) - begins_s, 0.0, None)
    work_s = task.at(least).left_s
    again_s = spec.suspend.resume_cost_s + task.launch_s
    first_s = again_s if task.pays_at_start or task.current is not None else task.launch_s
    goes_on = np.zeros(free.shape[:2], dtype=np.bool_)
    if task.current is not None and now is not None and least <= now.workers <= most:
        goes_on[task.current, now.workers - least] = True
    path = _most_work(free, room_s, np.array(spec.workers.speeds), work_s, first_s, again_s, goes_on)
    if path is None:
        return None
    runs, end_s = path
    return _segments(task, runs, begins_s, end_s)


#: (place, level of workers, first slot, slot after the last)
Path = list[tuple[int, int, int, int]]
#: (slot, place, level): who ran to the end of a slot
_Runner = tuple[int, int, int]


def _most_work(
    free: np.ndarray, room_s: Floats, speeds: Floats, work_s: float, first_s: float, again_s: float, goes_on: np.ndarray
) -> tuple[Path, float] | None:
    """Runs until the work is done, and how long into the last slot [s]; None where it is not done in these slots."""
    done = np.where(goes_on, 0.0, -np.inf)  # by those that ran to the end of the slot before
    most, runner = -np.inf, None  # by anybody so far, those that have stopped included
    stays_in: list[np.ndarray] = []  # by slot and state: goes on, or begins
    after: list[tuple[np.ndarray, _Runner | None]] = []  # and whether it begins after this one, or as the first
    for slot, length_s in enumerate(room_s):
        on = done + length_s * speeds
        # below zero where the start goes on in the next slot
        again = most + (length_s - again_s) * speeds
        first = (length_s - first_s) * speeds
        begins = np.maximum(again, first)
        stays_in.append(on >= begins)
        after.append((again > first, runner))
        done = np.where(free[..., slot], np.maximum(on, begins), -np.inf)
        over = done >= work_s - INSTANT_S
        if over.any():
            spare_s = np.where(over, (done - work_s) / speeds, -np.inf)
            place, level = np.unravel_index(int(spare_s.argmax()), done.shape)
            path = _back((slot, int(place), int(level)), stays_in, after)
            return path, float(length_s - max(0.0, spare_s[place, level]))
        if done.size and done.max() > most:
            most = float(done.max())
            place, level = np.unravel_index(int(done.argmax()), done.shape)
            runner = slot, int(place), int(level)
    return None


def _back(runner: _Runner | None, stays_in: list[np.ndarray], after: list[tuple[np.ndarray, _Runner | None]]) -> Path:
    """The runs that led to who ran in a slot, the first one first."""
    runs: Path = []
    while runner is not None:
        slot, place, level = runner
        end = slot + 1
        while slot > 0 and stays_in[slot][place, level]:
            slot -= 1
        runs.append((place, level, slot, end))
        follows, before = after[slot]
        # `follows` has a value for each level, as places make no difference
        runner = before if not stays_in[slot][place, level] and follows[level] else None
    return runs[::-1]


def _segments(task: Task, runs: Path, begins_s: Floats, last_s: float) -> tuple[Segment, ...] | None:
    suspend, least = task.job.spec.suspend, task.job.spec.workers.min
    found = []
    for number, (row, level, first, end) in enumerate(runs):
        node, final = task.places[row].node, number == len(runs) - 1
        end_s = float(begins_s[end - 1]) + last_s if final else task.time_s(end)
        start_s = task.launch_s + suspend.resume_cost_s * (number > 0 or task.pays_at_start)
        goes_on = number == 0 and first == 0 and row == task.current  # when it began is known elsewhere
        if not final and not goes_on and end_s - begins_s[first] - start_s < suspend.min_run_s - INSTANT_S:
            return None
        found.append(Segment(node.name, node.zone, float(begins_s[first]), end_s, least + level))
    return tuple(found)
