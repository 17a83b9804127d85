"""Emptying nodes, without Ray: one drain at a time, nothing twice, and nothing for what cannot be true."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.consolidation import Consolidation, DrainState, Guest
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_places import Room
from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.on_ray.serving.consolidator import LOOK_S, MOVE_S, Consolidator, View
from eco_ray.on_ray.serving.drain_record import META_KEY, DrainAnswer, Kept, Told, UnderWay, shown
from eco_ray.store.memory import MemoryStore

NODE = Node("", "", Resources(4.0, 0.0, 8.0), PowerCurve((0, 1), (50, 100), "test"), sleeps=True)
#: nodes that are empty stay on
CONFIG = Consolidation(empty_s=math.inf)


class World:
    """A cluster in memory: drained nodes lose their guests after two looks, and come back as new ones when released."""

    def __init__(self, intensity=None):
        self.now_s = 1000.0
        self.nodes = {name: replace(NODE, name=name, zone=name, ray_node_id=f"{name}/1") for name in ("dirty", "green")}
        self.intensity = intensity or (lambda name, _s: {"dirty": 600.0, "green": 50.0}.get(name))
        self.guests = [Guest("r1", "dirty", Resources(1.0)), Guest("r2", "green", Resources(1.0))]
        self.returning = {"dirty", "green"}
        self.draining: dict[str, float] = {}
        self.starting: tuple[str, ...] = ()
        self.planned: set[str] = set()
        self.asked: list[tuple[float, str]] = []
        self.let_gone: list[str] = []
        self.answer = DrainAnswer(accepted=True)
        self.away = False
        #: raised when it is asked to drain: before or after it has taken that
        self.raises: tuple[str, BaseException] | None = None

    def view(self, _horizon_s):
        if self.away:
            raise UnreachableError("the controller does not answer")
        rooms = []
        for name, node in self.nodes.items():
            held = sum((guest.demand for guest in self.guests if guest.node == name), Resources())
            rooms.append(Room(node, held, self.intensity(name, self.now_s)))
        draining, returning, planned = map(frozenset, (self.draining, self.returning, self.planned))
        return View(self.now_s, tuple(rooms), tuple(self.guests), draining, returning, planned, self.starting)

    def drain(self, node, guests, _why, deadline_wall_s):
        assert deadline_wall_s > self.now_s
        assert not self.draining, "two at once"
        assert guests == [guest.name for guest in self.guests if guest.node == node.name]
        self.asked.append((self.now_s, node.name))
        if self.raises and self.raises[0] == "before":
            raise self.raises[1]
        if self.answer.accepted:
            self.draining[node.name] = self.now_s
        if self.raises:
            raise self.raises[1]
        return self.answer

    def let_go(self, node):
        self.let_gone.append(node.name)
        number = int((node.ray_node_id or "").rpartition("/")[2]) + 1
        del self.draining[node.name]
        self.nodes[node.name] = replace(node, ray_node_id=f"{node.name}/{number}")

    def pass_s(self, seconds=LOOK_S):
        self.now_s += seconds
        for name, since_s in self.draining.items():
            if self.now_s - since_s >= 2 * LOOK_S:
                to = next(other for other in self.nodes if other != name)
                self.guests = [
                    Guest(f"{g.name}'", to, g.demand) if g.node == name else g for g in self.guests
                ]  # a replica that moves is another one


def run(consolidator, world, seconds):
    """What was told at each look."""
    told, end_s = [], world.now_s + seconds
    while world.now_s < end_s:
        told.append(consolidator.look())
        world.pass_s()
    return told


@pytest.fixture
def world():
    return World()


@pytest.fixture
def store():
    return MemoryStore()


def test_the_dirtiest_node_is_emptied_seen_to_and_released(world, store):
    consolidator = Consolidator(store, world, CONFIG)
    told = run(consolidator, world, 600)
    assert [name for _, name in world.asked] == ["dirty"]
    assert world.asked[0][0] == 1000.0 + CONFIG.hold_s
    dids = [
        one.did for one, before in zip(told, [None, *told], strict=False) if before is None or one.did != before.did
    ]
    assert dids == ["nothing", "draining", "emptied", "released", "nothing"]
    assert "nothing is moved for another 300 s; then dirty is emptied" in told[0].why
    assert world.let_gone == ["dirty"]
    assert [(one.action, one.object) for one in store.audit()] == [("drain-node", "dirty"), ("release-node", "dirty")]
    row = shown(store.get_meta(META_KEY))
    assert row["last"]["did"] == "released"
    assert "dirty was emptied and released, 30 s after it was decided" in row["last"]["why"]
    json.dumps(store.get_meta(META_KEY), allow_nan=False)


class SleepingWorld(World):
    """The green node sleeps, and wakes for what leaves the dirty one."""

    def __init__(self):
        super().__init__()
        self.guests, self.returning = [Guest("r1", "dirty", Resources(1.0), wakes=True)], {"dirty"}
        self.green = self.nodes.pop("green")

    def view(self, horizon_s):
        told, asleep = (
            super().view(horizon_s),
            Room(replace(self.green, ray_node_id=None), Resources(), 50.0, asleep=True),
        )
        return told if "green" in self.nodes else replace(told, rooms=(*told.rooms, asleep))

    def drain(self, node, guests, why, deadline_wall_s):
        self.nodes["green"] = self.green
        return super().drain(node, guests, why, deadline_wall_s)


def test_a_clean_node_that_was_seen_to_come_back_is_woken_for_what_leaves_a_dirty_one(store):
    world = SleepingWorld()
    told = run(Consolidator(store, world, CONFIG), world, 600)
    assert world.asked == []  # nobody has seen it come back
    assert "r1 has no room elsewhere" in told[-1].why
    kept = Kept.from_json(json.loads(json.dumps(store.get_meta(META_KEY))))
    assert kept.returning == ("dirty",)
    store.put_meta(META_KEY, replace(kept, returning=("dirty", "green")).to_json())  # it had been there before
    told = run(Consolidator(store, world, CONFIG), world, 400)
    assert "r1 to green" in next(one.why for one in told if one.did == "draining")
    assert [guest.node for guest in world.guests] == ["green"]
    assert [name for _, name in world.asked] == ["dirty"]


def test_a_node_that_is_asleep_is_not_released(store):
    world = SleepingWorld()
    world.returning, world.guests = {"dirty", "green"}, []
    run(Consolidator(store, world, Consolidation(empty_s=60.0)), world, 40)
    assert dict(Kept.from_json(store.get_meta(META_KEY)).empty).keys() == {"dirty"}


def test_what_filled_a_node_in_truth_counts_and_not_what_was_planned(world, store):
    world.nodes["third"] = replace(NODE, name="third", zone="third", ray_node_id="third/1")
    world.guests.append(Guest("r3", "third", Resources(2.0)))
    world.intensity = lambda name, _s: {"dirty": 600.0, "green": 50.0, "third": 40.0}[name]
    consolidator = Consolidator(store, world, CONFIG)
    told = run(consolidator, world, 600)
    assert [name for _, name in world.asked] == ["dirty"]
    assert "r1 to third" in told[0].why
    assert "green" in dict(Kept.from_json(store.get_meta(META_KEY)).state.filled)


@pytest.mark.parametrize("period_s", [10.0, 200.0, 700.0, 1800.0, 5000.0])
def test_an_intensity_that_flaps_moves_nothing_twice_in_an_hour(store, period_s):
    def intensity(name, now_s):
        high = int(now_s // period_s) % 2
        return 600.0 if (name == "dirty") == bool(high) else 50.0

    world = World(intensity)
    run(Consolidator(store, world, CONFIG), world, 24 * 3600)
    times = defaultdict(list)
    for at_s, name in world.asked:
        times[name].append(at_s)
    assert all(later - one >= CONFIG.rest_s for one, later in pairwise([at for at, _ in world.asked]))
    assert len(world.asked) <= 24
    if period_s < CONFIG.hold_s:
        # nodes that are equal on average: who empties one, releases it for good
        assert len(world.asked) <= 1


NAN_CURVE = replace(NODE.power, watts=(math.nan, math.nan))


@pytest.mark.parametrize(
    ("intensity", "node", "why"),
    [
        (math.nan, {}, "its intensity cannot be nan g/kWh"),
        (-600.0, {}, "its intensity cannot be -600 g/kWh"),
        (math.inf, {}, "its intensity cannot be inf g/kWh"),
        (1e9, {}, "its intensity cannot be 1e+09 g/kWh (limits 0 to 5000)"),
        (None, {}, "its intensity is unknown"),
        (600.0, {"power": NAN_CURVE}, "its power cannot be nan W"),
        (600.0, {"gpu_busy_w": -1.0}, "its power cannot be -1 W"),
        (600.0, {"gpu_idle_w": 1e12}, "its power cannot be 1e+12 W"),
        (600.0, {"pue": math.nan}, "its PUE cannot be nan"),
        (600.0, {"wake_j": math.inf}, "its energy for waking cannot be inf J"),
    ],
)
def test_a_reading_that_cannot_be_true_moves_nothing_there_or_away(store, intensity, node, why):
    world = World(lambda name, _s: {"dirty": intensity, "green": 50.0, "third": 300.0}[name])
    world.nodes["dirty"] = replace(world.nodes["dirty"], **node)
    told = run(Consolidator(store, world, CONFIG), world, 3600)
    assert world.asked == []
    assert f"dirty: {why}" in told[0].why
    # nor is it filled, however clean it says it is
    world.intensity = lambda name, _s: {"dirty": intensity, "green": 600.0}[name]
    run(Consolidator(store, world, CONFIG), world, 3600)
    assert world.asked == []


def test_a_reading_that_comes_and_goes_begins_anew(store):
    world = World(lambda name, now_s: 50.0 if name == "green" else (math.nan if int(now_s) % 200 == 0 else 600.0))
    run(Consolidator(store, world, CONFIG), world, 3600)
    assert world.asked == []


def test_a_drain_that_ray_refuses_is_asked_for_once_per_pause(world, store):
    world.answer = DrainAnswer(accepted=False, why="the node is busy")
    told = run(Consolidator(store, world, CONFIG), world, 3600)
    assert 1 <= len(world.asked) <= 4
    assert all(later - one >= CONFIG.gap_s for (one, _), (later, _) in pairwise(world.asked))
    assert any(one.did == "refused" and "dirty is not drained: the node is busy" in one.why for one in told)
    assert Kept.from_json(store.get_meta(META_KEY)).state.filled == ()  # nothing moved there
    assert world.let_gone == []


def test_whoever_is_away_stops_nothing_and_starts_nothing(world, store):
    consolidator = Consolidator(store, world, CONFIG)
    run(consolidator, world, 250)
    world.away = True
    told = run(consolidator, world, 300)
    assert {one.did for one in told} == {"unknown"}
    assert told[0].why == "the controller does not answer"
    assert world.asked == []
    world.away = False
    back_s = world.now_s
    run(consolidator, world, 600)  # nobody knows what was meanwhile: its time begins anew
    assert world.asked == [(back_s + CONFIG.hold_s, "dirty")]


def test_away_in_the_middle_of_a_drain(world, store):
    consolidator = Consolidator(store, world, CONFIG)
    run(consolidator, world, 310)
    assert world.draining
    world.away = True
    run(consolidator, world, 1800)
    world.away = False
    told = run(consolidator, world, 30)
    assert [one.did for one in told][:2] == ["emptied", "released"]
    assert len(world.asked) == 1


@pytest.mark.parametrize("killed", ["before", "after", "answered", "never"])
@pytest.mark.parametrize("error", [SystemExit("killed"), UnreachableError("Ray did not answer")])
def test_one_that_is_started_again_in_the_middle_does_nothing_twice(world, store, killed, error):
    if killed in ("before", "after"):
        world.raises = killed, error
    consolidator = Consolidator(store, world, CONFIG)
    try:
        run(consolidator, world, 310)
    except SystemExit:
        world.pass_s()
    assert len(world.asked) == 1
    world.raises = None
    told = []
    for _ in range(40):  # a new one for each look
        told += run(Consolidator(store, world, CONFIG) if killed != "never" else consolidator, world, LOOK_S)
    assert len(world.asked) == 1
    dids = {one.did for one in told}
    if killed == "before":
        assert {"draining", "refused"} <= dids
        assert world.let_gone == []
    else:
        assert {"emptied", "released"} <= dids
        assert world.let_gone == ["dirty"]


def test_one_that_is_started_again_each_minute_waits_no_longer(world, store):
    told = []
    for _ in range(10):
        told += run(Consolidator(store, world, CONFIG), world, 60)
    assert world.asked == [(1300.0, "dirty")]


def test_nothing_is_moved_while_somebody_else_drains_or_replicas_start(world, store):
    consolidator = Consolidator(store, world, CONFIG)
    world.draining = {"other": 0.0}
    told = run(consolidator, world, 400)
    assert {(one.did, one.why) for one in told} == {("waits", "nothing is moved while other is drained")}
    world.draining, world.starting = {}, ("model.mnist",)
    told = run(consolidator, world, 400)
    assert "model.mnist has fewer up than it should" in told[0].why
    assert world.asked == []


def test_a_drained_node_is_kept_until_what_left_it_is_up_elsewhere(world, store):
    world.guests[0] = Guest("model.mnist r1", "dirty", Resources(1.0))
    consolidator = Consolidator(store, world, CONFIG)
    run(consolidator, world, 310)
    world.starting = ("model.mnist",)
    told = run(consolidator, world, 600)
    assert world.let_gone == []
    assert "model.mnist has fewer replicas up than it should" in told[-1].why
    world.starting = ()
    assert run(consolidator, world, 20)[-1].did == "released"


def test_what_waits_for_room_does_not_keep_an_empty_node_that_is_drained(store):
    """It would wait for ever, as a drained node takes nothing in: only one that has ended comes back with room."""
    for starting, after_s in (("model.new", 30), ("model.mnist", MOVE_S)):
        world = World()
        world.guests[0] = Guest("model.mnist r1", "dirty", Resources(1.0))
        consolidator = Consolidator(MemoryStore(), world, CONFIG)
        run(consolidator, world, 310)
        began_s, world.starting = world.asked[0][0], (starting,)
        while not world.let_gone and world.now_s < began_s + 2 * MOVE_S:
            run(consolidator, world, LOOK_S)
        assert began_s + after_s - LOOK_S <= world.now_s - LOOK_S <= began_s + after_s + LOOK_S, starting


def test_a_node_that_nobody_could_bring_back_is_only_told_of(world, store):
    world.returning = {"green"}
    told = run(Consolidator(store, world, CONFIG), world, 3600)
    assert world.asked == []
    assert {one.did for one in told} == {"would drain"}
    assert "dirty: nobody could bring it back" in told[0].why
    assert "if it could be: dirty is emptied: saves" in told[0].why
    world.returning = {"green", "dirty"}
    told = run(Consolidator(store, world, CONFIG, acts=False), world, 3600)
    assert world.asked == []
    assert "consolidation is set to report" in told[0].why


def test_a_node_that_is_empty_is_released_when_waiting_has_taken_the_energy_of_waking(world, store):
    world.guests = [Guest("r2", "green", Resources(1.0))]
    told = run(Consolidator(store, world), world, 100)
    assert world.asked == [(1060.0, "dirty")]
    assert [one.did for one in told][6:9] == ["draining", "emptied", "released"]
    assert "dirty is released: nothing has been on it for 60 s" in told[6].why
    assert Kept.from_json(store.get_meta(META_KEY)).state == DrainState()  # nothing was moved, and no pause is needed
    other = World()
    other.guests = list(world.guests)
    other.nodes["dirty"] = replace(other.nodes["dirty"], wake_j=50.0 * 600)
    run(Consolidator(MemoryStore(), other), other, 700)
    assert other.asked == [(1600.0, "dirty")]


@pytest.mark.parametrize("reason", ["guest", "job", "stays on", "again", "starting"])
def test_an_empty_node_stays_on_for(world, store, reason):
    world.guests = [Guest("r2", "green", Resources(1.0))]
    consolidator = Consolidator(store, world)
    if reason == "guest":  # one that holds nothing is one, too
        world.guests.append(Guest("router", "dirty", Resources()))
    elif reason == "job":
        world.planned = {"dirty"}
    elif reason == "stays on":
        world.returning = {"green"}
    for turn in range(16):
        world.starting = ("model.mnist",) if reason == "starting" else ()
        run(consolidator, world, 50)
        if reason == "again":  # somebody is there from time to time
            world.guests.append(Guest(f"r{turn}", "dirty", Resources(0.5)))
            run(consolidator, world, 10)
            world.guests.pop()
    assert world.asked == []


def test_an_empty_node_that_ray_keeps_is_asked_for_once_a_minute(world, store):
    world.guests = [Guest("r2", "green", Resources(1.0))]
    world.answer = DrainAnswer(accepted=False, why="no")
    run(Consolidator(store, world), world, 600)
    assert 5 <= len(world.asked) <= 10


def test_nothing_is_done_that_could_not_be_written_down(world, store):
    class Away(MemoryStore):
        def put_meta(self, key, value):
            raise UnreachableError("the database is away")

    consolidator = Consolidator(Away(), world, CONFIG)
    for _ in range(100):
        with pytest.raises(EcoRayError):
            consolidator.look()
        world.pass_s()
    assert world.asked == []


def test_little_is_written_while_nothing_changes(world, store):
    written = []
    put = store.put_meta
    store.put_meta = lambda key, value: (written.append(key), put(key, value))
    world.guests = []
    run(Consolidator(store, world, CONFIG), world, 3600)
    assert len(written) <= 61


def test_the_record_is_kept_as_it_is():
    state = DrainState("a", 1.0, -math.inf, (("b", 2.0),), (("c", 3.0),))
    told = Told("draining", "a", "why", 4.0)
    kept = Kept(state, UnderWay("a", "f0", "why", 1.0, 2.0, ("r1", "r2")), told, (("d", 6.0),), told, 5.0)
    assert Kept.from_json(json.loads(json.dumps(kept.to_json(), allow_nan=False))) == kept
    assert Kept.from_json({}) == Kept()
    assert Kept.from_json(json.loads(json.dumps(Kept().to_json(), allow_nan=False))) == Kept()
    assert shown(None) is None


def test_a_node_that_dies_while_it_is_emptied_is_not_said_to_be_released(world, store):
    consolidator = Consolidator(store, world, CONFIG)
    while not world.asked:
        consolidator.look()
        world.pass_s()
    del world.nodes["dirty"], world.draining["dirty"]
    world.guests = [guest for guest in world.guests if guest.node != "dirty"]
    world.starting = ("r1",)  # which Serve starts anew
    told = consolidator.look()
    assert (told.did, told.node) == ("gone", "dirty")
    assert "dirty is gone, before what was on it was up elsewhere" in told.why
    world.starting = ()
    assert [(one.action, one.object) for one in store.audit()] == [("drain-node", "dirty"), ("lose-node", "dirty")]
    assert consolidator.look().did == "nothing"


def test_a_node_that_ray_ends_between_two_looks_is_released(world, store):
    consolidator = Consolidator(store, world, CONFIG)
    while not world.asked:
        consolidator.look()
        world.pass_s()
    del world.nodes["dirty"], world.draining["dirty"]
    world.guests = [replace(guest, name=f"{guest.name}'", node="green") for guest in world.guests]
    told = consolidator.look()
    assert (told.did, told.node) == ("released", "dirty")
    assert [(one.action, one.object) for one in store.audit()] == [("drain-node", "dirty"), ("release-node", "dirty")]


def test_a_node_that_has_just_ended_and_is_still_told_of_was_not_refused(world, store):
    """Ray says that it is no more, and the controller has not looked since."""
    consolidator = Consolidator(store, world, CONFIG)
    run(consolidator, world, 310)
    world.draining["dirty"] = world.now_s + 1e6  # its guests stay long
    run(consolidator, world, 60)
    assert consolidator.look().did == "draining"
    del world.draining["dirty"]
    assert consolidator.look().did == "draining"
    del world.nodes["dirty"]
    world.guests = [replace(guest, name=f"{guest.name}'", node="green") for guest in world.guests]
    assert consolidator.look().did == "released"


def test_a_drain_that_ray_has_forgotten_was_refused(world, store):
    """As after a start of its control store without what it knew."""
    consolidator = Consolidator(store, world, CONFIG)
    run(consolidator, world, 310)
    world.draining["dirty"] = world.now_s + 1e6
    run(consolidator, world, 60)
    del world.draining["dirty"]
    told = run(consolidator, world, 40)
    assert "refused" in {one.did for one in told}
    assert "refused" not in {one.did for one in told[: int(25 // LOOK_S)]}


def test_memory_that_guests_hold_is_not_free_to_others(world, store):
    world.guests = [
        Guest("r1", "dirty", Resources(1.0, memory_gb=4.0)),
        Guest("r2", "green", Resources(1.0, memory_gb=6.0)),
    ]
    told = run(Consolidator(store, world, CONFIG), world, 600)
    assert world.asked == []
    assert "dirty: r1 has no room elsewhere" in told[-1].why


def test_somebody_whose_replicas_never_start_does_not_keep_all_nodes_on(world, store):
    world.starting = ("theirs",)
    told = run(Consolidator(store, world, CONFIG), world, 890)
    assert {one.did for one in told} == {"waits"}
    told = run(Consolidator(store, world, CONFIG), world, 400)  # killed, and started again
    assert "not waited for any more, as its replicas do not start: theirs" in told[2].why
    assert [name for _, name in world.asked] == ["dirty"]
    assert told[-1].did in ("draining", "emptied", "released", "nothing")
    run(Consolidator(store, world, CONFIG), world, 200)
    world.starting = ()
    run(Consolidator(store, world, CONFIG), world, 10)
    world.starting = ("theirs",)  # it is tried again: it may start
    assert run(Consolidator(store, world, CONFIG), world, 10)[-1].did == "waits"
