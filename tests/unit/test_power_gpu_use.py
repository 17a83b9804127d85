"""Which processes used a GPU: by utilisation, in equal parts, in MIG devices; and GPUs that come and go."""

from __future__ import annotations

import os

import pytest
from fake_nvml import FakeNvml

from eco_ray.core.ports import CpuUse
from eco_ray.power._gpu_use import GpuUse
from eco_ray.power.nvml import NvmlMeter

USE = CpuUse(cpu_s=0.5, wall_s=2.0, cpus=2)


def meter_of(*gpus: dict) -> tuple[FakeNvml, NvmlMeter]:
    nvml = FakeNvml(*gpus)
    return nvml, NvmlMeter(nvml, known_pid=lambda pid: True)


def test_utilisation_times_time_by_process():
    nvml, meter = meter_of({"uuid": "GPU-a", "energy_mj": 0}, {"energy_mj": 0})
    nvml.gpus[0]["energy_mj"] = 500_000
    # the newest sample of each process counts, and one that used nothing is not named
    nvml.gpus[0]["utilisation"] = [(7, 100, 10), (7, 300, 60), (8, 300, 30), (9, 300, 0)]
    reading = meter.read(USE)
    first, second = reading.gpus
    assert (first.gpu, first.energy_mj, first.busy_s) == ("GPU-a", 500_000, pytest.approx({7: 1.2, 8: 0.6}))
    assert (second.gpu, second.energy_mj, second.busy_s) == ("index-1", 0, {})
    assert (first.index, second.index) == (0, 1)
    assert (reading.flags, reading.source) == ((), "nvml: energy counter of 2 GPU")


def test_idle_gpu_is_used_by_nobody_whatever_was_before():
    _, meter = meter_of({"energy_mj": 0, "utilisation": [(7, 100, 50)]})
    assert meter.read(USE).gpus[0].busy_s == {7: 1.0}
    assert meter.read(USE).gpus[0].busy_s == {}  # the same sample is not new


def test_intervals_shorter_than_the_drivers_sample_keep_the_last_one():
    _, meter = meter_of({"energy_mj": 0, "utilisation": [(7, 100, 50)]})
    short = CpuUse(0, 0.4, 2)
    parts = [meter.read(short).gpus[0].busy_s for _ in range(4)]
    assert parts == [{7: pytest.approx(0.2)}, {7: pytest.approx(0.2)}, {7: pytest.approx(0.2)}, {}]


def test_samples_go_on_after_the_clock_was_put_back():
    nvml = FakeNvml({"utilisation": [(7, 5_000_000_000, 50)]})
    clock = [5000.0]
    use = GpuUse(nvml, "gpu-0", lambda pid: True, lambda: clock[0])
    assert use.read(nvml.gpus[0], 2.0, []) == {7: 1.0}
    clock[0] = 1000.0
    nvml.gpus[0]["utilisation"] = [(7, 1_000_000_000, 50)]
    flags: list[str] = []
    assert use.read(nvml.gpus[0], 2.0, flags) == {7: 1.0}
    assert flags == ["clock-jump"]


def test_equal_parts_where_the_driver_does_not_tell():
    _, meter = meter_of({"energy_mj": 0, "utilisation": None, "processes": [7, 8, 9, 10]}, {"energy_mj": 0})
    reading = meter.read(USE)
    assert reading.gpus[0].busy_s == {7: 0.5, 8: 0.5, 9: 0.5, 10: 0.5}
    assert reading.source == "nvml: energy counter of 2 GPU, use by equal parts on 1 GPU"
    assert reading.flags == ()


def test_mig_devices_count_by_their_sms():
    # half of the GPU with two processes, a quarter with one; a quarter is not given out
    devices = [{"sms": 66, "processes": [7, 8]}, {"sms": 33, "processes": [9]}]
    nvml, meter = meter_of({"energy_mj": 0, "sms": 132, "mig": devices, "utilisation": None})
    nvml.gpus[0]["energy_mj"] = 100_000
    reading = meter.read(USE)
    assert reading.gpus[0].energy_mj == 100_000  # one source of energy
    assert reading.gpus[0].busy_s == pytest.approx({7: 0.5, 8: 0.5, 9: 0.5})
    assert reading.source == "nvml: energy counter of 1 GPU, use by equal parts of each MIG device on 1 GPU"
    assert reading.flags == ()


