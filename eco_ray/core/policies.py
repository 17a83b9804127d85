"""The published policies, each a small pure function of what is known about the intensity ahead and of one job.

Times are seconds since the decision. `length_s` is the length that the policy believes in, `max_wait_s` how much later
than at once the job may end. A policy returns spans (start, end) in which the job runs, in order of time, that sum to
its length; an empty list where the outlook does not reach far enough or leaves no room. What a job really needs,
what it costs to resume and which node it gets are the caller's business.

Equal choices: the earliest. Windows whose sums differ by less than `tolerance` (relative) count as equal; with 0 the
last bit of a sum decides, as it does in the published figures. Where the intensity never changes nobody waits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eco_ray.core.outlook import S_PER_H, Outlook

#: (start, end) [s since the decision]
Span = tuple[float, float]

Floats = NDArray[np.float64]

DAY_S = 86_400
#: the share of past values that count as clean for `threshold`
THRESHOLD_QUANTILE = 0.3


def run_now(length_s: float) -> list[Span]:
    """Start at submission."""
    return [(0.0, length_s)]


def lowest_slot(outlook: Outlook, length_s: float, max_wait_s: float) -> list[Span]:
    """Start in the cleanest step of the wait, whatever comes after it (GAIA, ASPLOS'24)."""
    steps = int(np.searchsorted(outlook.edges_s[:-1], max_wait_s, side="right"))
    start_s = outlook.edges_s[:steps]
    if outlook.end_s < max_wait_s + length_s or np.isinf(outlook.g_per_kwh).any():
        start_s = start_s[start_s + length_s <= outlook.end_s]
        value = np.where(np.isinf(outlook.carbon(start_s, length_s)), np.inf, outlook.g_per_kwh[: len(start_s)])
    else:
        value = outlook.g_per_kwh[:steps]
    if not len(value) or not np.isfinite(value.min()):
        return []
    start = float(start_s[int(np.argmin(value))])
    return [(start, start + length_s)]


def lowest_window(
    outlook: Outlook, length_s: float, max_wait_s: float, every_s: float = S_PER_H, tolerance: float = 0.0
) -> list[Span]:
    """The contiguous run with the least carbon that starts a multiple of `every_s` from now.

    With the expected length and hourly starts: lowest-window of GAIA (ASPLOS'24). With starts in every 30-minute slot:
    the non-interruptible strategy of Let's Wait Awhile (Middleware'21).
    """
    start_s = _starts(outlook, length_s, max_wait_s, every_s)
    if not len(start_s):
        return []
    if outlook.is_flat:  # sums of equal numbers differ in their last bit
        return run_now(length_s)
    carbon = outlook.carbon(start_s, length_s)
    least = carbon.min()
    if not np.isfinite(least):
        return []
    best = int(np.argmax(carbon <= least * (1 + tolerance)))
    return [(float(start_s[best]), float(start_s[best]) + length_s)]


def carbon_time(
    outlook: Outlook, length_s: float, max_wait_s: float, every_s: float = S_PER_H, tolerance: float = 0.0
) -> list[Span]:
    """The hourly start with the greatest saving per time to completion (Carbon-Time of GAIA, ASPLOS'24).

    Maximises (C(0) - C(o)) / (o + length). Where starting at once is not possible, the earliest possible start takes
    the place of 0.
    """
    start_s = _starts(outlook, length_s, max_wait_s, every_s)
    carbon = outlook.carbon(start_s, length_s) if len(start_s) else np.empty(0)
    possible = np.flatnonzero(np.isfinite(carbon))
    if not len(possible):
        return []
    if outlook.is_flat:
        return run_now(length_s)
    start_s, carbon = start_s[possible], carbon[possible]
    saving = carbon[0] - carbon
    saving[saving <= carbon[0] * tolerance] = 0.0
    best = int(np.argmax(saving / (start_s + length_s)))
    return [(float(start_s[best]), float(start_s[best]) + length_s)]


def wait_awhile(outlook: Outlook, length_s: float, max_wait_s: float, *, with_ties: bool = False) -> list[Span]:
    """The cleanest seconds until the latest end (WaitAwhile of GAIA; interruptible strategy of Let's Wait Awhile).

    `with_ties`: every step as clean as the last one that is needed is run, so that a job may run for too long: what
    the published code of Let's Wait Awhile does.
    """
    ahead = outlook.until(length_s + max_wait_s)
    value, step_s = ahead.g_per_kwh, np.diff(ahead.edges_s)
    order = np.argsort(value, kind="stable")
    order = order[: int(np.isfinite(value).sum())]
    run_s = np.cumsum(step_s[order])
    count = int(np.searchsorted(run_s, length_s - 1e-6)) + 1
    if count > len(order):
        return []
    taken_s = step_s[order]
    if with_ties:
        count = int(np.searchsorted(value[order], value[order[count - 1]], side="right"))
    else:
        taken_s[count - 1] -= run_s[count - 1] - length_s
    chosen = np.argsort(order[:count])
    start_s = ahead.edges_s[order[:count]][chosen]
    return _merged(zip(start_s.tolist(), (start_s + taken_s[:count][chosen]).tolist(), strict=True))


def threshold(
    outlook: Outlook,
    length_s: float,
    max_wait_s: float,
    past_g_per_kwh: Floats,
    *,
    interruptible: bool = True,
    quantile: float = THRESHOLD_QUANTILE,
) -> list[Span]:
    """Run while the intensity is under the quantile of the past 24 h, or once the wait is used up.

    The threshold policy of Ecovisor (ASPLOS'23) in a causal form. The outlook stands for what is read step by step; no
    step is looked at before it begins. Not interruptible: once started it runs to its end. Without a past it runs now.
    """
    if not len(past_g_per_kwh):
        return run_now(length_s)
    limit = float(np.quantile(past_g_per_kwh, quantile))
    if (past_g_per_kwh == past_g_per_kwh[0]).all():
        limit = float(np.nextafter(limit, np.inf))  # nothing is under it, and there is nothing to wait for
    wait_s, left_s = max_wait_s, length_s
    spans: list[Span] = []
    edges = outlook.edges_s.tolist()
    for start_s, end_s, value in zip(edges, edges[1:], outlook.g_per_kwh.tolist(), strict=False):
        going = bool(spans) and not interruptible
        if value == np.inf:  # no room: it has to wait, too
            if going or end_s - start_s > wait_s:
                return []
            begin_s = end_s
        else:
            begin_s = start_s if value < limit or going else min(start_s + wait_s, end_s)
        wait_s -= begin_s - start_s
        stop_s = min(end_s, begin_s + left_s)
        if stop_s > begin_s:
            spans.append((begin_s, stop_s))
            left_s -= stop_s - begin_s
        if left_s <= 1e-6:
            return _merged(spans)
    return []


def next_workday(finish_s: float) -> float:
    """How long the end may wait: to 9:00 where the job would end outside 9-17 h, Monday to Friday [s].

    `finish_s`: when it would end if it ran at once, on the clock that 9:00 is read from [s since epoch]. As in Let's
    Wait Awhile (Middleware'21) the evening of a Friday waits until Saturday, and the weekend until Monday.
    """
    weekday, second = _weekday(finish_s)
    nine = 9 * 3600 - second
    if weekday == 5:
        return nine + 2 * DAY_S
    if weekday == 6 or second > 17 * 3600:
        return nine + DAY_S
    return max(nine, 0.0)


def semi_weekly(finish_s: float) -> float:
    """How long the end may wait: to the next Monday or Thursday 9:00 (Let's Wait Awhile) [s]; `finish_s` as above."""
    weekday, second = _weekday(finish_s)
    nine = 9 * 3600 - second
    now = weekday * DAY_S + second
    days = next(day for day in (0, 3, 7) if now <= day * DAY_S + 9 * 3600)
    return nine + (days - weekday) * DAY_S


def nightly(arrival_s: float) -> float:
    """Time until the next 1:00, on the clock that it is read from [s since epoch] (Let's Wait Awhile) [s]."""
    return float((3600 - arrival_s) % DAY_S)


def carbon_scaler(
    intensity_g_per_kwh: ArrayLike,
    throughput_per_h: ArrayLike,
    kwh_per_h: ArrayLike,
    work: float,
    hours: ArrayLike = 1.0,
) -> NDArray[np.int64]:
    """Workers in each slot for the least carbon of an elastic job: the greedy of CarbonScaler (SIGMETRICS'24).

    intensity_g_per_kwh: shape (T,), inf where it may not run; throughput_per_h and kwh_per_h: shape (W+1,), of 0..W
    workers; work: in units of throughput; hours: length of the slots, one number or shape (T,). Returns shape (T,).
    Pairs (slot, next worker) are taken in the order of carbon per additional throughput until the work is done, which
    is exact where throughput per worker does not increase. The last pair does too much: see `carbon_scaler_share`.
    Raises ValueError where the work cannot be done or the tables do not fit each other.
    """
    intensity, gain, power, hours = _scaling(intensity_g_per_kwh, throughput_per_h, kwh_per_h, hours)
    done = np.zeros(len(intensity), dtype=np.int64)
    if work <= 0:
        return done
    with np.errstate(invalid="ignore"):
        price = intensity[:, None] * power / np.maximum(gain, 1e-6)
    price[np.isinf(intensity)] = np.inf
    # a worker comes after those before it: it waits until the dearest of them is taken
    price = np.maximum.accumulate(price, axis=1)
    slot, worker = np.divmod(np.arange(price.size), price.shape[1])
    order = np.lexsort((worker, slot, price.ravel()))
    order = order[np.isfinite(price.ravel()[order])]
    left = np.subtract.accumulate(np.concatenate([[work], (gain * hours[:, None]).ravel()[order]]))[1:]
    enough = left <= 0
    if not enough.any():
        enough = left <= 1e-9 * work  # a job that fills all slots must not fail by the last bit of a sum
    if not enough.any():
        raise ValueError(
            f"{work:g} units of work in {len(intensity)} slots: {len(gain)} workers do at most "
            f"{work - left.min() if len(left) else 0:g}; allow more slots or workers"
        )
    np.add.at(done, slot[order[: int(np.argmax(enough)) + 1]], 1)
    return done


def carbon_scaler_share(
    intensity_g_per_kwh: ArrayLike,
    throughput_per_h: ArrayLike,
    kwh_per_h: ArrayLike,
    work: float,
    workers: NDArray[np.int64],
    hours: ArrayLike = 1.0,
) -> Floats:
    """Share of each slot that the workers are needed for: shape (T,), in [0, 1].

    What the workers of `carbon_scaler` do too much is left out where carbon per throughput is highest; of equal slots
    in the latest, so that nobody waits for nothing.
    """
    intensity, _, _, hours = _scaling(intensity_g_per_kwh, throughput_per_h, kwh_per_h, hours)
    throughput, kwh = np.asarray(throughput_per_h, dtype=np.float64), np.asarray(kwh_per_h, dtype=np.float64)
    share: Floats = (workers > 0).astype(np.float64)
    spare = float((throughput[workers] * hours).sum()) - work
    with np.errstate(invalid="ignore", divide="ignore"):
        price = np.where(workers > 0, kwh[workers] / throughput[workers] * intensity, -np.inf)
    for slot in np.lexsort((-np.arange(len(price)), -price)):
        if spare <= 0 or workers[slot] == 0:
            break
        work_here = throughput[workers[slot]] * hours[slot]
        cut = min(spare, work_here)
        share[slot] -= cut / work_here
        spare -= cut
    return share


def _scaling(
    intensity: ArrayLike, throughput: ArrayLike, kwh: ArrayLike, hours: ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    """Inputs of `carbon_scaler` as arrays: intensity (T,), throughput and kWh of each next worker (W,), hours (T,)."""
    values: Floats = np.array(intensity, dtype=np.float64)
    rate, energy = np.array(throughput, dtype=np.float64), np.array(kwh, dtype=np.float64)
    if values.ndim != 1 or rate.ndim != 1 or rate.shape != energy.shape or len(rate) < 2:
        raise ValueError(
            f"intensity of shape {values.shape}, throughput of {rate.shape}, kWh of {energy.shape}: "
            "need (T,), (W+1,) and (W+1,) with W >= 1"
        )
    each_h: Floats = np.full(values.shape, np.asarray(hours, dtype=np.float64))
    gain: Floats = rate[1:] - rate[:-1]
    power: Floats = energy[1:] - energy[:-1]
    return values, gain, power, each_h


def _starts(outlook: Outlook, length_s: float, max_wait_s: float, every_s: float) -> Floats:
    """Multiples of `every_s` in [0, max_wait] from which the run is known to its end."""
    last = min(max_wait_s, outlook.end_s - length_s)
    count = int((last + 1e-6) // every_s) + 1 if last > -1e-6 else 0
    starts: Floats = np.arange(count, dtype=np.float64) * every_s
    return starts


def _merged(spans: Sequence[Span] | zip[Span]) -> list[Span]:
    """Spans in order of time, with those that touch as one."""
    merged: list[Span] = []
    for start_s, end_s in spans:
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], end_s)
        else:
            merged.append((start_s, end_s))
    return merged


def _weekday(time_s: float) -> tuple[int, float]:
    """Day of the week (0 is Monday) and second of the day."""
    day, second = divmod(time_s, DAY_S)
    return int(day + 3) % 7, second
