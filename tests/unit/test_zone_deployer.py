"""Models served per zone, as the deployer sees to them: applications, versions, shares, and a start after a kill."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from test_deployer import CONFIG, FakeServing, deploy

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.deployments import Deployment
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_counts import ReplicaDecision
from eco_ray.core.replica_places import Room
from eco_ray.core.serving import TrafficConfig
from eco_ray.core.zone_routes import Routes
from eco_ray.errors import EcoRayError, InfeasibleError, NotFoundError, UsageError
from eco_ray.on_ray.deployer import Deployer
from eco_ray.on_ray.local_cluster import NODE_LABEL
from eco_ray.on_ray.serve_config import app_name
from eco_ray.on_ray.serving.exchange import Last, News
from eco_ray.on_ray.serving.traffic import TrafficPlanner
from eco_ray.store.memory import MemoryStore

MNIST = Deployment("mnist", 1, follows="prod", registry="/models", demand=Resources(0.5), per_zone=True)
CURVE = PowerCurve((0, 1), (50, 100), "test")
APPS = ["zone.AA.mnist", "zone.BB.mnist", "zone.CC.mnist", "zones.mnist"]


class ZonesServing(FakeServing):
    """Serve and a cluster of three zones."""

    def __init__(self):
        super().__init__()
        self.intensity = {"AA": 300.0, "BB": 100.0, "CC": 200.0}
        self.gone, self.down, self.held = set(), set(), {}
        self.sleeping, self.woken = set(), set()

    def rooms(self):
        return [
            Room(
                Node(f"{zone.lower()}-1", zone, Resources(2.0), CURVE),
                self.held.get(zone, Resources()),
                intensity,
                asleep=zone in self.sleeping,
            )
            for zone, intensity in self.intensity.items()
            if zone not in self.gone
        ]

    def replicas(self):
        return {app: int(app.split(".")[1] not in self.sleeping) for app in self.told}

    def wake(self, deployment):
        self.woken.add(app_name(deployment))

    def state(self, app):
        return ("UNHEALTHY", "no replica") if app in self.down else super().state(app)

    def answers(self, deployment, version, *, beside):
        if deployment.per_zone:
            return app_name(deployment) in self.told
        return super().answers(deployment, version, beside=beside)


@pytest.fixture
def serving():
    return ZonesServing()


@pytest.fixture
def store():
    made = MemoryStore()
    made.put_meta("cluster", {"home_zone": "AA"})
    made.put_meta("clock", {"speed": 1.0, "wall_origin_s": 0.0, "grid_origin_s": 0.0})
    return made


@pytest.fixture
def meant():
    return {"mnist": 1}


@pytest.fixture
def deployer(store, serving, meant):
    return Deployer(store, serving, lambda one: meant[one.model], CONFIG, pause=lambda _s: None)


def test_each_zone_has_an_application_of_its_own_on_its_own_nodes(deployer, serving):
    row = deploy(deployer, replace(MNIST, max_replicas=2))
    assert sorted(serving.told) == APPS
    app = serving.told["zone.BB.mnist"]
    assert app["route_prefix"] == "/zones/BB/v2/models/mnist"
    (told,) = app["deployments"]
    assert told["ray_actor_options"]["label_selector"] == {NODE_LABEL: "bb-1"}
    # else Serve would build it there, and Ray could never end that node
    assert told["ray_actor_options"]["fallback_strategy"] == [{"label_selector": {NODE_LABEL: "bb-1"}}]
    assert told["autoscaling_config"]["max_replicas"] == 2
    assert Deployment.from_json(app["args"]["deployment"]).zone == "BB"
    assert not {"base", "beside"} & app["args"].keys()
    (router,) = serving.told["zones.mnist"]["deployments"]
    assert serving.told["zones.mnist"]["route_prefix"] == "/v2/models/mnist"
    assert router["user_config"] == {"zones": ["AA", "BB", "CC"]}
    assert router["ray_actor_options"]["num_cpus"] == 0
    assert sorted(serving.accounted) == [(app, "mnist:1") for app in APPS[:3]]
    assert [zone["zone"] for zone in row["zones"]] == ["AA", "BB", "CC"]
    assert row["zones"][1]["nodes"] == ["bb-1"]
    assert (row["state"], row["traffic"], row["zones"][0]["share"]) == ("running", None, None)


def test_what_needs_no_other_places_keeps_them(deployer, serving):
    deploy(deployer, MNIST)
    serving.held = dict.fromkeys(serving.intensity, Resources(2.0))  # others have come
    row = deploy(deployer, replace(MNIST, slo_p95_s=0.2))
    assert [zone["nodes"] for zone in row["zones"]] == [["aa-1"], ["bb-1"], ["cc-1"]]
    assert row["zones"][0]["places"] == [{"node": "aa-1", "devices": ()}]


def test_names_with_dots_are_told_apart():
    part = replace(MNIST, per_zone=False, zone="A.B", model="c")
    assert app_name(part) != app_name(replace(part, zone="A", model="B.c"))
    assert app_name(replace(part, round_robin=True)) == "zone-rr.A..B.c"


def test_a_version_follows_its_alias_in_every_zone_without_new_routers(deployer, serving, meant):
    deploy(deployer, MNIST)
    router = serving.told["zones.mnist"]
    meant["mnist"] = 2
    deployer.follow_once()
    assert {app: told["args"].get("version") for app, told in serving.told.items()} == {
        **dict.fromkeys(APPS[:3], 2),
        "zones.mnist": None,
    }
    assert serving.told["zones.mnist"] == router
    assert serving.checked == [1, 2]
    serving.fail_start.add(3)
    meant["mnist"] = 3
    deployer.follow_once()
    assert {told["args"].get("version") for told in serving.told.values()} == {2, None}
    assert "could not be started" in deployer.rows()[0]["message"]


def test_zones_are_those_that_are_named_or_have_room(deployer, serving):
    serving.held["CC"] = Resources(2.0)
    serving.intensity["unknown"] = None  # a node that tells no zone
    assert [zone["zone"] for zone in deploy(deployer, MNIST)["zones"]] == ["AA", "BB"]
    with pytest.raises(InfeasibleError, match=r"zone CC: 1 replicas with .* have no room"):
        deploy(deployer, MNIST, zones=("BB", "CC"))
    row = deploy(deployer, MNIST, zones=("BB",))
    assert sorted(serving.told) == ["zone.BB.mnist", "zones.mnist"]
    assert row["nodes"] == ["bb-1"]
    with pytest.raises(NotFoundError, match="no node is in zone 'DD'"):
        deploy(deployer, MNIST, zones=("DD",))
    deployer.undeploy("mnist")
    assert serving.told == {}
    serving.held = dict.fromkeys(["AA", "BB", "CC"], Resources(2.0))
    with pytest.raises(InfeasibleError, match="no zone has room"):
        deploy(deployer, MNIST)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"canary": 2, "canary_percent": 10}, "per zone and with --canary"),
        ({"shared": True}, "per zone and with --shared"),
        ({"per_zone": False}, "is served per zone, and cannot be by replicas of its own meanwhile"),
    ],
)
def test_what_does_not_go_together_is_refused(deployer, serving, change, why):
    deploy(deployer, MNIST)
    before = dict(serving.told)
    with pytest.raises(UsageError, match=why):
        deploy(deployer, replace(MNIST, **change))
    assert serving.told == before


def test_a_zone_that_is_not_running_is_told(deployer, serving):
    deploy(deployer, MNIST)
    serving.down.add("zone.BB.mnist")
    (row,) = deployer.rows()
    assert (row["state"], row["message"]) == ("unhealthy", "no replica")
    assert [zone["state"] for zone in row["zones"]] == ["running", "unhealthy", "running"]


class Routers:
    """Planner and routers, with a clock of their own."""

    def __init__(self, store, serving, deployer, **config):
        self.store, self.serving, self.deployer, self.now_s = store, serving, deployer, 1000.0
        self.config, self.count, self.away = TrafficConfig(**config), 0, ()
        self.start()

    def start(self):
        models = self.deployer._per_zone
        self.planner = TrafficPlanner(self.store, self.serving, models, self.config, lambda: self.now_s)

    def pass_on(self, seconds, per_s=10.0):
        """Routers tell every second; shares are looked at every ten; which ones held."""
        seen = []
        for _ in range(seconds):
            self.now_s += 1
            self.count += int(per_s)
            told = self.planner.heard("mnist", "r1", {"AA": self.count}, self.away)
            if int(self.now_s) % 10 == 0:
                self.planner.plan_once()
            seen.append(told and self.shares(told))
        return seen

    @staticmethod
    def shares(told):
        routes = Routes.from_json(told)
        return dict(zip(routes.zones, routes.shares[routes.origins.index("AA")], strict=True))

    @property
    def row(self):
        self.deployer.traffic = self.planner
        return self.deployer.rows()[0]


@pytest.fixture
def routers(store, serving, deployer):
    deploy(deployer, MNIST)
    return Routers(store, serving, deployer)


def test_shares_follow_the_intensities_and_the_row_says_what_they_save(routers):
    assert routers.pass_on(9)[-1] is None  # nothing is decided yet
    assert routers.pass_on(30)[-1] == {"AA": 0, "BB": 1, "CC": 0}
    row = routers.row
    assert row["traffic"]["origins"][0] == {
        "origin": "AA",
        "requests_per_s": pytest.approx(10.0),
        "shares": {"AA": 0, "BB": 1, "CC": 0},
        "rtt_ms": {"AA": 0.0, "BB": None, "CC": None},
    }
    assert row["traffic"]["home_grams_per_h"] == pytest.approx(3 * row["traffic"]["grams_per_h"])
    assert row["zones"][1]["requests_per_s"] == pytest.approx(10.0, abs=0.1)
    assert row["zones"][1]["intensity_g_per_kwh"] == 100.0
    assert row["zones"][1]["share"] == 1
    routers.serving.intensity["BB"] = 900.0
    assert routers.pass_on(310)[-1] == {"AA": 0, "BB": 0, "CC": 1}


def test_what_replicas_hold_themselves_is_room(routers, serving):
    """Nodes are full of our own replicas: they can answer as much as before."""
    routers.pass_on(20)
    empty = [zone["capacity_per_s"] for zone in routers.row["zones"]]
    serving.held = dict.fromkeys(serving.intensity, Resources(2.0))
    routers.pass_on(20)
    assert [zone["capacity_per_s"] for zone in routers.row["zones"]] == empty
    assert empty[0] == pytest.approx(0.85 / 0.021)


def test_replicas_hold_room_where_they_are_and_not_where_they_were_planned(serving, deployer):
    """Two nodes in a zone: Serve starts a replica where it adds the fewest grams now (`placing`)."""
    rooms = serving.rooms

    def more():
        (second,) = (replace(room, node=replace(room.node, name="bb-2")) for room in rooms() if room.node.zone == "BB")
        return [replace(room, held=held.get(room.node.name, Resources())) for room in (*rooms(), second)]

    held, serving.rooms = {}, more
    deploy(deployer, replace(MNIST, max_replicas=8))
    deployer.traffic.plan_once()
    empty = [zone["capacity_per_s"] for zone in deployer.rows()[0]["zones"]]
    held["bb-2"] = Resources(0.5)
    last = Last("zone.BB.mnist", "mnist:1", 0.0, ReplicaDecision(1, "so"), 1, {1: 1}, None)
    deployer.scaling(News((last,)))
    deployer.traffic.plan_once()
    assert [zone["capacity_per_s"] for zone in deployer.rows()[0]["zones"]] == empty


def test_capacity_is_by_what_replicas_measure_and_the_row_says_so(serving, deployer):
    deploy(deployer, replace(MNIST, max_replicas=8))

    def told(app, work_s, reference="mnist:1"):
        deployer.scaling(News((Last(app, reference, 0.0, ReplicaDecision(1, "so"), 1, {0: 1}, None, work_s),)))
        deployer.traffic.plan_once()
        return [(zone["capacity_per_s"], zone["capacity_nature"]) for zone in deployer.rows()[0]["zones"]]

    most = 4 * 0.85  # replicas that a node has room for, and the part of their time
    assert told("zone.BB.mnist", None) == [(pytest.approx(most / 0.021), "assumed")] * 3
    seen = told("zone.BB.mnist", 0.1)
    assert seen == [(pytest.approx(most / 0.1), nature) for nature in ("assumed", "measured", "assumed")]
    assert told("zone.BB.mnist", 0.105) == seen  # hardly another one
    assert told("zone.BB.mnist", None) == seen  # without requests it is known on
    assert told("zone.BB.mnist", 0.05)[1] == (pytest.approx(most / 0.05), "measured")
    assert told("zone.CC.mnist", 9.0, "mnist:2")[2] == (pytest.approx(most / 0.05), "assumed")  # of another version


def test_flapping_intensity_and_lost_forecasts_change_little(routers, serving):
    routers.pass_on(20)
    seen = []
    for step in range(60):  # half an hour
        serving.intensity = {"AA": 300.0, "BB": [100.0, 900.0, None][step % 3], "CC": 200.0}
        if step > 50:
            serving.intensity = dict.fromkeys(serving.intensity)  # of no zone
        seen += routers.pass_on(30)
    changes = sum(after != before for before, after in pairwise(seen))
    assert 1 <= changes <= 6
    assert seen[-1] == seen[-250]  # nothing is known: they stay


def test_a_zone_that_routers_miss_loses_its_share_and_gets_it_back_later(routers):
    routers.pass_on(20)
    routers.away = ("BB",)
    assert routers.pass_on(15)[-1] == {"AA": 0, "BB": 0, "CC": 1}
    assert routers.row["zones"][1]["away"]
    routers.away = ()
    seen = routers.pass_on(400)
    assert seen[0] == seen[200] == {"AA": 0, "BB": 0, "CC": 1}  # no flapping with it
    assert seen[-1] == {"AA": 0, "BB": 1, "CC": 0}


def test_a_zone_whose_nodes_were_released_is_woken_before_it_gets_requests(routers, serving):
    deploy(routers.deployer, replace(MNIST, min_replicas=0))
    serving.sleeping = {"BB"}
    assert routers.pass_on(20)[-1] == {"AA": 0, "BB": 0, "CC": 1}
    assert serving.woken == {"zone.BB.mnist"}
    assert routers.row["zones"][1]["capacity_per_s"] == pytest.approx(0.85 / 0.021)
    assert "BB would get some, and is woken" in routers.row["traffic"]["why"]
    serving.sleeping = set()
    assert routers.pass_on(20)[-1] == {"AA": 0, "BB": 1, "CC": 0}


def test_a_zone_that_is_to_have_a_replica_always_is_not_asleep(routers, serving):
    serving.sleeping = {"BB"}  # a replica has died, and its node is there
    assert routers.pass_on(20)[-1] == {"AA": 0, "BB": 1, "CC": 0}  # routers go elsewhere, if they get no answer
    assert Routes.from_json(routers.planner.told("mnist")["routes"]).asleep == ()
    assert serving.woken == set()


def test_an_outage_of_a_zone_is_seen_in_the_nodes_too(routers, serving):
    routers.pass_on(20)
    serving.gone.add("BB")
    assert routers.pass_on(15)[-1] == {"AA": 0, "BB": 0, "CC": 1}


def test_a_deployer_that_starts_again_goes_on_with_the_same_shares(routers, serving):
    before = routers.pass_on(20)[-1]
    serving.intensity["BB"] = 900.0
    routers.start()
    assert routers.pass_on(200)[-1] == before  # held since before its start
    assert routers.pass_on(110)[-1]["CC"] == 1


def test_more_than_there_is_room_for_keeps_the_shares(routers):
    before = routers.pass_on(20)[-1]
    assert routers.pass_on(60, per_s=1000)[-1] == before
    assert "do not fit" in routers.row["traffic"]["why"]


def test_without_the_controller_the_last_shares_hold(routers, serving):
    before = routers.pass_on(20)[-1]

    def raise_it():
        raise EcoRayError("the controller does not answer")

    serving.rooms = raise_it
    with pytest.raises(EcoRayError):
        routers.planner.plan_once()
    assert routers.pass_on(5)[-1] == before


def test_what_is_served_no_more_is_forgotten(routers, store):
    routers.pass_on(20)
    routers.deployer.undeploy("mnist")
    routers.planner.plan_once()
    assert (store.get_meta("zone_traffic"), routers.planner.told("mnist")) == ({}, None)


def test_the_thread_decides_at_once_where_that_is_needed(store, serving, deployer):
    deploy(deployer, MNIST)
    deployer.follow()

    def wait_for(zone, away):
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            told = deployer.traffic.heard("mnist", "r1", {"": 0}, away)
            if told is not None and Routers.shares(told)[zone] == 1:
                return
            time.sleep(0.05)
        raise AssertionError(f"no shares for {zone}")

    try:
        wait_for("BB", ())
        wait_for("CC", ("BB",))  # the next look would be in ten seconds
    finally:
        deployer._stopped.set()
