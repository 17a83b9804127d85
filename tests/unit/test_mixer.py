"""The deployer's decision which part of the requests a variant gets, and what replicas know of it."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from itertools import count

import pytest

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.deployments import Deployment
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_places import Place, Room
from eco_ray.core.units import Nature
from eco_ray.core.variant_pair import Spent, VersionFacts
from eco_ray.core.variants import Mixing
from eco_ray.errors import NotFoundError, UnreachableError, UsageError
from eco_ray.on_ray.serving.mix_follower import TRUST_S, MixFollower
from eco_ray.on_ray.serving.mixer import Mixer, Report
from eco_ray.store import open_store

MIXED = Deployment(
    "mnist", 1, registry="/r", variant=2, mixing=Mixing(0.3, 0.95, 400.0), places=(Place("de", ()),), nodes=("de",)
)
#: of a replica of the large one, which tells nothing
ASK = Report("mnist", 1, 2, Spent(), Spent())


class World:
    """What the mixer asks."""

    def __init__(self) -> None:
        self.deployments, self.intensity, self.now_s = [MIXED], 500.0, 0.0
        self.facts = {
            1: VersionFacts("mnist:1", "onnx", "s", 0.98),
            2: VersionFacts("mnist:2", "onnx", "s", 0.96, "mnist:1", 0.98, 1.0, 3.0, Nature.MEASURED),
        }
        self.away = None

    def fact(self, deployment, version):
        if version not in self.facts:
            raise NotFoundError(f"no version {deployment.reference(version)}")
        return self.facts[version]

    def rooms(self):
        if self.away:
            raise self.away
        node = Node("de", "DE", Resources(2.0), PowerCurve((0, 1), (50, 100), "test"), 1.2)
        return [Room(node, Resources(), self.intensity)]

    def mixer(self, store):
        return Mixer(store, lambda: self.deployments, self.fact, self.rooms, lambda: self.now_s)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def store(tmp_path):
    made = open_store(f"sqlite:///{tmp_path / 'x.db'}")
    yield made
    made.close()


@pytest.fixture
def mixer(store, world):
    return world.mixer(store)


def test_a_dirty_grid_has_the_share_and_a_clean_one_none(mixer, world):
    mixer.look()
    assert mixer.share(ASK) == 0.3
    row = mixer.row(MIXED)
    assert (row["version"], row["percent"], row["allowed_percent"]) == (2, 30.0, 30.0)
    assert "500 g/kWh (dirty" in row["why"]
    assert row["accuracy"] == pytest.approx(0.974)
    assert row["saved_g_per_request"] == pytest.approx(0.3 * 2 / 3.6e6 * 500 * 1.2)
    assert (row["j_per_request"], row["nature"]) == ({"large": 3.0, "small": 1.0}, "measured")
    assert row["source"] == "measured by model compress"
    world.intensity, world.now_s = 100.0, 1000.0
    mixer.look()
    assert mixer.share(ASK) == 0.0
    assert mixer.row(MIXED)["percent"] == 0.0


def test_the_mix_stays_for_its_time_and_over_a_restart(mixer, world, store):
    mixer.look()
    world.intensity, world.now_s = 100.0, 300.0
    mixer.look()
    assert mixer.share(ASK) == 0.3
    again = world.mixer(store)
    assert again.share(ASK) == 0.3  # at once, before it has looked
    again.look()
    assert again.share(ASK) == 0.3
    assert "for another 300 s" in again.row(MIXED)["why"]
    world.now_s = 600.0
    again.look()
    assert again.share(ASK) == 0.0
    world.intensity, world.now_s = 500.0, 700.0
    third = world.mixer(store)
    third.look()
    assert third.share(ASK) == 0.0  # clean for 100 s only


@pytest.mark.parametrize("how", ["unknown", "no controller", "another error"])
def test_an_intensity_that_nobody_knows_is_a_clean_one(mixer, world, how, caplog):
    caplog.set_level(logging.CRITICAL)
    world.intensity = None if how == "unknown" else 500.0
    world.away = {"no controller": UnreachableError("away"), "another error": RuntimeError("x")}.get(how)
    mixer.look()
    assert mixer.share(ASK) == 0.0
    row = mixer.row(MIXED)
    assert "unknown" in row["why"]
    assert row["saved_g_per_request"] is None


def test_what_answers_took_is_told_with_the_way_there_and_kept(mixer, world, store):
    mixer.look()
    mixer.share(Report("mnist", 1, 2, Spent(100, 400.0), Spent(10, 20.0)))
    mixer.share(Report("mnist", 2, None, Spent(50, 75.0), Spent()))
    mixer.look()
    for one in (mixer, world.mixer(store)):
        one.look()
        row = one.row(MIXED)
        assert (row["j_per_request"], row["nature"]) == ({"large": 4.0, "small": 3.5}, "modelled")
        assert row["source"] == "footprints of answers"
    mixer.share(Report("mnist", 1, 2, Spent(), Spent(10, 40.0)))  # the way takes more than the variant saves
    mixer.look()
    assert mixer.share(ASK) == 0.0
    assert "does not take less energy" in mixer.row(MIXED)["why"]


def test_before_anybody_measured_it_the_variant_is_what_its_owner_says(mixer, world):
    world.facts[2] = replace(world.facts[2], parent="")
    row = mixer.row(MIXED)  # of what was not decided yet: it is then
    assert (row["percent"], row["nature"], row["saved_g_per_request"]) == (30.0, "assumed", None)
    assert row["j_per_request"] == {"large": None, "small": None}


def test_replicas_of_another_version_get_what_was_decided_of_it_alone(mixer, world):
    mixer.look()
    assert mixer.share(ASK._replace(version=3)) == 0.0
    assert mixer.share(ASK._replace(variant=4)) == 0.0
    assert mixer.share(ASK._replace(version=2, variant=None)) == 0.0
    assert mixer.share(ASK._replace(model="other")) == 0.0
    world.deployments = [MIXED.promoted(3)]
    mixer.look()
    assert mixer.share(ASK) == 0.0
    assert "no version mnist:3" in mixer.row(world.deployments[0])["why"]
    world.facts[3] = VersionFacts("mnist:3", "onnx", "s", None)
    mixer.look()
    assert "mnist:3 has no measured accuracy" in mixer.row(world.deployments[0])["why"]
    world.facts[3] = VersionFacts("mnist:3", "onnx", "s", 0.99)
    mixer.look()
    assert mixer.share(ASK._replace(version=3)) == 0.3


def test_what_the_owner_changes_holds_at_once(mixer, world):
    mixer.look()
    world.deployments = [replace(MIXED, mixing=Mixing(0.1, 0.95, 400.0))]
    mixer.look()
    assert mixer.share(ASK) == 0.1
    world.deployments = [replace(MIXED, mixing=Mixing(0.3, 0.95, 600.0))]  # 500 is clean by this
    mixer.look()
    assert mixer.share(ASK) == 0.0
    world.deployments = [replace(MIXED, variant=None, mixing=None)]
    mixer.look()
    assert mixer.row(world.deployments[0]) is None


def test_what_is_no_more_is_not_kept(mixer, world, store):
    mixer.look()
    mixer.share(Report("mnist", 1, 2, Spent(100, 400.0), Spent(1, 1.0)))
    mixer.look()
    world.deployments = []
    mixer.look()
    assert store.get_meta("variant_mixes") == {}
    assert store.get_meta("variant_spent") == {}


def test_a_variant_that_may_not_answer_is_refused(mixer, world):
    mixer.check(MIXED)
    mixer.check(replace(MIXED, variant=None, mixing=None))
    with pytest.raises(UsageError, match="a variant is another version"):
        mixer.check(replace(MIXED, variant=1))
    with pytest.raises(NotFoundError):
        mixer.check(replace(MIXED, variant=9))
    world.facts[2] = replace(world.facts[2], signature=None)
    with pytest.raises(UsageError, match="no signature"):
        mixer.check(MIXED)


class Deployer:
    """As replicas reach it."""

    def __init__(self):
        self.share, self.heard, self.dead = 0.3, [], False

    def __call__(self, report):
        if self.dead:
            raise TimeoutError
        self.heard.append(report)
        return self.share


def test_a_replica_tells_what_came_since_and_trusts_a_share_for_a_minute():
    deployer, spent, now_s = Deployer(), [10, 5.0], [0.0]
    mix = MixFollower("m", 1, lambda: (*spent, Nature.MODELLED), lambda cpu_s: 2 * cpu_s, deployer, lambda: now_s[0])
    mix.look()
    assert deployer.heard == []  # there is no variant
    mix.variant, mix.is_asking = 2, True
    assert mix.share() == 0.0
    mix.look()
    assert mix.share() == 0.3
    mix.hop(0.5)
    spent[:] = [12, 6.0]
    deployer.dead = True
    with pytest.raises(TimeoutError):
        mix.look()
    now_s[0] = TRUST_S - 1
    assert mix.share() == 0.3
    now_s[0] = TRUST_S
    assert mix.share() == 0.0
    deployer.dead = False
    mix.look()
    mix.look()
    assert mix.share() == 0.3
    first, second, third = deployer.heard
    assert first == Report("m", 1, 2, Spent(10, 5.0), Spent())
    assert second == Report("m", 1, 2, Spent(2, 1.0), Spent(1, 1.0))  # what could not be told is not lost
    assert third == Report("m", 1, 2, Spent(0, 0.0), Spent())


def test_an_answer_for_a_variant_that_is_no_more_is_not_taken():
    numbers = count(3)

    def ask(report):
        mix.variant = next(numbers)  # Serve says so meanwhile
        return 0.5

    mix = MixFollower("m", 1, lambda: (0, 0.0, Nature.ASSUMED), lambda cpu_s: cpu_s, ask)
    mix.variant, mix.is_asking = 2, True
    mix.look()
    assert mix.share() == 0.0


@pytest.mark.parametrize("energy_j", [math.nan, math.inf, -5.0])
def test_energy_that_cannot_be_true_is_not_counted(mixer, world, energy_j):
    for version, right_j in ((1, 4.0), (2, 1.0)):
        variant = 2 if version == 1 else None
        mixer.share(Report("mnist", version, variant, Spent(30, 30 * right_j), Spent()))
        mixer.share(Report("mnist", version, variant, Spent(30, energy_j), Spent(30, energy_j)))
    mixer.look()
    assert mixer.row(MIXED)["j_per_request"] == {"large": 4.0, "small": 1.0}
    assert mixer.share(ASK) == 0.3
