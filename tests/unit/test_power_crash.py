"""Real processes that are killed while they hold a power limit; the stand-in for the GPU outlives them in a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_GPU = {"uuid": "GPU-a", "name": "H200", "limit_w": 650.0, "default_w": 700.0, "min_w": 200.0, "max_w": 700.0}
_OPEN = f"""
import sys, time
from pathlib import Path
from fake_nvml import FakeNvml
from eco_ray.power.capping import open_control
folder = Path(sys.argv[1])
nvml = FakeNvml({_GPU!r} | {{"clocks_mhz": [345, 1980]}}, state=folder / "gpu.json")
control = open_control(folder / "journal.json", nvml)
"""
_HOLD = """
with control:
    control.set_limit("GPU-a", 300)
    control.lock_clocks("GPU-a", 345, 1200)
    print("capped", flush=True)
    time.sleep(60)
"""
_RECOVER = """
with control:
    print(control.devices()[0].limit_w)
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    tests = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", _OPEN + code, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def gpu(folder: Path) -> dict:
    return json.loads((folder / "gpu.json").read_text())[0]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_limit_of_a_killed_process_is_given_back(tmp_path, by):
    holder = start(_HOLD, tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "capped\n"
    assert gpu(tmp_path) == {"limit_w": 300.0, "locked": [345, 1200]}
    holder.send_signal(by)
    code = holder.wait(timeout=30)
    if by == signal.SIGTERM:
        assert code == 143
    else:
        # nobody could give it back, and the journal says what was before
        assert code == -signal.SIGKILL
        assert gpu(tmp_path)["limit_w"] == 300.0
        entry = json.loads((tmp_path / "journal.json").read_text())["devices"]["GPU-a"]
        assert (entry["limit_w"], entry["clocks"]) == (650.0, True)
        second = start(_RECOVER, tmp_path)
        assert second.communicate(timeout=30)[0] == "650.0\n"
    assert gpu(tmp_path) == {"limit_w": 650.0, "locked": None}
    assert not (tmp_path / "journal.json").exists()
