"""On a real GPU, with torch and pynvml alone: the counter is right, and two processes share it to the millijoule."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import gpu_energy

pytestmark = pytest.mark.gpu
SECONDS = 10.0


@pytest.fixture(scope="module", autouse=True)
def _real_gpu():
    reason = gpu_energy.why_not()
    if reason is not None:
        pytest.skip(reason)


def test_energy_counter_agrees_with_integrated_power():
    both = gpu_energy.counter_against_power(SECONDS)
    assert both.flags == ()
    if "integrated power" in both.source:
        pytest.skip("this GPU has no energy counter to compare")
    assert both.counter_j == pytest.approx(both.integrated_j, rel=gpu_energy.AGREES_REL)


def test_two_processes_split_one_gpu_exactly():
    split = gpu_energy.split_over_two(SECONDS)
    assert sum(split.by_pid_mj.values()) + split.unallocated_mj == split.energy_mj > 0
    assert len(split.by_pid_mj) == 2, split
    if "gpu-0-unknown-pid" not in split.flags:  # the driver's ids are those of this process namespace
        assert set(split.by_pid_mj) == set(split.started)
    first, second = split.by_pid_mj.values()
    assert 0.3 < first / (first + second) < 0.7  # the same work in both
    assert split.unallocated_mj < 0.3 * split.energy_mj
