"""Every deadline that can be kept is kept: hundreds of small worlds in which all can be in time."""

from __future__ import annotations

import pytest
from deadline_worlds import KINDS, Small, Wish, edf_keeps_all, late_in, late_worlds, some_order_keeps_all


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_is_late_who_could_be_in_time_when_the_last_one_came(kind):
    """Who comes unannounced may find that others have waited for a cleaner hour, and that there is too little left."""
    late = late_worlds(kind, 100 if kind.startswith("pauses") else 200)
    assert [seed for seed, too_late in late.items() if not too_late] == []
    if kind.endswith("known"):
        assert late == {}


def test_who_runs_leaves_for_an_earlier_deadline_that_cannot_wait():
    """j1 is late in whole slots, and would be in time if it ran on over the only place of j0, of the same priority.

    j0 needs a tenth of its slot, so that both are in time if it gets it.
    """
    wishes = (
        Wish(1, 1, 1, 5, (0.1, 0.0, 0.9, 0.1)),
        Wish(2, 2, 5, 7, (0.5, 0.0, 0.5, 0.1)),
        Wish(4, 4, 6, 28, (0.5, 0.0, 0.9, 0.1)),
    )
    assert late_in(Small(wishes, True, (300, 100, 100, 150, 50, 350, 300, 400, *[100] * 40)))[0] == []


@pytest.mark.parametrize(
    ("jobs", "with_pauses", "in_one_piece"),
    [
        ([(0, 2, 2), (0, 2, 4)], True, True),
        ([(0, 2, 2), (1, 2, 3)], False, False),
        ([(0, 4, 5), (1, 1, 2)], True, False),
        ([(0, 4, 6), (1, 1, 6), (1, 1, 6)], True, True),
        ([(0, 1, 9), (3, 2, 5), (0, 4, 9)], True, True),
        ([(0, 1, 9), (3, 2, 5), (0, 5, 9)], True, False),
    ],
)
def test_what_can_be_done_in_time(jobs, with_pauses, in_one_piece):
    """Jobs as (release, work, deadline)."""
    assert edf_keeps_all(jobs) is with_pauses
    assert some_order_keeps_all(jobs) is in_one_piece
