"""`eco-ray power limits|cap|restore` on a stand-in for the driver; and what eco_ray.power imports."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from fake_nvml import FakeNvml

from eco_ray.cli.main import cli
from eco_ray.errors import NotAllowedError, UsageError


@pytest.fixture
def nvml(monkeypatch):
    gpu = {"uuid": "GPU-a", "name": "H200", "limit_w": 700.0, "default_w": 700.0, "min_w": 200.0, "max_w": 700.0}
    fake = FakeNvml(gpu)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def run(*args: str):
    return CliRunner().invoke(cli, ["power", *args], catch_exceptions=False, standalone_mode=False)


def gpus(result) -> list[dict]:
    return json.loads(result.stdout)["gpus"]


def test_limit_is_set_shown_and_given_back(nvml, tmp_path):
    journal = str(tmp_path / "journal.json")
    assert gpus(run("limits", "-o", "json"))[0] == {
        "gpu": "GPU-a",
        "index": 0,
        "name": "H200",
        "limit_w": 700.0,
        "default_w": 700.0,
        "min_w": 200.0,
        "max_w": 700.0,
        "min_mhz": None,
        "max_mhz": None,
    }
    capped = run("cap", "--gpu", "0", "--watts", "450", "--journal", journal, "-o", "json")
    assert gpus(capped)[0]["limit_w"] == 450
    assert nvml.gpus[0]["limit_w"] == 450  # it stays after the command
    assert json.loads(run("restore", "--journal", journal, "-o", "json").stdout) == {"restored": ["GPU-a"]}
    assert nvml.gpus[0]["limit_w"] == 700
    assert "nothing to give back" in run("restore", "--journal", journal).stderr
    assert nvml.opened == 0


def test_refusals_say_the_range_and_the_cure(nvml, tmp_path):
    journal = str(tmp_path / "journal.json")
    with pytest.raises(UsageError, match=r"Power 900 W is outside \[200, 700\] W of 'H200'"):
        run("cap", "--gpu", "GPU-a", "--watts", "900", "--journal", journal)
    nvml.root = False
    with pytest.raises(NotAllowedError, match="only be set by root"):
        run("cap", "--gpu", "GPU-a", "--watts", "300", "--journal", journal)


def test_the_room_needs_neither_ray_nor_a_driver():
    code = (
        "import sys; import eco_ray.power as power; "
        "meter = power.open_meter(power.curve_from_tdp(100)); power.open_control; "
        "from eco_ray.power import codecarbon_check, memory_hardware; "
        "print(sorted({'ray', 'torch', 'codecarbon'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    with pytest.raises(ImportError, match="nonsense"):
        from eco_ray.power import nonsense  # noqa: F401  it must not be there
