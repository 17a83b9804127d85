"""The modelled meter, its cited tables, and how meters are put together."""

from __future__ import annotations

import math

import pytest

from eco_ray.core.ports import CpuUse, Reading
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.power.composite import FallbackMeter, SumMeter, open_meter
from eco_ray.power.modelled import ModelledMeter, curve_from_cpu, curve_from_tdp

CURVE = PowerCurve((0.0, 0.5, 1.0), (10.0, 40.0, 50.0), source="by hand")


@pytest.mark.parametrize(
    ("cpu_s", "wall_s", "cpus", "energy_mj", "idle_mj"),
    [
        (0, 2, 4, 20_000, 20_000),
        (4, 2, 4, 80_000, 20_000),  # half of 4 CPUs over 2 s: 40 W
        (2, 2, 4, 50_000, 20_000),  # a quarter: half way between 10 and 40 W
        (8, 2, 4, 100_000, 20_000),
        (0, 0, 4, 0, 0),
        (0, 1, 0, 10_000, 10_000),  # a node that offers no CPU idles
    ],
)
def test_energy_is_the_curve_times_wall_time(cpu_s, wall_s, cpus, energy_mj, idle_mj):
    reading = ModelledMeter(CURVE).read(CpuUse(cpu_s, wall_s, cpus))
    assert reading.energy_mj == pytest.approx(energy_mj)
    assert reading.idle_mj == pytest.approx(idle_mj)
    assert (reading.nature, reading.source, reading.flags) == (Nature.MODELLED, "modelled: by hand", ())


@pytest.mark.parametrize(
    ("use", "energy_mj", "flag"),
    [
        (CpuUse(1, -5, 4), 0, "clock-jump"),
        (CpuUse(1, math.nan, 4), 0, "clock-jump"),
        (CpuUse(1, math.inf, 4), 0, "clock-jump"),
        (CpuUse(-1, 1, 4), 10_000, "bad-cpu-time"),
        (CpuUse(math.nan, 1, 4), 10_000, "bad-cpu-time"),
        (CpuUse(1, 1, math.nan), 10_000, "bad-cpu-time"),
        (CpuUse(9, 1, 4), 50_000, "cpu-above-capacity"),
    ],
)
def test_use_that_makes_no_sense_is_flagged(use, energy_mj, flag):
    reading = ModelledMeter(CURVE).read(use)
    assert reading.energy_mj == energy_mj
    assert reading.flags == (flag,)


@pytest.mark.parametrize("nature", list(Nature))
def test_a_measured_curve_still_gives_a_modelled_energy(nature):
    curve = PowerCurve((0.0, 1.0), (1.0, 2.0), source="x", nature=nature)
    expected = Nature.ASSUMED if nature is Nature.ASSUMED else Nature.MODELLED
    assert ModelledMeter(curve).read(CpuUse(0, 1, 1)).nature == expected


def test_curve_of_a_cpu_family():
    curve = curve_from_cpu("EPYC-gen2", 8, 32)
    # 8 x 0.474 + 32 x 0.392 and 8 x 1.693 + 32 x 0.392
    assert curve.watts == pytest.approx((16.336, 26.088))
    assert curve.error_rel == 0.4
    assert "Cloud Carbon Footprint" in curve.source
    assert "0.392 W/GB" in curve.source


def test_curve_of_a_tdp():
    curve = curve_from_tdp(200, 100)
    assert curve.watts == pytest.approx((24 + 28.4, 64 + 28.4, 150 + 28.4, 204 + 28.4))
    assert curve.power_w(0.3) == pytest.approx(107 + 28.4)
    assert "0.284 W/GB" in curve.source


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: curve_from_cpu("cascade lake", 4), "unknown CPU family 'cascade lake'.*did you mean cascade-lake"),
        (lambda: curve_from_cpu("z80", 4), "one of epyc-gen1.*or give the TDP"),
        (lambda: curve_from_cpu("skylake", 0), "vcpus is 0: must be finite and > 0"),
        (lambda: curve_from_cpu("skylake", 4, -1), "memory_gb is -1"),
        (lambda: curve_from_tdp(math.nan), "tdp_w is nan"),
    ],
)
def test_bad_machines_are_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()


class Scripted:
    """A meter that says what it is told, or fails where it is told None."""

    def __init__(self, name: str, *readings: Reading | None) -> None:
        self.name = name
        self._readings = list(readings)

    def read(self, use: CpuUse) -> Reading:
        reading = self._readings.pop(0)
        if reading is None:
            raise EcoRayError("gone")
        return reading


def reading(energy_mj: float, nature: Nature = Nature.MEASURED, error_rel: float = 0.05, *flags: str) -> Reading:
    return Reading(energy_mj, energy_mj / 2, nature, f"{nature} source", error_rel, flags)


USE = CpuUse(0, 1, 1)


def test_sum_has_the_nature_of_its_weakest_part():
    meter = SumMeter([Scripted("a", reading(300)), Scripted("b", reading(100, Nature.MODELLED, 0.4, "odd"))])
    total = meter.read(USE)
    assert meter.name == "a+b"
    assert (total.energy_mj, total.idle_mj, total.nature, total.flags) == (400, 200, Nature.MODELLED, ("odd",))
    assert total.source == "measured source; modelled source"
    assert total.error_rel == pytest.approx((300 * 0.05 + 100 * 0.4) / 400)


def test_sum_of_nothing_has_the_widest_band():
    meter = SumMeter([Scripted("a", reading(0)), Scripted("b", reading(0, Nature.MODELLED, 0.4))])
    assert meter.read(USE).error_rel == 0.4


def test_failed_meter_is_replaced_until_it_starts_afresh_and_nothing_counts_twice():
    # the third reading of the counter spans the second interval too, which the model has counted already
    counter = Scripted(
        "rapl", reading(10), None, reading(20), reading(10), reading(0, Nature.MEASURED, 0, "counter-reset")
    )
    model = Scripted("modelled", *[reading(7, Nature.MODELLED, 0.4)] * 5)
    meter = FallbackMeter(counter, model)
    results = [meter.read(USE) for _ in range(5)]
    assert [r.energy_mj for r in results] == [10, 7, 7, 10, 7]
    assert [r.flags for r in results] == [(), ("rapl-unreadable",), ("rapl-recovered",), (), ("counter-reset",)]
    assert [r.nature is Nature.MEASURED for r in results] == [True, False, False, True, False]


def test_virtual_node_is_modelled_whatever_the_machine_has(tmp_path):
    meter = open_meter(CURVE, whole_machine=False, rapl_root=tmp_path, nvml=object())
    assert meter.name == "modelled"
