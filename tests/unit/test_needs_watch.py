"""What is pending at Serve, as the controller is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment, ZonePart
from eco_ray.core.events import NeededReplica, ServingNeeds
from eco_ray.on_ray.serving.needs import NeedsWatch, Replicas, needed

PROMISED = Deployment("m", 1, demand=Resources(2.0), slo_p95_s=0.2, nodes=("a", "b"), zones=("DE",))


@pytest.mark.parametrize(
    ("wanted", "unplaced", "before", "after"),
    [
        (3, 0, None, (0, None)),
        (3, 2, None, (2, 1)),
        (3, 0, 1, (2, 1)),  # those that jobs made room for hold it on
        (5, 2, 1, (4, 1)),
        (2, 0, 1, (1, 1)),
        (1, 0, 1, (0, None)),  # as many as had room by themselves
        (0, 0, 1, (0, None)),
    ],
)
def test_a_need_lasts_until_serve_wants_no_more_than_had_room(wanted, unplaced, before, after):
    assert needed(Replicas(wanted, unplaced), before) == after


class Told:
    """The controller, and Serve."""

    def __init__(self, granted=0):
        self.asked, self.granted, self.replicas = [], granted, Replicas(1, 0)
        self.deployed = [PROMISED]
        self.watch = NeedsWatch(lambda: self.deployed, lambda _app: self.replicas, self.tell)

    def tell(self, told):
        if isinstance(told, ServingNeeds):
            self.asked.append((told.model, len(told.replicas), told.slo_p95_s))
            assert set(told.replicas) <= {NeededReplica(Resources(2.0), ("a", "b"), ("DE",))}
        return {"granted": [{}] * self.granted, "message": ""}

    def look(self, *replicas):
        self.replicas = Replicas(*replicas)
        before = len(self.asked)
        self.watch.look_once()
        return self.asked[before:]


def test_it_is_told_again_and_again_and_the_end_once():
    told = Told()
    assert told.look(1, 0) == []
    assert told.look(3, 2) == [("m", 2, 0.2)]
    assert told.look(3, 0) == [("m", 2, 0.2)]
    assert told.look(1, 0) == [("m", 0, None)]
    assert told.look(1, 0) == []


def test_a_model_that_promised_nothing_makes_nobody_give_way():
    told = Told()
    told.deployed = [Deployment("m", 1, demand=Resources(2.0))]
    assert told.look(3, 2) == []


def test_a_model_that_is_undeployed_needs_nothing():
    told = Told()
    assert told.look(2, 1) == [("m", 1, 0.2)]
    told.deployed = []
    assert told.look(2, 1) == [("m", 0, None)]
    assert told.look(2, 1) == []


def test_a_watch_that_begins_anew_knows_what_the_last_one_asked_for():
    told = Told(granted=2)
    assert told.look(3, 0) == [("m", 2, 0.2)]
    assert told.look(1, 0) == [("m", 0, None)]


def test_where_serve_does_not_say_nothing_changes():
    told = Told()
    assert told.look(2, 1) == [("m", 1, 0.2)]
    told.replicas = None
    told.watch.look_once()
    assert len(told.asked) == 1


def test_each_zone_of_a_model_needs_room_by_itself():
    told = Told()
    parts = tuple(ZonePart(zone, ("a", "b"), ()) for zone in ("DE", "FR"))
    told.deployed = [replace(PROMISED, per_zone=True, parts=parts)]
    waits = {"zone.DE.m": Replicas(3, 1), "zone.FR.m": Replicas(1, 0)}
    asked = []
    NeedsWatch(
        lambda: told.deployed, waits.get, lambda one: asked.append(one) or {"granted": [], "message": ""}
    ).look_once()
    assert [one for one in asked if isinstance(one, str)] == ["m in DE", "m in FR"]
    (need,) = (one for one in asked if isinstance(one, ServingNeeds))
    assert (need.model, len(need.replicas)) == ("m in DE", 1)
