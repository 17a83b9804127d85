"""Energy of a piece of work: its share of the node's, on a meter whose figures are known."""

from __future__ import annotations

import time

import pytest

from eco_ray.core.ports import CpuUse, GpuReading, Reading
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.power.modelled import ModelledMeter
from eco_ray.power.work import CpuWorkMeter

CURVE = PowerCurve((0.0, 1.0), (10.0, 30.0), "test", error_rel=0.3)


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


def test_work_is_charged_for_its_cpu_time_and_its_part_of_the_idle_power():
    measured = CpuWorkMeter(ModelledMeter(CURVE), cpus=2).measure(lambda: busy(0.3))
    assert measured.cpu_s == pytest.approx(0.3, abs=0.05)
    # 20 W over 2 CPUs are 10 J per CPU-s; of 10 W idle one CPU in two is ours
    assert measured.energy_j == pytest.approx(10 * measured.cpu_s + 5 * measured.wall_s, rel=0.15)
    assert (measured.nature, measured.error_rel) == (Nature.MODELLED, 0.3)
    assert "share by CPU time and 1 of 2 CPUs" in measured.source


def test_waiting_costs_the_reserved_part_of_the_idle_power():
    measured = CpuWorkMeter(ModelledMeter(CURVE), cpus=2).measure(lambda: time.sleep(0.2))
    assert measured.energy_j == pytest.approx(5 * measured.wall_s, rel=0.15)


def test_gpus_are_left_out():
    class Meter:
        name = "gpu"

        def read(self, use: CpuUse) -> Reading:
            gpu = GpuReading("g", 0, 4000.0, 1000.0, {})
            return Reading(5000.0, 2000.0, Nature.MEASURED, "test", 0.1, gpus=(gpu,))

    measured = CpuWorkMeter(Meter(), cpus=4).measure(lambda: None)
    assert measured.energy_j == pytest.approx(1.0 * 1 / 4)  # of 1 J idle of the host; no CPU time, so no dynamic part


def test_more_than_there_is_cannot_be_reserved():
    with pytest.raises(UsageError, match="give 0 to 2"):
        CpuWorkMeter(ModelledMeter(CURVE), cpus=2, reserved_cpus=3)
