"""Grams by hand-computed cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eco_ray.core.emissions import baseline_g, embodied_g, operational_g, sci_g_per_unit
from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import MJ_PER_KWH, Nature
from eco_ray.errors import EcoRayError

YEAR_S = 365.25 * 86400


def series(*values: float) -> IntensitySeries:
    return IntensitySeries("DE", 0.0, 3600.0, np.array(values), SignalKind.AVERAGE_LIFECYCLE, "test", Nature.ASSUMED)


def test_one_kwh_at_300_g_with_pue():
    assert operational_g(MJ_PER_KWH, 300.0, 1.2) == pytest.approx(360.0)


def test_baseline_runs_from_submission_without_a_break():
    # 90 minutes from 00:30: half an hour at 100, one hour at 400 -> mean 300
    grams = baseline_g(MJ_PER_KWH, 5400.0, 1800.0, series(100, 400, 900), 1.1)
    assert grams == pytest.approx(330.0)


def test_baseline_of_no_time_uses_the_moment_of_submission():
    assert baseline_g(0.0, 0.0, 10.0, series(100)) == 0.0
    assert baseline_g(MJ_PER_KWH, 0.0, 3700.0, series(100, 400)) == pytest.approx(400.0)


def test_baseline_never_extrapolates():
    with pytest.raises(EcoRayError, match="load a longer trace"):
        baseline_g(1.0, 7200.0, 1800.0, series(100, 400))


def test_embodied_of_a_gpu_hour():
    # references sec. 2: (164 + 5700/8) kg over 4 years = 25 g per H100 GPU-hour
    assert embodied_g(164 + 5700 / 8, 4 * YEAR_S, 3600.0) == pytest.approx(25.0, abs=0.05)
    assert embodied_g(164 + 5700 / 8, 4 * YEAR_S, 3600.0, share=0.5) == pytest.approx(12.5, abs=0.03)


def test_sci_adds_both_and_divides():
    assert sci_g_per_unit(30.0, 10.0, 1000) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: operational_g(-1, 300), r"energy \[mJ\] is -1: must be finite and >= 0"),
        (lambda: operational_g(math.nan, 300), "energy"),
        (lambda: operational_g(1, math.nan), "intensity"),
        (lambda: operational_g(1, 300, 0.9), "PUE is 0.9: must be finite and >= 1"),
        (lambda: baseline_g(1, -5, 0, series(100)), "productive time"),
        (lambda: embodied_g(10, 0, 5), "lifetime 0 s must be > 0; 4 years"),
        (lambda: embodied_g(-1, 5, 5), "embodied"),
        (lambda: embodied_g(10, 5, math.inf), "time in use"),
        (lambda: embodied_g(10, 5, 5, 1.2), r"reserved share 1.2 is outside \[0, 1\]"),
        (lambda: sci_g_per_unit(1, 1, 0), "0 functional units is undefined"),
        (lambda: sci_g_per_unit(math.nan, 1, 1), "operational"),
    ],
)
def test_bad_input_is_refused_with_value_and_limit(call, message):
    with pytest.raises(EcoRayError, match=message):
        call()
