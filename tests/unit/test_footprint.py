"""The footprint of a request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eco_ray.core.footprint import ReplicaPower, Signal, request_footprint
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError

CURVE = PowerCurve((0.0, 1.0), (40.0, 100.0), "test")
#: 60 W over 4 CPUs: 15 W for a busy one; 1 of 4 CPUs reserved: 10 W of idle power
POWER = ReplicaPower(CURVE, cpus=4.0, reserved_cpus=1.0, pue=1.0, clock_speed=1.0)
SIGNAL = Signal("DE", 360.0, "test")


@pytest.mark.parametrize(
    ("cpu_s", "duration_s", "power", "energy_j"),
    [
        (0.2, 0.5, POWER, 0.2 * 15 + 0.5 * 10),
        (0.0, 0.5, POWER, 5.0),  # it waited: the reservation costs all the same
        (0.2, 0.5, replace(POWER, reserved_cpus=0.0), 3.0),
        (0.2, 0.5, replace(POWER, reserved_cpus=9.0), 3.0 + 0.5 * 40),  # never more than the whole node
        (0.2, 0.5, replace(POWER, clock_speed=600.0), 600 * 8.0),
        (0.2, 0.5, replace(POWER, pue=1.5), 8.0),  # PUE is in the grams only
        (0.0, 0.0, POWER, 0.0),
    ],
)
def test_energy(cpu_s, duration_s, power, energy_j):
    found = request_footprint(cpu_s, duration_s, power, SIGNAL)
    assert found.energy_j == pytest.approx(energy_j)
    assert found.carbon_g == pytest.approx(energy_j / 3.6e6 * 360 * power.pue)
    assert found.avg_power_w == pytest.approx(energy_j / power.clock_speed / duration_s if duration_s else 0)


def test_requests_of_one_batch_share_its_energy():
    whole = request_footprint(0.2, 0.5, POWER, SIGNAL)
    parts = [request_footprint(0.2, 0.5, POWER, SIGNAL, share) for share in (0.25, 0.25, 0.5)]
    assert [part.energy_j for part in parts] == pytest.approx([2.0, 2.0, 4.0])
    assert sum(part.energy_j for part in parts) == pytest.approx(whole.energy_j)
    assert sum(part.carbon_g for part in parts) == pytest.approx(whole.carbon_g)
    assert {part.duration_s for part in parts} == {0.5}
    for share in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(EcoRayError, match="of the batch is outside"):
            request_footprint(0.2, 0.5, POWER, SIGNAL, share)


@pytest.mark.parametrize(
    ("nature", "weakest"),
    [(Nature.MEASURED, "modelled"), (Nature.MODELLED, "modelled"), (Nature.ASSUMED, "assumed")],
)
def test_its_nature_is_that_of_its_weakest_part(nature, weakest):
    power = replace(POWER, curve=replace(CURVE, nature=nature))
    assert request_footprint(0.2, 0.5, power, SIGNAL).nature == weakest


@pytest.mark.parametrize(
    ("gpu_w", "added_w", "method", "nature"),
    [
        (0.0, 0.0, "cpu-time", "modelled"),
        (300.0, 300.0, "cpu-time and gpu-power", "modelled"),
        (None, 0.0, "cpu-time, GPUs unknown", "assumed"),
    ],
)
def test_gpus_are_charged_for_all_of_the_time_by_the_share_of_the_batch(gpu_w, added_w, method, nature):
    power = replace(POWER, gpu_w=gpu_w, clock_speed=60.0)
    found = request_footprint(0.2, 0.5, power, SIGNAL, 0.25)
    assert found.energy_j == pytest.approx((8.0 + 0.5 * added_w) * 0.25 * 60)
    assert found.avg_power_w == pytest.approx((16.0 + added_w) * 0.25)
    assert (found.to_json()["attribution_method"], str(found.nature)) == (method, nature)


def test_as_json_and_as_a_header():
    found = request_footprint(0.2, 0.5, POWER, SIGNAL)
    assert found.to_json() == {
        "energy_joules": 8.0,
        "energy_kwh": 2.22e-06,  # 3 digits
        "avg_power_watts": 16.0,
        "duration_seconds": 0.5,
        "attribution_method": "cpu-time",
        "carbon_g_co2eq": pytest.approx(0.0008),
        "nature": "modelled",
        "boundary": "operational",
        "grid_zone": "DE",
        "intensity_gco2e_per_kwh": 360.0,
    }
    assert found.to_header() == (
        'energy-j=8, carbon-g=0.0008, intensity=360, grid-zone="DE", nature=modelled, boundary=operational'
    )


def test_where_the_intensity_is_unknown_the_grams_are():
    found = request_footprint(0.2, 0.5, POWER, Signal("DE", None, "none"))
    assert found.carbon_g is None
    assert found.to_json()["carbon_g_co2eq"] is None
    assert found.to_header() == 'energy-j=8, grid-zone="DE", nature=modelled, boundary=operational'
