"""Which replica Serve ends and where it starts one: ours where nothing is in doubt, else Serve's own choice.

What of Ray Serve 2.60 this leans on is checked here: after an upgrade of Ray these tests tell what broke.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.deployment_scheduler import (
    DeploymentScheduler,
    DeploymentSchedulingInfo,
    ReplicaSchedulingRequest,
)

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_facts import ReplicaFacts
from eco_ray.core.replica_places import Room
from eco_ray.on_ray.serving import placing
from eco_ray.on_ray.serving.exchange import Exchange, Snapshot

APP = "model.mnist"
DEPLOYMENT = DeploymentID("replica", APP)
CURVE = PowerCurve((0, 1), (50, 100), "test")
NAMES = ("aa", "bb", "cc")
FACTS = ReplicaFacts(Resources(1.0), NAMES, None, (0.0, 1.0))


def rooms(*intensities, held=2.0):
    nodes = [Node(name, name.upper(), Resources(4.0), CURVE) for name in NAMES]
    return [Room(node, Resources(held), grams) for node, grams in zip(nodes, intensities, strict=True)]


def exchange_of(found):
    exchange = Exchange(lambda _news: Snapshot(tuple(found), {APP: FACTS}))
    exchange.once()
    return exchange


@pytest.fixture
def scheduler(monkeypatch):
    """Serve's own, with three nodes, in which our choice is installed and taken out again."""
    for name in ("schedule", "_get_replicas_to_stop"):
        monkeypatch.setattr(DeploymentScheduler, name, getattr(DeploymentScheduler, name))
    monkeypatch.setattr(DeploymentScheduler, placing._MARK, False, raising=False)
    found = object.__new__(DeploymentScheduler)
    found._deployments = {DEPLOYMENT: DeploymentSchedulingInfo(DEPLOYMENT, None, label_selector={"eco_node": "aa"})}
    found._pending_replicas, found._launching_replicas = defaultdict(dict), defaultdict(dict)
    found._recovering_replicas, found._running_replicas = defaultdict(set), defaultdict(dict)
    found._head_node_id = "head"
    found._cluster_node_info_cache = SimpleNamespace(
        get_node_labels=lambda node: {"eco_node": node}, get_draining_nodes=dict
    )
    return found


def running(scheduler, nodes):
    ids = {name: ReplicaID(name, DEPLOYMENT) for name in nodes}
    scheduler._running_replicas[DEPLOYMENT] = {ids[name]: node for name, node in nodes.items()}


def stopped(scheduler, count):
    return {one.unique_id for one in scheduler._get_replicas_to_stop(DEPLOYMENT, count)}


def test_serve_is_as_this_file_knows_it():
    assert placing.what_changed(DeploymentScheduler) == ""


def test_a_scheduler_that_has_changed_is_left_alone(monkeypatch, caplog):
    class Other:
        def __init__(self):
            self._running_replicas = {}

        def schedule(self, upscales, downscales):
            return {}

        def _get_replicas_to_stop(self, deployment_id, number):
            return set()

    assert "_get_replicas_to_stop has the parameters ['self', 'deployment_id', 'number']" in placing.what_changed(Other)
    monkeypatch.delattr(Other, "_get_replicas_to_stop")
    assert "has the parameters None" in placing.what_changed(Other)
    Other._get_replicas_to_stop = DeploymentScheduler._get_replicas_to_stop
    assert placing.what_changed(Other) == "Other has no _cluster_node_info_cache"
    monkeypatch.setattr("ray.serve._private.deployment_scheduler.DeploymentScheduler", Other)
    before = Other.schedule
    placing.install(exchange_of(rooms(1.0, 2.0, 3.0)))
    assert Other.schedule is before
    assert "without grams: Other has no _cluster_node_info_cache" in caplog.text


def test_the_one_that_takes_the_most_grams_along_ends(scheduler):
    running(scheduler, {"a1": "aa", "b1": "bb", "a2": "aa", "c1": "cc"})
    assert stopped(scheduler, 1) != {"a2"}  # Serve: not on the first node of the order at deployment
    placing.install(exchange_of(rooms(500.0, 100.0, 300.0)))  # by now that is the dirtiest
    assert stopped(scheduler, 1) == {"a2"}
    assert stopped(scheduler, 2) == {"a1", "a2"}
    assert stopped(scheduler, 3) == {"a1", "a2", "c1"}
    placing.install(exchange_of([]))  # only once
    assert stopped(scheduler, 1) == {"a2"}


