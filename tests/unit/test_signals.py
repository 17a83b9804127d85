"""Forecasts of a live cluster: asked for once per grid hour, and far enough."""

from __future__ import annotations

import pytest
from planning_cases import T0, hourly

from eco_ray.errors import EcoRayError
from eco_ray.on_ray.signals import Signals

HOUR_S, DAY_S = 3600.0, 86400.0
HORIZON_S = 96 * HOUR_S


class Asked:
    """A grid source that notes until when it was asked."""

    name = "asked"

    def __init__(self):
        self.ends_s = []

    def zones(self):
        return ("DE",)

    def actual(self, zone, start_s, end_s):
        raise EcoRayError("no past")

    def forecast(self, zone, now_s, end_s):
        self.ends_s.append(end_s)
        return hourly(zone, 1.0)


@pytest.mark.parametrize(
    ("deadline_s", "reach_s"),
    [
        (0.0, HORIZON_S),  # no job
        (T0 + 2 * HOUR_S, HORIZON_S),
        (T0 + 7 * DAY_S, 8 * DAY_S),  # beyond the horizon, and a day more
        (T0 + 400 * DAY_S, 14 * DAY_S),  # nobody forecasts that
    ],
)
def test_it_asks_over_the_horizon_and_to_the_last_deadline(deadline_s, reach_s):
    grid = Asked()
    assert Signals(grid, HORIZON_S).news(["DE"], T0, deadline_s) is not None
    assert grid.ends_s == [T0 + reach_s + HOUR_S]


def test_it_asks_once_per_grid_hour():
    grid = Asked()
    signals = Signals(grid, HORIZON_S)
    for minutes in (0, 1, 59):
        signals.news(["DE"], T0 + minutes * 60)
    assert len(grid.ends_s) == 1
    signals.news(["DE"], T0 + HOUR_S)
    assert len(grid.ends_s) == 2


def test_it_asks_again_within_the_hour_where_a_deadline_lies_beyond_what_it_asked_for():
    grid = Asked()
    signals = Signals(grid, HORIZON_S)
    deadlines_d = (1, 7, 7.5, 8.5, 400, 401, 402)
    asked = [
        signals.news(["DE"], T0 + 60 * minute, T0 + days * DAY_S) is not None for minute, days in enumerate(deadlines_d)
    ]
    assert asked == [True, True, False, True, True, False, False]
