"""The ledger's contract: corrections, hourly rows, the chain and exports, the same on every adapter."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from store_samples import T0_S, an_interval

from eco_ray.core.ledger import Correction, GpuSample, HourlyEnergy, Share
from eco_ray.core.store_port import Store
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.store import open_store, verify_export
from eco_ray.store.chain import GENESIS

HOUR0_S = math.floor(T0_S / 3600) * 3600.0


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url)
    yield opened
    opened.close()


def a_correction(seq: int = 0, **changes: Any) -> Correction:
    values: dict[str, Any] = {"reason": "meter was wrong", "author": "ann", "made_s": T0_S + 1e5}
    return Correction(**{"node": "n1", "boot_id": "boot", "seq": seq, **values, **changes})


def export(store: Store, **span: float) -> dict[str, Any]:
    """As `eco-ray ledger export --format json` writes it, through JSON text."""
    first, *entries = store.ledger_entries(**span)
    last = entries[-1]["hash"] if entries else first["previous"]
    return json.loads(json.dumps({**first, "entries": entries, "count": len(entries), "last": last}))


def total(rows: list[HourlyEnergy]) -> int:
    return sum(row.energy_mj for row in rows)


# --- rows


def test_a_row_carries_how_it_is_known(store: Store) -> None:
    gpus = (GpuSample("gpu-a", 7_000, 1_000), GpuSample("gpu-b", 3_000, 0))
    shares = (Share("job", "a", 1, 20_000, "vision"),)
    store.add_intervals([an_interval(0, shares=shares, gpus=gpus, age_s=90.5, flags=("ü", "late-sample"))])
    _, entry = store.ledger_entries()
    expected = {
        "id": 1, "entry": "interval", "node": "n1", "boot_id": "boot", "seq": 0, "zone": "DE", "start_s": T0_S,
        "end_s": T0_S + 1, "energy_mj": 50_000, "gpu_mj": 10_000, "idle_mj": 20_000, "unallocated_mj": 30_000,
        "system_cpu_s": 0.25, "nature": "modelled", "source": "modelled", "error_rel": 0.3,
        "flags": ["ü", "late-sample"], "intensity": 300.0, "intensity_source": "profile",
        "intensity_kind": "average-lifecycle", "intensity_nature": "modelled", "intensity_age_s": 90.5, "pue": 1.2,
        "shares": [
            {"owner_kind": "job", "owner_id": "a", "attempt": 1, "tenant": "vision", "energy_mj": 20_000},
        ],
    }  # fmt: skip
    assert {key: value for key, value in entry.items() if key != "hash"} == expected
    assert store.owner_intervals()[0].tenant == "vision"


def served_shares() -> tuple[Share, ...]:
    """A model's two replicas: two tenants and none of them named, one that waited, energy before it reported."""
    return (
        Share("model", "m:1", 0, 900, "", "r1", 2, 2),
        Share("model", "m:1", 0, 0, "idle", "r1", 1, 1),
        Share("model", "m:1", 0, 5_100, "vision", "r1", 7, 70),
        Share("model", "m:1", 0, 40, "", "r2", 0, 0),
        Share("model", "m:1", 0, 7),
    )


def test_replicas_tenants_and_requests_of_a_model_are_kept_and_hashed(store: Store) -> None:
    store.add_intervals([an_interval(0, shares=served_shares())])
    kept = store.owner_intervals("model", "m:1")
    assert {(p.part, p.tenant, p.energy_mj, p.requests, p.items) for p in kept} == {
        (s.part, s.tenant, s.energy_mj, s.requests, s.items) for s in served_shares()
    }
    document = export(store)
    assert verify_export(document) == []
    assert store.verify_chain().ok
    shares = document["entries"][0]["shares"]
    assert list(shares[0]) == ["owner_kind", "owner_id", "attempt", "tenant", "energy_mj"]  # as before it was known
    assert [share.get("part") for share in shares] == [None, "r1", "r2", "r1", "r1"]
    for change in ({"requests": 8}, {"part": "r9"}, {"items": None}):
        damaged = json.loads(json.dumps(document))
        damaged["entries"][0]["shares"][-1].update(change)
        assert verify_export(damaged), change


def test_hours_count_requests_once_also_over_the_turn_and_without_energy(store: Store) -> None:
    over = {"start_s": HOUR0_S + 3590, "length_s": 30.0}
    store.add_intervals([an_interval(0, shares=served_shares(), **over), an_interval(1, shares=served_shares())])
    rows = store.hourly()
    found: dict[str, int] = {}
    for row in rows:
        if row.requests is not None:
            found[row.tenant] = found.get(row.tenant, 0) + row.requests
    assert found == {"": 4, "idle": 2, "vision": 14}
    assert {row.part for row in rows if row.owner_id == "m:1"} == {"", "r1", "r2"}
    assert [row.requests for row in rows if row.owner_kind == ""] == [None] * 2
    cut = [store.hourly(None, HOUR0_S + 3600), store.hourly(HOUR0_S + 3600, None)]
    assert sum(row.requests or 0 for part in cut for row in part) == 20


