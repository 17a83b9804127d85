"""Embodied carbon and electronic waste, from the table to the part of a machine that was held."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from planning_cases import CONFIG, a_job, a_node, a_situation, a_spec, hourly

from eco_ray.core.embodied import FACTORS, LIFETIME_YEARS, YEAR_S, Embodied, of_devices, reserved_share
from eco_ray.core.emissions import ewaste_g, market_g, operational_g
from eco_ray.core.identities import energy_is_power_times_time, fleet_is_sum_of_servers
from eco_ray.core.planner import plan_job
from eco_ray.core.units import MJ_PER_KWH, Nature
from eco_ray.errors import EcoRayError, UsageError

H = 3600.0


def test_an_h100_gpu_hour_is_25_g():
    """(164 + 5700 / 8) kg over 4 years: one of eight GPUs with an eighth of the CPUs, for an hour."""
    node = of_devices([("nvidia-h100-sxm", 8), ("aws-p5-host", 1)], 1.0, LIFETIME_YEARS)
    assert (node.gpus_kg, node.host_kg, node.kg) == (1312.0, 5700.0, 7012.0)
    assert node.use_g(H, 1 / 8, 1 / 8) == pytest.approx(25.0, abs=0.05)
    assert node.use_g(H, 1.0, 1.0) == pytest.approx(7_012_000 / (4 * 8760))
    assert (node.min_kg, node.max_kg) == (pytest.approx(8 * 164 + 5115), pytest.approx(8 * 575.1 + 11_200))
    assert node.mass_g is None  # nobody publishes what the host weighs
    assert node.nature is Nature.MODELLED


def test_all_holders_together_carry_no_more_than_the_node():
    node = of_devices([("nvidia-a100-sxm", 4), ("generic-server", 1)], 1.0, 4.0)
    # one holds all GPUs and no CPU, the other all CPUs and no GPU
    parts = [node.use_g(H, 0.0, 1.0), node.use_g(H, 1.0, 0.0)]
    assert parts == pytest.approx([(4 * 127.6 + 500) * 1000 / (4 * 8760), 500_000 / (4 * 8760)])
    assert sum(parts) == pytest.approx(node.use_g(H, 1.0, 1.0))
    assert reserved_share(0.25, None) == 0.25


def test_a_part_of_a_server_without_gpus():
    node = of_devices([("generic-server", 1)], 0.25, 5.0)
    assert (node.kg, node.lifetime_years, node.nature) == (250.0, 5.0, Nature.ASSUMED)
    assert node.use_g(2 * H, 0.5, None) == pytest.approx(250_000 / (5 * 8760) * 2 * 0.5)
    assert node.source.startswith("0.25 of 1 x generic-server (Cloud Carbon Footprint")
    assert (node.min_kg, node.max_kg) == (None, None)  # no range is published for it


def test_a_range_and_a_mass_need_those_of_every_device():
    gpus = of_devices([("nvidia-h100-sxm", 8)], 1.0, 4.0)
    assert (gpus.mass_g, gpus.min_kg) == (8 * 1690.0, 8 * 164.0)
    mixed = of_devices([("nvidia-h100-sxm", 8), ("nvidia-l4", 1)], 1.0, 4.0)
    assert (mixed.mass_g, mixed.min_kg, mixed.max_kg) == (8 * 1690.0 + 142, None, None)


def test_unknown_devices_name_the_table():
    with pytest.raises(UsageError, match=r"unknown device 'tpu': one of nvidia-h100-sxm, .* or give kg and source"):
        of_devices([("tpu", 1)], 1.0, 4.0)


@pytest.mark.parametrize("factor", FACTORS.values(), ids=FACTORS)
def test_each_factor_is_cited_and_within_its_range(factor):
    assert factor.kg > 0
    assert len(factor.source) > 10
    assert 2015 <= factor.year <= 2026
    assert factor.nature is not Nature.MEASURED  # life cycles are modelled, also by their makers
    low, high = factor.min_kg or factor.kg, factor.max_kg or factor.kg
    assert low <= factor.kg <= high
    assert (factor.min_kg is None) == (factor.max_kg is None)


def test_waste_of_an_h100_year():
    """1690 g over 5 years: 338 g in each; none of what is used again."""
    assert ewaste_g(1690.0, 5 * YEAR_S, YEAR_S) == pytest.approx(338.0)
    assert ewaste_g(1690.0, 5 * YEAR_S, YEAR_S, share=0.5, reuse=0.2) == pytest.approx(338 * 0.5 * 0.8)
    node = Embodied(0.0, 164.0, "x", Nature.MODELLED, mass_g=1690.0, lifetime_years=5.0)
    assert node.waste_g(YEAR_S, 1.0, 1.0) == pytest.approx(338.0)
    assert Embodied(1.0, 0.0, "x", Nature.MODELLED).waste_g(H, 1.0, None) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ewaste_g(-1, 1, 1), r"mass \[g\] is -1"),
        (lambda: ewaste_g(1, 0, 1), "lifetime 0 s must be > 0; 4 years"),
        (lambda: ewaste_g(1, 1, math.nan), "time in use"),
        (lambda: ewaste_g(1, 1, 1, 2), "reserved share 2"),
        (lambda: ewaste_g(1, 1, 1, 1, 1.5), r"reused part 1.5 is outside \[0, 1\]"),
        (lambda: market_g(1, -3), "carbon intensity"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(EcoRayError, match=message):
        call()


def test_market_based_stands_beside_location_based():
    assert market_g(MJ_PER_KWH, 30.0, 1.2) == pytest.approx(36.0)
    assert operational_g(MJ_PER_KWH, 300.0, 1.2) == pytest.approx(360.0)


@pytest.mark.parametrize(
    ("energy_mj", "intervals", "metered_s", "power_w", "gap_rel"),
    [
        (150_000, [(0, 10, 100_000), (10, 20, 50_000)], 20, 7.5, 0),
        (150_000, [(0, 10, 100_000), (0, 10, 50_000)], 10, 15.0, 0),  # two nodes at once: power adds up, time does not
        (150_000, [(0, 10, 100_000), (30, 40, 50_000)], 20, 7.5, 0),  # a pause has no power and no time
        (0, [], 0, 0.0, 0),
        (300_000, [(0, 10, 100_000), (10, 20, 50_000)], 20, 7.5, 0.5),  # the ledger's sum is not that of its rows
    ],
)
def test_energy_is_power_times_time(energy_mj, intervals, metered_s, power_w, gap_rel):
    found = energy_is_power_times_time(energy_mj, intervals, metered_s)
    assert found.inputs["power_w"] == pytest.approx(power_w)
    assert found.gap_rel == pytest.approx(gap_rel, abs=1e-12)
    assert found.left == energy_mj / 1000


def test_energy_of_a_moment_is_told_apart():
    found = energy_is_power_times_time(70_000, [(0, 10, 50_000), (5, 5, 20_000)], 10)
    assert (found.left, found.right) == (70.0, pytest.approx(70.0))
    assert found.inputs == {"power_w": 5.0, "metered_s": 10, "moments_j": 20.0}


def test_the_fleet_is_the_sum_of_its_servers():
    found = fleet_is_sum_of_servers({"j1": 1.0, "j2": 2.0, "": 4.0}, {"a": 3.0, "b": 4.0})
    assert (found.left, found.right, found.gap_rel, found.inputs) == (7.0, 7.0, 0.0, {"servers": 2.0})
    assert fleet_is_sum_of_servers({"j1": 1.0}, {"a": 3.0, "b": 1.0}).gap_rel == 0.75
    assert fleet_is_sum_of_servers({}, {}).gap_rel == 0.0


@pytest.mark.parametrize("kg", [0.0, 1e9])
def test_no_plan_looks_at_embodied_carbon(kg):
    """It is sunk: a machine whose making emitted a million tonnes is chosen all the same where it emits less now."""
    series = hourly("DE", 300, 200, 400, 100, 300), hourly("FR", 310, 90, 300, 300, 300)
    plain = [a_node("de-1", "DE"), a_node("fr-1", "FR")]
    heavy = [plain[0], replace(plain[1], embodied=Embodied(kg, 0.0, "x", Nature.ASSUMED))]
    for spec in (a_spec(1, 5), a_spec(2, 5), a_spec(3, 3)):
        plans = [plan_job(a_job(spec), a_situation(*series, nodes=nodes), CONFIG) for nodes in (plain, heavy)]
        assert plans[0] == plans[1]
        assert any(segment.node == "fr-1" for segment in plans[0].segments)
