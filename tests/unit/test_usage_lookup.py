"""From a request to its part of the ledger, over a replica, the agents and the accounts of a cluster."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from service_cases import Echo, ask, request
from test_accounts import NODE, Grid
from test_node_agent import CURVE, Controller
from usage_cases import counted, row_of, take_of

from eco_ray.core.clock import Clock
from eco_ray.core.footprint import Footprint, Signal
from eco_ray.core.ports import CpuUse, Reading
from eco_ray.core.requests import ServiceUse
from eco_ray.core.units import Nature
from eco_ray.core.usage import Found, State, Usage
from eco_ray.errors import UnreachableError
from eco_ray.on_ray.accounts import Accounts, Directory
from eco_ray.on_ray.node_agent import AgentConfig, NodeAgent
from eco_ray.on_ray.served import Tally
from eco_ray.on_ray.spool import Spool, from_json
from eco_ray.on_ray.usage import UsageLookup, ask_agents
from eco_ray.service.app import ModelApp
from eco_ray.store.memory import MemoryStore

ESTIMATE = Footprint(1.5, 0.25, 0.1, 15.0, Signal("DE", 300.0, "test"), Nature.MODELLED)


class Meter:
    """Reads 100 J each time, most of it idle."""

    name = "test"

    def read(self, use: CpuUse) -> Reading:
        return Reading(100_003, 80_001, Nature.MEASURED, "test", 0.05)


class Cluster:
    """A node with an agent and replicas, and the ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.controller = folder, MemoryStore(), Controller()
        self.agent = self.new_agent()
        self.lookup = UsageLookup(self.store, self.ask)

    def new_agent(self) -> NodeAgent:
        config = AgentConfig("n1", 2.0, CURVE, Clock(), self.folder / "spool", self.folder / "run")
        return NodeAgent(config, self.controller, Meter(), root_pid=os.getpid())

    def ask(self, tenant: str, request_id: str) -> tuple[list[Found | None], int]:
        return [None, self.agent.request_row(tenant, request_id)], 0

    def tally(self, name: str = "r1") -> Tally:
        tally = Tally("app", name, 0.25, model="m:1")
        tally.keep_in(self.folder / "spool" / "served")
        return tally

    def sample(self, *tallies: Tally, book: bool = True) -> None:
        for tally in tallies:
            tally.write()
        self.agent._keep(self.agent.sample())
        if book:
            self.book()

    def book(self) -> None:
        assert self.agent.ship()
        samples = [from_json(one) for one in self.controller.got]
        self.controller.got.clear()
        directory = Directory({}, {"app": ("m:1",)}, lambda job: False)
        accounts = Accounts(self.store, Grid())
        accounts.book_sound(samples, {"n1": NODE}, directory, Spool(self.folder / "refused"))

    def settled(self, tenant: str, *request_ids: str) -> list[Usage]:
        found = [self.lookup(tenant, one) for one in request_ids]
        assert all(one is not None for one in found)
        return [one for one in found if one is not None]


def count(tally: Tally, tenant: str, name: str, *seconds: float) -> None:
    for number, service_s in enumerate(seconds):
        tally.add(ServiceUse(f"{name}{number}", tenant, service_s, estimate=ESTIMATE), 1)


