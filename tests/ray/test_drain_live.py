"""A node is emptied under load and released by Ray's autoscaler: nobody loses."""

from __future__ import annotations

from typing import Any

import pytest
from live_cluster import driven

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What drain_driver.py saw."""
    return driven("drain_driver.py", tmp_path_factory.mktemp("d"))


def test_a_drained_node_is_emptied_under_load_and_released(facts: dict[str, Any]) -> None:
    assert facts["load"].keys() == {"200"}, facts["load"]
    assert facts["load"]["200"] > 100
    dids = [did for did, _ in facts["told"]]
    assert dids[-1] == "released"
    assert "dirty is emptied: saves" in next(why for did, why in facts["told"] if did == "draining")
    assert facts["alive_after"] == ["green"]  # what was filled stays: the autoscaler ends the one, never the other
    assert facts["again"] == ["nothing"] * 3


def test_wrong_and_flapping_readings_move_nothing(facts: dict[str, Any]) -> None:
    hows = ("flaps", "comes and goes", "no number", "negative", "no watts", "too many watts")
    assert facts["wrong"] == {how: ["nothing"] for how in hows}


def test_what_was_decided_on_nodes_is_decided_alike_again(facts: dict[str, Any]) -> None:
    ((kind, decisions, different),) = facts["decided again"]
    assert (kind, decisions > 2, different) == ("drain", True, 0)


def test_a_job_there_pauses_and_goes_on_elsewhere(facts: dict[str, Any]) -> None:
    assert facts["job_nodes"] == ["dirty", "green"]
    assert facts["job_states"][0] == "paused"
    assert facts["job"] == "succeeded"
    assert [line.split()[1] for line in facts["steps"]] == [str(step) for step in range(300)]
