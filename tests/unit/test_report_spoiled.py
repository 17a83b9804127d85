"""A spoiled report is found out: whatever is changed in the document no longer follows from the rest of it."""

from __future__ import annotations

import json
import math
from functools import cache

import pytest
from report_cases import T0, H, Meter, attempt, demo_store, job, series, world

from eco_ray.report import build_report, check_report


@cache
def sound_text():
    """The demo's report, with a contract for electricity, tokens and a model of two units."""
    store, now_s = demo_store()
    told = {zone: {"g_per_kwh": 20.0 + i, "source": "contract"} for i, zone in enumerate(("DE", "FR", "GB"))}
    store.put_meta("cluster", {**store.get_meta("cluster"), "market": told})
    store.put_meta("model", {**store.get_meta("model"), "items": "token"})
    return json.dumps(build_report(store, now_s))


def sound():
    return json.loads(sound_text())


def test_the_report_is_sound_before_it_is_spoiled():
    assert check_report(sound()) == []


def _spoil(doc, path, value):
    part = doc
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("jobs", 0, "segments", 0, "energy_j"), 1.0, "energy_j"),
        (("jobs", 0, "segments", 0, "operational_g"), 1.0, "operational_g"),
        (("jobs", 0, "baseline_g"), 1.0, "baseline_g"),
        (("jobs", 0, "saved_g"), 1e6, "saved_g"),
        (("jobs", 0, "state"), "done", "state"),
        (("jobs", 0, "productive_j"), 1.0, "productive_j"),
        (("totals", "node_energy_j"), 1.0, "node_energy_j"),
        (("totals", "saved_g"), 1.0, "saved_g"),
        (("residual_mj",), 3, "residual_mj"),
        (("series", "DE", 1, 1), 999.0, "baseline_g"),
        (("jobs", 0, "segments", 0, "start"), "2026-01-01T00:00:00Z", "start"),
        (("jobs", 0, "segments", 0, "embodied_g"), 1.0, "embodied_g"),
        (("jobs", 0, "segments", 0, "cpu_share"), 1.0, "embodied_g"),
        (("jobs", 0, "embodied_g"), None, "embodied_g"),
        (("jobs", 0, "ewaste_g"), 1e6, "ewaste_g"),
        (("jobs", 0, "energy_identity", "power_w"), 1e6, "E = P t"),
        (("jobs", 0, "energy_identity", "metered_s"), 1.0, "E = P t"),
        (("embodied", 0, "host_kg"), 5.0, "embodied_g"),
        (("fleet_identity", "total_g"), 5.0, "C = sum of S_i"),
        (("fleet_identity", "servers_g", "a"), 5.0, "servers_g"),
        (("fleet_identity", "by_owner_g", "models"), 5.0, "models"),
        (("sci", 0, "g_per_unit"), 5.0, "sci per training run"),
        (("sci", -1, "units"), 7, "sci per token"),
        (("ai_act", 0, "training_energy_mwh"), 7, "ai_act"),
        (("scope2", "hours", 0, "energy_j"), 7.0, "scope2"),
        (("scope2", "hours", 0, "location_g"), 7.0, "location_g"),
        (("scope2", "location_g"), 7.0, "scope2"),
        (("models", 0, "tenants", 0, "energy_j"), 7.0, "its tenants, waiting and unreported sum to"),
        (("models", 0, "tenants", 0, "operational_g"), 7.0, "operational_g over its tenants"),
        (("models", 0, "tenants", 1, "requests"), 7, "requests is 200"),
        (("models", 0, "tenants", 2, "items"), 7, "items is 240"),
        (("models", 0, "tenants", 2, "tenant"), "health", "a tenant is there twice"),
        (("models", 0, "tenants", 2, "nature"), "assumed", "nature is 'modelled'"),
        (("models", 0, "waiting_j"), 7.0, "waiting"),
        (("models", 0, "unreported_j"), 7.0, "unreported"),
        (("models", 0, "unreported_g"), 7.0, "unreported"),
        (("models", 0, "j_per_request"), 7.0, "j_per_request"),
        (("models", 0, "tenants", 1, "g_per_request"), 7.0, "tenant 'health': g_per_request"),
        (("models", 0, "requests"), None, "requests are unknown"),
        (("models", 0, "replicas", 1, "energy_j"), 7.0, "its replicas sum to"),
        (("models", 0, "replicas", 1, "cpu_share"), 1.0, "embodied_g"),
        (("models", 0, "replicas", 1, "ewaste_g"), 7.0, "ewaste_g"),
        (("models", 0, "embodied_g"), 7.0, "embodied_g"),
        (("model", "embodied_g"), 7.0, "embodied_g"),
        (("model", "held"), [], "held"),
    ],
)
def test_check_finds_what_was_spoiled(path, value, word):
    doc = sound()
    _spoil(doc, path, value)
    assert any(word in line for line in check_report(doc))


