"""RAPL on a tree of files that looks like /sys/class/powercap."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from eco_ray.core.ports import CpuUse
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotAllowedError, NotFoundError
from eco_ray.power.composite import open_meter
from eco_ray.power.rapl import RaplMeter

RANGE_UJ = 262_143_328_850
USE = CpuUse(cpu_s=0.5, wall_s=1.0, cpus=2)
NO_GPU = SimpleNamespace(
    NVMLError=RuntimeError, nvmlInit=lambda: None, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: 0
)
CURVE = PowerCurve((0.0, 1.0), (10.0, 50.0), source="by hand")


def put(root: Path, domain: str, name: str | None = None, uj: int | str = 0, range_uj: int | None = RANGE_UJ) -> None:
    path = root / domain
    path.mkdir(exist_ok=True)
    if name is not None:
        (path / "name").write_text(f"{name}\n")
        if range_uj is not None:
            (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (path / "energy_uj").write_text(f"{uj}\n")


@pytest.fixture
def root(tmp_path):
    """One package as most machines have it; the driver's own folders hold no counter."""
    (tmp_path / "intel-rapl").mkdir()
    (tmp_path / "dtpm").mkdir()
    put(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    put(tmp_path, "intel-rapl:0:0", "core", 500_000)
    return tmp_path


def test_package_counts_and_its_core_is_inside(root):
    meter = RaplMeter(root)
    put(root, "intel-rapl:0", uj=31_000_000)
    put(root, "intel-rapl:0:0", uj=20_000_000)
    reading = meter.read(USE)
    assert reading.energy_mj == 30_000
    assert (reading.nature, reading.source, reading.flags) == (
        Nature.MEASURED,
        "rapl: package-0 (memory is not counted)",
        (),
    )
    assert meter.read(USE).energy_mj == 0


def test_two_packages_with_dram_are_summed(root):
    put(root, "intel-rapl:1", "package-1", 0)
    put(root, "intel-rapl:0:1", "dram", 0)
    put(root, "intel-rapl:1:0", "dram", 0)
    meter = RaplMeter(root)
    put(root, "intel-rapl:0", uj=11_000_000)
    put(root, "intel-rapl:1", uj=20_000_000)
    put(root, "intel-rapl:0:1", uj=3_000_000)
    put(root, "intel-rapl:1:0", uj=4_000_000)
    reading = meter.read(USE)
    assert reading.energy_mj == 37_000
    assert reading.source == "rapl: package-0+package-0-dram+package-1+package-1-dram"


def test_counter_wraps_at_its_range(root):
    put(root, "intel-rapl:0", uj=RANGE_UJ - 2_000_000)
    meter = RaplMeter(root)
    put(root, "intel-rapl:0", uj=5_000_000)
    reading = meter.read(USE)
    assert reading.energy_mj == pytest.approx(7_000)
    assert reading.flags == ()


def test_step_back_that_no_wrap_explains_is_a_reset(root):
    put(root, "intel-rapl:0", uj=RANGE_UJ // 2)
    meter = RaplMeter(root)
    put(root, "intel-rapl:0", uj=1_000)
    reading = meter.read(USE)
    assert (reading.energy_mj, reading.flags) == (0, ("counter-reset",))
    put(root, "intel-rapl:0", uj=2_001_000)
    assert meter.read(USE).energy_mj == 2_000


def test_step_back_of_a_counter_without_range_is_a_reset(tmp_path):
    put(tmp_path, "intel-rapl:0", "package-0", 9_000_000, range_uj=None)
    meter = RaplMeter(tmp_path)
    put(tmp_path, "intel-rapl:0", uj=8_000_000)
    assert meter.read(USE).flags == ("counter-reset",)


def test_interval_in_which_the_counter_may_have_gone_round_is_flagged(root):
    meter = RaplMeter(root)
    assert meter.read(CpuUse(0, 3600, 2)).flags == ("counter-wrap-ambiguous",)


def test_mirror_of_the_mmio_driver_counts_once(root):
    put(root, "intel-rapl:0:1", "dram", 0)
    put(root, "intel-rapl-mmio:0", "package-0", 1_000_000)
    put(root, "intel-rapl-mmio:0:0", "dram", 0)
    meter = RaplMeter(root)
    for domain in ("intel-rapl:0", "intel-rapl-mmio:0"):
        put(root, domain, uj=11_000_000)
    for domain in ("intel-rapl:0:1", "intel-rapl-mmio:0:0"):
        put(root, domain, uj=2_000_000)
    assert meter.read(USE).energy_mj == 12_000


def test_mmio_alone_is_used(tmp_path):
    put(tmp_path, "intel-rapl-mmio:0", "package-0", 0)
    meter = RaplMeter(tmp_path)
    put(tmp_path, "intel-rapl-mmio:0", uj=4_000_000)
    assert meter.read(USE).energy_mj == 4_000


@pytest.mark.parametrize(
    ("psys_uj", "energy_mj", "source", "flags"),
    [
        (40_000_000, 40_000, "rapl: psys", ()),
        (0, 30_000, "rapl: package-0 (memory is not counted)", ("psys-below-package",)),
    ],
)
def test_psys_stands_for_all_and_is_never_added(root, psys_uj, energy_mj, source, flags):
    put(root, "intel-rapl:1", "psys", 0)
    meter = RaplMeter(root)
    put(root, "intel-rapl:0", uj=31_000_000)
    put(root, "intel-rapl:1", uj=psys_uj)
    reading = meter.read(USE)
    assert (reading.energy_mj, reading.source, reading.flags) == (energy_mj, source, flags)


def test_psys_of_two_sockets_is_the_sum_of_both(root):
    put(root, "intel-rapl:1", "package-1", 0)
    put(root, "intel-rapl:2", "psys", 0)
    put(root, "intel-rapl:3", "psys-1", 0)
    meter = RaplMeter(root)
    put(root, "intel-rapl:0", uj=11_000_000)
    put(root, "intel-rapl:1", uj=10_000_000)
    put(root, "intel-rapl:2", uj=15_000_000)
    put(root, "intel-rapl:3", uj=16_000_000)
    reading = meter.read(USE)
    assert (reading.energy_mj, reading.source) == (31_000, "rapl: psys+psys-1")


def test_dies_of_one_package_are_summed(tmp_path):
    put(tmp_path, "intel-rapl:0", "package-0-die-0", 0)
    put(tmp_path, "intel-rapl:1", "package-0-die-1", 0)
    meter = RaplMeter(tmp_path)
    put(tmp_path, "intel-rapl:0", uj=3_000_000)
    put(tmp_path, "intel-rapl:1", uj=4_000_000)
    assert meter.read(USE).energy_mj == 7_000


def test_domain_that_cannot_be_read_moves_no_other(root, monkeypatch):
    put(root, "intel-rapl:1", "package-1", 0)
    meter = RaplMeter(root)
    put(root, "intel-rapl:0", uj=11_000_000)
    (root / "intel-rapl:1" / "energy_uj").rename(root / "away")
    with pytest.raises(NotFoundError, match=r"intel-rapl:1/energy_uj is not there"):
        meter.read(USE)
    (root / "away").rename(root / "intel-rapl:1" / "energy_uj")
    put(root, "intel-rapl:1", uj=5_000_000)
    assert meter.read(USE).energy_mj == 15_000


def test_domain_of_an_unknown_kind_is_not_guessed(root):
    put(root, "intel-rapl:1", "accelerator", 0)
    with pytest.raises(EcoRayError, match=r"holds 'accelerator', no domain that we know"):
        RaplMeter(root)


def test_idle_is_the_lowest_power_seen_and_never_above_the_curve(root):
    meter = RaplMeter(root, idle_w=25.0)
    counter_uj = 1_000_000
    idle_mj = []
    for power_w in (30, 20, 40, 0, 60):
        counter_uj += power_w * 1_000_000
        put(root, "intel-rapl:0", uj=counter_uj)
        idle_mj.append(meter.read(USE).idle_mj)
    assert idle_mj == pytest.approx([25_000, 20_000, 20_000, 0, 20_000])


def test_machine_without_rapl(tmp_path):
    assert not RaplMeter.available(tmp_path / "nothing")
    with pytest.raises(NotFoundError, match=r"no RAPL domain under .*; use a power curve"):
        RaplMeter(tmp_path)


def forbid(monkeypatch, forbidden: str) -> None:
    """chmod does not stop root, who runs the tests in a container."""
    read_text = Path.read_text

    def refuse(self: Path, *args, **kwargs) -> str:
        if self.name == forbidden:
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)


def test_permission_denied_says_the_cure(root, monkeypatch):
    forbid(monkeypatch, "energy_uj")
    assert not RaplMeter.available(root)
    with pytest.raises(NotAllowedError, match=r"energy_uj may not be read .*sudo chmod a\+r .*udev"):
        RaplMeter(root)


@pytest.mark.parametrize("content", ["", "-5", "12.5", "nan", "0x10", "9" * 50 + "x"])
def test_garbage_in_a_counter_is_an_error(root, content):
    put(root, "intel-rapl:0", uj=content)
    with pytest.raises(EcoRayError, match="not a count in microjoules"):
        RaplMeter(root)


def test_node_uses_rapl_and_falls_back_flagged_when_it_is_taken_away(root, monkeypatch):
    meter = open_meter(CURVE, rapl_root=root, nvml=NO_GPU)
    put(root, "intel-rapl:0", uj=16_000_000)
    first = meter.read(USE)
    assert (first.energy_mj, first.idle_mj, first.nature) == (15_000, 10_000, Nature.MEASURED)
    with monkeypatch.context() as context:
        forbid(context, "energy_uj")
        second = meter.read(USE)
    # a quarter of the load: 10 + 0.25 x 40 W
    assert (second.energy_mj, second.nature, second.flags) == (20_000, Nature.MODELLED, ("rapl-unreadable",))


def test_node_that_may_not_read_rapl_is_modelled(root, monkeypatch):
    forbid(monkeypatch, "energy_uj")
    assert open_meter(CURVE, rapl_root=root, nvml=NO_GPU).name == "modelled"


def test_a_container_is_told_where_the_files_of_its_host_are() -> None:
    asked = [sys.executable, "-c", "from eco_ray.power.rapl import POWERCAP; print(POWERCAP)"]
    for given, found in (("/host/sys/class/powercap", "/host/sys/class/powercap"), ("", "/sys/class/powercap")):
        env = {**os.environ, "ECO_RAY_POWERCAP_DIR": given}
        assert subprocess.run(asked, env=env, capture_output=True, text=True, check=True).stdout.strip() == found
