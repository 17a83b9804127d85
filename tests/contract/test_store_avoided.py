"""What caches of answers avoided, on every adapter of the store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from store_samples import T0_S, an_avoided

from eco_ray.core.store_port import Store
from eco_ray.errors import EcoRayError
from eco_ray.store import open_store


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url)
    yield opened
    opened.close()


def test_a_row_comes_back_whole_and_is_counted_once(store: Store) -> None:
    first, second = an_avoided(2), an_avoided(1, tenant="", intensity_g_per_kwh=None, intensity_kind="")
    assert store.add_avoided([first, second, first]) == 2
    assert store.add_avoided([first, third := an_avoided(3)]) == 1
    assert store.avoided() == [second, first, third]
    assert store.avoided(T0_S + 2, T0_S + 3) == [first]
    assert store.add_avoided([]) == 0


def test_a_row_that_was_written_stays_as_it_is(store: Store) -> None:
    store.add_avoided([an_avoided()])
    assert store.add_avoided([an_avoided(energy_mj=1)]) == 0
    assert store.avoided() == [an_avoided()]


def test_it_is_in_no_sum_of_the_ledger(store: Store) -> None:
    head = store.verify_chain().head
    store.add_avoided([an_avoided()])
    assert (store.hourly(), store.node_energy(), store.owner_intervals(), store.verify_chain().head) == (
        [],
        [],
        [],
        head,
    )
    assert store.check_ledger().rows == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": ""}, "id of avoided energy .*at least one character"),
        ({"energy_mj": -1}, "energy .*-1 mJ, limits 0"),
        ({"energy_mj": 1.5}, "energy .*must be an integer"),
        ({"hits": -1}, "hits .*limits 0"),
        ({"start_s": float("nan")}, "start_s .*finite"),
        ({"end_s": T0_S}, "before its start at .* check the clock"),
        ({"intensity_g_per_kwh": -1.0}, "intensity .*limit >= 0"),
        ({"intensity_kind": "mean"}, "kind 'mean'.*give one of"),
        ({"pue": 0.9}, "PUE .*0.9, limit >= 1"),
        ({"model": ""}, "model of .*at least one character"),
    ],
)
def test_what_cannot_be_is_refused(store: Store, change: dict[str, object], says: str) -> None:
    with pytest.raises(EcoRayError, match=says):
        store.add_avoided([an_avoided(), an_avoided(2, **change)])
    assert store.avoided() == []
