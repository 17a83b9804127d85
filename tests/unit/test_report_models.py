"""report.json of served models: versions, tenants, replicas, and what a request came to."""

from __future__ import annotations

import pytest
from report_cases import KG_1000, T0, H, Meter, demo_store, world

from eco_ray.report import build_report, check_report

KWH_MJ = 3_600_000_000


def test_model_gets_the_energy_of_its_version():
    store = world()
    store.put_meta("model", {"name": "mnist", "version": 2, "requests": 10, "correct": 9})
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + 60, 1000, "mnist:1", 100.0, number=0, kind="model")
    meter.charge("a", "DE", T0 + 60, T0 + 120, 3000, "mnist:2", 100.0, number=0, kind="model")
    doc = build_report(store, T0 + H)
    assert check_report(doc) == []
    assert doc["model"]["energy_j"] == 3.0
    assert doc["model"]["correct"] == 9
    assert doc["totals"]["model_j"] == 4.0
    assert doc["totals"]["attributed_j"] == 4.0


def test_a_model_says_whom_it_was_charged_for_and_what_a_request_came_to():
    store, now_s = demo_store()
    doc = build_report(store, now_s)
    (model,) = doc["models"]
    assert [(row["tenant"], row["requests"], row["items"], row["energy_j"]) for row in model["tenants"]] == [
        ("", 10, 10, 99.999), ("health", 40, 80, 400.0), ("vision", 150, 150, 900.001),
    ]  # fmt: skip
    assert (model["requests"], model["items"], model["waiting_j"], model["unreported_j"]) == (200, 240, 700.0, 10_800.0)
    assert model["j_per_request"] == model["energy_j"] / 200 == 12_900 / 200
    assert model["tenants"][1]["j_per_request"] == 10.0
    assert model["tenants"][1]["g_per_request"] == model["tenants"][1]["operational_g"] / 40
    assert [(row["node"], row["replica"], row["energy_j"]) for row in model["replicas"]] == [
        ("b", "", 10_800.0), ("b", "r1", 1_400.0), ("b", "r2", 700.0),
    ]  # fmt: skip
    # a quarter of the node's 4 CPUs each, for 0.5 h, 0.1 h and 0.1 h of 4 years of 1000 kg
    assert [row["cpu_share"] for row in model["replicas"]] == [0.25] * 3
    assert model["embodied_g"] == pytest.approx(1e6 * 0.25 * 0.7 * H / (4 * 365.25 * 24 * H), rel=0.01)
    assert doc["model"]["embodied_g"] == model["embodied_g"]
    assert check_report(doc) == []


def test_what_a_replica_holds_is_told_by_its_model_and_unknown_without():
    store = world(num_cpus=4, embodied=KG_1000)
    meter = Meter(store)
    for start, name in enumerate(("m:1", "m:2")):
        meter.charge("a", "DE", T0 + start * H, T0 + (start + 1) * H, 1000, name, 100.0, number=0, kind="model")
    store.put_meta("model_demands", {"m:2": {"num_cpus": 2.0, "num_gpus": 0.0, "memory_gb": 1.0}})
    doc = build_report(store, T0 + 2 * H)
    found = {row["id"]: (row["replicas"][0]["cpu_share"], row["embodied_g"] is None) for row in doc["models"]}
    assert found == {"m:1": (None, True), "m:2": (0.5, False)}
    assert [(row["requests"], row["j_per_request"]) for row in doc["models"]] == [(None, None)] * 2
    assert check_report(doc) == []