def test_energy_is_moved_between_tenants_of_a_replica_and_its_requests_stay(store: Store) -> None:
    store.add_intervals([an_interval(0, shares=served_shares())])
    moved = Share("model", "m:1", 0, -5_100, "vision", "r1"), Share("model", "m:1", 0, 5_100, "text", "r1")
    store.add_corrections([a_correction(0, shares=moved)])
    parts = {(p.part, p.tenant): (p.energy_mj, p.requests) for p in store.owner_intervals()}
    assert parts["r1", "vision"] == (0, 7)
    assert parts["r1", "text"] == (5_100, None)
    assert store.corrections()[0].shares == moved
    with pytest.raises(EcoRayError, match="takes 1 mJ from model m:1, which has 0 mJ"):
        store.add_corrections([a_correction(0, shares=(Share("model", "m:1", 0, -1, "vision", "r2"),))])
    with pytest.raises(UsageError, match="counts of requests"):
        store.add_corrections([a_correction(0, shares=(Share("model", "m:1", 0, 1, "vision", "r2", 3),))])
    with pytest.raises(EcoRayError, match=r"requests of share of model m:1 in interval 9 .* is -1"):
        store.add_intervals([an_interval(9, shares=(Share("model", "m:1", 0, 1, requests=-1),))])


# --- corrections


def test_a_correction_moves_energy_and_every_sum_follows(store: Store) -> None:
    store.add_intervals([an_interval(0), an_interval(1)])
    moved = (Share("job", "a", 1, -20_000), Share("job", "b", 2, 15_000, "t"))
    assert store.add_corrections([a_correction(0, shares=moved, energy_mj=-1_000)]) == 1
    (node,) = store.node_energy()
    assert (node.energy_mj, node.attributed_mj, node.unallocated_mj) == (99_000, 45_000, 54_000)
    assert node.operational_g == pytest.approx(99_000 * 300 * 1.2 / 3.6e9)
    assert node.unallocated_g == pytest.approx(54_000 * 300 * 1.2 / 3.6e9)
    assert node.nature is Nature.ASSUMED
    parts = {(p.owner_id, p.start_s - T0_S): (p.energy_mj, p.attempt, p.tenant) for p in store.owner_intervals()}
    assert parts == {
        ("b", 0): (15_000, 2, "t"),
        ("mnist:1", 0): (5_000, 0, ""),
        ("a", 1): (20_000, 1, ""),
        ("mnist:1", 1): (5_000, 0, ""),
    }
    assert [p.nature for p in store.owner_intervals("job", "b")] == [Nature.ASSUMED]
    assert total(store.hourly()) == 99_000
    assert (store.check_ledger().rows, store.check_ledger().residual_mj, store.verify_chain().ok) == (2, 0, True)
    assert store.corrections() == [a_correction(0, shares=moved, energy_mj=-1_000)]


def test_a_corrected_intensity_makes_grams_known_and_the_last_one_counts(store: Store) -> None:
    store.add_intervals([an_interval(0, intensity=None, kind="", intensity_nature=None, age_s=None), an_interval(1)])
    assert store.node_energy()[0].operational_g is None
    new: dict[str, Any] = {"intensity_source": "bill", "intensity_kind": "average-direct"}
    store.add_corrections([a_correction(0, intensity_g_per_kwh=900.0, **new)])
    store.add_corrections([a_correction(0, intensity_g_per_kwh=100.0, nature=Nature.MEASURED, **new)])
    expected_g = (50_000 * 100 + 50_000 * 300) * 1.2 / 3.6e9
    assert store.node_energy()[0].operational_g == pytest.approx(expected_g)
    assert [p.intensity_g_per_kwh for p in store.owner_intervals("job")] == [100.0, 300.0]
    assert sum(row.operational_g or math.nan for row in store.hourly()) == pytest.approx(expected_g)
    assert {(row.intensity_kind, row.intensity_nature) for row in store.hourly()} == {
        ("average-direct", Nature.MEASURED),
        ("average-lifecycle", Nature.MODELLED),
    }