def test_check_names_missing_keys():
    doc = sound()
    del doc["jobs"][1]["baseline_g"]
    assert check_report(doc) == [f"job {doc['jobs'][1]['id']}: key 'baseline_g' is missing"]


def _sci_of_hundredth(doc):
    row = doc["sci"][0]
    row["operational_g"] /= 100
    row["operational_g_per_unit"] = row["operational_g"] / row["units"]
    row["g_per_unit"] = (row["operational_g"] + row["embodied_g"]) / row["units"]


def _sci_units(doc, place):
    row = doc["sci"][place]
    row.update(units=row["units"] * 1000, g_per_unit=row["g_per_unit"] / 1000)
    row["operational_g_per_unit"] /= 1000


def _power_twice_time_half(doc):
    told = doc["jobs"][0]["energy_identity"]
    told.update(power_w=told["power_w"] * 2, metered_s=told["metered_s"] / 2)
    doc["ai_act"][0]["training_time_s"] /= 2


def _spans_half(doc):
    """Twice the power, with the segments' spans to fit, but not their ends."""
    _power_twice_time_half(doc)
    for segment in doc["jobs"][0]["segments"]:
        segment["metered_spans_s"] = [[a, (a + b) / 2] for a, b in segment["metered_spans_s"]]


def _measured(doc, *parts):
    for part in parts:
        part.update({key: "measured" for key in ("nature", "carbon_nature") if key in part})


def _segments_measured(doc):
    for a_job in doc["jobs"]:
        _measured(doc, a_job, *a_job["segments"])
    for row in doc["sources"]:
        row["nature"] = "measured"


def _shift(doc, key, by):
    first, second = doc["scope2"]["hours"][0], doc["scope2"]["hours"][3]
    first[key] += by
    second[key] -= by


def _shift_with_intensity(doc):
    """All of an hour's grams to another one, with intensities to fit."""
    first, second = doc["scope2"]["hours"][12:14]
    moved_g = 0.9 * first["location_g"]
    for row, grams in ((first, first["location_g"] - moved_g), (second, second["location_g"] + moved_g)):
        row["intensity_g_per_kwh"] *= grams / row["location_g"]
        row["location_g"] = grams


def _move_energy(doc):
    first, second = doc["scope2"]["hours"][:2]
    for row, by_j in ((first, 1.0), (second, -1.0)):
        row["energy_j"] += by_j


def _market_less(doc):
    for row in doc["scope2"]["hours"]:
        row["market_g"] /= 2
    doc["scope2"]["market_g"] /= 2


