"""Power limits and clocks as knobs, on devices in memory, and in processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eco_ray.core.ports import PowerDevice
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.power.capping import JournalledControl
from eco_ray.power.knobs import GpuClock, GpuPowerLimit, open_gpu_knob
from eco_ray.power.memory_hardware import MemoryHardware

H200 = PowerDevice("GPU-a", 0, "H200", 650, 700, 200, 700, (345, 1980))
SMALL = PowerDevice("GPU-b", 1, "L4", 72, 72, 40, 72, None)
OTHER = PowerDevice("GPU-c", 2, "H200", 700, 700, 200, 600, (500, 1900))


def control(tmp_path, hardware):
    return JournalledControl(hardware, tmp_path / "journal.json", boot_id="b")


def limits_w(hardware):
    return [device.limit_w for device in hardware.devices()]


def test_limits_go_from_the_highest_to_the_lowest_that_all_take(tmp_path):
    hardware = MemoryHardware(H200, SMALL, OTHER)
    assert GpuPowerLimit(control(tmp_path, hardware), ["GPU-b"], 10).settings() == [72, 62, 52, 42]
    knob = GpuPowerLimit(control(tmp_path, hardware), ["GPU-a", "GPU-c"], 200)
    assert knob.settings() == [600, 400, 200]
    assert (knob.max_power_w, knob.hardware) == (1300, "2 x H200")
    assert GpuPowerLimit(control(tmp_path, hardware), ["GPU-a", "GPU-b"]).settings() == ()


def test_limits_are_given_back(tmp_path):
    hardware = MemoryHardware(H200, SMALL, OTHER)
    knob = GpuPowerLimit(control(tmp_path, hardware), ["GPU-a", "GPU-c"])

    def fails_with(limits):
        with knob:
            for setting in limits:
                knob.turn(setting)
                assert limits_w(hardware) == [setting, 72, setting]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails_with(knob.settings())
    assert limits_w(hardware) == [650, 72, 700]


def test_clocks_are_locked_from_above_and_unlocked(tmp_path):
    hardware = MemoryHardware(H200, SMALL, OTHER)
    with GpuClock(control(tmp_path, hardware), ["GPU-a", "GPU-c"], 3) as knob:
        assert knob.settings() == [1900, 1200, 500]
        knob.turn(1200)
        assert hardware.locked_mhz == {"GPU-a": (500, 1200), "GPU-c": (500, 1200)}
    assert hardware.locked_mhz == {}


def test_what_cannot_be_turned_is_an_error(tmp_path):
    hardware = MemoryHardware(H200, SMALL)
    with pytest.raises(NotFoundError, match="no GPU GPU-z"):
        GpuPowerLimit(control(tmp_path, hardware), ["GPU-z"])
    with pytest.raises(NotFoundError):
        GpuPowerLimit(control(tmp_path, hardware), [])
    with pytest.raises(EcoRayError, match="limit its power instead"):
        GpuClock(control(tmp_path, hardware), ["GPU-b"])
    with pytest.raises(UsageError):
        GpuPowerLimit(control(tmp_path, hardware), ["GPU-a"], 0)
    with pytest.raises(UsageError):
        GpuClock(control(tmp_path, hardware), ["GPU-a"], 1)


def test_without_gpus_there_is_a_knob_that_says_why(monkeypatch):
    def no_driver():
        raise NotFoundError("no NVIDIA driver")

    monkeypatch.setattr("eco_ray.power.knobs.open_control", no_driver)
    with open_gpu_knob(["GPU-a"]) as knob, pytest.raises(NotFoundError, match="no NVIDIA driver"):
        knob.settings()


_TRAIN = """
import sys, time
from pathlib import Path
from fake_nvml import FakeNvml
from eco_ray.core.ports import WorkEnergy
from eco_ray.core.units import Nature
from eco_ray.power.capping import open_control
from eco_ray.power.knobs import GpuPowerLimit
from eco_ray.train.power_limit import PowerLimitOptimizer

folder = Path(sys.argv[1])
gpu = {"uuid": "GPU-a", "name": "H200", "limit_w": 650.0, "default_w": 700.0, "min_w": 200.0, "max_w": 700.0}
control = open_control(folder / "journal.json", FakeNvml(gpu, state=folder / "gpu.json"))

class Meter:
    def lap(self):
        return WorkEnergy(1.0, 0.0, 1.0, Nature.MEASURED, "test", 0.05)

knob = GpuPowerLimit(control, ["GPU-a"], 250)
with PowerLimitOptimizer(knob, Meter(), warm_up_steps=0, steps=1, at_least_s=0) as power:
    power.step()
    print(power.setting, flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    tests = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", _TRAIN, str(folder), str(seconds)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_the_limit_of_a_training_that_is_killed_is_given_back(tmp_path, by):
    holder = start(tmp_path, 60)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "450.0\n"
    holder.send_signal(by)
    holder.wait(timeout=30)
    limit_w = json.loads((tmp_path / "gpu.json").read_text())[0]["limit_w"]
    if by == signal.SIGKILL:
        assert limit_w == 450  # nobody could give it back: the next training does
        second = start(tmp_path, 0)
        second.communicate(timeout=30)
        limit_w = json.loads((tmp_path / "gpu.json").read_text())[0]["limit_w"]
    assert limit_w == 650
