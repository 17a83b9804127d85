"""What caches avoided: summed exactly, every hit once, and unknown grams stay unknown."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from eco_ray.core.avoided import Avoided, avoided_sums
from eco_ray.core.clock import Clock
from eco_ray.core.footprint import ReplicaPower, Signal
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.on_ray import avoided, ray_serve, surroundings
from eco_ray.on_ray.avoided import SPAN_S, AvoidedLog
from eco_ray.on_ray.replica_file import MAX_TENANTS
from eco_ray.store.memory import MemoryStore

T0_S = 1_763_800_000.0
KIND, MARGINAL = "average-lifecycle", "marginal"
POWER = ReplicaPower(PowerCurve((0.0, 1.0), (40.0, 100.0), "test"), 4.0, 1.0, pue=1.5, clock_speed=60.0)
CLEAN, DIRTY = (Signal("DE", value, "profile", KIND, Nature.MEASURED) for value in (100.0, 400.0))
UNKNOWN = Signal("DE", None, "unknown")
ROW = Avoided(
    *("r1/1", T0_S, T0_S + 60, "n1", "m:1", "vision", 10, 36_000, "DE", 400.0, KIND, 1.5, Nature.MODELLED, "test")
)


def a_log(signal: Signal = CLEAN, clock: Clock | None = None, replica: str = "r1") -> AvoidedLog:
    return AvoidedLog(replica, "n1", POWER, signal, clock or Clock(), T0_S)


def told(rows: list[Avoided]) -> list[tuple[str, int, int, float | None]]:
    return [(row.tenant, row.hits, row.energy_mj, row.intensity_g_per_kwh) for row in rows]


# -- the row and its sums ---------------------------------------------------------------------------------------------


def test_grams_are_of_energy_intensity_and_pue_and_unknown_where_the_intensity_is() -> None:
    assert ROW.operational_g == pytest.approx(36 / 3.6e6 * 400 * 1.5)
    assert replace(ROW, intensity_g_per_kwh=None).operational_g is None


def test_sums_are_exact_and_in_order_of_keys() -> None:
    other = replace(ROW, tenant="text", zone="FR", model="m:2", hits=1, energy_mj=7, nature=Nature.ASSUMED, source="b")
    rows = [ROW, other, replace(ROW, hits=3, energy_mj=5, nature=Nature.ASSUMED, source="a")]
    text, vision = avoided_sums(rows, "tenant")
    assert (text.key, text.hits, text.energy_mj) == ("text", 1, 7)
    assert (vision.key, vision.hits, vision.energy_mj, vision.nature) == ("vision", 13, 36_005, Nature.ASSUMED)
    assert vision.operational_g == pytest.approx(36.005 / 3.6e6 * 400 * 1.5)
    assert (vision.intensity_kinds, vision.sources) == ((KIND,), ("a", "test"))
    assert [line.key for line in avoided_sums(rows, "zone")] == ["DE", "FR"]
    assert [line.key for line in avoided_sums(rows, "model")] == ["m:1", "m:2"]
    assert avoided_sums([], "zone") == []


@pytest.mark.parametrize("change", [{"intensity_g_per_kwh": None, "intensity_kind": ""}, {"intensity_kind": MARGINAL}])
def test_grams_of_unknown_or_other_intensities_are_not_added(change: dict[str, object]) -> None:
    (line,) = avoided_sums([ROW, replace(ROW, **change)], "tenant")  # type: ignore[arg-type]
    assert (line.energy_mj, line.operational_g) == (72_000, None)


# -- the replica's side -----------------------------------------------------------------------------------------------


def test_a_span_becomes_a_row_for_each_tenant_when_it_ends() -> None:
    log = a_log()
    for _ in range(1000):
        log.add("m:1", "vision", 0.0041)
    log.add("m:1", "", 2.0)
    assert log.take(T0_S + SPAN_S - 1, CLEAN) == []
    rows = log.take(T0_S + SPAN_S, CLEAN)
    assert told(rows) == [("vision", 1000, 4_100, 100.0), ("", 1, 2_000, 100.0)]
    first = rows[0]
    assert (first.id, first.node, first.model, first.zone, first.pue) == ("r1/1", "n1", "m:1", "DE", 1.5)
    assert (first.start_s, first.end_s, first.intensity_kind, first.nature) == (
        T0_S, T0_S + SPAN_S, KIND, Nature.MODELLED,
    )  # fmt: skip
    assert first.source == "first computation less the hit, by CPU time; intensity: profile"


def test_hits_have_the_intensity_of_their_moment() -> None:
    log = a_log(UNKNOWN)
    log.add("m:1", "a", 1.0)
    log.take(T0_S + 1, CLEAN)
    log.add("m:1", "a", 2.0)
    log.take(T0_S + 2, CLEAN)
    log.add("m:1", "a", 3.0)
    rows = log.take(T0_S + 3, DIRTY)
    assert told(rows) == [("a", 1, 1_000, None), ("a", 2, 5_000, 100.0)]
    assert (rows[0].operational_g, rows[0].intensity_kind) == (None, "")
    assert [(row.start_s, row.end_s) for row in rows] == [(T0_S, T0_S + 1), (T0_S + 1, T0_S + 3)]


def test_an_assumed_intensity_makes_the_row_assumed() -> None:
    log = a_log(replace(CLEAN, nature=Nature.ASSUMED))
    log.add("m:1", "a", 1.0)
    assert log.take(T0_S + 1, CLEAN)[0].nature is Nature.ASSUMED


def test_spans_are_of_wall_time_and_rows_of_grid_time() -> None:
    log = a_log(clock=Clock(60.0, T0_S, 5_000.0))
    log.take(T0_S + 10, CLEAN)  # nothing yet: the span begins where the first hit can be
    log.add("m:1", "a", 1.0)
    assert log.take(T0_S + 10 + SPAN_S / 2, CLEAN) == []
    (row,) = log.take(T0_S + 10 + SPAN_S, CLEAN)
    assert (row.start_s, row.end_s) == (5_000.0 + 600.0, 5_000.0 + 600.0 + 60 * SPAN_S)


def test_a_wall_clock_that_is_set_back_ends_the_span() -> None:
    log = a_log()
    log.add("m:1", "a", 1.0)
    (row,) = log.take(T0_S - 1000, CLEAN)
    assert row.start_s == row.end_s == T0_S - 1000


def test_rows_are_given_until_they_are_confirmed() -> None:
    log = a_log()
    log.add("m:1", "a", 1.0)
    first = log.take(T0_S + SPAN_S, CLEAN)
    log.add("m:1", "a", 2.0)
    both = log.take(T0_S + 2 * SPAN_S, CLEAN)
    assert both[:1] == first
    log.confirm(first)
    log.confirm(first)
    assert log.take(T0_S + 2 * SPAN_S, CLEAN) == both[1:]
    log.confirm(both)
    assert log.take(T0_S + 3 * SPAN_S, CLEAN) == []


def test_a_deployer_that_is_away_loses_nothing_and_counts_nothing_twice(caplog: pytest.LogCaptureFixture) -> None:
    store, log, other = MemoryStore(), a_log(), a_log(replica="r2")
    answers = 0

    def write(rows: list[Avoided]) -> None:
        nonlocal answers
        answers += 1
        if answers % 3 == 1:
            raise ConnectionError("away")
        store.add_avoided(rows)
        if answers % 3 == 2:
            raise TimeoutError("written, and the answer is lost")

    for minute in range(1, 301):  # five hours
        for one in (log, other):
            one.add("m:1", "a", 0.001 * minute)
            one.send(T0_S + minute * SPAN_S, CLEAN, write)
    for one in (log, other):
        for _ in range(3):
            one.send(T0_S + 301 * SPAN_S, CLEAN, write)
    (line,) = avoided_sums(store.avoided(), "tenant")
    assert (line.hits, line.energy_mj) == (600, 2 * sum(range(1, 301)))
    assert not caplog.records


def test_a_replica_that_ends_has_what_is_left_written(caplog: pytest.LogCaptureFixture) -> None:
    log, written = a_log(), []
    log.add("m:1", "vision", 1.0)
    log.send(T0_S + 1, CLEAN, written.extend)
    assert written == []  # its span goes on
    log.end(T0_S + 2, written.extend)
    assert told(written) == [("vision", 1, 1_000, 100.0)]
    log.end(T0_S + 3, written.extend)
    assert len(written) == 1

    def away(rows: list[Avoided]) -> None:
        raise ConnectionError

    log.add("m:1", "vision", 1.0)
    log.end(T0_S + 4, away)
    assert "1 rows are lost with the replica" in caplog.text


def test_what_waits_is_bounded_and_sent_in_parts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(avoided, "MOST_WAITING", 5)
    monkeypatch.setattr(avoided, "MOST_SENT", 2)
    log = a_log()
    for minute in range(1, 8):
        log.add("m:1", "a", float(minute))
        log.take(T0_S + minute * SPAN_S, CLEAN)
    assert "1 rows are lost" in caplog.text
    sent: list[list[int]] = []
    for _ in range(4):
        log.send(T0_S + 7 * SPAN_S, CLEAN, lambda rows: sent.append([row.energy_mj // 1000 for row in rows]))
    assert sent == [[3, 4], [5, 6], [7]]


def test_tenants_beyond_those_that_a_replica_tells_apart_are_nobody() -> None:
    log = a_log()
    for number in range(MAX_TENANTS + 5):
        log.add("m:1", f"t{number}", 1.0)
    rows = log.take(T0_S + SPAN_S, CLEAN)
    assert len(rows) == MAX_TENANTS + 1
    assert (rows[-1].tenant, rows[-1].hits, sum(row.hits for row in rows)) == ("", 5, MAX_TENANTS + 5)


# -- between replica and deployer -------------------------------------------------------------------------------------


def test_a_replica_knows_kind_and_nature_of_its_signal() -> None:
    now = {"intensity_g_per_kwh": 100.0, "source": "profile", "kind": KIND, "nature": "measured"}
    assert surroundings._signal("DE", now) == CLEAN
    nothing = {"intensity_g_per_kwh": None, "source": "unknown", "kind": None, "nature": None}
    assert surroundings._signal("DE", None) == surroundings._signal("DE", nothing) == UNKNOWN


def test_the_deployer_writes_what_replicas_send(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(ray_serve.DeployerActor):
        def __init__(self) -> None:
            self._store = MemoryStore()

    deployer = Local()
    handle = SimpleNamespace(add_avoided=SimpleNamespace(remote=deployer.add_avoided))
    monkeypatch.setattr(ray_serve, "deployer_handle", lambda: handle)
    monkeypatch.setattr("ray.get", lambda asked, timeout: asked)
    surroundings._write_avoided([ROW])
    surroundings._write_avoided([ROW])
    assert deployer._store.avoided() == [ROW]