def _ends_of_totals(doc):
    doc["totals"]["model_g"] += 1
    doc["fleet_identity"]["by_owner_g"]["models"] += 1


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_sci_of_hundredth, "sci per training run"),
        (lambda doc: _sci_units(doc, 0), "units is 1000.0"),
        (lambda doc: _sci_units(doc, -1), "sci per token of mnist:1: units"),
        (lambda doc: _sci_units(doc, -2), "sci per inference of mnist:1: units"),
        (lambda doc: doc["models"][0].update(items_are=None), "sci: its rows"),
        (lambda doc: doc["sci"].append(dict(doc["sci"][-2], of="mnist:9")), "sci: its rows"),
        (lambda doc: doc["sci"].clear(), "sci: its rows"),
        (lambda doc: doc["sci"].pop(), "sci: its rows"),
        (lambda doc: doc["sci"].append(doc["sci"][0]), "sci: its rows"),
        (lambda doc: doc["sci"][0].update(nature="measured"), "sci per training run"),
        (lambda doc: doc["sci"][0].update(of="nobody"), "nobody"),
        (lambda doc: doc["ai_act"][0].update(training_time_s=1.0), "training_time_s"),
        (lambda doc: doc["ai_act"][0].update(training_compute_flop=1e30), "training_compute_flop"),
        (lambda doc: doc["ai_act"][0].update(energy_method="measured: at the wall"), "energy_method"),
        (lambda doc: doc["ai_act"].clear(), "ai_act: its rows"),
        (lambda doc: doc["ai_act"].pop(), "ai_act: its rows"),
        (_power_twice_time_half, "energy_identity.metered_s"),
        (_spans_half, "its spans are"),
        (lambda doc: doc["jobs"][0]["energy_identity"].update(gap_rel=0.5), "gap_rel"),
        (lambda doc: doc["jobs"][0]["energy_identity"].update(power_w=0.0, moments_j=9e9), "moments_j"),
        (lambda doc: _measured(doc, *doc["jobs"]), "nature is 'measured', redone it is 'modelled'"),
        (lambda doc: doc["jobs"][0].update(carbon_nature="measured"), "carbon_nature"),
        (lambda doc: doc["jobs"][0].update(embodied_nature="measured"), "embodied_nature"),
        (lambda doc: _measured(doc, doc["nodes"][0]), "node a: nature is 'measured'"),
        (lambda doc: _measured(doc, doc["model"]), "model: nature"),
        (lambda doc: doc["model"].update(carbon_nature="measured"), "model: carbon_nature"),
        (lambda doc: doc["model"].update(embodied_nature="measured"), "model: embodied_nature"),
        (lambda doc: _measured(doc, *doc["scope2"]["hours"]), "scope2: nature of the hours"),
        (_segments_measured, "energy_method"),
        (lambda doc: _shift(doc, "location_g", 1), "location_g"),
        (lambda doc: _shift(doc, "market_g", 1), "market_g"),
        (lambda doc: _shift(doc, "intensity_g_per_kwh", 1), "location_g"),
        (_shift_with_intensity, "of its zone meanwhile"),
        (_move_energy, "energy_j in mJ"),
        (_market_less, "market_g"),
        (lambda doc: doc["scope2"]["market"]["DE"].update(g_per_kwh=1.0), "market_g"),
        (lambda doc: doc["scope2"]["hours"][0].update(zone="XX"), "was never in XX"),
        (lambda doc: doc["scope2"]["hours"][0].update(hour_s=T0), "hour is"),
        (lambda doc: doc["scope2"]["hours"].append(doc["scope2"]["hours"][0]), "there twice"),
        (lambda doc: doc["scope2"]["hours"].pop(), "of node c in mJ"),
        (lambda doc: doc["scope2"]["hours"][12].update(intervals_s=[T0, T0]), "does not hold the hour"),
        (lambda doc: doc["pue"].update(a=1.0, b=1.0, c=1.0), "scope2"),
        (lambda doc: doc["model"].update(embodied_g=0.0), "model: embodied_g"),
        (lambda doc: doc["model"].update(energy_j=0.0), "model: energy_j"),
        (lambda doc: doc["model"].update(operational_g=0.0), "model: operational_g"),
        (lambda doc: doc["embodied"][0].update(kg=1.0), "embodied of node a: kg"),
        (lambda doc: doc["nodes"][0].update(attributed_j=0.0), "node a: energy_j"),
        (_ends_of_totals, "totals: model_g"),
        (
            lambda doc: doc["jobs"][0].update(energy_j=math.nan),
            "report.jobs[0].energy_j is nan: must be finite",
        ),
        (lambda doc: doc["totals"].update(operational_g=math.inf), "report.totals.operational_g is inf"),
        (lambda doc: doc["jobs"][0]["segments"][0].update(cpu_share=2.0), "reserved share 2.0"),
        (lambda doc: doc["jobs"][0].update(nature="guessed"), "cannot be redone"),
        (lambda doc: doc["jobs"][0]["segments"][0].pop("metered_spans_s"), "key 'metered_spans_s' is missing"),
        (lambda doc: doc["sci"][0].update(units=0), "cannot be redone"),
    ],
)
def test_check_finds_what_does_not_follow(spoil, word):
    doc = sound()
    spoil(doc)
    found = check_report(doc)
    assert any(word in line for line in found), found


def test_a_node_that_moved_and_rows_over_many_hours_are_sound():
    """What the checks must not take for an error: two zones of a node, gaps, two nodes at once, a row of five hours."""
    store = world()
    for zone, values in (("DE", [100, 300, 500, 200, 100, 400, 100, 100]), ("FR", [50] * 8)):
        store.add_series(series(zone, values))
    store.save_jobs(
        [job("j", T0, [attempt(1, "a", "DE", T0, T0 + 3 * H), attempt(2, "a", "FR", T0 + 6 * H, T0 + 7 * H)])]
    )
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + 5 * H, 18_000_001, "j", 240.0)
    meter.charge("b", "FR", T0 + H, T0 + 2 * H, 3_600_000, "j", 50.0)
    meter.charge("a", "FR", T0 + 6 * H, T0 + 7 * H, 3_600_000, "j", 50.0, number=2)
    doc = build_report(store, T0 + 8 * H)
    assert check_report(json.loads(json.dumps(doc))) == []
    assert doc["nodes"][0]["zones"] == ["DE", "FR"]
    assert doc["jobs"][0]["energy_identity"]["metered_s"] == 6 * H
