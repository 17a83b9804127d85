"""Our nodes, as they are made of Ray's list of nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eco_ray.core.cluster import UNKNOWN_ZONE, Node, Resources
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.on_ray.fleet import Fleet, given_of, node_of
from eco_ray.on_ray.local_cluster import GROUP_LABEL, NODE_LABEL, ZONE_LABEL

CURVE = PowerCurve((0.0, 1.0), (100.0, 300.0), source="wall meter")
DESCRIBED = Node(
    "gpu-1", "SE", Resources(64, 8, 512, 640), CURVE, pue=1.1, gpu_idle_w=55, gpu_busy_w=400, sleeps=True, wake_j=9_000
)  # fmt: skip


def seen(**labels: str) -> dict[str, Any]:
    """A row of Ray's list."""
    return {"NodeID": "0123456789abcdef", "Labels": labels, "Resources": {"CPU": 8.0, "GPU": 1.0, "memory": 32e9}}


def test_a_described_node_keeps_all_that_its_file_says() -> None:
    found = node_of(seen(**{NODE_LABEL: "gpu-1", ZONE_LABEL: "DE"}), {"gpu-1": DESCRIBED}, {})
    assert found == replace(DESCRIBED, ray_node_id="0123456789abcdef")


@pytest.mark.parametrize("autoscales", [True, False])
def test_nodes_of_the_file_that_sleep_come_back_where_an_autoscaler_starts_them(monkeypatch, autoscales) -> None:
    stays = replace(DESCRIBED, name="stays", sleeps=False)
    fleet = object.__new__(Fleet)
    fleet.described = {"gpu-1": DESCRIBED, "gpu-2": replace(DESCRIBED, name="gpu-2"), "stays": stays}
    monkeypatch.setattr("eco_ray.on_ray.fleet.RayDrains.autoscales", lambda _self: autoscales)
    assert [node.name for node in fleet.asleep({"gpu-2"})] == ["gpu-1"] * autoscales


def test_of_another_node_only_what_ray_knows_counts() -> None:
    found = node_of(seen(**{ZONE_LABEL: "DE"}), {"gpu-1": DESCRIBED}, {})
    assert (found.name, found.zone, found.capacity) == ("0123456789ab", "DE", Resources(8, 1, 32))
    assert found.power.nature is Nature.ASSUMED
    assert (found.gpu_idle_w, found.gpu_busy_w, found.sleeps, found.wake_j) == (0, 0, False, 0)
    assert node_of({"NodeID": "0123456789abcdef", "Labels": None, "Resources": None}, {}, {}).zone == UNKNOWN_ZONE


def test_a_node_of_a_described_group_is_like_it_and_has_its_own_name() -> None:
    groups = {"de-gpu": replace(DESCRIBED, name="de-gpu")}
    found = node_of(seen(**{NODE_LABEL: "pod-7", GROUP_LABEL: "de-gpu"}), {}, groups)
    assert found == replace(DESCRIBED, name="pod-7", ray_node_id="0123456789abcdef")
    unnamed = node_of(seen(**{GROUP_LABEL: "de-gpu"}), {}, groups)
    assert (unnamed.name, unnamed.power) == ("0123456789ab", CURVE)
    assert node_of(seen(**{NODE_LABEL: "pod-7", GROUP_LABEL: "other"}), {}, groups).power.nature is Nature.ASSUMED
    # a node with an entry of its own is that, whatever its group
    assert (
        node_of(seen(**{NODE_LABEL: "gpu-1", GROUP_LABEL: "x"}), {"gpu-1": DESCRIBED}, {"x": groups["de-gpu"]}).name
        == "gpu-1"
    )


def test_what_ray_has_given_away_has_its_memory() -> None:
    info = {"Resources": {"CPU": 64.0, "GPU": 8.0, "memory": 400e9}}  # of 512 GB
    free = {"CPU": 60.0, "GPU": 7.5, "memory": 390e9}
    assert given_of(DESCRIBED, info, free) == Resources(4.0, 0.5, 10.0)
    assert given_of(DESCRIBED, info, {"CPU": 64.0, "GPU": 8.0, "memory": 400e9}) == Resources()
    assert given_of(DESCRIBED, {}, {"CPU": 64.0, "GPU": 8.0}) == Resources()
    assert given_of(DESCRIBED, info, {"memory": 400e9}) == Resources(64.0, 8.0)  # what is all taken is not there
