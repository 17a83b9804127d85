"""Replicas and nodes go to zero and come back, on a cluster whose nodes an autoscaler starts and ends: nobody loses."""

from __future__ import annotations

from typing import Any

import pytest
from live_cluster import driven

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What zero_driver.py saw."""
    return driven("zero_driver.py", tmp_path_factory.mktemp("z"))


def test_a_model_is_deployed_where_no_node_is_on(facts: dict[str, Any]) -> None:
    assert facts["deployed"] == [["green", "dirty"], ["green"]]


def test_replicas_and_nodes_go_to_zero_and_come_back_without_a_lost_request(facts: dict[str, Any]) -> None:
    assert facts["woken"] == ["green"]
    assert facts["load_back"].keys() == {"200"}, facts
    assert facts["load_back"]["200"] > 20


def test_what_only_a_dirty_node_could_take_moves_to_a_clean_one_that_is_woken(facts: dict[str, Any]) -> None:
    assert facts["only awake"] == ["dirty"]
    assert facts["load_moved"].keys() == {"200"}, facts
    assert facts["load_moved"]["200"] > 20