def test_all_requests_of_all_tenants_and_replicas_sum_to_the_ledger(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    one, two = cluster.tally("r1"), cluster.tally("r2")
    cluster.sample(one, two)
    ids: list[tuple[str, str]] = []
    for turn in range(4):
        for tally, name in ((one, "one"), (two, "two")):
            for tenant in ("vision", "text", ""):
                count(tally, tenant, f"{name}{tenant}{turn}-", 0.01, 0.02, 0.0, 0.3)
                ids += [(tenant, f"{name}{tenant}{turn}-{n}") for n in range(4)]
        cluster.sample(one, two)
    energy_mj: dict[tuple[str, str, float], int] = {}
    for tenant, request_id in reversed(ids):
        (usage,) = cluster.settled(tenant, request_id)
        assert usage.state is State.SETTLED
        assert usage.row is not None
        key = usage.row.part, tenant, usage.row.start_s
        energy_mj[key] = energy_mj.get(key, 0) + (usage.energy_mj or 0)
    rows = [row for row in cluster.store.owner_intervals("model") if row.requests]
    assert len(rows) == 24
    assert energy_mj == {(row.part, row.tenant, row.start_s): row.energy_mj for row in rows}
    assert all(row.energy_mj > 0 for row in rows)


def test_an_answer_is_found_by_its_id_at_once_and_settles(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    tally = cluster.tally()
    app = ModelApp(Echo(), lambda cpu_s, wall_s, share: ESTIMATE, count=tally.add)
    got = ask(app, "POST", "/v2/models/echo/infer", request([1.0]), {"Eco-Tenant": "vision"})
    request_id = got.headers["x-request-id"]
    tally.write()
    assert cluster.lookup("text", request_id) is None
    for act in (lambda: None, lambda: cluster.sample(tally, book=False)):
        act()
        (usage,) = cluster.settled("vision", request_id)
        assert (usage.state, usage.to_json()["energy_joules"]) == (State.ESTIMATE, 1.5)
    cluster.book()
    (usage,) = cluster.settled("vision", request_id)
    (row,) = [row for row in cluster.store.owner_intervals("model") if row.requests]
    assert (usage.state, usage.energy_mj, usage.row) == (State.SETTLED, row.energy_mj, row)


def test_what_the_agent_had_not_noted_when_it_was_killed_is_told_right_or_not_at_all(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    tally = cluster.tally()
    cluster.sample(tally)
    count(tally, "vision", "a", 0.1, 0.2)
    tally.write()
    # killed between the note of the take and that of the sample: the next life takes the same, and more
    cluster.agent._requests.note(cluster.agent._served.takes(cluster.agent.sample()))
    cluster.agent._requests.flush()
    count(tally, "vision", "b", 0.3)
    tally.write()
    cluster.agent = cluster.new_agent()
    cluster.book()
    cluster.sample(tally)
    usages = cluster.settled("vision", "a0", "a1", "b0")
    (row,) = [row for row in cluster.store.owner_intervals("model") if row.requests]
    assert [usage.state for usage in usages] == [State.SETTLED] * 3
    assert (sum(usage.energy_mj or 0 for usage in usages), row.requests) == (row.energy_mj, 3)
    # nobody knows what the next one had taken
    count(tally, "vision", "c", 0.1, 0.2)
    tally.write()
    (tmp_path / "spool" / "served" / "taken.json").unlink()
    cluster.agent = cluster.new_agent()
    count(tally, "vision", "d", 0.1)
    cluster.sample(tally)
    (c, d) = cluster.settled("vision", "c1", "d0")
    assert (c.state, c.energy_mj, d.state) == (State.UNKNOWN, None, State.SETTLED)
    assert d.row is not None
    assert (d.energy_mj, d.row.requests) == (d.row.energy_mj, 1)


def test_a_sample_that_is_refused_leaves_its_requests_unknown(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    tally = cluster.tally()
    count(tally, "vision", "a", 0.1)
    cluster.sample(tally, book=False)
    cluster.agent._unsent[0] = replace(cluster.agent._unsent[0], node="elsewhere")
    cluster.book()
    (usage,) = cluster.settled("vision", "a0")
    assert usage.state is State.ESTIMATE
    cluster.sample(tally)
    (usage,) = cluster.settled("vision", "a0")
    assert (usage.state, usage.reason) == (State.UNKNOWN, "the ledger does not count it in its interval")


def test_all_agents_are_asked_and_those_that_fail_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, found = pytest.importorskip("ray"), Found(counted(), None, False)
    answers: dict[str, Any] = {"a": found, "b": None, "late": None, "broken": ValueError("no"), "gone": None}

    class Agent:
        def __init__(self, name: str) -> None:
            self.request_row = SimpleNamespace(remote=lambda *asked: (name.removeprefix("eco_agent:"), *asked))

    def get_actor(name: str, namespace: str) -> Agent:
        assert namespace == "eco_ray"
        if name == "eco_agent:gone":
            raise ValueError("no such actor")
        return Agent(name)

    def get(ref: tuple[str, ...]) -> Any:
        assert ref[1:] == ("vision", "id-1")
        if isinstance(answers[ref[0]], Exception):
            raise answers[ref[0]]
        return answers[ref[0]]

    def wait(refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return [one for one in refs if one[0] != "late"], [one for one in refs if one[0] == "late"]

    actors = [{"name": f"eco_agent:{name}", "namespace": "eco_ray"} for name in answers]
    actors += [{"name": "eco_agent:x", "namespace": "other"}, {"name": "eco_controller", "namespace": "eco_ray"}]
    monkeypatch.setattr(ray, "get_actor", get_actor)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr("ray.util.list_named_actors", lambda all_namespaces: actors)
    assert ask_agents("vision", "id-1") == ([found, None], 3)
    actors.clear()
    assert ask_agents("vision", "id-1") == ([], 0)


@pytest.mark.parametrize("silent", [0, 2])
def test_a_node_that_does_not_answer_may_know_the_request(silent: int) -> None:
    lookup = UsageLookup(MemoryStore(), lambda tenant, request_id: ([None, None], silent))
    if not silent:
        assert lookup("vision", "a") is None
        return
    with pytest.raises(UnreachableError, match="2 nodes did not answer"):
        lookup("vision", "a")


def test_of_one_id_on_several_nodes_the_newest_counts() -> None:
    old, new = counted(counted_s=1.0), counted(counted_s=2.0, replica="r2")
    lookup = UsageLookup(MemoryStore(), lambda *asked: ([Found(new, None, False), None, Found(old, None, False)], 1))
    usage = lookup("vision", "id-1")
    assert usage is not None
    assert usage.counted is new


def test_only_the_rows_of_its_time_are_read() -> None:
    asked: list[Any] = []
    take = take_of([counted()])

    class Store(MemoryStore):
        def owner_intervals(self, *args: Any, **more: Any) -> list[Any]:
            asked.append((args, more))
            return [row_of(take)]

    usage = UsageLookup(Store(), lambda *_: ([Found(counted(), take, False)], 0))("vision", "id-1")
    assert usage is not None
    assert usage.state is State.SETTLED
    assert asked == [((), {"start_s": take.start_s, "end_s": take.end_s + 10.0})]