def test_mig_without_the_size_of_the_gpu_is_measured_against_its_devices_and_flagged():
    devices = [{"sms": 66, "processes": [7]}, {"sms": 33, "processes": [9]}]
    _, meter = meter_of({"energy_mj": 0, "mig": devices})
    reading = meter.read(CpuUse(0, 3.0, 1))
    assert reading.gpus[0].busy_s == pytest.approx({7: 2.0, 9: 1.0})
    assert reading.flags == ("gpu-0-mig-size-unknown",)


def test_processes_never_have_more_time_than_there_was():
    _, meter = meter_of({"energy_mj": 0, "utilisation": [(7, 1, 100), (8, 1, 100)]})
    reading = meter.read(USE)
    assert reading.gpus[0].busy_s == {7: 1.0, 8: 1.0}
    assert reading.flags == ("gpu-0-use-above-capacity",)


def test_process_of_another_namespace_keeps_its_part_and_is_flagged():
    nvml = FakeNvml({"energy_mj": 0, "utilisation": [(os.getpid(), 1, 50), (2**22 + 1, 1, 50)]})
    reading = NvmlMeter(nvml).read(USE)
    assert reading.gpus[0].busy_s == {os.getpid(): 1.0, 2**22 + 1: 1.0}
    assert reading.flags == ("gpu-0-unknown-pid",)


def test_gpu_that_is_lost_is_flagged_and_the_others_go_on():
    nvml, meter = meter_of({"uuid": "GPU-a", "energy_mj": 0}, {"uuid": "GPU-b", "energy_mj": 0})
    nvml.gpus[0]["lost"] = True
    nvml.gpus[1]["energy_mj"] = 9_000
    reading = meter.read(USE)
    assert [(gpu.gpu, gpu.energy_mj) for gpu in reading.gpus] == [("GPU-a", 0), ("GPU-b", 9_000)]
    assert reading.flags == ("gpu-0-unreadable",)


def test_gpu_that_is_lost_at_the_start_joins_when_it_is_back():
    nvml, meter = meter_of({"uuid": "GPU-a", "energy_mj": 1, "lost": True}, {"uuid": "GPU-b", "energy_mj": 0})
    assert meter.read(USE).flags == ("gpu-0-unreadable",)
    nvml.gpus[0].update(lost=False, energy_mj=70_000)
    back = meter.read(USE)
    assert (back.gpus[0].gpu, back.gpus[0].energy_mj) == ("GPU-a", 0)  # nobody knows since when it counts
    assert back.flags == ("gpu-0-counter-new",)
    nvml.gpus[0]["energy_mj"] += 500
    assert (meter.read(USE).gpus[0].energy_mj, meter.read(USE).flags) == (500, ())


def test_gpu_that_is_added_counts_from_then_on():
    nvml, meter = meter_of({"uuid": "GPU-a", "energy_mj": 0})
    nvml.gpus.append({"uuid": "GPU-b", "energy_mj": 90_000, "utilisation": []})
    assert meter.read(USE).flags == ("gpu-1-new",)
    nvml.gpus[1]["energy_mj"] += 1_000
    second = meter.read(USE)
    assert [gpu.energy_mj for gpu in second.gpus] == [0, 1_000]
    assert second.flags == ()


def test_counter_that_goes_and_comes_is_bridged_by_power_and_counts_nothing_twice():
    nvml, meter = meter_of({"energy_mj": 0, "power_w": 100})
    nvml.gpus[0]["energy_mj"] = None
    gone = meter.read(USE)
    assert (gone.energy_mj, gone.flags) == (200_000, ("gpu-0-counter-gone",))
    nvml.gpus[0]["energy_mj"] = 400_000
    back = meter.read(USE)
    assert (back.energy_mj, back.flags) == (200_000, ("gpu-0-counter-new",))
    nvml.gpus[0]["energy_mj"] = 450_000
    assert (meter.read(USE).energy_mj, meter.read(USE).flags) == (50_000, ())


def test_power_by_the_newer_interface_where_the_older_is_refused():
    nvml, meter = meter_of({"power_field_w": 100})
    nvml.gpus[0]["power_field_w"] = 300
    reading = meter.read(USE)
    assert (reading.energy_mj, reading.source) == (400_000, "nvml: integrated power of 1 GPU")


def test_no_gpu_of_several_that_opens_is_no_meter():
    assert not NvmlMeter.available(FakeNvml({"lost": True, "energy_mj": 0}))
