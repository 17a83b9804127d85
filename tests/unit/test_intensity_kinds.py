"""Series of different kinds cannot be added, compared or planned together: an error at run time, and one of types."""

import operator
import textwrap

import numpy as np
import pytest
from mypy import api
from planning_cases import T0, hourly

from eco_ray.core.events import ForecastArrived
from eco_ray.core.intensity import IntensitySeries, SignalKind, kind_of
from eco_ray.core.inventory import Inventory
from eco_ray.core.situation import PlannerConfig
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, MixedKindsError

AVERAGE = hourly("DE", 300, 200)
MARGINAL = hourly("FR", 30, 20, kind=SignalKind.MARGINAL)


@pytest.mark.parametrize("combine", [operator.add, operator.sub, operator.lt, operator.gt, operator.truediv])
def test_a_series_is_no_number_to_calculate_with(combine):
    for left, right in [(AVERAGE, MARGINAL), (AVERAGE, AVERAGE)]:
        with pytest.raises(TypeError):
            combine(left, right)


@pytest.mark.parametrize("past", [False, True])
def test_an_event_takes_one_kind(past):
    known, other = {"DE": AVERAGE}, {"FR": MARGINAL}
    with pytest.raises(MixedKindsError, match="take one kind for all zones"):
        ForecastArrived(known, other) if past else ForecastArrived({**known, **other})
    assert issubclass(MixedKindsError, TypeError)


def test_kind_of():
    assert kind_of() is None
    assert kind_of(AVERAGE, hourly("FR", 1)) is SignalKind.AVERAGE_LIFECYCLE
    with pytest.raises(MixedKindsError):
        kind_of(AVERAGE, MARGINAL, AVERAGE)


def test_a_new_kind_replaces_what_was_known_of_another():
    book = Inventory("DE", T0, PlannerConfig())
    book.forecast_arrived({"DE": AVERAGE, "FR": hourly("FR", 10)}, {"FR": hourly("FR", 9)})
    book.forecast_arrived({"FR": MARGINAL}, {})
    assert book.forecast == {"FR": MARGINAL}
    assert book.past == {}
    book.forecast_arrived({}, {})
    assert book.forecast == {"FR": MARGINAL}


def test_one_series_goes_on_as_another():
    whole = hourly("DE", 300, 200).then(hourly("DE", 300, 201, 100, 50))
    assert (list(whole.values_g_per_kwh), whole.source) == ([300, 200, 100, 50], "test; after that test")
    gap = hourly("DE", 1, start_s=AVERAGE.end_s + 3600)
    assert AVERAGE.then(gap) is AVERAGE
    assert AVERAGE.then(hourly("DE", 7)) is AVERAGE  # it knows nothing more
    with pytest.raises(MixedKindsError):
        AVERAGE.then(hourly("DE", 1, 2, 3, kind=SignalKind.MARGINAL))
    with pytest.raises(EcoRayError, match="join series of one zone and step"):
        AVERAGE.then(hourly("FR", 1, 2, 3))


def test_joined_quantiles_and_nature_are_the_weaker_ones():
    def series(start_s, nature, **levels):
        values = np.array([5.0, 6.0])
        quantiles = {float(level.replace("_", ".")): values for level in levels}
        return IntensitySeries("DE", start_s, 3600.0, values, SignalKind.MARGINAL, "s", nature, start_s, quantiles)

    levels = {"0_1": 1, "0_9": 1}
    whole = series(0.0, Nature.MEASURED, **levels).then(series(7200.0, Nature.MODELLED, **{"0_9": 1}))
    assert whole.nature is Nature.MODELLED
    assert {level: list(of) for level, of in whole.quantiles_g_per_kwh.items()} == {0.9: [5, 6, 5, 6]}


TYPES = """
    from eco_ray.core.events import ForecastArrived
    from eco_ray.core.intensity import IntensitySeries, LifecycleSeries, MarginalSeries, kind_of
    from eco_ray.grid.annual import Annual
    from eco_ray.grid.neso import Neso
    from eco_ray.grid.profile import ModelledProfile
    from eco_ray.grid.watttime import WattTime

    def f(average: LifecycleSeries, marginal: MarginalSeries, unknown: IntensitySeries) -> None:
        average.then(average)
        average.then(unknown)
        ForecastArrived({"DE": average, "FR": average})
        kind_of(average, average)
        average + average  # error: operator
        average < marginal  # error: operator
        average.then(marginal)  # error: arg-type
        ForecastArrived({"DE": average}, {"FR": marginal})  # error: misc
        zones: dict[str, LifecycleSeries] = {"DE": average, "FR": marginal}  # error: dict-item
        kind_of(average, marginal)  # error: misc

    def g(watttime: WattTime, neso: Neso, profile: ModelledProfile, annual: Annual) -> None:
        moer = watttime.forecast("US-CAL-CISO", 0, 1)
        moer.then(watttime.actual("US-CAL-CISO", 0, 1))
        profile.actual("DE", 0, 1).then(annual.forecast("DE", 0, 1))
        moer.then(neso.forecast("GB", 0, 1))  # error: arg-type
        neso.actual("GB", 0, 1).then(annual.actual("GB", 0, 1))  # error: arg-type
        profile.forecast("DE", 0, 1).then(moer)  # error: arg-type
        ForecastArrived({"GB": neso.forecast("GB", 0, 1)}, {"US": moer})  # error: misc
"""


def test_a_type_checker_refuses_to_mix_kinds(tmp_path):
    file = tmp_path / "mixed.py"
    file.write_text(textwrap.dedent(TYPES))
    said, complaint, _ = api.run(["--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), str(file)])
    assert complaint == ""
    found = {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
    wanted = {number for number, line in enumerate(TYPES.splitlines(), start=1) if "# error" in line}
    assert found == wanted, said
