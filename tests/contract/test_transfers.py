"""What pushes and pulls moved, on every adapter of the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from store_samples import T0_S

from eco_ray.core.store_port import Store
from eco_ray.core.transfers import Transfer, transferred
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError
from eco_ray.store import open_store


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url)
    yield opened
    opened.close()


def a_transfer(time_s: float = T0_S) -> Transfer:
    return transferred(f"at-{time_s}", time_s, "mnist:3", "push", "s3://models", 90_000_000, 10_000, remote=True)


def test_a_transfer_comes_back_whole_and_is_counted_once(store: Store) -> None:
    first, second = a_transfer(T0_S + 1), a_transfer(T0_S)
    assert store.add_transfers([first, second, first]) == 2
    assert store.add_transfers([first, third := a_transfer(T0_S + 2)]) == 1
    assert store.transfers() == [second, first, third]
    assert store.transfers(T0_S + 1, T0_S + 2) == [first]
    assert store.add_transfers([]) == 0


def test_its_energy_is_an_estimate_for_what_went_over_the_network() -> None:
    assert (a_transfer().energy_mj, a_transfer().nature) == (324_000, Nature.ASSUMED)  # 0.09 GB x 3,600 J/GB
    assert "3600 J/GB" in a_transfer().source
    here = transferred("a", T0_S, "mnist:3", "pull", "/models", 90, 10, remote=False)
    assert (here.energy_mj, here.moved_bytes, here.reused_bytes) == (0, 90, 10)
    assert "directory" in here.source


def test_it_is_in_no_sum_of_the_ledger(store: Store) -> None:
    head = store.verify_chain().head
    store.add_transfers([a_transfer()])
    assert (store.hourly(), store.node_energy(), store.verify_chain().head) == ([], [], head)
    assert store.check_ledger().rows == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"direction": "throw"}, "direction of transfer .* give one of push, pull"),
        ({"moved_bytes": -1}, "moved_bytes .*-1 bytes, limits 0"),
        ({"energy_mj": 1.5}, "energy .*must be an integer"),
        ({"time_s": float("nan")}, "time_s .*finite"),
        ({"time_s": -5.0}, "time_s .*limits 0"),
        ({"owner_id": ""}, "owner id .*at least one character"),
    ],
)
def test_what_cannot_be_is_refused(store: Store, change: dict[str, object], says: str) -> None:
    with pytest.raises(EcoRayError, match=says):
        store.add_transfers([a_transfer(), replace(a_transfer(), **change)])  # type: ignore[arg-type]
    assert store.transfers() == []
