"""report.json: numbers worked out by hand, and the arithmetic redone from the document alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from report_cases import KG_1000, T0, H, Meter, attempt, demo_store, job, many_store, series, world

from eco_ray.core.avoided import Avoided
from eco_ray.core.emissions import baseline_g
from eco_ray.core.jobs import AttemptState, JobState, Reason
from eco_ray.core.units import Nature
from eco_ray.report import build_report, check_report, write_report
from eco_ray.report.check import JOB_KEYS, TOP_KEYS
from eco_ray.report.steps import Steps, covered_s, overlap_s

KWH_MJ = 3_600_000_000


def only_job(store, now_s=T0 + 24 * H):
    doc = build_report(store, now_s)
    assert check_report(doc) == []
    assert json.loads(json.dumps(doc, allow_nan=False)) == doc
    return doc["jobs"][0], doc


def test_empty_store_gives_every_key_of_the_contract():
    doc = build_report(world(), T0)
    assert set(TOP_KEYS) <= set(doc)
    assert doc["jobs"] == []
    assert doc["model"] is None
    assert doc["residual_mj"] == 0
    assert doc["series"] == {"DE": [], "FR": []}
    assert doc["notes"][0].startswith("Clock speed 600: one wall second counts as 600 grid seconds")
    assert "20 s of work count as 3 h 20 min" in doc["notes"][0]
    assert check_report(doc) == []


def test_store_without_any_meta():
    from eco_ray.store.memory import MemoryStore

    doc = build_report(MemoryStore(), T0)
    assert doc["home_zone"] is None
    assert doc["clock_speed"] == 1.0
    assert check_report(doc) == []


def test_moved_job_saves_the_difference_of_the_zones():
    store = world(pue=1.2)
    store.add_series(series("DE", [400] * 4))
    store.add_series(series("FR", [50] * 4))
    store.save_jobs([job("j", T0, [attempt(1, "b", "FR", T0 + H, T0 + 2 * H)])])
    Meter(store, pue=1.2).charge("b", "FR", T0 + H, T0 + 2 * H, KWH_MJ, "j", 50.0, rest_mj=7)
    row, doc = only_job(store)
    assert row["operational_g"] == pytest.approx(60.0)
    assert row["baseline_g"] == pytest.approx(480.0)
    assert row["saved_g"] == pytest.approx(420.0)
    assert row["energy_j"] == 3_600_000.0
    assert doc["totals"]["unallocated_j"] == 0.007
    assert doc["totals"]["node_energy_j"] == doc["totals"]["attributed_j"] + doc["totals"]["unallocated_j"]
    segment = row["segments"][0]
    assert (segment["start"], segment["end"]) == ("2026-11-23T01:00:00Z", "2026-11-23T02:00:00Z")
    assert (row["submitted"], row["deadline"]) == ("2026-11-23T00:00:00Z", "2026-11-23T12:00:00Z")
    assert doc["series"]["FR"] == [
        ["2026-11-23T00:00:00Z", 50.0],
        ["2026-11-23T01:00:00Z", 50.0],
        ["2026-11-23T02:00:00Z", 50.0],
    ]
    assert set(JOB_KEYS) <= set(row)
    assert (row["nature"], segment["workers"]) == ("modelled", 1)


def test_resumed_job_counts_overhead_in_operational_and_not_in_baseline():
    """Attempt 2 restores for 15 of its 60 minutes: a quarter of its energy is overhead."""
    store = world()
    store.add_series(series("DE", [100, 200, 300, 400]))
    attempts = [
        attempt(1, "a", "DE", T0 + H, T0 + 2 * H, AttemptState.PAUSED, checkpoint_s=T0 + 2 * H),
        attempt(2, "a", "DE", T0 + 3 * H, T0 + 4 * H, productive_s=T0 + 3.25 * H),
    ]
    store.save_jobs([job("j", T0, attempts)])
    meter = Meter(store)
    meter.charge("a", "DE", T0 + H, T0 + 2 * H, KWH_MJ, "j", 200.0)
    meter.charge("a", "DE", T0 + 3 * H, T0 + 4 * H, KWH_MJ, "j", 400.0, number=2)
    row, _ = only_job(store)
    assert row["operational_g"] == pytest.approx(600.0)
    assert row["overhead_j"] == 900_000.0
    assert [s["overhead_s"] for s in row["segments"]] == [0.0, 900.0]
    assert row["productive_s"] == 1.75 * H
    # 1.75 kWh evenly over 00:00 to 01:45: (1 h x 100 + 0.75 h x 200) / 1.75 h = 142.857 g/kWh
    assert row["baseline_g"] == pytest.approx(250.0)
    assert row["saved_g"] == pytest.approx(-350.0)
    assert (row["attempts"], row["resumes"]) == (2, 1)


def test_baseline_across_a_step_edge_is_that_of_core():
    store = world()
    curve = series("DE", [100, 300, 50])
    store.add_series(curve)
    start = T0 + 1800
    store.save_jobs([job("j", start, [attempt(1, "a", "DE", start + 17, start + 17 + 1.3 * H)])])
    Meter(store).charge("a", "DE", start + 17, start + 17 + 1.3 * H, 123_456_789, "j", 1.0)
    doc = build_report(store, T0 + 3 * H)
    row = doc["jobs"][0]
    assert row["baseline_g"] == pytest.approx(baseline_g(123_456_789, 1.3 * H, start, curve), rel=1e-12)
    assert any("outside" in line for line in check_report(doc))  # the ledger's 1 g/kWh is not in the series


def test_lost_attempt_loses_what_came_after_its_checkpoint():
    store = world()
    store.add_series(series("DE", [100] * 8))
    attempts = [
        attempt(1, "a", "DE", T0, T0 + 2 * H, AttemptState.LOST, checkpoint_s=T0 + 1.5 * H),
        attempt(2, "b", "FR", T0 + 3 * H, T0 + 4 * H, productive_s=T0 + 3 * H),
    ]
    store.save_jobs([job("j", T0, attempts)])
    store.add_series(series("FR", [10] * 8))
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + 2 * H, 2 * KWH_MJ, "j", 100.0)
    meter.charge("b", "FR", T0 + 3 * H, T0 + 4 * H, KWH_MJ, "j", 10.0, number=2)
    row, _ = only_job(store)
    assert row["segments"][0]["overhead_j"] == 1_800_000.0
    assert row["productive_s"] == 2.5 * H
    assert row["operational_g"] == pytest.approx(210.0)
    assert row["baseline_g"] == pytest.approx(250.0)


@pytest.mark.parametrize(
    ("first", "second", "overhead_s"),
    [
        ((AttemptState.LOST, None), (AttemptState.SUCCEEDED, None), [H, 0]),  # no checkpoint: all of it again
        ((AttemptState.FAILED, None), (AttemptState.SUCCEEDED, None), [H, 0]),
        ((AttemptState.STOPPED, 0.5), (AttemptState.SUCCEEDED, 0.0), [0.5 * H, 0]),
        ((AttemptState.PAUSED, 1.0), (AttemptState.LOST, None), [0, H]),  # lost before it had restored
        ((AttemptState.PAUSED, 1.0), (AttemptState.RUNNING, None), [0, H]),  # still restoring
        ((AttemptState.PAUSED, 1.0), (AttemptState.SUCCEEDED, None), [0, 0]),  # ended well without a word
        ((AttemptState.PAUSED, 1.0), (AttemptState.FAILED, 0.25), [0, 0.25 * H]),  # last: nothing was done again
    ],
)
def test_what_is_overhead(first, second, overhead_s):
    store = world()
    store.add_series(series("DE", [100] * 4))
    state, checkpoint = first
    attempts = [
        attempt(1, "a", "DE", T0, T0 + H, state, checkpoint_s=None if checkpoint is None else T0 + checkpoint * H),
        attempt(
            2,
            "a",
            "DE",
            T0 + 2 * H,
            T0 + 3 * H,
            second[0],
            productive_s=None if second[1] is None else T0 + (2 + second[1]) * H,
        ),
    ]
    store.save_jobs([job("j", T0, attempts)])
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + H, 3_600_000, "j", 100.0)
    meter.charge("a", "DE", T0 + 2 * H, T0 + 3 * H, 3_600_000, "j", 100.0, number=2)
    row, _ = only_job(store)
    assert [s["overhead_s"] for s in row["segments"]] == overhead_s
    assert [s["overhead_j"] for s in row["segments"]] == overhead_s  # 1 W


def test_interval_that_reaches_beyond_its_attempt():
    """At speed 600 one sample is ten grid minutes: only its part within the attempt says what was overhead."""
    store = world()
    store.add_series(series("DE", [100] * 4))
    attempts = [
        attempt(1, "a", "DE", T0, T0 + 600, AttemptState.PAUSED, checkpoint_s=T0 + 600),
        attempt(2, "a", "DE", T0 + 1000, T0 + 1800, productive_s=T0 + 1100),
    ]
    store.save_jobs([job("j", T0, attempts)])
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + 600, 1000, "j", 100.0)
    meter.charge("a", "DE", T0 + 600, T0 + 1200, 1000, "j", 100.0, number=2)  # 200 s within, 100 s of it restoring
    meter.charge("a", "DE", T0 + 1200, T0 + 1800, 1000, "j", 100.0, number=2)
    row, _ = only_job(store)
    assert row["overhead_j"] == 0.5


def test_plain_ray_job():
    store = world()
    store.add_series(series("DE", [100, 300, 100]))
    store.add_series(series("FR", [20, 20, 20]))
    meter = Meter(store)
    meter.charge("b", "FR", T0 + H, T0 + 1.5 * H, KWH_MJ // 2, "raysubmit_1", 20.0, number=0)
    meter.charge("b", "FR", T0 + 1.5 * H, T0 + 2 * H, KWH_MJ // 2, "raysubmit_1", 20.0, number=0)
    row, _ = only_job(store)
    assert (row["id"], row["name"], row["state"], row["reason"]) == (
        "raysubmit_1",
        "raysubmit_1",
        "succeeded",
        "Succeeded",
    )
    assert row["deadline"] is None
    assert row["attempts"] == 1
    assert row["resumes"] == 0
    assert row["submitted"] == "2026-11-23T01:00:00Z"
    assert row["operational_g"] == pytest.approx(20.0)
    assert row["baseline_g"] == pytest.approx(300.0)  # its own hour, in the home zone
    store.put_meta(
        "ray_jobs",
        {"raysubmit_1": {"state": "STOPPED", "name": "x", "submitted_s": T0 + 0.5 * H}, "r2": {"state": "RUNNING"}},
    )
    doc = build_report(store, T0 + 3 * H)
    assert check_report(doc) == []
    assert [(j["id"], j["state"], j["name"], j["energy_j"]) for j in doc["jobs"]] == [
        ("raysubmit_1", "cancelled", "x", 3_600_000.0),
        ("r2", "running", "r2", 0.0),
    ]
    assert doc["jobs"][0]["submitted"] == "2026-11-23T00:30:00Z"
    assert doc["jobs"][0]["baseline_g"] == pytest.approx(300.0)


def test_unknown_intensity_is_null_and_listed():
    store = world()
    store.add_series(series("DE", [100, 100]))
    store.save_jobs(
        [
            job("dark", T0, [attempt(1, "a", "DE", T0, T0 + H)]),
            job("late", T0 + H, [attempt(1, "a", "DE", T0 + H, T0 + 3 * H)]),
        ]
    )
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + H, KWH_MJ, "dark", None, rest_mj=5)
    meter.charge("a", "DE", T0 + H, T0 + 3 * H, KWH_MJ, "late", 100.0)
    row, doc = only_job(store)
    assert row["operational_g"] is None
    assert row["saved_g"] is None
    assert row["baseline_g"] == pytest.approx(100.0)
    late = doc["jobs"][1]
    assert late["operational_g"] == pytest.approx(100.0)
    assert late["baseline_g"] is None
    assert late["saved_g"] is None
    assert [(u["job"], u["what"]) for u in doc["unknown"]] == [("dark", "operational_g"), ("late", "baseline_g")]
    assert doc["totals"]["operational_g"] == pytest.approx(100.0)
    assert doc["totals"]["saved_g"] == 0.0
    assert doc["totals"]["unallocated_g"] is None


def test_no_energy_yet():
    store = world()
    store.save_jobs([job("q", T0, [], JobState.QUEUED, Reason.WAITING_FOR_CLEANER_WINDOW, message="Waits.")])
    row, _ = only_job(store)
    assert (row["energy_j"], row["operational_g"], row["baseline_g"], row["saved_g"]) == (0.0, 0.0, 0.0, 0.0)
    assert (row["state"], row["reason"], row["message"]) == ("queued", "WaitingForCleanerWindow", "Waits.")
    assert row["segments"] == []


def test_running_and_never_started_attempts():
    store = world()
    store.add_series(series("DE", [100] * 4))
    store.save_jobs(
        [
            job("r", T0, [attempt(1, "a", "DE", T0, None, AttemptState.RUNNING)], JobState.RUNNING, Reason.RUNNING),
            job("f", T0, [attempt(1, "a", "DE", T0, T0 + 60, AttemptState.FAILED, started_s=None)], JobState.FAILED),
        ]
    )
    Meter(store).charge("a", "DE", T0, T0 + H, 3_600_000, "r", 100.0)
    doc = build_report(store, T0 + 2 * H)
    assert check_report(doc) == []
    rows = {row["id"]: row for row in doc["jobs"]}
    assert rows["r"]["segments"][0]["end"] == "2026-11-23T02:00:00Z"
    assert rows["f"]["segments"][0]["overhead_s"] == 60.0
    assert rows["f"]["productive_s"] == 0.0


def test_energy_of_an_attempt_that_the_job_does_not_know_is_not_lost():
    store = world()
    store.add_series(series("DE", [100] * 4))
    store.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)])])
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + H, 1000, "j", 100.0)
    meter.charge("b", "FR", T0, T0 + H, 500, "j", 10.0)  # its worker on another node, at the same time
    row, _ = only_job(store)
    assert row["energy_j"] == 1.5
    assert [(s["node"], s["energy_j"]) for s in row["segments"]] == [("a", 1.0), ("b", 0.5)]
    assert row["productive_s"] == H  # at the same time counts once


def test_nature_is_that_of_the_weakest_part():
    store = world()
    store.add_series(series("DE", [100] * 4, nature=Nature.ASSUMED, source="guess"))
    store.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)])])
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + 60, 10, "j", 100.0, nature=Nature.MEASURED)
    row, _ = only_job(store)
    assert (row["nature"], row["carbon_nature"]) == ("measured", "assumed")
    meter.charge("a", "DE", T0 + 60, T0 + 120, 10, "j", 100.0, nature=Nature.MODELLED)
    row, doc = only_job(store)
    assert row["nature"] == "modelled"
    assert doc["sources"] == [
        {
            "zone": "DE",
            "source": "guess",
            "kind": "average-lifecycle",
            "nature": "assumed",
            "age_s": pytest.approx(20 * H),
        }
    ]


def test_a_modelled_signal_that_is_old_is_not_shown_as_new():
    store = world()
    store.add_series(series("DE", [100] * 4, source="service, the last value carried on"))
    store.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)])])
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + 60, 10, "j", 100.0, intensity_age_s=90_000.0)
    assert only_job(store)[1]["sources"][0]["age_s"] == 90_000
    meter.charge("a", "DE", T0 + H, T0 + H + 60, 10, "j", 100.0, intensity_age_s=120.0)
    assert only_job(store)[1]["sources"][0]["age_s"] == 120  # the newest hour tells


def test_what_caches_avoided_is_told_and_in_no_total():
    store = world()
    store.add_series(series("DE", [100] * 4))
    store.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)])])
    Meter(store).charge("a", "DE", T0, T0 + 60, 10, "j", 100.0)
    before = only_job(store)[1]
    assert not any("Avoided" in note for note in before["notes"])
    row = Avoided(
        *("r1/1", T0, T0 + 60, "a", "m:1", "", 10, 36_000, "DE", 100.0, "average-lifecycle"),
        *(1.5, Nature.MODELLED, "by CPU time"),
    )
    store.add_avoided([row, replace(row, id="r1/2")])
    after = only_job(store)[1]
    told = "Avoided by caches of answers (an estimate, in no sum here): 72.00 J, carbon 3.000 mg CO₂e; hits: 20."
    assert told in after["notes"]
    assert {**after, "notes": before["notes"]} == before
    store.add_avoided([replace(row, id="r1/3", intensity_g_per_kwh=None)])
    assert any("108.0 J, carbon unknown; hits: 30" in note for note in only_job(store)[1]["notes"])


def test_grams_of_different_kinds_in_one_sum_are_told():
    store = world()
    store.add_series(series("DE", [100] * 4))
    store.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)])])
    meter = Meter(store)
    meter.charge("a", "DE", T0, T0 + 60, 10, "j", 100.0, intensity_kind="average-lifecycle")
    assert not any("different kinds" in note for note in only_job(store)[1]["notes"])
    meter.charge("a", "DE", T0 + 60, T0 + 120, 10, "j", 100.0, intensity_kind="marginal")
    assert any("(average-lifecycle, marginal)" in note for note in only_job(store)[1]["notes"])


def test_embodied_only_where_the_node_tells():
    store = world(embodied=KG_1000, num_cpus=4)
    store.add_series(series("DE", [100] * 4))
    store.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)], cpus=2.0)])
    row, _ = only_job(store)
    # 1e6 g x 1 h / (4 x 8760 h) x 2/4
    assert row["embodied_g"] == pytest.approx(1e6 / (4 * 8760) / 2)
    bare = world()
    bare.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)])])
    assert only_job(bare)[0]["embodied_g"] is None


def test_segments_tell_the_workers_of_their_attempt():
    store = world(embodied=KG_1000, num_cpus=8)
    store.add_series(series("DE", [100] * 4))
    attempts = [
        attempt(1, "a", "DE", T0, T0 + H, AttemptState.PAUSED, workers=2),
        attempt(2, "a", "DE", T0 + H, T0 + 2 * H, workers=3),
    ]
    store.save_jobs([job("j", T0, attempts, cpus=2.0)])
    # energy of the second attempt on a node that its record does not name
    Meter(store).charge("b", "FR", T0 + 2 * H, T0 + 3 * H, 1000, "j", 50.0, number=2)
    segments = only_job(store)[0]["segments"]
    assert [segment["workers"] for segment in segments] == [2, 3, 3]
    hour_g = 1e6 / (4 * 8760)
    assert [s["embodied_g"] for s in segments[:2]] == [pytest.approx(hour_g * share) for share in (4 / 8, 6 / 8)]


def test_metrics_that_json_cannot_hold():
    store = world()
    store.save_jobs([job("j", T0, metrics={"loss": float("nan"), "curve": (1.0, float("inf"))})])
    row, _ = only_job(store)
    assert row["metrics"]["loss"] == "nan"
    assert row["metrics"]["curve"] == [1.0, "inf"]


@pytest.mark.parametrize("case", [demo_store, many_store])
def test_larger_worlds_add_up(case):
    doc = build_report(*case())
    assert check_report(doc) == []
    assert doc["totals"]["saved_g"] == pytest.approx(sum(j["saved_g"] for j in doc["jobs"]))


def test_write_report_is_whole_and_leaves_nothing_beside(tmp_path):
    store, now_s = demo_store()
    out = tmp_path / "new" / "folder"
    doc = write_report(store, out, now_s)
    assert write_report(store, out, now_s) == doc
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == doc


def test_steps_know_their_gaps():
    part = Steps.of([(0, 10.0), (10, 20.0), (30, 40.0)], 10)
    assert part.mean(5, 15) == 15.0
    assert part.mean(5, 5) == 10.0
    assert part.mean(10, 20) == 20.0
    assert part.mean(15, 31) is None  # 20 to 30 is unknown
    assert part.mean(-1, 5) is None
    assert part.mean(35, 41) is None
    assert part.cut(12, 18).times_s == (10.0,)
    assert covered_s([(0, 2), (1, 3), (5, 6)]) == 4
    assert overlap_s([(0, 2), (1, 3)], 1.5, 10) == 1.5
