"""What a machine can tell of its energy, and what would make it tell more."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_nvml import FakeNvml

from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.errors import NotFoundError
from eco_ray.power import probe as room
from eco_ray.power.nvml import NvmlMeter
from eco_ray.power.probe import probe

CURVE = PowerCurve((0.0, 1.0), (10.0, 20.0), "a table", error_rel=0.4)


def rapl(root: Path, **names: str) -> Path:
    """Domains by their numbers, `_` for `:`; without any, a package with its memory."""
    for number, label in (names or {"n0": "package-0", "n0_0": "dram"}).items():
        domain = root / f"intel-rapl:{number[1:].replace('_', ':')}"
        domain.mkdir()
        for name, text in {"name": label, "energy_uj": "5", "max_energy_range_uj": "1000"}.items():
            (domain / name).write_text(text)
    return root


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_nvml: object) -> None:
        raise NotFoundError("no NVIDIA driver: install it")

    monkeypatch.setattr(room, "NvmlMeter", none)


def test_rapl_measures_a_whole_machine(tmp_path: Path, no_driver: None) -> None:
    host, gpus = probe(CURVE, rapl_root=rapl(tmp_path))
    assert (host.how, host.error_pct, host.better) == ("measured", 5.0, "")
    assert (gpus.how, gpus.better) == ("none", "")


def test_memory_that_rapl_does_not_count_is_missing(tmp_path: Path, no_driver: None) -> None:
    cpus, memory, _ = probe(CURVE, rapl_root=rapl(tmp_path, n0="package-0", n0_0="core"))
    assert (cpus.part, cpus.how, cpus.error_pct) == ("CPUs", "measured", 5.0)
    assert (memory.part, memory.how, memory.error_pct) == ("memory", "missing", None)
    assert "W per GB" in memory.better


def test_psys_has_the_memory_in_it(tmp_path: Path, no_driver: None) -> None:
    host, _ = probe(CURVE, rapl_root=rapl(tmp_path, n0="package-0", n1="psys"))
    assert (host.part, host.how) == ("CPUs and memory", "measured")


def test_a_node_that_shares_its_machine_is_modelled_and_says_why(tmp_path: Path, no_driver: None) -> None:
    host, _ = probe(CURVE, rapl_root=rapl(tmp_path), whole_machine=False)
    assert (host.how, host.source, host.error_pct) == ("modelled", "a table", 40.0)
    assert host.better.startswith("it shares its machine")


def test_without_rapl_the_model_says_what_would_help(tmp_path: Path, no_driver: None) -> None:
    host, _ = probe(CURVE, rapl_root=tmp_path)
    assert host.how == "modelled"
    assert "no RAPL domain" in host.better
    assert "cluster file" in host.better


def test_an_assumed_curve_is_said_to_be_one(tmp_path: Path, no_driver: None) -> None:
    guess = PowerCurve((0.0, 1.0), (10.0, 20.0), "average", Nature.ASSUMED)
    assert probe(guess, rapl_root=tmp_path)[0].how == "assumed"


def test_gpus_that_ray_counts_and_nothing_meters_are_missing(tmp_path: Path, no_driver: None) -> None:
    _, gpus = probe(CURVE, rapl_root=tmp_path, gpus=2)
    assert (gpus.how, gpus.error_pct) == ("missing", None)
    assert "2 GPUs" in gpus.source
    assert "install" in gpus.better


COUNTER: dict[str, object] = {"energy_mj": 1000, "uuid": "GPU-a"}
POWER: dict[str, object] = {"power_w": 300, "uuid": "GPU-b"}
SILENT: dict[str, object] = {"uuid": "GPU-c"}


@pytest.mark.parametrize(
    ("gpus", "how", "error_pct", "better"),
    [
        ([COUNTER], "measured", 5.0, ""),
        ([POWER], "measured", 15.0, ""),
        ([COUNTER, POWER], "measured", 15.0, ""),
        ([COUNTER, SILENT], "measured", 5.0, "GPU 1 tells neither"),
        ([SILENT], "missing", None, "GPU 0 tells neither"),
    ],
)
def test_gpus_are_known_as_well_as_nvml_tells_them(
    tmp_path: Path, gpus: list[dict[str, object]], how: str, error_pct: float | None, better: str
) -> None:
    nvml = FakeNvml(*(dict(gpu) for gpu in gpus))
    found = probe(CURVE, rapl_root=tmp_path, gpus=len(gpus), nvml=nvml)[-1]
    assert (found.how, found.error_pct) == (how, pytest.approx(error_pct))
    assert found.better.startswith(better)
    assert bool(found.better) is bool(better)
    assert nvml.opened == 0
    if how == "measured":
        # as the meter itself has it in a reading
        assert NvmlMeter(nvml).error_rel == pytest.approx(found.error_pct / 100 if found.error_pct else None)


def test_gpus_of_a_shared_machine_are_missing(tmp_path: Path) -> None:
    assert probe(CURVE, rapl_root=tmp_path, gpus=1, whole_machine=False, nvml=FakeNvml(COUNTER))[-1].how == "missing"
