"""Published policies: tables worked out by hand, and the exact optimum by trying everything.

Times are in hours here and seconds in the code; intensities are steps of an hour unless edges are given.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core import policies
from eco_ray.core.decide import NAMES, Question, Window, decide, decided_once, resumed, window
from eco_ray.core.jobs import Workers
from eco_ray.core.outlook import Outlook

H = 3600.0
X = np.inf


def ahead(values, edges_h=None, step_h=1.0):
    edges_h = np.arange(len(values) + 1) * step_h if edges_h is None else np.array(edges_h)
    return Outlook(edges_h * H, np.array(values, dtype=float))


def in_hours(spans):
    return [(pytest.approx(start / H), pytest.approx(end / H)) for start, end in spans]


def test_run_now_starts_at_once():
    assert policies.run_now(5400) == [(0, 5400)]


# -- one start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "length_h", "wait_h", "start_h"),
    [
        ([5, 3, 4, 9], 2, 2, 1),
        ([5, 3, 9, 9], 2, 2, 1),  # whatever comes after it: 12, where starting at once is 8
        ([4, 5, 4, 4], 1, 3, 0),  # equal: the earliest
        ([5, 4, 3], 1, 2, 2),  # the wait's end is a start, too
        ([5, 4, 3], 1, 1.9, 1),
        ([5, 4, 3], 1, 0, 0),
        ([5, 4, 3], 2, 2, 1),  # from 2 on it would not be known to its end
        ([5, 4, 3], 3, 2, 0),
        ([7, 7, 7], 1, 2, 0),  # flat: at once
        ([X, 2, 1, X], 1, 3, 2),
        ([X, 2, 1, X], 2, 2, 1),  # from 2 on there is no room for two hours
        ([1, X, 5, 5], 2, 2, 2),
        ([5, 4, 3], 4, 0, None),  # the outlook is too short
        ([X, X], 1, 1, None),
        ([1, X, 1], 2, 1, None),
    ],
)
def test_lowest_slot(values, length_h, wait_h, start_h):
    expected = [] if start_h is None else [(start_h, start_h + length_h)]
    assert in_hours(policies.lowest_slot(ahead(values), length_h * H, wait_h * H)) == expected


def test_lowest_slot_begins_with_steps_not_with_hours_from_now():
    outlook = ahead([5, 3, 1], [0, 0.25, 1.25, 2.25])
    assert in_hours(policies.lowest_slot(outlook, H, H)) == [(0.25, 1.25)]
    assert in_hours(policies.lowest_slot(outlook, H, 1.25 * H)) == [(1.25, 2.25)]


@pytest.mark.parametrize(
    ("values", "length_h", "wait_h", "start_h"),
    [
        ([9, 1, 2, 8], 2, 2, 1),  # 10, 3, 10
        ([5, 3, 9, 9], 2, 2, 0),  # 8, 12, 18
        ([9, 1, 2, 8], 2, 0.5, 0),  # nothing but now starts within the wait
        ([9, 1, 2, 8], 2, 1, 1),
        ([4, 1, 2, 6], 1.5, 2, 1),  # 4+0.5, 1+1, 2+3
        ([4, 3, 2, 1], 0.5, 3, 3),
        ([2, 1, 1, 2, 1, 1], 2, 4, 1),  # equal: the earliest
        ([9, 9, 5, 1], 2, 3, 2),  # from 3 on it would not be known to its end
        ([7, 7, 7], 2, 1, 0),
        ([1, X, 5, 5], 2, 2, 2),
        ([X, 9, 1], 1, 2, 2),
        ([5, 4, 3], 4, 0, None),
        ([1, X, 1], 2, 1, None),
        ([X, X], 1, 1, None),
    ],
)
def test_lowest_window(values, length_h, wait_h, start_h):
    expected = [] if start_h is None else [(start_h, start_h + length_h)]
    assert in_hours(policies.lowest_window(ahead(values), length_h * H, wait_h * H)) == expected


def test_lowest_window_starts_full_hours_from_now_or_as_often_as_it_is_told():
    outlook = ahead([9, 1, 8, 8], [0, 0.5, 1.5, 2.5, 3.5])
    # from 0: 0.5*9 + 0.5*1 = 5; from 1: 0.5*1 + 0.5*8 = 4.5; from 2: 8
    assert in_hours(policies.lowest_window(outlook, H, 2 * H)) == [(1, 2)]
    assert in_hours(policies.lowest_window(outlook, H, 2 * H, every_s=0.5 * H)) == [(0.5, 1.5)]
    # the last step is only 15 min long: half an hour before it costs 0.5*2 + 0.25*1, at once 0.75*3
    short = ahead([3, 2, 1], [0, 1, 2, 2.25])
    assert in_hours(policies.lowest_window(short, 0.75 * H, 1.5 * H, every_s=0.5 * H)) == [(1.5, 2.25)]


def test_windows_that_differ_by_less_than_the_tolerance_are_equal():
    outlook = ahead([1, 1 - 1e-12, 5])
    assert in_hours(policies.lowest_window(outlook, H, 2 * H)) == [(1, 2)]
    assert in_hours(policies.lowest_window(outlook, H, 2 * H, tolerance=1e-9)) == [(0, 1)]
    assert in_hours(policies.carbon_time(outlook, H, 2 * H)) == [(1, 2)]
    assert in_hours(policies.carbon_time(outlook, H, 2 * H, tolerance=1e-9)) == [(0, 1)]


@pytest.mark.parametrize(
    ("values", "length_h", "wait_h", "start_h"),
    [
        ([6, 6, 3, 0], 1, 3, 3),  # saving per time to completion: 0/1, 0/2, 3/3, 6/4
        ([6, 2, 1], 1, 2, 1),  # 0/1, 4/2, 5/3: the cleanest hour is not worth another one
        ([6, 2, 0], 1, 2, 1),  # 4/2 = 6/3: the earliest
        ([6, 2, 0], 1, 0, 0),
        ([2, 3, 4], 1, 2, 0),  # nothing saves
        ([8, 8, 2, 2], 2, 2, 2),  # 16, 10, 4: 0/2, 6/3, 12/4
        ([7, 7, 7], 1, 2, 0),
        ([X, 4, 2, 0], 1, 3, 3),  # the earliest possible start takes the place of 0: 0/2, 2/3, 4/4
        ([X, 4, 3, 3], 1, 3, 2),  # 1/3, 1/4
        ([5, 4, 3], 4, 0, None),
        ([X, X], 1, 1, None),
    ],
)
def test_carbon_time(values, length_h, wait_h, start_h):
    expected = [] if start_h is None else [(start_h, start_h + length_h)]
    assert in_hours(policies.carbon_time(ahead(values), length_h * H, wait_h * H)) == expected


@pytest.mark.parametrize("policy", [policies.lowest_slot, policies.lowest_window, policies.carbon_time])
@pytest.mark.parametrize("value", [0.0, 0.1, 312.7])
def test_where_the_intensity_never_changes_one_starts_at_once(policy, value):
    """Also where sums of equal numbers differ by their last bit, as those of 0.1 do."""
    assert policy(ahead([value] * 60), 7 * H, 50 * H) == [(0, 7 * H)]
    assert policies.wait_awhile(ahead([value] * 60), 7 * H, 50 * H) == [(0, 7 * H)]


# -- with pauses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "length_h", "wait_h", "expected"),
    [
        ([5, 1, 9, 2, 7], 2, 2, [(1, 2), (3, 4)]),  # of the four hours until the latest end
        ([5, 1, 9, 2, 7], 2, 1, [(0, 2)]),  # of three
        ([5, 1, 9, 2, 7], 2, 0, [(0, 2)]),
        ([3, 3, 1, 3], 2, 2, [(0, 1), (2, 3)]),  # equal: the earliest
        ([5, 1, 9, 2], 1.5, 2.5, [(1, 2), (3, 3.5)]),  # the dearest step in part, from its beginning on
        ([5, 4, 1], 1, 1.5, [(1, 1.5), (2, 2.5)]),  # only half of the cleanest step is left at the end
        ([X, 2, X, 1, 9], 2, 3, [(1, 2), (3, 4)]),
        ([7, 7, 7], 2, 1, [(0, 2)]),
        ([1, 1], 3, 0, None),
        ([1, 1], 3, 5, None),
        ([1, X, 1], 3, 0, None),
        ([X, X], 1, 1, None),
    ],
)
def test_wait_awhile(values, length_h, wait_h, expected):
    assert in_hours(policies.wait_awhile(ahead(values), length_h * H, wait_h * H)) == (expected or [])


def test_wait_awhile_with_a_first_step_that_is_partly_over():
    outlook = ahead([1, 9, 2, 9], [0, 0.5, 1.5, 2.5, 3.5])
    assert in_hours(policies.wait_awhile(outlook, H, 2 * H)) == [(0, 0.5), (1.5, 2)]


@pytest.mark.parametrize(
    ("values", "length_h", "wait_h", "expected"),
    [
        ([3, 3, 1, 3], 2, 2, [(0, 4)]),  # every 3 is run: four hours instead of two
        ([3, 4, 1, 3], 2, 2, [(0, 1), (2, 4)]),
        ([4, 2, 1, 3], 2, 2, [(1, 3)]),  # no ties: what is needed
        ([4, 2, 1, 3], 1.5, 2.5, [(1, 3)]),  # but whole steps
    ],
)
def test_wait_awhile_as_published_runs_all_ties(values, length_h, wait_h, expected):
    assert in_hours(policies.wait_awhile(ahead(values), length_h * H, wait_h * H, with_ties=True)) == expected


#: its 30 % quantile is 10 + 0.9 * 10 = 19
PAST = np.array([40.0, 10.0, 30.0, 20.0])


@pytest.mark.parametrize(
    ("values", "length_h", "wait_h", "expected", "in_one_piece"),
    [
        ([25, 18.9, 10, 30, 30], 2, 3, [(1, 3)], [(1, 3)]),  # under 19
        ([25, 19, 10, 30, 30], 1, 3, [(2, 3)], [(2, 3)]),  # at 19 is not under it
        ([25, 20, 30, 30, 30], 2, 1, [(1, 3)], [(1, 3)]),  # the wait is used up
        ([25, 10, 30, 30, 30], 2, 2, [(1, 2), (3, 4)], [(1, 3)]),  # an hour of the wait is used up in the middle
        ([25, 10, 30, 10, 30], 2, 9, [(1, 2), (3, 4)], [(1, 3)]),
        ([25, 10, 30, 30, 30], 2, 1.5, [(1, 2), (2.5, 3.5)], [(1, 3)]),
        ([25, 25, 30, 30, 30], 1.5, 0.5, [(0.5, 2)], [(0.5, 2)]),
        ([10, 30, 10], 1.5, 1, [(0, 1), (2, 2.5)], [(0, 1.5)]),
        ([10, 30, 10], 2, 0, [(0, 2)], [(0, 2)]),
        ([30, 30], 3, 0, None, None),
        ([30, 30, 30], 3, 1, None, None),  # its wait would be used up beyond the outlook
        ([X, 10, 10], 2, 1, [(1, 3)], [(1, 3)]),
        ([X, 10, 10], 2, 0.5, None, None),  # no room is waited for like anything else
        ([X, 30, 30], 1, 1, [(1, 2)], [(1, 2)]),
        ([10, X, 10], 2, 1, [(0, 1), (2, 3)], None),
        ([10, X, 10], 2, 0, None, None),
    ],
)
def test_threshold(values, length_h, wait_h, expected, in_one_piece):
    for interruptible, spans in ((True, expected), (False, in_one_piece)):
        found = policies.threshold(ahead(values), length_h * H, wait_h * H, PAST, interruptible=interruptible)
        assert in_hours(found) == (spans or [])


def test_threshold_after_a_flat_day_does_not_wait_for_less():
    for value, expected in ((20.0, [(0, 1)]), (21.0, [(1, 2)])):
        found = policies.threshold(ahead([value, 9.0]), H, H, np.full(24, 20.0))
        assert in_hours(found) == expected


def test_threshold_without_a_past_runs_now():
    assert policies.threshold(ahead([9, 1]), H, H, np.empty(0)) == [(0, H)]


@pytest.mark.parametrize("interruptible", [True, False])
def test_threshold_does_not_wait_where_nothing_ever_changed(interruptible):
    past = np.full(24, 0.1)
    assert policies.threshold(ahead([0.1] * 9), 2 * H, 5 * H, past, interruptible=interruptible) == [(0, 2 * H)]


def test_threshold_of_another_quantile():
    # the median of 10, 20, 30, 40 is 25
    assert in_hours(policies.threshold(ahead([26, 25]), H, H, PAST, quantile=0.5)) == [(1, 2)]


few = st.sampled_from([5.0, 10.0, 19.0, 20.0, 30.0, 60.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(few, min_size=6, max_size=6), st.lists(few, min_size=6, max_size=6), st.data())
def test_threshold_looks_at_no_step_before_it_begins(values, others, data):
    seen = data.draw(st.integers(1, 5))
    interruptible = data.draw(st.booleans())
    length_s, wait_s = data.draw(st.integers(1, 4)) * 0.5 * H, data.draw(st.integers(0, 4)) * 0.5 * H

    def until_then(later):
        spans = policies.threshold(ahead([*values[:seen], *later]), length_s, wait_s, PAST, interruptible=interruptible)
        return [(start, min(end, seen * H)) for start, end in spans if start < seen * H]

    assert until_then(values[seen:]) == until_then(others[seen:])


# -- calendars -------------------------------------------------------------------------------------------------------

#: Monday 1 June 2020, 00:00 [s since epoch]
MONDAY_S = 1_590_969_600
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def clock(text):
    """`Fri 17:30` of that week [s since epoch]."""
    day, time = text.split()
    hours, minutes = time.split(":")
    return MONDAY_S + DAYS.index(day) * 86_400 + int(hours) * 3600 + int(minutes) * 60


@pytest.mark.parametrize(
    ("finish", "until"),
    [
        ("Mon 09:00", "Mon 09:00"),  # it ends when somebody is there: nobody waits for it
        ("Mon 09:30", "Mon 09:30"),
        ("Mon 17:00", "Mon 17:00"),
        ("Mon 17:01", "Tue 09:00"),
        ("Mon 08:59", "Mon 09:00"),
        ("Tue 00:00", "Tue 09:00"),
        ("Thu 23:30", "Fri 09:00"),
        ("Fri 17:00", "Fri 17:00"),
        ("Fri 17:30", "Sat 09:00"),  # as published
        ("Sat 00:00", "Mon 09:00"),
        ("Sat 09:00", "Mon 09:00"),
        ("Sat 12:00", "Mon 09:00"),
        ("Sat 23:30", "Mon 09:00"),
        ("Sun 00:00", "Mon 09:00"),
        ("Sun 12:00", "Mon 09:00"),
        ("Sun 20:00", "Mon 09:00"),
    ],
)
def test_next_workday(finish, until):
    then = clock(until)
    if then < clock(finish):  # in the week after
        then += 7 * 86_400
    assert policies.next_workday(clock(finish)) == then - clock(finish)


@pytest.mark.parametrize(
    ("finish", "until"),
    [
        ("Mon 00:00", "Mon 09:00"),
        ("Mon 09:00", "Mon 09:00"),
        ("Mon 09:30", "Thu 09:00"),
        ("Wed 23:30", "Thu 09:00"),
        ("Thu 08:30", "Thu 09:00"),
        ("Thu 09:00", "Thu 09:00"),
        ("Thu 09:30", "Mon 09:00"),
        ("Fri 17:00", "Mon 09:00"),
        ("Sat 12:00", "Mon 09:00"),
        ("Sun 23:30", "Mon 09:00"),
    ],
)
def test_semi_weekly(finish, until):
    then = clock(until)
    if then < clock(finish):
        then += 7 * 86_400
    assert policies.semi_weekly(clock(finish)) == then - clock(finish)


def test_calendars_read_any_clock():
    """1 January 1970 was a Thursday."""
    assert policies.next_workday(0) == 9 * 3600
    assert policies.semi_weekly(9 * 3600) == 0
    assert policies.next_workday(-3600) == 10 * 3600  # Wednesday 23:00


@pytest.mark.parametrize(
    ("arrival", "wait_h"),
    [("Mon 00:00", 1), ("Mon 01:00", 0), ("Sat 01:30", 23.5), ("Sun 23:00", 2), ("Tue 13:00", 12)],
)
def test_nightly(arrival, wait_h):
    assert policies.nightly(clock(arrival)) == wait_h * 3600


# -- carbon-scaler ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "workers"),
    [
        # carbon per throughput of the first and the second worker: 100/10 and 100/5; 1 and 2; 5 and 10
        (0, [0, 0, 0]),
        (0.1, [0, 1, 0]),
        (10, [0, 1, 0]),
        (15, [0, 2, 0]),
        (16, [0, 2, 1]),
        (25, [0, 2, 1]),
        (35, [1, 2, 1]),  # 10 = 10: the earlier slot
        (36, [1, 2, 2]),
        (45, [2, 2, 2]),
    ],
)
def test_carbon_scaler(work, workers):
    assert policies.carbon_scaler([100, 10, 50], [0, 10, 15], [0, 1, 2], work).tolist() == workers


@pytest.mark.parametrize(
    ("intensity", "throughput", "kwh", "work", "hours", "workers"),
    [
        ([100, 10, 50], [0, 10, 15], [0, 1, 2], 16, [1, 0.5, 1], [0, 2, 1]),  # 7.5 + 10
        ([100, 10, 50], [0, 10, 15], [0, 1, 2], 17.6, [1, 0.5, 1], [1, 2, 1]),  # 7.5 + 10 + 10
        ([X, 10, 50], [0, 10], [0, 1], 20, 1, [0, 1, 1]),  # where it may not run
        ([30, 20, 10], [0, 4], [0, 1], 8, 1, [0, 1, 1]),
        ([2, 1], [0, 1, 10], [0, 1, 2], 10, 1, [0, 2]),  # the second worker is cheap, and comes after the first
        ([1, 1, 1], [0, 5, 5], [0, 1, 2], 15, 1, [1, 1, 1]),  # a worker that adds nothing comes last
        ([5, 5], [0, 1, 2], [0, 1, 2], 3, 1, [2, 1]),  # no gain to spread: the earlier slot is filled
        ([5, 5], [0, 1, 2], [0, 1, 3], 2, 1, [1, 1]),  # the second worker draws more
        ([0, 7], [0, 2, 3], [0, 1, 2], 3, 1, [2, 0]),
    ],
)
def test_carbon_scaler_with_other_tables(intensity, throughput, kwh, work, hours, workers):
    assert policies.carbon_scaler(intensity, throughput, kwh, work, hours).tolist() == workers


def test_the_last_bit_of_a_sum_does_not_make_a_full_job_fail():
    """1 - 0.1 - ... - 0.1, ten times, is 1e-16 and not 0."""
    assert policies.carbon_scaler([100] * 10, [0, 0.1], [0, 1], 1.0).sum() == 10
    assert policies.carbon_scaler([100] * 10, [0, 1], [0, 1], 10 * 0.1, 0.1).sum() == 10


def test_carbon_scaler_says_what_does_not_fit():
    with pytest.raises(ValueError, match=r"46 units of work in 3 slots: 2 workers do at most 45; allow more slots"):
        policies.carbon_scaler([100, 10, 50], [0, 10, 15], [0, 1, 2], 46)
    with pytest.raises(ValueError, match=r"2 units of work in 2 slots: 1 workers do at most 1"):
        policies.carbon_scaler([X, 1], [0, 1], [0, 1], 2)
    with pytest.raises(ValueError, match=r"at most 0"):
        policies.carbon_scaler([X, X], [0, 1], [0, 1], 2)
    for intensity, throughput, kwh in (([[1.0]], [0, 1], [0, 1]), ([1.0], [0, 1, 2], [0, 1]), ([1.0], [0], [0])):
        with pytest.raises(ValueError, match=r"need \(T,\), \(W\+1,\) and \(W\+1,\) with W >= 1"):
            policies.carbon_scaler(intensity, throughput, kwh, 1)
    with pytest.raises(ValueError, match="shape"):
        policies.carbon_scaler([1.0, 2.0], [0, 1], [0, 1], 1, [1.0, 1.0, 1.0])


@st.composite
def elastic_jobs(draw):
    """Throughput per worker that does not increase, and power per worker that does not decrease."""
    slots, most = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    gains = sorted(draw(st.lists(st.integers(1, 6), min_size=most, max_size=most)), reverse=True)
    powers = sorted(draw(st.lists(st.integers(1, 4), min_size=most, max_size=most)))
    intensity = draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, 20, X]), min_size=slots, max_size=slots))
    return (
        np.array(intensity, dtype=float),
        np.concatenate([[0], np.cumsum(gains)]),
        np.concatenate([[0], np.cumsum(powers)]),
        draw(st.integers(1, 40)),
    )


@settings(max_examples=120, deadline=None)
@given(elastic_jobs())
def test_no_workers_do_the_work_of_carbon_scaler_with_less_carbon(job):
    intensity, throughput, kwh, work = job

    def grams(workers):
        return sum(kwh[count] * value for count, value in zip(workers, intensity, strict=True) if count)

    every = [
        (sum(throughput[count] for count in workers), grams(workers))
        for workers in itertools.product(range(len(kwh)), repeat=len(intensity))
    ]
    possible = [(done, g) for done, g in every if np.isfinite(g)]
    if max(done for done, _ in possible) < work:
        with pytest.raises(ValueError, match="units of work"):
            policies.carbon_scaler(intensity, throughput, kwh, work)
        return
    chosen = policies.carbon_scaler(intensity, throughput, kwh, work)
    done = sum(throughput[count] for count in chosen)
    assert done >= work
    assert grams(chosen) == min(g for other, g in possible if other >= done)
    # one worker less somewhere would be too few, or it costs nothing
    least_g = min(g for other, g in possible if other >= work)
    dearest = max(
        intensity[slot] * (kwh[count] - kwh[count - 1]) for slot, count in enumerate(chosen.tolist()) if count
    )
    assert least_g <= grams(chosen) <= least_g + dearest
    share = policies.carbon_scaler_share(intensity, throughput, kwh, work, chosen)
    assert (throughput[chosen] * share).sum() == pytest.approx(work)
    assert ((share >= 0) & (share <= 1) & ((share > 0) <= (chosen > 0))).all()


@pytest.mark.parametrize(
    ("work", "workers", "share"),
    [
        (25, [0, 2, 1], [0, 1, 1]),
        (20, [0, 2, 1], [0, 1, 0.5]),  # 5 too much; per throughput 50/10 is more than 2*10/15
        (14, [0, 2, 0], [0, 14 / 15, 0]),
        (10, [0, 2, 1], [0, 10 / 15, 0]),  # a slot that is not needed at all
        (0, [0, 0, 0], [0, 0, 0]),
    ],
)
def test_what_is_too_much_is_left_out_where_it_is_dearest(work, workers, share):
    found = policies.carbon_scaler_share([100, 10, 50], [0, 10, 15], [0, 1, 2], work, np.array(workers))
    assert found.tolist() == pytest.approx(share)


# -- by name ---------------------------------------------------------------------------------------------------------


def chosen(policy, outlook, question, place=None):
    return [(start / H, end / H, workers) for start, end, workers in decide(policy, outlook, question, place)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("run-now", [(0, 2)]),
        ("lowest-slot", [(4, 6)]),
        ("lowest-window", [(3, 5)]),  # 11, 11, 13, 6, 10, 18
        ("carbon-time", [(3, 5)]),  # saved per hour to completion: 0, 0, less, 5/5, 1/6
        ("wait-awhile", [(1, 2), (4, 5)]),
        ("threshold", [(1, 3)]),
        ("carbon-scaler", [(1, 2), (4, 5)]),
    ],
)
def test_every_policy_by_its_name(policy, expected):
    outlook = ahead([8, 3, 8, 5, 1, 9, 9])
    question = Question(2 * H, 5 * H, past_g_per_kwh=np.array([4.0]))
    assert chosen(policy, outlook, question) == [(start, end, 1) for start, end in expected]


def test_threshold_pauses_where_that_is_allowed():
    question = Question(2 * H, 5 * H, past_g_per_kwh=np.array([4.0]), interruptible=True)
    assert chosen("threshold", ahead([8, 3, 8, 5, 1, 9, 9]), question) == [(1, 2, 1), (4, 5, 1)]


def test_threshold_uses_its_wait_up_before_its_outlook_ends():
    """It may wait for 5 h, of which only the first two are inside."""
    question = Question(2 * H, 5 * H, past_g_per_kwh=np.array([4.0]))
    assert chosen("threshold", ahead([8, 8, 8, 8]), question) == [(2, 4, 1)]


def test_a_name_that_is_not_known():
    with pytest.raises(KeyError):
        decide("greenest", ahead([1.0]), Question(H, 0))


def test_which_plans_stay_as_they_were_made():
    assert [name for name in (*NAMES, "eco") if not decided_once(name)] == ["run-now", "eco"]


@pytest.mark.parametrize(
    ("values", "length_h", "wait_h", "most", "expected"),
    [
        ([9, 1, 2, 9], 2, 2, 2, [(1, 2, 2)]),
        ([9, 1, 2, 9], 3, 1, 2, [(1, 2, 2), (2, 3, 1)]),
        ([9, 1, 2, 9], 2.5, 1.5, 2, [(1, 2, 2), (2, 2.5, 1)]),
        ([9, 1, 1, 9], 4, 0, 2, [(1, 3, 2)]),  # touching stretches of as many workers are one
        ([3, 3, 3], 2, 1, 4, [(0, 1, 2)]),  # no more workers than the work needs
        ([3, 9, 4, 9], 2, 2, 1, [(0, 1, 1), (2, 3, 1)]),
        ([X, 9, 4, 9], 2, 2, 2, [(2, 3, 2)]),
        ([9, 9, 9, 1], 1, 2, 9, [(0, 1, 1)]),  # what comes after the latest end does not count
        ([X, 9], 2, 0, 1, None),
        ([X, X], 1, 1, 1, None),
    ],
)
def test_carbon_scaler_with_workers_in_proportion(values, length_h, wait_h, most, expected):
    found = chosen("carbon-scaler", ahead(values), Question(length_h * H, wait_h * H, max_workers=most))
    assert found == [(pytest.approx(start), pytest.approx(end), workers) for start, end, workers in expected or []]


def test_carbon_scaler_makes_no_pause_of_rounding():
    """A first step of 31 min, which is no exact number of hours."""
    outlook = Outlook(np.array([0.0, 1860.0, 5460.0, 9060.0]), np.array([3.0, 3.5, 9.0]))
    assert decide("carbon-scaler", outlook, Question(3660.0, 5400.0)) == [(0.0, 3660.0, 1)]


# -- the calendar of a question, and the quirks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "now", "length_h", "expected_h"),
    [
        ("next-workday", "Mon 12:00", 4, 0),  # ends at 16:00
        ("next-workday", "Mon 12:00", 5, 0),  # at 17:00
        ("next-workday", "Mon 12:00", 5.5, 15.5),  # at 17:30, so by Tuesday 9:00
        ("next-workday", "Fri 12:00", 6, 15),  # at 18:00, so by Saturday 9:00
        ("next-workday", "Fri 12:00", 24, 45),  # on Saturday at 12:00, so by Monday 9:00
        ("semi-weekly", "Mon 08:00", 1, 0),
        ("semi-weekly", "Mon 08:00", 1.5, 71.5),
        ("semi-weekly", "Thu 12:00", 1, 92),
    ],
)
def test_windows_of_the_calendar(policy, now, length_h, expected_h):
    question = Question(length_h * H, 2 * H, clock_s=clock(now))
    assert window(policy, question) == Window(0, expected_h * H, (expected_h + length_h) * H)
    # what a job itself asked for is not overstepped
    own = window(policy, replace(question, own_wait_s=question.max_wait_s))
    assert own.wait_s == min(expected_h, 2) * H


def test_the_window_of_all_others_is_their_wait():
    for policy in ("run-now", "lowest-slot", "lowest-window", "carbon-time", "wait-awhile", "carbon-scaler"):
        assert window(policy, Question(2 * H, 3 * H)) == Window(0, 3 * H, 5 * H)


def test_quirks_look_one_slot_further():
    assert window("wait-awhile", Question(2 * H, 3 * H, published_quirks=True)).reach_s == 5.5 * H


def test_calendar_policies_start_in_any_slot_of_half_an_hour():
    """It would end at 17:30, so it may start until 8:00; midnight is 7.5 h ahead."""
    values = np.full(40, 9.0)
    values[[15, 16]] = 1.0
    outlook = ahead(values, step_h=0.5)
    question = Question(H, 0, clock_s=clock("Mon 16:30"))
    assert chosen("next-workday", outlook, question) == [(7.5, 8.5, 1)]
    values[[15, 16, 20, 25]] = [9, 1, 9, 1]
    outlook = ahead(values, step_h=0.5)
    assert chosen("next-workday", outlook, question) == [(7.5, 8.5, 1)]  # 9 + 1; equal: the earliest
    assert chosen("next-workday", outlook, replace(question, interruptible=True)) == [(8, 8.5, 1), (12.5, 13, 1)]


HALVES = [9, 8, 7, 6, 5, 4]


@pytest.mark.parametrize(
    ("policy", "interruptible", "as_meant", "as_published"),
    [
        ("run-now", False, [(0, 1)], [(0.5, 1.5)]),  # not quite at once, if the next slot is cleaner
        ("lowest-window", False, [(1, 2)], [(1.5, 2.5)]),  # ends half an hour after its latest end
        ("lowest-window", True, [(1, 2)], [(1.5, 2.5)]),
        ("wait-awhile", False, [(1, 2)], [(1.5, 2.5)]),
    ],
)
def test_the_inclusive_window_is_one_slot_too_long(policy, interruptible, as_meant, as_published):
    outlook = ahead(HALVES, step_h=0.5)
    question = Question(H, H, interruptible=interruptible)
    assert chosen(policy, outlook, question) == [(*span, 1) for span in as_meant]
    quirks = replace(question, published_quirks=True)
    assert chosen(policy, outlook, quirks) == [(*span, 1) for span in as_published]


def test_ties_overrun_only_as_published():
    outlook = ahead([5, 5, 9, 5, 9], step_h=0.5)
    question = Question(0.5 * H, 1 * H)  # in the slots 0 to 2, as published 0 to 3
    assert chosen("wait-awhile", outlook, question) == [(0, 0.5, 1)]
    overrun = [(0, 1, 1), (1.5, 2, 1)]
    assert chosen("wait-awhile", outlook, replace(question, published_quirks=True)) == overrun


def nightly(now, values, wait_h, quirks=False, interruptible=False):
    question = Question(0.5 * H, wait_h * H, clock_s=clock(now), published_quirks=quirks, interruptible=interruptible)
    return window("nightly", question), chosen("nightly", ahead(values, step_h=0.5), question)


@pytest.mark.parametrize("quirks", [False, True])
def test_a_nightly_job_at_1_is_known_before_and_may_be_early(quirks):
    """From midnight to 2:00 there are five slots to start in, both ends included."""
    place, spans = nightly("Tue 01:00", [5, 5, 5, 5, 1, 0], 1, quirks)
    assert (place.lead_s, place.wait_s) == (H, H)
    assert spans == [(2, 2.5, 1)]
    _, spans = nightly("Tue 01:00", [1, 5, 5, 5, 1, 0], 1, quirks)
    assert spans == [(0, 0.5, 1)]  # counted from midnight on, where the window begins


def test_a_nightly_job_that_comes_at_another_time_waits_for_the_night():
    place, spans = nightly("Tue 00:30", [1, 5, 4, 3, 1, 0], 0.5)
    assert (place.lead_s, place.wait_s) == (0, H)
    assert spans == [(0, 0.5, 1)]  # or at once, if it is cleaner
    _, spans = nightly("Tue 00:30", [4, 5, 3, 0, 0, 0], 0.5)
    assert spans == [(1, 1.5, 1)]
    _, spans = nightly("Tue 00:30", [4, 5, 3, 0, 0, 0], 0.5, interruptible=True)
    assert spans == [(1, 1.5, 1)]


# -- what resuming costs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stretches", "resume", "latest", "expected"),
    [
        ([(1, 2)], 0.5, 9, [(1, 2)]),  # the first start is free
        ([(1, 2), (4, 5)], 0.5, 9, [(1, 2), (3.5, 5)]),  # earlier, so that 4 to 5 does work
        ([(1, 2), (4, 5)], 0.5, 5, [(1, 2), (3.5, 5)]),
        ([(1, 2), (4, 5)], 2, 9, [(1, 2), (2, 5)]),  # it just fits
        ([(1, 2), (4, 5)], 0, 9, [(1, 2), (4, 5)]),
        ([(1, 2), (2, 3)], 0.5, 9, [(1, 2), (2, 3)]),  # no pause
        ([(1, 2), (3, 5)], 1.5, 6.5, [(1, 2), (3, 6.5)]),  # too short a pause: 1.5 h more at the end
        ([(1, 2), (3, 5)], 1.5, 6, [(1, 2), (2, 5)]),  # no time for that: it works through the pause
        # time for the first one only
        ([(1, 2), (3, 4), (5, 6)], 1.5, 7.5, [(1, 2), (3, 4), (4, 7.5)]),
        ([(1, 2), (3, 4), (5, 6)], 1.5, 9, [(1, 2), (3, 4), (5, 9)]),
        ([(1, 2), (3, 4), (9, 10)], 1.5, 11, [(1, 2), (2, 4), (7.5, 10)]),
        ([], 1, 9, []),
    ],
)
def test_resumed(stretches, resume, latest, expected):
    assert resumed([(*span, 1) for span in stretches], resume, latest) == [(*span, 1) for span in expected]


@pytest.mark.parametrize(
    ("workers", "latest", "expected"),
    [
        # two do twice as much: the least make up for an hour of two in two hours
        (Workers(1, 2), 7, [(0, 1, 1), (1.5, 5, 2), (5, 7, 1)]),
        (Workers(1, 2), 6.9, [(0, 1, 1), (1, 5, 2)]),
        (Workers(1, 2, (1.0, 1.5)), 6.9, [(0, 1, 1), (1.5, 5, 2), (5, 6.5, 1)]),
        (Workers(2, 4), 6, [(0, 1, 1), (1.5, 6, 2)]),
    ],
)
def test_the_least_workers_make_up_for_what_resuming_took(workers, latest, expected):
    assert resumed([(0, 1, 1), (1.5, 5, 2)], 1, latest, workers) == expected
