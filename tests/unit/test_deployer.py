"""The deployer: what Serve is told and when, what stays as it was when a version fails, and a kill at any moment."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.deployments import Deployment, SharedModel, ongoing_target
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_counts import ReplicaDecision
from eco_ray.core.replica_places import Place, Room
from eco_ray.core.variants import Mixing
from eco_ray.errors import EcoRayError, InfeasibleError, NotFoundError, UnreachableError, UsageError
from eco_ray.on_ray.deployer import Deployer
from eco_ray.on_ray.local_cluster import NODE_LABEL
from eco_ray.on_ray.serve_config import ServingConfig, app_name, serve_config
from eco_ray.on_ray.serving.exchange import Last, News
from eco_ray.store import open_store

CONFIG = ServingConfig("127.0.0.1", 8000, Path("/x"), "")
MNIST = Deployment("mnist", 1, follows="prod", registry="/models", demand=Resources(0.5))


class FakeServing:
    """Serve as the deployer sees it: the last configuration, and versions that fail in one way or another."""

    def __init__(self):
        self.told, self.checked, self.accounted = {}, [], []
        self.held = Resources()
        self.fail_check, self.fail_start, self.raise_apply = set(), set(), None

    def apply(self, config):
        if self.raise_apply:
            raise self.raise_apply
        self.router = [app for app in config["applications"] if app["name"] == "router"]
        self.told = {app["name"]: app for app in config["applications"] if app["name"] != "router"}

    def state(self, app):
        if app not in self.told:
            return "", ""
        failed = self.told[app]["args"].get("version") in self.fail_start
        return ("DEPLOY_FAILED", "Traceback\nRuntimeError: no memory") if failed else ("RUNNING", "")

    def check(self, deployment, version):
        self.checked.append(version)
        if version in self.fail_check:
            raise EcoRayError(f"{deployment.reference(version)} failed its smoke request: not finite")
        return 0.02

    def answers(self, deployment, version, *, beside):
        if deployment.shared:
            if version in self.fail_start:
                raise EcoRayError(f"{deployment.reference(version)} could not be loaded: no memory")
            return (deployment.model, version) in self.shared
        return self.told[app_name(deployment, beside=beside)]["args"]["version"] == version

    def account(self, app, deployment, version):
        self.accounted.append((app, deployment.reference(version)))

    def rooms(self):
        curve = PowerCurve((0, 1), (50, 100), "test")
        clean, dirty = (Node(name, name.upper(), Resources(2.0), curve) for name in ("fr", "de"))
        return [Room(dirty, self.held, 400.0), Room(clean, self.held, 50.0)]

    def where(self):
        return {}

    @property
    def versions(self):
        return {name: app["args"]["version"] for name, app in self.told.items()}

    @property
    def shared(self):
        """(name, version) by the shared replicas."""
        (told,) = self.told["shared"]["deployments"]
        return [(one["model"], one["version"]) for one in told["user_config"]["models"]]


def deploy(deployer, wanted, zones=()):
    """As the command line does: a change of what is there."""
    before = next((one for one in deployer.deployments() if one.model == wanted.model), None)
    return deployer.deploy(replace(wanted, zones=tuple(zones) or (before.zones if before else ())), before)


@pytest.fixture
def serving():
    return FakeServing()


@pytest.fixture
def store(tmp_path):
    made = open_store(f"sqlite:///{tmp_path / 'x.db'}")
    yield made
    made.close()


@pytest.fixture
def meant():
    return {"mnist": 1}


@pytest.fixture
def deployer(store, serving, meant):
    return Deployer(
        store,
        serving,
        lambda one: meant[one.model],
        CONFIG,
        pause=lambda _s: None,
    )


def test_a_model_is_tried_then_told_and_accounted(deployer, serving):
    row = deploy(deployer, MNIST)
    assert serving.checked == [1]
    assert serving.versions == {"model.mnist": 1}
    assert serving.accounted == [("model.mnist", "mnist:1")]
    assert (row["state"], row["url"]) == ("running", "http://127.0.0.1:8000/v2/models/mnist")
    deploy(deployer, replace(MNIST, min_replicas=2, max_replicas=4))
    assert serving.checked == [1]  # it answers already
    (told,) = serving.told["model.mnist"]["deployments"]
    assert told["autoscaling_config"]["max_replicas"] == 4
    deployer.undeploy("mnist")
    assert serving.told == {}
    with pytest.raises(NotFoundError, match="no model 'mnist' is deployed"):
        deployer.undeploy("mnist")


def test_a_model_may_go_to_nodes_that_are_asleep_after_those_that_are_there(deployer, serving, monkeypatch):
    dirty, clean = serving.rooms()
    monkeypatch.setattr(serving, "rooms", lambda: [dirty, replace(clean, asleep=True)])
    row = deploy(deployer, MNIST)
    assert (row["nodes"], row["places"]) == (["de", "fr"], [{"node": "de", "devices": ()}])
    monkeypatch.setattr(serving, "rooms", lambda: [replace(dirty, asleep=True), replace(clean, asleep=True)])
    row = deploy(deployer, replace(MNIST, model="other", min_replicas=0), zones=("DE", "FR"))
    assert row["nodes"] == ["fr", "de"]
    told = serving.told["model.other"]["deployments"][0]["ray_actor_options"]
    assert told["label_selector"] == {NODE_LABEL: "fr"}


def test_a_change_that_is_under_way_is_told_so_that_the_node_that_it_woke_is_kept(deployer, serving, monkeypatch):
    seen = []
    monkeypatch.setattr(serving, "check", lambda *_told: seen.append(deployer.changing()) or 0.02)
    deploy(deployer, MNIST)
    assert (seen, deployer.changing()) == ([("mnist",)], ())


@pytest.mark.parametrize("how", ["check", "start"])
def test_a_version_that_fails_leaves_what_was_served(deployer, serving, how):
    deploy(deployer, MNIST)
    other = replace(MNIST, model="other")
    (serving.fail_check if how == "check" else serving.fail_start).add(2)
    with pytest.raises(EcoRayError, match=r"mnist:2 .*(not finite|no memory)") as failed:
        deploy(deployer, MNIST.promoted(2))
    assert "\n" not in str(failed.value)
    with pytest.raises(EcoRayError):
        deploy(deployer, replace(other, version=2))
    assert serving.versions == {"model.mnist": 1}
    assert [one.version for one in deployer.deployments()] == [1]
    assert deployer.rows()[0]["state"] == "running"


def test_an_alias_is_followed_and_a_version_that_fails_is_tried_once(deployer, serving, meant):
    deploy(deployer, MNIST)
    meant["mnist"] = 2
    deployer.follow_once()
    assert serving.versions == {"model.mnist": 2}
    serving.fail_check.add(3)
    meant["mnist"] = 3
    for _ in range(3):
        deployer.follow_once()
    assert serving.checked.count(3) == 1
    assert serving.versions == {"model.mnist": 2}
    assert "failed its smoke request" in deployer.rows()[0]["message"]
    meant["mnist"] = 2
    deployer.follow_once()
    assert deployer.rows()[0]["message"] == ""
    meant["mnist"] = None  # the alias is gone
    deployer.follow_once()
    assert serving.versions == {"model.mnist": 2}


def test_a_fixed_version_follows_nothing(deployer, serving, meant):
    deploy(deployer, replace(MNIST, follows=""))
    meant["mnist"] = 2
    deployer.follow_once()
    assert serving.versions == {"model.mnist": 1}


def test_a_canary_is_beside_and_its_share_is_told_without_new_replicas(deployer, serving):
    deploy(deployer, MNIST)
    before = serving.told["model.mnist"]
    deploy(deployer, replace(MNIST, canary=2, canary_percent=10))
    after = serving.told["model.mnist"]
    assert before["args"] == after["args"]
    assert after["deployments"][0]["user_config"]["canary_percent"] == 10
    assert serving.versions == {"model.mnist": 1, "canary.mnist": 2}
    assert serving.told["canary.mnist"]["route_prefix"] == "/canary/mnist"
    promoted = MNIST.promoted(2)
    deploy(deployer, promoted)
    assert serving.versions == {"model.mnist": 2}
    with pytest.raises(UsageError, match="a canary is another version"):
        deploy(deployer, replace(promoted, canary=2, canary_percent=5))


def test_a_canary_that_is_promoted_ends_and_another_one_stays():
    both = replace(MNIST, canary=2, canary_percent=10)
    assert (both.promoted(2).canary, both.promoted(2).canary_percent) == (None, 0)
    assert (both.promoted(3).canary, both.promoted(3).canary_percent) == (2, 10)
    assert both.promoted(1).canary is None  # the live one was chosen over it


VARIED = replace(MNIST, variant=2, mixing=Mixing(0.3, 0.97, 400.0), min_replicas=4, max_replicas=9)


def test_a_variant_is_an_application_of_its_own_with_its_part_of_the_replicas(deployer, serving):
    deploy(deployer, replace(MNIST, min_replicas=4, max_replicas=9))
    before = serving.told["model.mnist"]
    deploy(deployer, VARIED)
    assert serving.checked == [1, 2]
    assert serving.versions == {"model.mnist": 1, "variant.mnist": 2}
    assert ("variant.mnist", "mnist:2") in serving.accounted
    after, small = serving.told["model.mnist"], serving.told["variant.mnist"]
    assert before["args"] == after["args"]
    (live,), (beside,) = after["deployments"], small["deployments"]
    assert live["user_config"] == {"canary": None, "canary_percent": 0, "variant": 2}
    assert (small["route_prefix"], small["args"]["beside"]) == ("/variant/mnist", "/variant/mnist")
    scaling = beside["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 3)
    deploy(deployer, replace(VARIED, variant=None, mixing=None))
    assert serving.versions == {"model.mnist": 1}
    with pytest.raises(UsageError, match="a variant is another version"):
        deploy(deployer, replace(VARIED, variant=1))


def test_a_variant_that_is_promoted_ends_and_stays_beside_any_other(deployer, serving, meant):
    deploy(deployer, replace(VARIED, min_replicas=1, max_replicas=1))
    assert VARIED.promoted(1).variant == 2  # the live one is deployed once more
    meant["mnist"] = 3
    deployer.follow_once()
    assert serving.versions == {"model.mnist": 3, "variant.mnist": 2}
    meant["mnist"] = 2
    deployer.follow_once()
    assert serving.versions == {"model.mnist": 2}
    (kept,) = deployer.deployments()
    assert (kept.variant, kept.mixing) == (None, None)


def test_what_is_deployed_outlives_the_deployer(deployer, store, serving, meant):
    serving.raise_apply = SystemExit("killed")
    with pytest.raises(SystemExit):
        deploy(deployer, MNIST)
    serving.raise_apply = None
    again = Deployer(
        store,
        serving,
        lambda one: meant[one.model],
        CONFIG,
        pause=lambda _s: None,
    )
    (kept,) = again.deployments()
    assert replace(kept, places=()) == replace(MNIST, nodes=("fr", "de"))
    again.resume()
    assert serving.versions == {"model.mnist": 1}


def test_replicas_go_where_they_add_the_fewest_grams_and_stay_there(deployer, serving):
    row = deploy(deployer, MNIST)
    assert row["nodes"] == ["fr", "de"]
    assert deploy(deployer, MNIST.promoted(2))["nodes"] == ["fr", "de"]
    assert deploy(deployer, MNIST.promoted(2), ["DE"])["nodes"] == ["de"]
    with pytest.raises(NotFoundError, match="no node is in zone 'GB'; nodes are in DE, FR"):
        deploy(deployer, MNIST, ["GB"])
    with pytest.raises(InfeasibleError, match="there is room for 8"):
        deploy(deployer, replace(MNIST, model="other", min_replicas=9, max_replicas=9))


def test_a_model_that_holds_all_the_room_can_change_and_not_grow(deployer, serving):
    whole = replace(MNIST, demand=Resources(2.0), min_replicas=2, max_replicas=2)
    deploy(deployer, whole)
    serving.held = Resources(2.0)
    assert deploy(deployer, replace(whole, demand=Resources(1.0)))["state"] == "running"
    serving.held = Resources(1.0)
    with pytest.raises(InfeasibleError, match="room for 3"):
        deploy(deployer, replace(whole, demand=Resources(1.0), min_replicas=5, max_replicas=5), ["FR", "DE"])


def test_what_hangs_can_be_undeployed_and_is_told(store, serving, meant):
    def undeploy(_s):
        hanging.undeploy("mnist")

    hanging = Deployer(store, serving, lambda one: meant[one.model], CONFIG, pause=undeploy)
    serving.answers = lambda *_, **__: False
    with pytest.raises(EcoRayError, match="mnist was changed again before mnist:1 answered"):
        deploy(hanging, MNIST)
    assert serving.told == {}
    assert hanging.deployments() == []


def test_what_serve_does_not_take_is_not_kept(deployer, serving):
    deploy(deployer, MNIST)
    serving.raise_apply = ValueError("no such option")
    with pytest.raises(EcoRayError, match="Ray Serve does not take mnist: no such option"):
        deploy(deployer, MNIST.promoted(2))
    assert [one.version for one in deployer.deployments()] == [1]


def test_a_change_of_what_is_no_more_is_refused(deployer, serving, meant):
    deploy(deployer, MNIST)
    (read,) = deployer.deployments()
    meant["mnist"] = 2
    deployer.follow_once()
    with pytest.raises(EcoRayError, match="mnist was changed meanwhile"):
        deployer.deploy(replace(read, canary=3, canary_percent=10), read)
    assert serving.versions == {"model.mnist": 2}


def test_undeploying_while_a_version_is_tried_holds(deployer, serving):
    deploy(deployer, MNIST)
    check = serving.check

    def check_and_undeploy(deployment, version):
        deployer.undeploy("mnist")
        return check(deployment, version)

    serving.check = check_and_undeploy
    with pytest.raises(EcoRayError, match="mnist was changed while mnist:2 was tried"):
        deploy(deployer, MNIST.promoted(2))
    assert serving.told == {}


def test_one_change_of_a_model_at_a_time(store, serving, meant):
    said = []

    def another(_s):
        with pytest.raises(EcoRayError, match="a change of mnist is under way") as refused:
            deploy(first, MNIST.promoted(3))
        said.append(str(refused.value))
        serving.answers = FakeServing.answers.__get__(serving)

    first = Deployer(store, serving, lambda one: meant[one.model], CONFIG, pause=another)
    serving.answers = lambda *_, **__: False
    deploy(first, MNIST)
    assert len(said) == 1
    assert serving.versions == {"model.mnist": 1}


def test_a_registry_that_is_away_stops_no_other_model_and_is_asked_again(store, serving, meant):
    away = [True]

    def resolve(one):
        if one.model == "mnist" and away[0]:
            raise UnreachableError("the registry is away")
        return meant[one.model]

    meant["other"] = 1
    made = Deployer(store, serving, resolve, CONFIG, pause=lambda _s: None)
    deploy(made, MNIST)
    deploy(made, replace(MNIST, model="other"))
    meant.update(mnist=2, other=2)
    made.follow_once()
    assert serving.versions == {"model.mnist": 1, "model.other": 2}
    away[0] = False
    made.follow_once()
    assert serving.versions == {"model.mnist": 2, "model.other": 2}


def test_a_deployer_killed_in_a_change_that_fails_goes_back(deployer, store, serving, meant):
    deploy(deployer, MNIST)
    serving.fail_start.add(2)
    serving.state, state = lambda app: 1 / 0, serving.state  # the deployer dies while it waits
    with pytest.raises(ZeroDivisionError):
        deploy(deployer, MNIST.promoted(2))
    serving.state = state
    again = Deployer(store, serving, lambda one: meant[one.model], CONFIG, pause=lambda _s: None)
    again.resume()
    deadline = time.monotonic() + 5
    while serving.versions != {"model.mnist": 1} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert serving.versions == {"model.mnist": 1}


def test_a_file_that_was_overwritten_is_tried_and_started_anew(deployer, serving):
    file = replace(MNIST, follows="", registry="", path="/m.safetensors", sha256="a")
    deploy(deployer, file)
    before = serving.told["model.mnist"]["args"]
    deploy(deployer, replace(file, sha256="b"))
    assert serving.checked == [1, 1]
    assert serving.told["model.mnist"]["args"] != before


def test_the_routing_of_what_is_served_stays(deployer):
    deploy(deployer, MNIST)
    with pytest.raises(UsageError, match="undeploy it first"):
        deploy(deployer, replace(MNIST, round_robin=True))


def test_zones_stay_when_something_else_changes(deployer):
    assert deploy(deployer, MNIST, ["DE"])["nodes"] == ["de"]
    assert deploy(deployer, replace(MNIST, demand=Resources(0.7)))["nodes"] == ["de"]


def test_a_new_version_begins_with_as_many_replicas_as_there_are(deployer, serving):
    """Serve would go down to the least first, and up again when requests wait."""
    wanted = replace(MNIST, max_replicas=4)
    deploy(deployer, wanted)
    last = Last("model.mnist", "mnist:1", 0.0, ReplicaDecision(3, "so"), 3, {0: 3}, None)
    assert set(deployer.scaling(News((last,))).facts["model.mnist"].nodes) == {"fr", "de"}
    assert deployer.rows()[0]["scaling"]["why"] == "so"
    deploy(deployer, replace(wanted, version=2))
    (told,) = serving.told["model.mnist"]["deployments"]
    assert told["autoscaling_config"]["initial_replicas"] == 3
    before = serving.told
    deployer.resume()
    assert serving.told == before  # the same again: Serve changes nothing
    deploy(deployer, replace(wanted, version=2, max_replicas=2))
    (told,) = serving.told["model.mnist"]["deployments"]
    assert told["autoscaling_config"]["initial_replicas"] == 2


def test_names_of_applications_are_apart():
    names = {
        app_name(replace(MNIST, model=model, round_robin=turn, variant=variant), beside=beside)
        for model in ("a", "a.b", "a-b", "A", "rr.a", "variant.a")
        for turn in (False, True)
        for beside, variant in ((False, None), (True, None), (True, 2))
    }
    assert len(names) == 36


def test_the_configuration_says_where_and_how_many():
    one = replace(MNIST, min_replicas=0, max_replicas=8, slo_p95_s=0.2, nodes=("fr-1", "de-1"))
    (app,) = serve_config([one], {"mnist:1": 0.02}, CONFIG, router=False)["applications"]
    (told,) = app["deployments"]
    assert told["ray_actor_options"]["num_cpus"] == 0.5
    assert told["ray_actor_options"]["label_selector"] == {"eco_node": "fr-1"}
    assert told["ray_actor_options"]["fallback_strategy"] == [{"label_selector": {"eco_node": "de-1"}}]
    assert told["autoscaling_config"] == {
        "min_replicas": 0,
        "initial_replicas": 1,
        "max_replicas": 8,
        "target_ongoing_requests": 5.0,
        "policy": {
            "policy_function": "eco_ray.on_ray.serving.policy:GreenPolicy",
            "policy_kwargs": {
                "reference": "mnist:1",
                "service_s": 0.02,
                "slo_p95_s": 0.2,
                "steady": {"down_hold_s": 60.0},
            },
        },
        **{"metrics_interval_s": 1.0, "look_back_period_s": 2.0, "upscale_delay_s": 0.0},
        **{"downscale_delay_s": 0.0, "downscale_to_zero_delay_s": 0.0},
    }
    assert app["route_prefix"] == "/v2/models/mnist"


@pytest.mark.parametrize(
    ("latency_s", "slo_s", "target"),
    [(0.02, None, 2.0), (0.0, 0.2, 2.0), (0.02, 0.2, 5.0), (0.5, 0.2, 1.0), (1e-6, 1.0, 100.0)],
)
def test_a_replica_holds_as_many_as_are_answered_in_time(latency_s, slo_s, target):
    assert ongoing_target(latency_s, slo_s) == pytest.approx(target)


def test_a_deployment_is_kept_as_it_is():
    one = replace(
        MNIST,
        nodes=("a", "b"),
        places=(Place("a", (0, 1)), Place("b", None)),
        canary=2,
        canary_percent=7,
        slo_p95_s=0.1,
        refused="x",
        refused_version=3,
        shared=True,
        variant=4,
        mixing=Mixing(0.3, 0.97, 400.0),
    )
    assert Deployment.from_json(one.to_json()) == one
    later = "shared", "variant", "mixing", "per_zone", "parts", "zone"
    older = {key: value for key, value in one.to_json().items() if key not in later}
    assert Deployment.from_json(older) == replace(one, shared=False, variant=None, mixing=None)


def test_what_nobody_asked_for_is_in_the_audit_log(deployer, store, serving, meant):
    deploy(deployer, MNIST)
    assert store.audit() == []  # whoever deploys says so
    serving.fail_check.add(3)
    for version in (2, 3, 1):
        meant["mnist"] = version
        deployer.follow_once()
        deployer.follow_once()
    assert [(one.actor, one.action, one.object) for one in store.audit()] == [
        ("deployer", "follow-model", "mnist:2"),
        ("deployer", "refuse-model", "mnist:3"),
        ("deployer", "follow-model", "mnist:1"),
    ]
    promoted, refused, back = (one.detail for one in store.audit())
    assert (promoted, back) == ("prod means it; before: 1", "prod means it; before: 2")
    assert refused == "2 is served on: mnist:3 failed its smoke request: not finite"


def test_only_what_is_served_has_a_latency(deployer, store, meant):
    deploy(deployer, replace(MNIST, model="other", follows=""))
    deploy(deployer, MNIST)
    for version in range(2, 30):
        meant["mnist"] = version
        deployer.follow_once()
    told = store.get_meta("deployment_latency_s")
    assert set(told) == {"other:1", "mnist:28", "mnist:29"}  # the one before may come back
    deployer.undeploy("mnist")
    deploy(deployer, replace(MNIST, model="third", follows=""))
    assert set(store.get_meta("deployment_latency_s")) == {"other:1", "third:1"}


SHARED = replace(MNIST, shared=True)


def test_shared_models_are_one_application_that_changes_without_new_replicas(deployer, serving, meant):
    row = deploy(deployer, SHARED)
    assert (row["shared"], row["state"], row["nodes"]) == (True, "running", ["fr", "de"])
    assert row["url"] == "http://127.0.0.1:8000/v2/models/mnist"
    first = serving.told["shared"]
    serving.held = Resources(2.0)  # all of it: another one needs no room
    deploy(deployer, replace(SHARED, model="other"))
    deploy(deployer, replace(MNIST, model="own", demand=Resources(0.0)))
    meant |= {"mnist": 2, "other": 1, "own": 1}
    deployer.follow_once()
    assert set(serving.told) == {"shared", "model.own"}
    assert sorted(serving.shared) == [("mnist", 2), ("other", 1)]
    assert ("shared", "mnist:2") in serving.accounted
    deployer.undeploy("other")
    assert serving.shared == [("mnist", 2)]
    after = serving.told["shared"]
    for told in (first, after):
        del told["deployments"][0]["user_config"]
    assert first == after
    deployer.undeploy("mnist")
    assert set(serving.told) == {"model.own"}


def test_two_shared_models_that_are_deployed_at_once_go_to_the_same_nodes(deployer, serving):
    check = serving.check

    def check_while_another_one_comes(deployment, version):
        serving.check = check
        deploy(deployer, replace(SHARED, model="other"))
        return check(deployment, version)

    serving.check = check_while_another_one_comes
    rooms = serving.rooms()
    serving.rooms = lambda: [rooms.pop()] if len(rooms) > 1 else rooms  # another place for each
    assert deploy(deployer, SHARED)["nodes"] == ["de"]
    assert [one.nodes for one in deployer.deployments()] == [("de",), ("de",)]


def test_a_shared_version_that_fails_leaves_the_one_before_and_the_others(deployer, serving, meant):
    deploy(deployer, SHARED)
    deploy(deployer, replace(SHARED, model="other"))
    serving.fail_start.add(2)  # in the shared replicas, after the trial
    with pytest.raises(EcoRayError, match="mnist:2 could not be loaded: no memory"):
        deploy(deployer, SHARED.promoted(2))
    assert sorted(serving.shared) == [("mnist", 1), ("other", 1)]
    serving.fail_check.add(3)
    meant |= {"mnist": 3, "other": 1}
    deployer.follow_once()
    assert sorted(serving.shared) == [("mnist", 1), ("other", 1)]
    assert "failed its smoke request" in next(row["message"] for row in deployer.rows() if row["model"] == "mnist")


@pytest.mark.parametrize("first", [MNIST, SHARED])
def test_whether_replicas_are_shared_stays_while_a_model_is_served(deployer, first):
    deploy(deployer, first)
    with pytest.raises(UsageError, match=r"mnist is served by .* undeploy it first"):
        deploy(deployer, replace(first, shared=not first.shared))
    deployer.undeploy("mnist")
    assert deploy(deployer, replace(first, shared=not first.shared))["state"] == "running"


def test_the_shared_application_has_the_settings_and_the_shortest_route():
    config = replace(CONFIG, shared_replicas=3, shared_models=5, shared_bytes=77, needs_keys=True)
    one = replace(SHARED, nodes=("fr-1",), demand=Resources(9.0), path="/m", sha256="ab", registry="")
    (app,) = serve_config([one], {}, config, router=False)["applications"]
    assert (app["name"], app["route_prefix"]) == ("shared", "/v2/models")
    assert app["args"] == {"most": 5, "most_bytes": 77, "replicas": 3, "pepper_file": ""}
    (told,) = app["deployments"]
    assert (told["num_replicas"], told["ray_actor_options"]["num_cpus"]) == (3, 1.0)
    assert told["ray_actor_options"]["label_selector"] == {"eco_node": "fr-1"}
    (model,) = told["user_config"]["models"]
    kept = SharedModel(**model)
    assert (str(kept), kept) == ("mnist:1", SharedModel.of(one))
    assert kept.deployment == Deployment("mnist", 1, path="/m", sha256="ab")
