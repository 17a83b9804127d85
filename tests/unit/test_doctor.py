"""`eco-ray doctor` where nodes or the controller do not answer: what nobody looked at is never said to be in order."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from eco_ray.cli import doctor as doctor_cli
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.power import PowerCurve
from eco_ray.errors import NoClusterError, UnreachableError
from eco_ray.on_ray import client, examine
from eco_ray.on_ray.connection import cluster_of
from eco_ray.on_ray.controller import Controller
from eco_ray.on_ray.local_cluster import ClusterRecord

FACTS = {"findings": [], "open_ports": [], "unread": [], "unknown_owner": [], "machine": "m"}


def nodes(count: int) -> dict[str, Node]:
    curve = PowerCurve((0.0, 1.0), (50.0, 150.0), source="test")
    return {f"n{i}": Node(f"n{i}", "DE", Resources(8, 0, 64), curve) for i in range(count)}


def controller(known: dict[str, Node], there: dict[str, Node], call: Any) -> Any:
    """As much of a controller as is examined."""
    return SimpleNamespace(_known=known, _core=SimpleNamespace(book=SimpleNamespace(nodes=there)), _fleet=call)


class Hanging:
    """Agents of which only `n0` answers; one fails at once, the others hang beyond every limit."""

    def call(self, node: Node, method: Any, timeout_s: float = 10.0) -> dict[str, Any]:
        if node.name == "n0":
            return FACTS
        if node.name == "n1":
            raise TimeoutError("it died")
        time.sleep(5.0)
        return FACTS


def test_all_agents_are_asked_at_once_and_those_that_hang_take_no_time_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examine, "EXAMINE_S", 0.3)
    known = nodes(6)
    began_s = time.monotonic()
    found = Controller.examine(controller(known, {name: known[name] for name in list(known)[:5]}, Hanging()))
    assert time.monotonic() - began_s < 2.0
    errors = {row["node"]: row["error"] for row in found}
    assert errors["n0"] == ""
    assert errors["n1"].startswith("no answer (TimeoutError: it died)")
    assert all(errors[name].startswith("no answer within 0.3 s") for name in ("n2", "n3", "n4"))
    assert errors["n5"] == "the node is not there"
    document = examine._document(found, [])
    assert document["ok"] is False
    assert "n1, n2, n3, n4" in document["problems"][0]


def test_agents_are_given_less_time_than_the_controller() -> None:
    assert examine.EXAMINE_S <= client._CALL_TIMEOUT_S - 20


def doctor(folder: Path, *args: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(doctor_cli.doctor, [*args, "-o", "json", "--state-dir", str(folder)])
    return done.exit_code, json.loads(done.stdout)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is open here, and no cluster is told of."""
    monkeypatch.setattr(examine, "examine_node", lambda *_args, **_more: FACTS)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_without_any_cluster_this_machine_is_enough(tmp_path: Path) -> None:
    with pytest.raises(NoClusterError):
        cluster_of(tmp_path)
    code, document = doctor(tmp_path)
    assert code == 0
    assert [node["node"] for node in document["nodes"]] == ["this machine"]


def test_a_cluster_that_was_started_and_does_not_answer_is_a_failure(tmp_path: Path) -> None:
    ClusterRecord("laptop", "127.0.0.1:1", "", None, 8000).save(tmp_path)
    code, document = doctor(tmp_path)
    assert (code, document["ok"]) == (1, False)
    assert "The cluster was not examined" in document["problems"][0]
    assert "does not answer at 127.0.0.1:1" in document["problems"][0]


def test_an_address_that_does_not_answer_is_a_failure(tmp_path: Path) -> None:
    code, document = doctor(tmp_path, "--address", "127.0.0.1:1")
    assert (code, document["ok"]) == (1, False)


def test_a_controller_that_gives_up_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(_settings: Any) -> None:
        raise UnreachableError("the controller did not answer within 60 s")

    monkeypatch.setattr(examine, "examine_cluster", too_late)
    code, document = doctor(tmp_path)
    assert (code, document["ok"]) == (1, False)
    assert "within 60 s" in document["problems"][0]
