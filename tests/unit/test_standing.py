"""What a running attempt is told of its job: the forecast in wall time, and the file between agent and session."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from eco_ray.core.clock import Clock
from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.power_limits import Stretch
from eco_ray.core.standing import MOST_STEPS, Spent, Standing, steps_ahead
from eco_ray.core.units import Nature
from eco_ray.train.standing import read_standing, write_standing

H = 3600.0
WHOLE = Standing(10.0, 20.0, Spent(3.5, 0.25, Nature.MODELLED, "ledger, test"), ((5.0, 300.0), (15.0, math.nan)), 25.0)


def series(*values, start_s=0.0):
    kind, nature = SignalKind.AVERAGE_LIFECYCLE, Nature.MODELLED
    return IntensitySeries("DE", start_s, H, np.array(values, float), kind, "test", nature)


def test_a_forecast_is_told_in_wall_time_from_the_present_step_to_the_deadline():
    clock = Clock(speed=60.0, wall_origin_s=1000.0, grid_origin_s=0.0)
    steps, end_s = steps_ahead(series(1, 2, 3, 4, 5), 1.5 * H, 3.5 * H, clock)
    assert steps == ((1060.0, 2.0), (1120.0, 3.0), (1180.0, 4.0))
    assert end_s == 1240.0


@pytest.mark.parametrize("now_h", [-1, 5, 9])
def test_outside_of_a_forecast_nothing_is_told(now_h):
    assert steps_ahead(series(1, 2, 3, 4, 5), now_h * H, 99 * H, Clock()) == ((), 0.0)
    assert steps_ahead(None, 0.0, H, Clock()) == ((), 0.0)


def test_after_its_deadline_a_job_is_still_told_the_present():
    assert steps_ahead(series(1, 2, 3), 1.5 * H, 0.5 * H, Clock())[0] == ((H, 2.0),)


def test_a_long_forecast_is_cut():
    steps, end_s = steps_ahead(series(*range(200)), 0.0, 500 * H, Clock())
    assert (len(steps), end_s) == (MOST_STEPS, MOST_STEPS * H)


def test_stretches_reach_from_now_to_the_deadline():
    standing = Standing(0.0, 30.0, None, ((0.0, 100.0), (10.0, 200.0)), 20.0)
    assert standing.stretches(4.0)[:2] == [Stretch(6.0, 100.0), Stretch(10.0, 200.0)]
    assert standing.stretches(4.0)[2].length_s == 10.0
    assert math.isnan(standing.stretches(4.0)[2].intensity_g_per_kwh)  # of the time after the forecast
    assert standing.stretches(12.0)[0] == Stretch(8.0, 200.0)
    assert Standing(0.0, 15.0, None, standing.ahead, 20.0).stretches(4.0) == [Stretch(6.0, 100.0), Stretch(5.0, 200.0)]
    assert standing.stretches(21.0) == []  # all of the forecast is past
    assert Standing(0.0, 30.0).stretches(0.0) == []


def test_what_is_told_comes_back(tmp_path, monkeypatch):
    write_standing(tmp_path, WHOLE)
    found = read_standing(tmp_path)
    assert found is not None
    assert repr(found) == repr(WHOLE)
    monkeypatch.setenv("ECO_RAY_RUN_DIR", str(tmp_path))
    assert repr(read_standing()) == repr(WHOLE)
    unknown = Standing(1.0, 2.0, Spent(1.0, None, Nature.ASSUMED, ""))
    write_standing(tmp_path, unknown)
    assert read_standing(tmp_path) == unknown


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"spent": 1}', json.dumps({"time_s": 1, "deadline_s": 2, "spent": {}, "ahead": []})]
)
def test_half_a_file_is_as_none(tmp_path, text):
    (tmp_path / "standing.json").write_text(text)
    assert read_standing(tmp_path) is None


def test_outside_a_cluster_nothing_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("ECO_RAY_RUN_DIR", raising=False)
    assert read_standing() is None
    assert read_standing(tmp_path) is None
