"""What every EnergyMeter promises, on every adapter: the model, RAPL files, an NVML stand-in, and their sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_nvml import FakeNvml

from eco_ray.core.ports import CpuUse, EnergyMeter
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.power.composite import open_meter
from eco_ray.power.modelled import ModelledMeter
from eco_ray.power.nvml import NvmlMeter
from eco_ray.power.rapl import RaplMeter

CURVE = PowerCurve((0.0, 1.0), (10.0, 50.0), source="by hand")


class Machine:
    """A host with one CPU package and one GPU, each with an energy counter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._package = root / "intel-rapl:0"
        self._package.mkdir()
        (self._package / "name").write_text("package-0")
        (self._package / "max_energy_range_uj").write_text("262143328850")
        self.package_j, self.gpu_j = 100.0, 900.0
        self.nvml = FakeNvml({"uuid": "GPU-1", "energy_mj": 900_000, "utilisation": []})
        self.draw(0)

    def draw(self, wall_s: float, cpu_w: float = 30.0, gpu_w: float = 200.0) -> None:
        self.package_j += cpu_w * wall_s
        self.gpu_j += gpu_w * wall_s
        (self._package / "energy_uj").write_text(str(int(self.package_j * 1e6)))
        self.nvml.gpus[0]["energy_mj"] = int(self.gpu_j * 1000)


ADAPTERS: dict[str, Callable[[Machine], EnergyMeter]] = {
    "modelled": lambda machine: ModelledMeter(CURVE),
    "rapl": lambda machine: RaplMeter(machine.root),
    "nvml": lambda machine: NvmlMeter(machine.nvml),
    "rapl+nvml": lambda machine: open_meter(CURVE, rapl_root=machine.root, nvml=machine.nvml),
    "modelled+nvml": lambda machine: open_meter(CURVE, rapl_root=machine.root / "none", nvml=machine.nvml),
}
#: joules of two seconds with half of the CPUs busy: 30 W by the curve and by the package, 200 W by the GPU
TWO_SECONDS_J = {"modelled": 60, "rapl": 60, "nvml": 400, "rapl+nvml": 460, "modelled+nvml": 460}


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    return request.param


def test_first_reading_is_of_the_first_interval_and_the_next_of_the_next(machine, adapter):
    meter = ADAPTERS[adapter](machine)
    for _ in range(3):
        machine.draw(2.0)
        assert meter.read(CpuUse(2.0, 2.0, 2)).energy_mj == pytest.approx(TWO_SECONDS_J[adapter] * 1000)


def test_name_source_nature_and_band_are_said(machine, adapter):
    meter = ADAPTERS[adapter](machine)
    machine.draw(1.0)
    reading = meter.read(CpuUse(1.0, 1.0, 2))
    assert meter.name == adapter
    assert all(part in reading.source for part in adapter.split("+"))
    assert reading.nature is (Nature.MODELLED if "modelled" in adapter else Nature.MEASURED)
    assert 0 < reading.error_rel <= 0.5
    assert reading.flags == ()


@pytest.mark.parametrize("wall_s", [0.0, 1e-6, 0.1, 1.0, 60.0])
@pytest.mark.parametrize("load", [0.0, 0.3, 1.0, 7.0])
def test_idle_is_a_part_of_the_energy(machine, adapter, wall_s, load):
    meter = ADAPTERS[adapter](machine)
    machine.draw(wall_s, cpu_w=10 + 40 * load)
    reading = meter.read(CpuUse(load * wall_s * 2, wall_s, 2))
    assert 0 <= reading.idle_mj <= reading.energy_mj < math.inf


def test_no_time_is_no_energy(machine, adapter):
    meter = ADAPTERS[adapter](machine)
    reading = meter.read(CpuUse(0.0, 0.0, 2))
    assert (reading.energy_mj, reading.idle_mj) == (0, 0)
    assert 0 < reading.error_rel <= 0.5


@pytest.mark.parametrize("wall_s", [-3600.0, math.nan, math.inf])
def test_clock_that_jumps_is_flagged_and_never_gives_nonsense(machine, adapter, wall_s):
    meter = ADAPTERS[adapter](machine)
    reading = meter.read(CpuUse(1.0, wall_s, 2))
    assert "clock-jump" in reading.flags
    assert 0 <= reading.idle_mj <= reading.energy_mj < math.inf
    machine.draw(2.0)
    assert meter.read(CpuUse(2.0, 2.0, 2)).energy_mj == pytest.approx(TWO_SECONDS_J[adapter] * 1000)


def test_counters_that_start_again_are_flagged_and_never_negative(machine, adapter):
    meter = ADAPTERS[adapter](machine)
    machine.package_j = machine.gpu_j = 1.0
    machine.draw(0)
    reading = meter.read(CpuUse(1.0, 1.0, 2))
    assert 0 <= reading.idle_mj <= reading.energy_mj
    assert reading.flags == (() if adapter == "modelled" else ("counter-reset",))


def test_gpus_are_told_one_by_one_and_are_a_part_of_the_whole(machine, adapter):
    meter = ADAPTERS[adapter](machine)
    machine.draw(2.0)
    reading = meter.read(CpuUse(2.0, 2.0, 2))
    assert [gpu.gpu for gpu in reading.gpus] == (["GPU-1"] if "nvml" in adapter else [])
    assert sum(gpu.energy_mj for gpu in reading.gpus) == (400_000 if "nvml" in adapter else 0)
    assert all(0 <= gpu.idle_mj <= gpu.energy_mj for gpu in reading.gpus)
