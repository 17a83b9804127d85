"""Two lives of a node's agent that count the same time: the energy stays, and every such time is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import T0_S, an_interval

from eco_ray.core.ledger import OTHER_LIFE, Interval
from eco_ray.core.store_port import Store
from eco_ray.report.document import build_report
from eco_ray.store import open_store, verify_export
from eco_ray.store.ledger_write import OVERLAPPING


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url)
    yield opened
    opened.close()


def a_life(boot_id: str, start_s: float, count: int, length_s: float = 1.0, **more: Any) -> list[Interval]:
    return [
        an_interval(seq, boot_id=boot_id, start_s=T0_S + start_s + seq * length_s, length_s=length_s, **more)
        for seq in range(count)
    ]


def flagged(store: Store) -> list[tuple[str, int]]:
    entries = list(store.ledger_entries())[1:]
    return [(row["boot_id"], row["seq"]) for row in entries if OTHER_LIFE in row["flags"]]


def test_after_a_clock_that_went_back_the_time_is_flagged_and_no_energy_is_lost(store: Store) -> None:
    store.add_intervals(a_life("a", 0.0, 100))
    for one in a_life("b", 50.5, 60):  # the agent began anew, on a clock that had gone back
        store.add_intervals([one])
    assert flagged(store) == [("b", seq) for seq in range(50)]  # 50.5 to 100.5 s
    assert store.node_energy()[0].energy_mj == 160 * 50_000
    (found,) = store.overlaps()
    assert (found.node, found.boot_id, found.other_boot_id, found.intervals) == ("n1", "b", "a", 50)
    assert (found.start_s, found.end_s) == (T0_S + 50.5, T0_S + 100.5)
    for part in ("node n1", "agent life b", "agent life a", "2025-11-22T08:27:31Z", "2025-11-22T08:28:21Z", "clock"):
        assert part in str(found)
    check = store.verify_chain()
    assert (check.ok, check.problems) == (True, ())
    document = build_report(store, T0_S + 200)
    assert document["overlaps"] == [
        {"node": "n1", "life": "b", "other_life": "a", "start_s": found.start_s, "end_s": found.end_s, "intervals": 50}
    ]
    assert str(found) in document["notes"]
    first, *entries = store.ledger_entries()
    exported = {**first, "entries": entries, "count": len(entries), "last": check.head}
    assert verify_export(json.loads(json.dumps(exported))) == []


def test_lives_that_follow_each_other_are_not_flagged(store: Store) -> None:
    store.add_intervals(a_life("a", 0.0, 5))
    store.add_intervals(a_life("b", 5.0 - 5e-4, 3))  # rounding of clocks
    store.add_intervals(a_life("c", 8.0, 1, length_s=3600.0))  # without an agent
    store.add_intervals(a_life("c2", 3608.0 - 5e-4, 3))
    store.add_intervals(a_life("d", 1.0, 3, node="n2"))  # another node
    store.add_intervals(a_life("e", -100.0, 99))  # from a disk, late
    assert flagged(store) == []
    assert store.overlaps() == ()
    assert build_report(store, T0_S + 200)["overlaps"] == []


def test_both_lives_of_one_message_are_looked_at(store: Store) -> None:
    both = sorted([*a_life("a", 0.0, 10), *a_life("b", 6.5, 10)], key=lambda one: one.sample.start_s)
    store.add_intervals(both)
    # from 6.5 to 10 s each begins within one of the other life
    assert flagged(store) == [("b", 0), ("a", 7), ("b", 1), ("a", 8), ("b", 2), ("a", 9), ("b", 3)]
    assert store.overlaps()[0].intervals == 4


def test_a_long_interval_counts_behind_many_short_ones(store: Store) -> None:
    store.add_intervals(a_life("away", 0.0, 1, length_s=1000.0))
    store.add_intervals(a_life("b", 400.0, 5))
    store.add_intervals(a_life("c", 500.0, 2))
    assert flagged(store) == [*[("b", seq) for seq in range(5)], ("c", 0), ("c", 1)]
    assert {(one.boot_id, one.other_boot_id) for one in store.overlaps()} == {("b", "away"), ("c", "away")}


def test_what_is_sent_again_is_not_an_overlap(store: Store) -> None:
    for _ in range(2):
        store.add_intervals(a_life("a", 0.0, 5))
    assert flagged(store) == []


def test_flags_that_were_there_stay_in_front(store: Store) -> None:
    store.add_intervals(a_life("a", 0.0, 1))
    store.add_intervals(a_life("b", 0.0, 1, flags=("late-sample",)))
    assert list(store.ledger_entries())[-1]["flags"] == ["late-sample", OTHER_LIFE]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(1, 6), st.booleans()), min_size=1, max_size=14
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_that_overlaps_is_told_of_whatever_the_order(given_rows: list[tuple[str, int, int, bool]]) -> None:
    made = [
        an_interval(seq, boot_id=life, start_s=T0_S + start, length_s=float(length))
        for seq, (life, start, length, _) in enumerate(given_rows)
    ]
    stores = [open_store("memory://"), open_store("memory://")]
    stores[0].add_intervals(made)
    groups: list[list[Interval]] = [[]]
    for one, (*_, cut) in zip(made, given_rows, strict=True):
        groups[-1].append(one)
        if cut:
            groups.append([])
    for group in groups:
        stores[1].add_intervals(group)
    pairs = {
        (x.sample.boot_id, y.sample.boot_id)
        for x in made
        for y in made
        if x.sample.boot_id < y.sample.boot_id
        and x.sample.start_s < y.sample.end_s
        and y.sample.start_s < x.sample.end_s
    }
    for one in stores:
        assert {tuple(sorted((found.boot_id, found.other_boot_id))) for found in one.overlaps()} == pairs
        assert bool(flagged(one)) == bool(pairs)


def test_a_booking_is_not_a_scan(tmp_path: Any) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    store.add_intervals(a_life("a", 0.0, 50))
    with store._database.reading() as connection:  # type: ignore[attr-defined]
        asked = {"node": "n1", "boot_id": "b", "since_s": T0_S, "until_s": T0_S + 1}
        sql = OVERLAPPING.params(**asked).compile(connection, compile_kwargs={"literal_binds": True})
        plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
    assert any("ix_intervals_node_end_s (node=? AND end_s>?)" in step for step in plan), plan
    store.close()
