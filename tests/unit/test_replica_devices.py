"""The GPUs of a replica: where its model computes, and what its part of them draws."""

from __future__ import annotations

import logging

import pytest
import torch
from fake_nvml import FakeNvml

from eco_ray.core.cluster import Resources
from eco_ray.on_ray.replica_gpus import Chosen, GpuShare, choose_device
from eco_ray.power.gpu_power import GpuPower, GpuPowers

ON_CPU = "holds 1 GPUs and computes on the CPU"


def two_gpus(**second):
    return FakeNvml({"uuid": "GPU-aaaa-1", "power_w": 300.0}, {"uuid": "GPU-bbbb-2", "power_w": 80.0, **second})


# -- where it computes -------------------------------------------------------------------------------------------------


@pytest.fixture
def with_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)


@pytest.mark.parametrize(
    ("demand", "visible", "chosen"),
    [
        (Resources(1.0), "0", Chosen("cpu")),
        (Resources(1.0, 0.5), "1", Chosen("cuda:0")),
        (Resources(1.0, 0.5, 0.0, 6.0), "1", Chosen("cuda:0", 6 * 10**9)),
        (Resources(1.0, 2.0, 0.0, 30.0), "0,1", Chosen("cuda:0", 15 * 10**9)),
        (
            Resources(1.0, 1.0),
            "",
            Chosen(device_note=f"{ON_CPU}: CUDA_VISIBLE_DEVICES names none"),
        ),
    ],
)
def test_the_first_gpu_that_ray_gave_it_with_the_memory_that_was_declared(
    demand, visible, chosen, with_cuda, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose_device(demand) == chosen


def test_a_gpu_that_only_the_cluster_speaks_of_is_the_cpu_and_said_so(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with caplog.at_level(logging.WARNING, "eco_ray.serving"):
        chosen = choose_device(Resources(1.0, 1.0, 0.0, 8.0))
    assert chosen.device == "cpu"
    assert chosen.memory_bytes is None
    assert chosen.device_note in caplog.text
    assert "install a torch with CUDA" in caplog.text
    caplog.clear()
    assert choose_device(Resources(1.0)) == Chosen()
    assert not caplog.text


# -- what its part draws -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "devices", "power_w"),
    [
        (1.0, ("0",), 300.0),
        (0.25, ("1",), 20.0),
        (0.5, ("GPU-bbbb-2",), 40.0),
        (2.0, ("0", "1"), 380.0),
        (0.0, ("0",), 0.0),
        (1.0, (), None),
        (1.0, ("7",), None),
        (2.0, ("0", "7"), None),
        (1.0, ("MIG-GPU-aaaa-1/1/0",), None),
        (1.0, ("MIG-1234",), None),
    ],
)
def test_power_of_its_part_of_its_devices(gpus, devices, power_w):
    assert GpuShare(gpus, devices, two_gpus()).power_w() == power_w


def test_a_device_that_does_not_tell_makes_all_of_it_unknown():
    silent = two_gpus(power_w=None)
    assert GpuShare(2.0, ("0", "1"), silent).power_w() is None
    assert GpuShare(1.0, ("0",), silent).power_w() == 300.0


def test_it_is_read_anew_each_time():
    nvml = two_gpus()
    share = GpuShare(0.5, ("0",), nvml)
    assert share.power_w() == 150.0
    nvml.gpus[0]["power_w"] = 600.0
    assert share.power_w() == 300.0
    nvml.gpus[0]["lost"] = True
    assert share.power_w() is None


def test_without_a_driver_it_is_unknown_and_the_log_says_why(caplog):
    with caplog.at_level(logging.WARNING, "eco_ray.serving"):
        assert GpuShare(1.0, ("0",), FakeNvml(driver=False)).power_w() is None
    assert "without the GPUs that the replica holds: no NVIDIA driver" in caplog.text
    caplog.clear()
    assert GpuShare(0.0, (), FakeNvml(driver=False)).power_w() == 0.0
    assert not caplog.text


def test_a_reader_takes_the_newer_interface_and_leaves_out_what_is_lost():
    nvml = FakeNvml(
        {"uuid": "GPU-a", "power_field_w": 120}, {"lost": True}, {"power_w": 1e9}, {"uuid": "GPU-d", "power_w": 5.5}
    )
    assert GpuPowers(nvml).read() == [
        GpuPower("GPU-a", 0, 120.0),
        GpuPower("index-2", 2, None),
        GpuPower("GPU-d", 3, 5.5),
    ]
