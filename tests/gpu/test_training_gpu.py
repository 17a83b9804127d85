"""On a real GPU: the update job runs on CUDA, its epochs have NVML's joules, and limits are tried and given back."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eco_ray import training
from eco_ray.errors import EcoRayError, NotAllowedError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.registry import Registry
from eco_ray.models.weights import save_model
from eco_ray.power.capping import open_control
from eco_ray.power.knobs import GpuClock, GpuPowerLimit
from eco_ray.train.power_limit import PowerLimitOptimizer

pytestmark = pytest.mark.gpu
JOB = Path(__file__).resolve().parents[2] / "jobs" / "finetune_mnist.py"


@pytest.fixture(scope="module", autouse=True)
def _real_gpu():
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no GPU: install a build with CUDA")


def work(steps, power=None):
    """Multiply matrices; one sample a step."""
    matrix = torch.rand(4096, 4096, device="cuda")
    for _ in range(steps):
        for _ in range(20):
            matrix @ matrix
        if power is not None:
            power.step()
    torch.cuda.synchronize()


def test_the_update_job_runs_on_cuda_with_nvmls_joules(tmp_path):
    save_model(SmallCNN(), tmp_path / "m.safetensors", {})
    registry = Registry(str(tmp_path / "models"))
    registry.push(tmp_path / "m.safetensors", "mnist")
    command = [sys.executable, str(JOB), "mnist:1", "--epochs", "2", "--registry", str(tmp_path / "models")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    epochs = [float(joules) for joules in re.findall(r"([\d.]+) J", done.stdout)]
    assert len(epochs) == 2
    assert all(joules > 0 for joules in epochs)
    took = registry.manifest("mnist:2").training
    assert took is not None
    assert "1 whole GPU" in took.source


def test_work_on_the_gpu_has_its_energy():
    energy = training.energy()
    work(5)
    energy.lap()
    work(200)
    used = energy.lap()
    # between idle and the highest limit of any GPU
    assert 30 < used.energy_j / used.wall_s < 2000
    assert "whole GPU" in used.source


@pytest.mark.parametrize("kind", [GpuPowerLimit, GpuClock])
def test_limits_and_clocks_are_tried_where_that_is_allowed_and_given_back(kind, tmp_path):
    control = open_control(tmp_path / "journal.json")
    before = [gpu.limit_w for gpu in control.devices()]
    told = []
    meter = training.energy()
    try:
        knob = kind(control, training._own_gpus()[:1], *([4] if kind is GpuClock else [100.0]))
        with knob:
            knob.turn(knob.settings()[0])
    except NotAllowedError as error:
        pytest.skip(f"not allowed here: {error}")
    except EcoRayError as error:
        pytest.skip(f"not possible here: {error}")
    knob = kind(open_control(tmp_path / "journal.json"), training._own_gpus()[:1])
    how = {"warm_up_steps": 3, "steps": 10, "at_least_s": 0.5}
    power = PowerLimitOptimizer(
        knob, meter, training.ZeusCost(1.0), synchronize=torch.cuda.synchronize, say=told.append, **how
    )
    with power:
        for _ in range(4000):
            work(1, power)
            if not power.searching:
                break
        assert not power.searching
        fast, best = power.trials[0], min(power.trials, key=lambda one: one.j_per_sample)
        assert power.setting == best.setting
        assert best.j_per_sample <= fast.j_per_sample
    control = open_control(tmp_path / "journal.json")
    assert [gpu.limit_w for gpu in control.devices()] == before
    assert not (tmp_path / "journal.json").exists()
