"""Which zone gets the next request: shares hold for any number of requests, and what is away is tried last."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core.zone_routes import Chooser, InTurn, Routes

WEIGHTS = st.lists(st.integers(0, 1000), min_size=1, max_size=8).filter(any)


def shares_of(weights: list[int]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


@settings(max_examples=300, deadline=None)
@given(WEIGHTS, st.integers(1, 400))
def test_no_zone_is_ever_a_request_off_its_share(weights, requests):
    shares, in_turn = shares_of(weights), InTurn(len(weights))
    seen = [0] * len(shares)
    for number in range(1, requests + 1):
        zone = in_turn.next(shares)
        seen[zone] += 1
        assert shares[zone] > 0
        for share, count in zip(shares, seen, strict=True):
            assert abs(share * number - count) < 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(WEIGHTS.filter(lambda told: len(told) >= 3), st.integers(1, 30)), min_size=1, max_size=20))
def test_shares_that_change_again_and_again_leave_no_debt(parts):
    """However often they change, a zone is never more than three requests off its due."""
    in_turn, owed = InTurn(8), [0.0] * 8
    for weights, requests in parts:
        shares = [*shares_of(weights), *[0.0] * (8 - len(weights))]
        for _ in range(requests):
            zone = in_turn.next(shares)
            assert shares[zone] > 0
            owed = [before + share - (at == zone) for at, (before, share) in enumerate(zip(owed, shares, strict=True))]
    assert max(map(abs, owed)) <= 3


def test_a_zone_that_flaps_gets_its_share_of_what_it_was_there_for():
    """Beginning anew with each change must not give the first zone all of it."""
    in_turn, seen = InTurn(3), Counter()
    for number in range(1200):
        seen[in_turn.next([0.5, 0.5, 0.0] if number % 2 else [0.4, 0.4, 0.2])] += 1
    assert seen[0] == pytest.approx(0.45 * 1200, rel=0.1)
    assert seen[1] == pytest.approx(0.45 * 1200, rel=0.1)
    assert seen[2] == pytest.approx(0.1 * 1200, rel=0.25)


ROUTES = Routes(
    "DE",
    ("DE", "FR"),
    ("DE", "FR", "GB"),
    ((0.25, 0.75, 0.0), (0.0, 1.0, 0.0)),
    ((0.0, 12.0, None), (12.0, 0.0, 9.0)),
)


def test_each_origin_has_its_own_shares():
    chooser = Chooser(ROUTES)
    first = Counter((origin, chooser.order(origin, ())[0]) for _ in range(40) for origin in ("DE", "FR"))
    assert first == {("DE", "DE"): 10, ("DE", "FR"): 30, ("FR", "FR"): 40}


def test_what_is_away_is_tried_last_and_its_share_goes_to_the_others():
    chooser = Chooser(ROUTES)
    assert {chooser.order("DE", {"FR"}) for _ in range(20)} == {("DE", "GB", "FR")}
    assert chooser.order("FR", {"FR"}) == ("GB", "DE", "FR")  # all of its share is away: the shortest way
    assert chooser.order("FR", {"FR", "GB", "DE"}) == ("FR", "GB", "DE")  # as if nothing was
    assert Counter(chooser.order("DE", ())[0] for _ in range(40)) == {"DE": 10, "FR": 30}  # it owes nothing


def test_a_way_that_nobody_told_is_the_longest():
    told = Routes("DE", ("DE",), ("DE", "FR", "GB"), ((1.0, 0.0, 0.0),), ((0.0, None, 900.0),))
    assert Chooser(told).order("DE", ()) == ("DE", "GB", "FR")


def test_where_a_request_comes_from():
    assert [ROUTES.origin(told) for told in ("FR", "GB", "", "nowhere")] == ["FR", "DE", "DE", "DE"]
    assert Routes.even(["FR", "GB"]).origin("FR") == ""
    even = Chooser(Routes.even(["FR", "GB"]))
    assert Counter(even.order("", ())[0] for _ in range(10)) == {"FR": 5, "GB": 5}


def test_new_routes_are_followed_from_the_next_request():
    chooser = Chooser(ROUTES)
    chooser.order("DE", ())
    chooser.follow(Routes("DE", ("DE",), ("GB",), ((1.0,),), ((0.0,),)))
    assert chooser.order("DE", ()) == ("GB",)


def test_routes_come_back_as_they_were_told():
    assert Routes.from_json(ROUTES.to_json()) == ROUTES