@pytest.mark.parametrize(
    "found",
    [
        [],
        rooms(500.0, 100.0, 300.0)[:1],
        rooms(300.0, 300.0, 300.0),
        rooms(None, None, None),
        [replace(rooms(1.0, 2.0, 3.0)[0], held=None), *rooms(1.0, 2.0, 3.0)[1:]],
    ],
    ids=["no rooms", "an unknown node", "all alike", "no intensity", "an error"],
)
def test_on_any_doubt_serve_chooses(scheduler, found):
    running(scheduler, {"a1": "aa", "b1": "bb", "a2": "aa", "c1": "cc"})
    own = stopped(scheduler, 1)
    placing.install(exchange_of(found))
    assert stopped(scheduler, 1) == own
    all_of_them = stopped(scheduler, 4)
    assert len(all_of_them) == 4


def test_those_that_do_not_run_yet_go_first(scheduler):
    placing.install(exchange_of(rooms(500.0, 100.0, 300.0)))
    running(scheduler, {"a1": "aa", "b1": "bb"})
    scheduler._recovering_replicas[DEPLOYMENT] = {ReplicaID("new", DEPLOYMENT)}
    assert stopped(scheduler, 1) == {"new"}


def request(*nodes, app=APP, **more):
    first, *others = ({"eco_node": node} for node in nodes)
    options = {"label_selector": first, "fallback_strategy": [{"label_selector": one} for one in others], **more}
    replica = ReplicaID("new", DeploymentID("replica", app))
    return ReplicaSchedulingRequest(replica, None, {}, options, (), lambda *_a, **_k: None)


def order_of(asked):
    options = asked.actor_options
    return [options["label_selector"]["eco_node"]] + [
        one["label_selector"]["eco_node"] for one in options.get("fallback_strategy", [])
    ]


def test_a_new_one_goes_where_it_adds_the_fewest_grams_now(scheduler, monkeypatch):
    monkeypatch.setattr(DeploymentScheduler, "_schedule_with_spread_strategy", lambda self: None)
    monkeypatch.setattr(DeploymentScheduler, "_use_pack_strategy", lambda self: False)
    placing.install(exchange_of(rooms(500.0, 100.0, 300.0)))
    asked = request("aa", "bb", "cc", num_cpus=1)
    before = asked.actor_options
    assert scheduler.schedule({DEPLOYMENT: [asked]}, {}) == {}
    assert order_of(asked) == ["bb", "cc", "aa"]
    assert asked.actor_options["num_cpus"] == 1
    assert before["label_selector"] == {"eco_node": "aa"}  # which is the deployment's, and stays
    assert list(scheduler._pending_replicas[DEPLOYMENT]) == [asked.replica_id]


def test_a_new_one_goes_to_a_node_that_is_there_and_else_wakes_one_before_one_that_is_drained():
    aa, bb, cc = rooms(500.0, 100.0, 300.0)
    asked = request("aa", "bb", "cc")
    placing._reorder(asked, exchange_of([aa, replace(bb, asleep=True), cc]))
    assert order_of(asked) == ["cc", "aa", "bb"]
    asked = request("aa", "bb")
    placing._reorder(asked, exchange_of([replace(bb, asleep=True)]))  # aa is drained, and not told of any more
    assert order_of(asked) == ["bb", "aa"]


def test_what_leaves_a_drained_node_does_not_bring_that_back(scheduler, monkeypatch):
    """Serve sees it at once; the snapshot is of two seconds ago."""
    monkeypatch.setattr(DeploymentScheduler, "_schedule_with_spread_strategy", lambda self: None)
    monkeypatch.setattr(DeploymentScheduler, "_use_pack_strategy", lambda self: False)
    aa, bb, _ = rooms(500.0, 100.0, 300.0)
    placing.install(exchange_of([aa, replace(bb, asleep=True)]))
    scheduler._cluster_node_info_cache.get_draining_nodes = lambda: {"aa": 0}
    asked = request("aa", "bb")
    scheduler.schedule({DEPLOYMENT: [asked]}, {})
    assert order_of(asked) == ["bb", "aa"]


@pytest.mark.parametrize(
    "asked",
    [
        request("aa", "bb", app="somebody"),
        request("xx", "yy"),
        request("aa", "bb", label_selector={"eco_node": "aa", "disk": "fast"}),
    ],
    ids=["another's", "nodes that are not ours", "labels that are not ours"],
)
def test_other_requests_stay_as_they_are(asked):
    before = dict(asked.actor_options)
    placing._reorder(asked, exchange_of(rooms(500.0, 100.0, 300.0)))
    assert asked.actor_options == before


def test_the_policy_installs_it_in_its_process():
    program = """
from ray.serve._private.deployment_scheduler import DeploymentScheduler as Scheduler
from ray.serve.config import AutoscalingPolicy
own = Scheduler.schedule
policy = AutoscalingPolicy(policy_function="eco_ray.on_ray.serving.policy:GreenPolicy")
assert Scheduler.schedule is own
made = policy.get_policy()(reference="mnist:1")
from eco_ray.on_ray.serving import exchange
assert Scheduler.schedule is not own and exchange.EXCHANGE._started and made._exchange is exchange.EXCHANGE
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