def test_energy_and_intensity_corrected_together(store: Store) -> None:
    store.add_intervals([an_interval(0, intensity=None)])
    store.add_corrections([a_correction(0, energy_mj=10_000), a_correction(0, intensity_g_per_kwh=200.0)])
    (node,) = store.node_energy()
    assert (node.energy_mj, node.operational_g) == (60_000, pytest.approx(60_000 * 200 * 1.2 / 3.6e9))
    assert sum(row.operational_g or math.nan for row in store.hourly()) == pytest.approx(node.operational_g)


BAD_CORRECTIONS: list[tuple[dict[str, Any], type[EcoRayError], str]] = [
    ({"seq": 9, "energy_mj": 1}, NotFoundError, "no interval n1/boot/9 in the ledger"),
    ({"energy_mj": -26_000}, EcoRayError, "takes 26000 mJ from the unallocated rest, which has 25005 mJ"),
    ({"shares": (Share("job", "a", 1, -20_001),)}, EcoRayError, "takes 20001 mJ from job a, which has 20000 mJ"),
    ({"shares": (Share("job", "c", 1, -1),)}, EcoRayError, "takes 1 mJ from job c, which has 0 mJ"),
    ({}, UsageError, "changes nothing"),
    ({"energy_mj": 1, "reason": " "}, UsageError, "has no reason"),
    ({"energy_mj": 0.5}, EcoRayError, "must be an integer"),
    ({"intensity_g_per_kwh": math.inf}, EcoRayError, "must be finite"),
    ({"intensity_g_per_kwh": -1.0}, EcoRayError, "limit >= 0"),
    ({"intensity_g_per_kwh": 1e300}, EcoRayError, r"is 1e\+300, limit >= 0 and <= 100000"),
    ({"energy_mj": 1, "made_s": 1e15}, EcoRayError, "made_s of .* limit >= 0 and <= 2.53402e"),
    ({"energy_mj": 1, "intensity_kind": "bogus"}, EcoRayError, "of kind 'bogus'"),
    ({"shares": (Share("bogus", "a", 1, 1),)}, EcoRayError, "owner kind in .* is 'bogus'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_CORRECTIONS, ids=[m[:20] for *_, m in BAD_CORRECTIONS])
def test_a_bad_correction_is_refused_and_nothing_of_its_call_is_kept(
    store: Store, change: dict[str, Any], error: type[EcoRayError], message: str
) -> None:
    store.add_intervals([an_interval(0)])
    head = store.verify_chain().head
    with pytest.raises(error, match=message):
        store.add_corrections([a_correction(0, energy_mj=5), a_correction(**{"seq": 0, **change})])
    assert (store.corrections(), store.verify_chain().head, store.verify_chain().ok) == ([], head, True)


def test_intervals_of_a_zone_and_span(store: Store) -> None:
    store.add_intervals([an_interval(seq) for seq in range(5)] + [an_interval(1, node="n2", zone="FR")])
    assert store.intervals_of("DE", T0_S + 1, T0_S + 3.5) == [("n1", "boot", 1), ("n1", "boot", 2)]


# --- hours


def test_hours_are_exact_and_an_interval_over_the_turn_is_split_by_time(store: Store) -> None:
    shares = (Share("job", "a", 1, 1_000, "t"), Share("model", "m:1", 0, 7))
    over = {"start_s": HOUR0_S + 3590, "length_s": 30.0, "energy_mj": 2_000, "idle_mj": 0, "shares": shares}
    store.add_intervals([an_interval(0, **over), an_interval(1, start_s=HOUR0_S + 10)])
    by_hour = {hour: sum(r.energy_mj for r in store.hourly() if r.hour_s - HOUR0_S == hour) for hour in (0, 3600)}
    assert by_hour == {0: 50_000 + 666, 3600: 1_334}
    job = [(r.hour_s - HOUR0_S, r.tenant, r.energy_mj) for r in store.hourly() if r.owner_id == "a"]
    assert sorted(job) == [(0, "", 20_000), (0, "t", 333), (3600, "t", 667)]
    rest = [(r.hour_s - HOUR0_S, r.energy_mj) for r in store.hourly() if r.owner_kind == ""]
    assert sorted(rest) == [(0, 25_000 + 331), (3600, 662)]
    model = [(r.hour_s - HOUR0_S, r.energy_mj) for r in store.hourly() if r.owner_id == "m:1"]
    assert sorted(model) == [(0, 2), (3600, 5)]
    g = sum(row.operational_g or math.nan for row in store.hourly())
    assert g == pytest.approx(52_000 * 300 * 1.2 / 3.6e9)
    assert sum(row.error_mj for row in store.hourly()) == pytest.approx(0.3 * 52_000)


def test_hours_of_a_span_are_cut_at_its_ends(store: Store) -> None:
    store.add_intervals(
        an_interval(seq, start_s=HOUR0_S + 700 * seq, length_s=700.0, energy_mj=50_001) for seq in range(20)
    )
    whole = total(store.hourly())
    assert whole == 20 * 50_001
    for edge_s in (HOUR0_S + 3600, HOUR0_S + 5000, HOUR0_S + 7000):
        before, after = store.hourly(None, edge_s), store.hourly(edge_s, None)
        assert total(before) + total(after) == whole
        assert total(before) == pytest.approx((edge_s - HOUR0_S) / 700 * 50_001, abs=5)
    assert store.hourly(HOUR0_S + 1e6) == []


def test_hours_keep_apart_what_must_not_be_mixed(store: Store) -> None:
    store.add_intervals(
        [
            an_interval(0),
            an_interval(1, zone="FR"),
            an_interval(2, kind="marginal"),
            an_interval(3, intensity=None, age_s=None),
            an_interval(4, intensity_nature=Nature.MEASURED, age_s=300.0),
            an_interval(5, pue=1.5),
        ]
    )
    rows = [row for row in store.hourly() if row.owner_id == "a"]
    assert len(rows) == 6
    assert sorted((row.pue, row.energy_mj) for row in rows)[-1] == (1.5, 20_000)
    unknown = [row for row in rows if row.operational_g is None]
    assert [(row.energy_mj, row.intensity_age_s) for row in unknown] == [(20_000, None)]
    assert {row.intensity_age_s for row in rows if row.intensity_nature is Nature.MEASURED} == {300.0}


# --- chain


def test_the_chain_grows_with_rows_and_corrections_and_its_heads_stay_known(store: Store) -> None:
    assert (store.verify_chain().entries, store.verify_chain().head) == (0, GENESIS)
    heads = [GENESIS]
    for seq in range(3):
        store.add_intervals([an_interval(seq)])
        store.add_corrections([a_correction(seq, energy_mj=seq + 1)])
        store.add_intervals([an_interval(seq)])  # again: nothing
        heads.append(store.verify_chain().head)
    assert len(set(heads)) == 4
    for head in heads:
        assert store.verify_chain(head).ok
    check = store.verify_chain("ab" * 32)
    assert not check.ok
    assert "no entry has the expected hash abab" in check.problems[0]
    assert (check.entries, check.broken) == (6, ())


def test_minus_zero_and_odd_floats_keep_the_chain(store: Store) -> None:
    odd = [-0.0, 5e-324, 1e308, 1 / 3, 1e-7, 1e16]
    store.add_intervals(an_interval(seq, intensity=min(v, 1e5), system_cpu_s=v, age_s=v) for seq, v in enumerate(odd))
    assert store.verify_chain().problems == ()
    assert verify_export(export(store)) == []


def test_an_export_can_be_redone_and_every_change_to_it_shows(store: Store) -> None:
    store.add_intervals(an_interval(seq) for seq in range(6))
    store.add_corrections([a_correction(2, shares=(Share("job", "a", 1, -5),)), a_correction(3, energy_mj=9)])
    document = export(store)
    assert (document["previous"], document["last"], document["count"]) == (GENESIS, store.verify_chain().head, 8)
    assert verify_export(document) == []
    for change in ("edit", "share", "delete", "swap", "double", "tail", "correction"):
        damaged = json.loads(json.dumps(document))
        entries = damaged["entries"]
        if change == "edit":
            entries[2]["intensity"] = 299.0
        elif change == "share":
            entries[2]["shares"][0]["tenant"] = "x"
        elif change == "delete":
            del entries[3]
        elif change == "swap":
            entries[3], entries[4] = entries[4], entries[3]
        elif change == "double":
            entries.insert(3, entries[3])
        elif change == "tail":
            del entries[-1]
        else:
            entries[6]["reason"] = "none"
        assert verify_export(damaged), change
    assert "no whole export" in verify_export({"entries": []})[0]
    assert "no whole export" in verify_export({**document, "entries": [{"entry": "interval"}]})[0]


def test_a_part_of_the_chain_that_holds_a_span_can_be_redone(store: Store) -> None:
    store.add_intervals(an_interval(seq) for seq in range(10))
    store.add_corrections([a_correction(4, energy_mj=1), a_correction(9, energy_mj=1)])
    document = export(store, start_s=T0_S + 3, end_s=T0_S + 5)
    # from the first interval of the span to the last correction of it
    assert [entry["id"] for entry in document["entries"]] == list(range(4, 12))
    assert verify_export(document) == []
    empty = export(store, start_s=T0_S + 1e6)
    assert (empty["entries"], verify_export(empty)) == ([], [])
