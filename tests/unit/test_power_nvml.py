"""NVML on a stand-in for the pynvml module; tests/gpu has a real one."""

from __future__ import annotations

import math
import sys

import pytest
from fake_nvml import FakeNvml

from eco_ray.core.ports import CpuUse
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.errors import NotFoundError
from eco_ray.power.composite import open_meter
from eco_ray.power.nvml import NvmlMeter

USE = CpuUse(cpu_s=0.5, wall_s=2.0, cpus=2)


def test_energy_counter_is_preferred_to_power():
    nvml = FakeNvml({"energy_mj": 5_000, "power_w": 999}, {"energy_mj": 0, "power_w": 999})
    meter = NvmlMeter(nvml)
    nvml.gpus[0]["energy_mj"] = 25_000
    nvml.gpus[1]["energy_mj"] = 100_000
    reading = meter.read(USE)
    assert reading.energy_mj == 120_000
    assert (reading.nature, reading.error_rel, reading.flags) == (Nature.MEASURED, pytest.approx(0.05), ())
    assert reading.source == "nvml: energy counter of 2 GPU"


def test_power_is_integrated_by_trapezoid_where_there_is_no_counter():
    nvml = FakeNvml({"power_w": 100}, {"energy_mj": 0})
    meter = NvmlMeter(nvml)
    nvml.gpus[0]["power_w"] = 300
    nvml.gpus[1]["energy_mj"] = 400_000
    reading = meter.read(USE)
    assert reading.energy_mj == pytest.approx(2 * 200_000 + 400_000)
    assert reading.error_rel == pytest.approx(0.1)
    assert reading.source == "nvml: energy counter of 1 GPU and integrated power of 1 GPU"
    assert meter.read(USE).energy_mj == pytest.approx(2 * 300_000)


@pytest.mark.parametrize("counter_mj", [40, 10**12])
def test_counter_that_was_reset_gives_a_flag_and_a_new_baseline(counter_mj):
    nvml = FakeNvml({"energy_mj": 5_000})
    meter = NvmlMeter(nvml)
    nvml.gpus[0]["energy_mj"] = counter_mj
    reading = meter.read(USE)
    assert (reading.energy_mj, reading.flags) == (0, ("counter-reset",))
    nvml.gpus[0]["energy_mj"] += 700
    assert meter.read(USE).energy_mj == 700


def test_gpu_that_is_lost_for_a_while_is_flagged_and_its_counter_makes_up_for_it():
    nvml = FakeNvml({"energy_mj": 5_000})
    meter = NvmlMeter(nvml)
    nvml.gpus[0]["energy_mj"] = None
    for _ in range(10):
        lost = meter.read(USE)
        assert (lost.energy_mj, lost.flags) == (0, ("gpu-0-unreadable",))
    # 150 kJ: too much for one interval, but not for the eleven since the last reading
    nvml.gpus[0]["energy_mj"] = 150_005_000
    back = meter.read(USE)
    assert (back.energy_mj, back.flags) == (150_000_000, ())


def test_power_that_cannot_be_read_is_flagged():
    nvml = FakeNvml({"power_w": 100})
    meter = NvmlMeter(nvml)
    nvml.gpus[0]["power_w"] = None
    assert meter.read(USE).flags == ("gpu-0-unreadable",)
    second = meter.read(USE)
    assert (second.energy_mj, second.flags) == (0, ("gpu-0-unreadable",))


@pytest.mark.parametrize("wall_s", [-1.0, math.nan, math.inf])
def test_clock_that_jumps_is_flagged_and_the_counter_still_counts(wall_s):
    nvml = FakeNvml({"energy_mj": 0}, {"power_w": 100})
    meter = NvmlMeter(nvml)
    nvml.gpus[0]["energy_mj"] = 300
    reading = meter.read(CpuUse(0, wall_s, 1))
    assert (reading.energy_mj, reading.idle_mj, reading.flags) == (300, 0, ("clock-jump",))


def test_idle_is_the_lowest_power_seen():
    nvml = FakeNvml({"energy_mj": 0})
    meter = NvmlMeter(nvml)
    idle_mj = []
    for power_w in (300, 70, 500):
        nvml.gpus[0]["energy_mj"] += power_w * 2000
        idle_mj.append(meter.read(USE).idle_mj)
    assert idle_mj == pytest.approx([600_000, 140_000, 140_000])


@pytest.mark.parametrize(
    ("nvml", "message"),
    [
        (FakeNvml({"energy_mj": 0}, driver=False), r"no NVIDIA driver \(Driver Not Loaded\)"),
        (FakeNvml(), "finds 0 GPUs"),
    ],
)
def test_machine_without_gpu_has_no_meter(nvml, message):
    assert not NvmlMeter.available(nvml)
    with pytest.raises(NotFoundError, match=message):
        NvmlMeter(nvml)
    assert nvml.opened == 0


def test_machine_without_pynvml_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not NvmlMeter.available()
    with pytest.raises(NotFoundError, match="pip install nvidia-ml-py"):
        NvmlMeter()


def test_node_with_gpus_is_the_sum_and_as_weak_as_its_host(tmp_path):
    nvml = FakeNvml({"energy_mj": 0})
    meter = open_meter(PowerCurve((0.0, 1.0), (10.0, 50.0), source="by hand"), rapl_root=tmp_path, nvml=nvml)
    nvml.gpus[0]["energy_mj"] = 200_000
    reading = meter.read(USE)
    assert meter.name == "modelled+nvml"
    # host: a quarter of 2 CPUs x 2 s is 1/8 of the load: 15 W over 2 s
    assert reading.energy_mj == pytest.approx(30_000 + 200_000)
    assert reading.nature == Nature.MODELLED
    assert reading.source == "modelled: by hand; nvml: energy counter of 1 GPU"
