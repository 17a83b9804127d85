"""Nonsense from clocks, files and drivers: each is a clear error or a flagged fallback, never a silent number.

A case says what the machine shows between two readings. Whatever it is, the reading's figures are finite, not negative
and plausible, its parts sum, and either a flag or an error tells what happened.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeNvml

from eco_ray.core.ports import CpuUse, Reading
from eco_ray.core.power import PowerCurve
from eco_ray.errors import EcoRayError
from eco_ray.power.composite import FallbackMeter, SumMeter
from eco_ray.power.modelled import ModelledMeter
from eco_ray.power.nvml import NvmlMeter
from eco_ray.power.rapl import RaplMeter

CURVE = PowerCurve((0.0, 1.0), (10.0, 50.0), source="by hand")
USE = CpuUse(cpu_s=0.5, wall_s=1.0, cpus=2)
RANGE_UJ = 262_143_328_850


class Machine:
    """One package (20 W) and one GPU (300 W by its counter), then whatever a case does to them."""

    def __init__(self, root: Path) -> None:
        self.package = root / "intel-rapl:0"
        self.package.mkdir()
        self.write("name", "package-0")
        self.write("max_energy_range_uj", str(RANGE_UJ))
        self.write("energy_uj", "1000000")
        self.gpu: dict[str, Any] = {"uuid": "GPU-a", "energy_mj": 5_000, "utilisation": [(7, 1, 50)], "processes": [7]}
        self.use = USE
        self.root = root

    def write(self, name: str, content: str) -> None:
        (self.package / name).write_text(content)

    def meter(self) -> FallbackMeter | SumMeter:
        nvml = NvmlMeter(FakeNvml(self.gpu), known_pid=lambda pid: pid < 1000)
        return SumMeter([FallbackMeter(RaplMeter(self.root), ModelledMeter(CURVE)), nvml])

    def go_on(self) -> None:
        """A second of ordinary life, before the case changes what it shows."""
        self.write("energy_uj", "21000000")
        self.gpu["energy_mj"] = 305_000


def counter(content: str) -> Callable[[Machine], None]:
    return lambda machine: machine.write("energy_uj", content)


def gpu(**values: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.gpu.update(values)


def use(**values: float) -> Callable[[Machine], None]:
    def apply(machine: Machine) -> None:
        machine.use = CpuUse(**{"cpu_s": 0.5, "wall_s": 1.0, "cpus": 2, **values})

    return apply


def away(machine: Machine) -> None:
    (machine.package / "energy_uj").unlink()


def a_folder(machine: Machine) -> None:
    away(machine)
    (machine.package / "energy_uj").mkdir()


RESET = "counter-reset"
RAPL_GONE = "rapl-unreadable"
WHILE_RUNNING = {
    # clocks
    "wall clock put back": (use(wall_s=-3600), "clock-jump"),
    "wall time nan": (use(wall_s=math.nan), "clock-jump"),
    "wall time inf": (use(wall_s=math.inf), "clock-jump"),
    "wall clock put ahead by a day": (use(wall_s=86_400), "counter-wrap-ambiguous"),
    "sample stamp a string": (gpu(utilisation=[(7, "soon", 50)]), "gpu-0-bad-utilisation"),
    # CPU time
    "cpu time negative": (use(cpu_s=-1), "bad-cpu-time"),
    "cpu time nan": (use(cpu_s=math.nan), "bad-cpu-time"),
    "cpu time huge": (use(cpu_s=1e300), "cpu-above-capacity"),
    "cpus nan": (use(cpus=math.nan), "bad-cpu-time"),
    # RAPL files
    "counter empty": (counter(""), RAPL_GONE),
    "counter cut": (counter("21000\x00\x00"), RAPL_GONE),
    "counter garbage": (counter("no energy today"), RAPL_GONE),
    "counter negative": (counter("-21000000"), RAPL_GONE),
    "counter nan": (counter("nan"), RAPL_GONE),
    "counter inf": (counter("inf"), RAPL_GONE),
    "counter with a point": (counter("2.1e7"), RAPL_GONE),
    "counter of 5000 digits": (counter("9" * 5000), RAPL_GONE),
    "counter above its range": (counter(str(RANGE_UJ + 1)), RAPL_GONE),
    "counter away": (away, RAPL_GONE),
    "counter a folder": (a_folder, RAPL_GONE),
    "counter back, no wrap": (counter("5"), RESET),
    "counter 100 kJ ahead in a second": (counter("100000000000"), RESET),
    # NVML's energy and power
    "gpu counter back": (gpu(energy_mj=3), RESET),
    "gpu counter huge": (gpu(energy_mj=2**63), RESET),
    "gpu counter negative": (gpu(energy_mj=-305_000), "gpu-0-unreadable"),
    "gpu counter a string": (gpu(energy_mj="305000"), "gpu-0-unreadable"),
    "gpu counter nan": (gpu(energy_mj=math.nan), "gpu-0-unreadable"),
    "gpu counter inf": (gpu(energy_mj=math.inf), "gpu-0-unreadable"),
    "gpu counter true": (gpu(energy_mj=True), "gpu-0-unreadable"),
    "gpu counter gone, power there": (gpu(energy_mj=None, power_w=300), "gpu-0-counter-gone"),
    "gpu counter gone, power negative": (gpu(energy_mj=None, power_w=-300), "gpu-0-unreadable"),
    "gpu counter gone, power a string": (gpu(energy_mj=None, power_w="300"), "gpu-0-unreadable"),
    "gpu counter gone, power huge": (gpu(energy_mj=None, power_w=1e12), "gpu-0-unreadable"),
    "gpu lost": (gpu(lost=True), "gpu-0-unreadable"),
    # NVML's processes
    "utilisation above 100 %": (gpu(utilisation=[(7, 2, 4_000_000_000)]), "gpu-0-bad-utilisation"),
    "utilisation negative": (gpu(utilisation=[(7, 2, -5)]), "gpu-0-bad-utilisation"),
    "utilisation a string": (gpu(utilisation=[(7, 2, "50")]), "gpu-0-bad-utilisation"),
    "utilisation no list": (gpu(utilisation="busy"), "gpu-0-bad-utilisation"),
    "utilisation of three whole GPUs": (gpu(utilisation=[(p, 2, 100) for p in (7, 8, 9)]), "gpu-0-use-above-capacity"),
    "pid 0 and the largest": (gpu(utilisation=[(0, 2, 50), (2**32 - 1, 2, 50)]), "gpu-0-bad-pid"),
    "pid of a dead process": (gpu(utilisation=None, processes=[7, 99_999]), "gpu-0-unknown-pid"),
    "pids no numbers": (gpu(utilisation=None, processes=["seven", None]), "gpu-0-bad-pid"),
    "processes no list": (gpu(utilisation=None, processes="many"), "gpu-0-processes-unreadable"),
}


def assert_sound(reading: Reading, use: CpuUse) -> None:
    assert 0 <= reading.idle_mj <= reading.energy_mj < math.inf
    # the package or the curve, 50 W at most, and a GPU of 300 W
    wall_s = use.wall_s if math.isfinite(use.wall_s) and use.wall_s > 0 else 1.0
    assert reading.energy_mj <= 350_000 * wall_s
    assert 0 < reading.error_rel <= 0.5
    for part in reading.gpus:
        assert 0 <= part.idle_mj <= part.energy_mj
        assert all(isinstance(pid, int) and 0 < seconds < math.inf for pid, seconds in part.busy_s.items())
        assert sum(part.busy_s.values()) <= wall_s * (1 + 1e-9)


@pytest.mark.parametrize("case", WHILE_RUNNING)
def test_nonsense_while_running_is_flagged_and_the_meter_goes_on(tmp_path, case):
    change, flag = WHILE_RUNNING[case]
    machine = Machine(tmp_path)
    meter = machine.meter()
    machine.go_on()
    change(machine)
    if flag == "cpu-above-capacity" or flag == "bad-cpu-time":
        # a counter does not care for CPU time: the model does
        meter = SumMeter([ModelledMeter(CURVE), NvmlMeter(FakeNvml(machine.gpu))])
    reading = meter.read(machine.use)
    assert flag in reading.flags, reading
    assert_sound(reading, machine.use)
    assert_sound(meter.read(USE), USE)


def test_without_nonsense_nothing_is_flagged(tmp_path):
    machine = Machine(tmp_path)
    meter = machine.meter()
    machine.go_on()
    reading = meter.read(machine.use)
    assert (reading.energy_mj, reading.flags) == (320_000, ())
    assert reading.gpus[0].busy_s == {7: 0.5}


AT_THE_START = {
    "range no number": ("max_energy_range_uj", "a lot", "holds 'a lot', not a count"),
    "range empty": ("max_energy_range_uj", "", "holds '', not a count"),
    "range negative": ("max_energy_range_uj", "-1", "holds '-1', not a count"),
    "range below the counter": ("max_energy_range_uj", "5", "holds 1000000, above its range of 5"),
    "name empty": ("name", "", "holds '', no domain that we know"),
    "name garbage": ("name", "\x00\x01", "no domain that we know"),
    "counter empty": ("energy_uj", "", "holds '', not a count"),
}


@pytest.mark.parametrize("case", AT_THE_START)
def test_nonsense_at_the_start_is_an_error_that_says_where(tmp_path, case):
    name, content, message = AT_THE_START[case]
    machine = Machine(tmp_path)
    machine.write(name, content)
    with pytest.raises(EcoRayError, match=message):
        RaplMeter(tmp_path)


@pytest.mark.parametrize("range_uj", ["0", None])
def test_without_a_range_a_step_back_is_a_reset(tmp_path, range_uj):
    machine = Machine(tmp_path)
    if range_uj is None:
        (machine.package / "max_energy_range_uj").unlink()
    else:
        machine.write("max_energy_range_uj", range_uj)
    meter = RaplMeter(tmp_path)
    machine.write("energy_uj", "5")
    reading = meter.read(USE)
    assert (reading.energy_mj, reading.flags) == (0, (RESET,))


@pytest.mark.parametrize("count", [None, "two", -1, math.nan])
def test_gpu_count_that_is_no_number_is_no_gpu(monkeypatch, count):
    nvml = FakeNvml({"energy_mj": 0})
    monkeypatch.setattr(nvml, "nvmlDeviceGetCount", lambda: count)
    with pytest.raises(EcoRayError, match="NVML finds 0 GPUs"):
        NvmlMeter(nvml)
