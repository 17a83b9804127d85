"""How the report's numbers hold: identities, embodied carbon, SCI, the EU AI Act's fields, by hand-computed worlds."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from report_cases import KG_1000, T0, H, Meter, attempt, demo_store, job, series, world

from eco_ray.core.cluster import Resources
from eco_ray.core.embodied import of_devices
from eco_ray.core.ledger import Share
from eco_ray.report import build_report, check_report
from eco_ray.report.holds import two_figures

KWH_MJ = 3_600_000_000


def only_job(store, now_s=T0 + 24 * H):
    doc = build_report(store, now_s)
    assert check_report(doc) == []
    return doc["jobs"][0], doc


def test_energy_is_power_times_time_for_each_job():
    store = world()
    store.add_series(series("DE", [100] * 8))
    store.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + 3 * H)])])
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + H, 3_600_000, "j", 100.0)  # 1 W
    meter.charge("a", "DE", T0 + H, T0 + 2 * H, 10_800_000, "j", 100.0)  # 3 W
    meter.charge("b", "FR", T0 + H, T0 + 2 * H, 7_200_000, "j", None)  # 2 W at the same time
    row, _ = only_job(store)
    told = row["energy_identity"]
    assert (told["energy_j"], told["power_w"], told["metered_s"]) == (21_600.0, pytest.approx(3.0), 2 * H)
    assert told["power_times_time_j"] == pytest.approx(21_600.0)
    assert told["gap_rel"] < 1e-12


def test_the_fleet_is_the_sum_of_its_servers():
    doc = build_report(*demo_store())
    told = doc["fleet_identity"]
    assert told["servers"] == 3
    assert told["total_g"] == pytest.approx(told["sum_g"])
    assert told["gap_rel"] < 1e-12
    assert set(told["servers_g"]) == {"a", "b", "c"}
    # by owner and by server are sums over different rows
    assert told["total_g"] == pytest.approx(doc["totals"]["node_g"])
    store = world()
    Meter(store).charge("a", "DE", T0, T0 + H, 1000, "j", None)
    unknown = build_report(store, T0 + H)["fleet_identity"]
    assert (unknown["total_g"], unknown["sum_g"], unknown["gap_rel"]) == (None, None, None)


def test_sci_per_run_inference_and_token():
    store = world(num_cpus=4, embodied=KG_1000)
    store.add_series(series("DE", [100] * 4))
    store.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)], cpus=2.0)])
    store.put_meta("model", {"name": "m", "version": 1, "requests": 9, "correct": 9, "num_cpus": 1.0, "items": "token"})
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + H, KWH_MJ, "j", 100.0)
    answered = (Share("model", "m:1", 0, KWH_MJ, "t", "r1", 50, 1000),)
    meter.charge("a", "DE", T0 + H, T0 + 2 * H, KWH_MJ, "m:1", 100.0, shares=answered)
    _, doc = only_job(store)
    hour_g = 1e6 / (4 * 8760)
    run, inference, token = doc["sci"]
    assert (run["unit"], run["of"], run["units"]) == ("training run", "j", 1.0)
    assert run["g_per_unit"] == pytest.approx(100 + hour_g / 2)
    assert inference["g_per_unit"] == pytest.approx((100 + hour_g / 4) / 50)
    assert token["g_per_unit"] == pytest.approx((100 + hour_g / 4) / 1000)
    # the ledger counted 50 requests, whatever the program that deployed the model says of it
    assert (inference["units"], token["units"]) == (50.0, 1000.0)
    assert check_report(doc) == []
    assert doc["jobs"][0]["ewaste_g"] == pytest.approx(20_000 / (4 * 8760) / 2)
    # without embodied carbon SCI is unknown; what is operational is told
    bare = world()
    bare.add_series(series("DE", [100] * 4))
    bare.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)])])
    Meter(bare).charge("a", "DE", T0, T0 + H, KWH_MJ, "j", 100.0)
    (row,) = only_job(bare)[1]["sci"]
    assert (row["g_per_unit"], row["operational_g_per_unit"]) == (None, pytest.approx(100))


def test_sci_of_models_needs_no_note_and_no_more_than_the_ledger_counted():
    store = world(num_cpus=4, embodied=KG_1000)
    shares = tuple(
        Share("model", name, 0, KWH_MJ // 4, "t", "r", requests, items)
        for name, requests, items in (("m:1", 5, 60), ("n:2", 2, 3), ("mute:1", None, None), ("asleep:1", 0, 0))
    )
    Meter(store).charge("a", "DE", T0, T0 + H, KWH_MJ, "x", 100.0, shares=shares)

    def rows():
        doc = build_report(store, T0 + H)
        assert check_report(doc) == []
        return {(row["unit"], row["of"]): row["units"] for row in doc["sci"]}

    assert rows() == {("inference", "m:1"): 5.0, ("inference", "n:2"): 2.0}
    noted = {"name": "m", "version": 1, "requests": 1_000_000, "correct": 1, "num_cpus": 0.5, "tokens": 5}
    store.put_meta("model", noted)
    assert rows() == {("inference", "m:1"): 5.0, ("inference", "n:2"): 2.0}  # nobody counted tokens
    store.put_meta("model", {**noted, "items": "token"})
    assert rows() == {("inference", "m:1"): 5.0, ("token", "m:1"): 60.0, ("inference", "n:2"): 2.0}


def test_gpus_are_shared_by_gpus():
    gpus = asdict(of_devices([("nvidia-h100-sxm", 8), ("aws-p5-host", 1)], 1.0, 4.0))
    store = world(num_cpus=64, num_gpus=8, embodied=gpus)
    a_job = job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)])
    a_job = replace(a_job, spec=replace(a_job.spec, demand=Resources(cpus=8, gpus=1)))
    store.save_jobs([a_job])
    row, doc = only_job(store)
    assert row["embodied_g"] == pytest.approx(25.0, abs=0.05)
    assert (row["segments"][0]["cpu_share"], row["segments"][0]["gpu_share"]) == (1 / 8, 1 / 8)
    assert row["ewaste_g"] is None  # nobody publishes what the host weighs
    assert doc["embodied"][0]["min_kg"] == pytest.approx(8 * 164 + 5115)


@pytest.mark.parametrize(
    ("value", "rounded"), [(0.0, 0.0), (0.012345, 0.012), (987.0, 990.0), (1.0, 1.0), (9.96, 10.0)]
)
def test_two_figures(value, rounded):
    assert two_figures(value) == pytest.approx(rounded)


def test_fields_of_the_ai_act():
    doc = build_report(*demo_store())
    by_job = {row["job"]: row for row in doc["ai_act"]}
    mnist = next(job for job in doc["jobs"] if job["id"] == "train-mnist-7f3a")
    row = by_job["train-mnist-7f3a"]
    assert row["training_energy_mwh"] == two_figures(mnist["energy_j"] / 3.6e9)
    assert row["training_compute_flop"] is None
    assert row["training_time_s"] == pytest.approx(mnist["energy_identity"]["metered_s"])
    assert "later-77" not in by_job  # it has used nothing yet


def test_scope_2_hour_by_hour():
    """An interval over the turn of an hour is split; unallocated energy is bought too; market-based stands beside."""
    store = world(pue=1.5)
    told = {"DE": {"g_per_kwh": 30.0, "source": "wind contract"}}
    store.put_meta("cluster", {**store.get_meta("cluster"), "market": told})
    store.add_series(series("DE", [400] * 3))
    Meter(store, pue=1.5).charge("a", "DE", T0, T0 + 2 * H, KWH_MJ, "j", 400.0, rest_mj=KWH_MJ)
    doc = build_report(store, T0 + 3 * H)
    assert check_report(doc) == []
    hours = doc["scope2"]["hours"]
    assert [(row["hour"], row["zone"], row["energy_j"]) for row in hours] == [
        ("2026-11-23T00:00:00Z", "DE", 3.6e6),
        ("2026-11-23T01:00:00Z", "DE", 3.6e6),
    ]
    assert [row["location_g"] for row in hours] == [pytest.approx(600)] * 2
    assert [row["market_g"] for row in hours] == [pytest.approx(45)] * 2
    assert (doc["scope2"]["location_g"], doc["scope2"]["market_g"]) == (pytest.approx(1200), pytest.approx(90))
    assert doc["scope2"]["market"]["DE"] == {"g_per_kwh": 30.0, "source": "wind contract", "nature": "assumed"}
    # savings and SCI never look at the contract
    assert doc["jobs"][0]["operational_g"] == pytest.approx(600)
    # the PUE is that of the row when it was written, whatever the cluster file says of the node now
    cluster = store.get_meta("cluster")
    store.put_meta("cluster", {**cluster, "nodes": [{**node, "pue": 3.0} for node in cluster["nodes"]]})
    assert build_report(store, T0 + 3 * H)["scope2"]["market_g"] == pytest.approx(90)
    store.put_meta("cluster", cluster)
    # a zone without a contract: neither it nor the total is known by the market
    Meter(store).charge("b", "FR", T0, T0 + H, 1000, None, 50.0, rest_mj=1000)
    doc = build_report(store, T0 + 3 * H)
    assert doc["scope2"]["market_g"] is None
    assert doc["scope2"]["location_g"] is not None
