"""What jobs that have ended say about the lengths that are told."""

from __future__ import annotations

import math

import pytest

from eco_ray.core.lengths import Lengths, needed, needed_after


def test_what_is_told_is_believed_until_jobs_do_otherwise():
    lengths = Lengths()
    assert lengths.doubt == 0
    for took_s in (100.0, 80.0, 120.0):
        lengths.ended(100.0, took_s)
    assert lengths.doubt == 0
    for took_s in (10.0, 300.0, 74.0, 126.0):
        lengths.ended(100.0, took_s)
    assert lengths.doubt == pytest.approx(4 / 10)


def test_without_doubt_all_the_work_is_needed_and_nothing_after_it():
    assert needed(0.0, 3600.0, 900.0, 6).tolist() == [1] * 7
    assert set(needed_after(0.0, 3600.0, 900.0).tolist()) == {0}


def test_in_doubt_work_is_needed_the_less_the_later_it_comes():
    likely = needed(0.5, 3600.0, 900.0, 6).tolist()
    assert likely[4:] == [1, 1, 1]  # at its beginning, and before
    assert likely[0] == pytest.approx(0.5 + 0.5 * math.exp(-1))
    assert likely == sorted(likely)
    after = needed_after(0.5, 3600.0, 900.0).tolist()
    assert after[:2] == pytest.approx([0.5 * math.exp(-1), 0.5 * math.exp(-1.25)])
    assert len(after) == 12
    # after an hour it takes another one in the mean, if it goes on
    assert sum(needed_after(1.0, 3600.0, 1.0)) == pytest.approx(3600 * math.exp(-1) * (1 - math.exp(-3)), rel=1e-3)
