"""What the deployer keeps of scaling, and what it tells of it."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace

import pytest

from eco_ray.cli.serving_rows import in_words, served_as, serving_rows
from eco_ray.config import load_settings
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.deployments import Deployment, ZonePart
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_counts import ReplicaDecision, ReplicaLoad, Scaling, next_replicas
from eco_ray.core.replica_facts import Start, replica_facts
from eco_ray.core.replica_places import Place, Room
from eco_ray.core.scaling_log import ScalingRecord, replay
from eco_ray.core.variants import Mixing
from eco_ray.errors import InfeasibleError, UnreachableError
from eco_ray.on_ray.serving.books import SCALING_KEY, ScalingBooks, read_records
from eco_ray.on_ray.serving.exchange import FRESH_S, Last, News
from eco_ray.store import open_store

CURVE = PowerCurve((0, 1), (50, 100), "test")
NODES = [Node(name, name.upper(), Resources(2.0), CURVE, sleeps=True) for name in ("fr", "de")]
ONE = Deployment("mnist", 3, nodes=("fr", "de"), min_replicas=0, max_replicas=4, places=(Place("fr", ()),))
FIXED = replace(ONE, model="fixed", min_replicas=2, max_replicas=2, places=(Place("fr", ()), Place("de", ())))
SHARED = replace(ONE, model="tiny", shared=True)
MIXED = replace(ONE, variant=2, mixing=Mixing(0.4, 0.9, 300.0))
CANARY = replace(FIXED, model="new", canary=4, canary_percent=10)
START = Start(3.0, 60.0, 2.0)


def rooms(fr_cpus=0.0, de_cpus=0.0):
    return [Room(NODES[0], Resources(fr_cpus), 100.0), Room(NODES[1], Resources(de_cpus), 400.0)]


def last(replicas=1, app="model.mnist", nodes=None, start=START, at_s=100.0):
    return Last(app, "mnist:3", at_s, ReplicaDecision(replicas, "so"), replicas, nodes or {0: replicas}, start)


@pytest.fixture
def store(tmp_path):
    made = open_store(f"sqlite:///{tmp_path / 'x.db'}")
    yield made
    made.close()


@pytest.fixture
def books(store, tmp_path):
    return ScalingBooks(store, tmp_path / "scaling", lambda: rooms(1.0), lambda: [ONE, FIXED, SHARED], lambda: 200.0)


def test_facts_are_without_the_replicas_that_are_there():
    facts = replica_facts(ONE, rooms(1.0), {"fr": 1}, START)
    assert facts.grams_per_h == replica_facts(ONE, rooms(), {}, START).grams_per_h
    # a node that sleeps and its 25 W, 100 and 400 g/kWh
    assert facts.grams_per_h == pytest.approx((0.0, 7.5, 10.0, 40.0, 50.0))
    assert facts.cold.idle_w == 52.0  # it keeps its node awake
    assert replica_facts(ONE, rooms(2.0), {"fr": 1}, START).cold.idle_w == 2.0  # somebody else does
    both = replica_facts(ONE, rooms(1.0, 1.0), {"de": 1, "fr": 1}, START)
    assert both.cold.intensity_g_per_kwh == 100.0  # of the one that stays
    assert replica_facts(ONE, rooms(0.0, 1.0), {"de": 1}, START).cold.intensity_g_per_kwh == 400.0
    assert replica_facts(ONE, rooms(), {}, START).cold.intensity_g_per_kwh == 100.0
    assert replica_facts(ONE, rooms(), {}, None).cold is None
    unknown = replica_facts(ONE, [replace(room, intensity_g_per_kwh=None) for room in rooms()], {}, START)
    assert unknown.alternatives(1, 4)[1] == {"replicas": 1, "grams_per_h": None}
    assert [one["replicas"] for one in replica_facts(ONE, rooms(), {}, START).alternatives(3, 4)] == [0, 1, 2, 3, 4]


def test_what_policies_tell_is_shown_with_what_others_would_emit(books, store):
    snapshot = books.exchange(News((last(),)))
    assert set(snapshot.facts) == {"model.mnist", "model.fixed"}
    assert snapshot.facts["model.mnist"].cold.start_s == 3.0
    row = books.rows()["mnist"]
    assert (row["replicas"], row["running"], row["nodes"], row["why"]) == (1, 1, {"fr": 1}, "so")
    assert row["at"] == "1970-01-01T00:01:40Z"
    assert row["cold_start"]["start_j"] == 60.0
    assert in_words(row) == (
        "1 replica (fr: 1) at 1970-01-01T00:01:40Z: so; replicas would add 0: 0 g/h, 1: 7.5 g/h, 2: 10 g/h, 4: 50 g/h"
    )
    fixed = books.rows()["fixed"]
    assert (fixed["replicas"], fixed["nodes"], fixed["why"]) == (2, {"fr": 1, "de": 1}, "--min and --max are 2")
    assert "tiny" not in books.rows()
    assert (books.replicas(ONE), books.replicas(FIXED)) == (1, 0)
    books.keep()
    assert store.get_meta(SCALING_KEY)["mnist"]["why"] == "so"


def test_what_is_no_more_deployed_or_scaled_is_forgotten(store, tmp_path):
    deployed = [ONE]
    books = ScalingBooks(store, tmp_path, rooms, lambda: deployed, lambda: 200.0)
    books.exchange(News((last(4),)))
    deployed[0] = replace(ONE, min_replicas=1, max_replicas=1)
    assert books.rows()["mnist"]["nodes"] == {"fr": 1}
    deployed.clear()
    books.rows()
    assert books.replicas(ONE) == 0


def test_people_are_shown_what_is_in_the_store(books, store, tmp_path):
    settings = load_settings({"state_dir": str(tmp_path), "store_url": f"sqlite:///{tmp_path / 'x.db'}"})
    assert serving_rows(settings) == []
    books.exchange(News((last(),)))
    store.put_meta("deployments", [one.to_json() for one in (SHARED, ONE, FIXED)])
    assert serving_rows(settings) == []  # not written down yet
    books.keep()
    rows = serving_rows(settings)
    assert [(row["model"], row["version"], row["replicas"]) for row in rows] == [("fixed", 3, 2), ("mnist", 3, 1)]
    assert [row["capacity"] for row in rows] == [{}, {}]
    zones = {"FR": {"capacity_per_s": 40.48, "capacity_nature": "measured"}, "DE": {"capacity_per_s": 80.0}}
    store.put_meta("zone_traffic", {"mnist": {"zones": zones}})
    told = in_words(serving_rows(settings)[1])
    assert told.endswith("; requests/s that zones can answer: FR 40.5 (measured), DE 80 (unknown)")
    assert serving_rows(load_settings({"state_dir": str(tmp_path / "nothing")})) == []


def test_a_start_is_known_without_a_replica_and_after_a_restart(books, store, tmp_path):
    books.exchange(News((last(),)))
    snapshot = books.exchange(News((last(0, nodes={}, start=None),)))
    assert snapshot.facts["model.mnist"].cold.start_j == 60.0
    again = ScalingBooks(store, tmp_path, rooms, lambda: [ONE], lambda: 200.0)
    assert again.exchange(News()).facts["model.mnist"].cold.start_s == 3.0
    other = ScalingBooks(store, tmp_path, rooms, lambda: [replace(ONE, version=4)], lambda: 200.0)
    assert other.exchange(News()).facts["model.mnist"].cold is None


def record(now_s, ongoing=1.0):
    load, scaling = ReplicaLoad(now_s, ongoing, 5, 1, 1, 0.05), Scaling(0, 4)
    return ScalingRecord("model.mnist", load, None, scaling, next_replicas(load, None, scaling)[0])


def test_decisions_are_written_once_and_can_be_replayed(books, tmp_path):
    path = tmp_path / "scaling" / "model.mnist.jsonl"
    books.exchange(News(records=(record(1.0), record(2.0, 9.0))))
    books.exchange(News(records=(record(2.0, 9.0), record(3.0))))  # its answer came too late: told again
    with path.open("a") as file:
        file.write('{"app": "model.mn')
    records = read_records(path)
    assert [one.load.now_s for one in records] == [1.0, 2.0, 3.0]
    assert replay(records) == [one.decision for one in records]


def test_logs_do_not_grow_forever(books, tmp_path):
    for at in range(25):
        books.exchange(News(records=tuple(record(float(at * 100 + n)) for n in range(100))))
    records = read_records(tmp_path / "scaling" / "model.mnist.jsonl")
    assert 1000 <= len(records) <= 2000
    assert records[-1].load.now_s == 2499.0


def test_a_controller_that_is_away_holds_up_one_thread(store, tmp_path):
    hangs, asked = threading.Event(), threading.Event()

    def hanging():
        asked.set()
        hangs.wait(30.0)
        return rooms()

    books = ScalingBooks(store, tmp_path, hanging, lambda: [ONE])
    thread = threading.Thread(target=books.exchange, args=(News(),))
    thread.start()
    asked.wait(5.0)
    began_s = time.monotonic()
    with pytest.raises(UnreachableError, match="again in a moment"):
        books.exchange(News((last(3),)))
    assert time.monotonic() - began_s < 1.0
    assert books.replicas(ONE) == 3  # what was told is taken anyway
    hangs.set()
    thread.join()
    assert books.exchange(News()).rooms == tuple(rooms())


def test_a_model_that_no_node_has_room_for_does_not_hide_the_others(store, tmp_path):
    large = replace(ONE, model="large", demand=Resources(gpu_memory_gb=4.0))
    with pytest.raises(InfeasibleError):
        replica_facts(large, rooms(), {}, None)
    books = ScalingBooks(store, tmp_path, rooms, lambda: [large, ONE])
    assert set(books.exchange(News()).facts) == {"model.mnist"}
    assert books.rows()["large"]["alternatives"] == []


def test_zones_are_scaled_by_themselves_and_told_together(store, tmp_path):
    parts = tuple(ZonePart(zone, (zone.lower(),), (Place(zone.lower(), ()),)) for zone in ("FR", "DE"))
    both = replace(ONE, per_zone=True, parts=parts, nodes=("fr", "de"))
    books = ScalingBooks(store, tmp_path / "scaling", lambda: rooms(1.0), lambda: [both, FIXED], lambda: 200.0)
    told = [last(2, "zone.FR.mnist"), last(0, "zone.DE.mnist", {}, start=None, at_s=150.0)]
    facts = books.exchange(News(tuple(told), ())).facts
    assert {"zone.FR.mnist", "zone.DE.mnist"} < set(facts)
    assert facts["zone.FR.mnist"].grams_per_h[1] < facts["zone.DE.mnist"].grams_per_h[1]
    row = books.rows()["mnist"]
    assert (row["replicas"], row["running"], row["nodes"]) == (2, 2, {"fr": 2, "de": 0})
    assert row["why"] == "FR 2: so; DE 0: so"
    assert [one["replicas"] for one in row["zones"].values()] == [2, 0]
    assert row["zones"]["FR"]["alternatives"]
    assert "2 replicas (fr: 2" in in_words(row)


def test_serve_goes_by_grams_for_as_long_as_a_snapshot_is_believed(store, tmp_path):
    now_s = [200.0]
    books = ScalingBooks(store, tmp_path / "scaling", rooms, lambda: [ONE], lambda: now_s[0])
    assert not books.is_asked
    books.exchange(News())
    now_s[0] += FRESH_S - 1
    assert books.is_asked
    now_s[0] += 1
    assert not books.is_asked


def test_a_decision_that_cannot_be_written_down_stops_nothing(books):
    load = ReplicaLoad(100.0, 1.0, 1, 1, 1, 0.05, p95_s=math.nan)
    decision, _ = next_replicas(load, None, Scaling(1, 2))
    assert books.exchange(News((last(),), (ScalingRecord("model.mnist", load, None, Scaling(1, 2), decision),))).rooms


def beside_books(store, tmp_path, where=dict, now_s=lambda: 200.0):
    return ScalingBooks(store, tmp_path / "scaling", lambda: rooms(2.0), lambda: [CANARY, MIXED], now_s, where)


def test_a_variant_and_a_canary_have_facts_like_others(store, tmp_path):
    books = beside_books(store, tmp_path)
    variant = Last("variant.mnist", "mnist:2", 100.0, ReplicaDecision(1, "some"), 1, {1: 1}, Start(1.0, 9.0, 1.0))
    facts = books.exchange(News((last(2, nodes={0: 2}), variant))).facts
    assert set(facts) == {"model.mnist", "variant.mnist", "model.new", "canary.new"}
    assert facts["variant.mnist"].cold.start_j == 9.0  # of its version
    assert facts["model.mnist"].cold.start_j == 60.0
    assert facts["variant.mnist"].grams_per_h == pytest.approx((0.0, 30.0, 40.0))  # on de alone: fr is full
    assert len(facts["canary.new"].grams_per_h) == 2
    again = beside_books(store, tmp_path)
    assert again.exchange(News()).facts["variant.mnist"].cold.start_j == 9.0  # kept, while it is served


def test_what_is_told_of_a_variant_and_a_canary(store, tmp_path):
    now_s, asked = [200.0], []

    def where():
        asked.append(now_s[0])
        return {"model.new": {"fr": 2}, "canary.new": {"de": 1}, "model.mnist": {}}

    books = beside_books(store, tmp_path, where, lambda: now_s[0])
    variant = Last("variant.mnist", "mnist:2", 100.0, ReplicaDecision(0, "none now"), 0, {}, START)
    books.exchange(News((last(), variant)))
    rows = books.rows()
    assert asked == [200.0]  # not at each look
    new, mixed = rows["new"], rows["mnist"]
    assert (new["nodes"], new["running"], new["why"]) == ({"fr": 2}, 2, "--min and --max are 2")  # not as planned
    beside = new["beside"]
    assert (beside["kind"], beside["version"], beside["nodes"], beside["why"]) == (
        "canary", 4, {"de": 1}, "a canary has one",
    )  # fmt: skip
    assert [one["replicas"] for one in beside["alternatives"]] == [0, 1]
    beside = mixed["beside"]
    assert (beside["kind"], beside["version"], beside["replicas"], beside["why"]) == ("variant", 2, 0, "none now")
    assert beside["cold_start"]["start_j"] == 60.0
    assert mixed["nodes"] == {"fr": 1}  # as its replicas tell
    now_s[0] += 10.0
    books.rows()
    assert asked == [200.0, 210.0]


def test_where_serve_does_not_say_where_replicas_are_they_are_told_as_planned(store, tmp_path):
    def away():
        raise UnreachableError("Serve is away")

    rows = beside_books(store, tmp_path, away).rows()
    assert rows["new"]["nodes"] == {"fr": 1, "de": 1}
    assert rows["new"]["beside"]["nodes"] == {}


def test_a_variant_has_as_many_replicas_as_its_part_takes_and_a_canary_one():
    counts = [
        (one.beside_part.version, one.beside_part.min_replicas, one.beside_part.max_replicas)
        for one in (MIXED, replace(MIXED, min_replicas=2, max_replicas=2), replace(MIXED, min_replicas=3), CANARY)
    ]
    assert counts == [(2, 0, 2), (2, 1, 1), (2, 2, 2), (4, 1, 1)]
    assert ONE.beside_part is None
    part = MIXED.beside_part
    assert (part.beside, part.mixing, part.nodes, part.demand) == (None, None, MIXED.nodes, MIXED.demand)


def test_people_are_told_of_all_that_is_served_in_words(store, tmp_path):
    settings = load_settings({"state_dir": str(tmp_path), "store_url": f"sqlite:///{tmp_path / 'x.db'}"})
    parts = tuple(ZonePart(zone, (zone.lower(),), (Place(zone.lower(), ()),)) for zone in ("FR", "DE"))
    zones = replace(ONE, model="zones", per_zone=True, parts=parts)
    deployed = [CANARY, MIXED, zones]
    books = ScalingBooks(store, tmp_path / "scaling", rooms, lambda: deployed, lambda: 200.0)
    told = [last(app=app) for app in ("model.mnist", "variant.mnist", "zone.FR.zones", "zone.DE.zones")]
    books.exchange(News(tuple(told)))
    store.put_meta("deployments", [one.to_json() for one in deployed])
    store.put_meta("variant_mixes", {"mnist": {"version": 3, "variant": 2, "share": 0.4, "why": "the grid is dirty"}})
    store.put_meta("zone_traffic", {"zones": {"why": "FR is clean", "grams_per_h": 3.0, "home_grams_per_h": 12.0}})
    books.keep()
    rows = serving_rows(settings)
    mixed, canary, per_zone = map(in_words, rows)
    assert "; variant mnist:2: 1 replica (fr: 1) at 1970-01-01T00:01:40Z: so; replicas would add 0: 0 g/h" in mixed
    assert mixed.endswith("; requests: the grid is dirty")
    assert "; canary new:4: 1 replica at 1970-01-01T00:03:20Z: a canary has one; replicas would add 0: 0 g/h" in canary
    assert "; in FR replicas would add 0: 0 g/h, 1: 7.5 g/h" in per_zone
    assert "; in DE replicas would add 0: 0 g/h, 1: 30 g/h" in per_zone
    assert per_zone.endswith("; requests: FR is clean; they add 3 g/h, and would add 12 g/h where they come from")
    store.put_meta("variant_mixes", {"mnist": {"version": 3, "variant": 1, "share": 0.4, "why": "of another variant"}})
    assert "requests" not in serving_rows(settings)[0]["beside"]


def test_a_version_is_found_as_what_it_is_served_as(store, tmp_path):
    books = beside_books(store, tmp_path)
    rows = [{"model": "mnist", "version": 3, "follows": "", "registry": "r", **books.rows()["mnist"]}]
    assert served_as(rows, "mnist", 3, "r")["beside"]["version"] == 2
    variant = served_as(rows, "mnist", 2, "r")
    assert (variant["model"], variant["version"], variant["kind"]) == ("mnist", 2, "variant")
    assert served_as(rows, "mnist", 1, "r") is None
    assert served_as(rows, "mnist", 3, "other") is None
