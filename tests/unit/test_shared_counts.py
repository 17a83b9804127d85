"""One process that answers for several models: every request once, every millijoule to one of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_accounts import Grid, book
from test_node_agent import Controller, an_agent
from test_usage_lookup import ESTIMATE, Cluster

from eco_ray.core.ledger import Served, Share
from eco_ray.core.requests import ServiceUse
from eco_ray.core.tenants import counted_as, model_and_tenant, split_by_tenant
from eco_ray.core.usage import State
from eco_ray.on_ray import served
from eco_ray.on_ray.accounts import Directory
from eco_ray.on_ray.served import COUNTS_FELL, ServedReader, Tally
from eco_ray.store.memory import MemoryStore

OWN = "serve-app:shared\tshared"


def a_tally(folder: Path) -> Tally:
    tally = Tally("shared", "r1", 1.0, model="shared")
    tally._path = folder / "r1.replica.json"
    tally.write()
    return tally


def ask(tally: Tally, model: str, tenant: str, service_s: float = 0.5, request: str = "") -> None:
    tally.add(ServiceUse(request, tenant, service_s, estimate=ESTIMATE), 2, model)
    tally.write()


def counts(rows: Any) -> dict[tuple[str, str], tuple[int, float]]:
    return {(one.owner_id, one.tenant): (one.requests, one.service_s) for one in rows}


@pytest.mark.parametrize("model", ["", "m:1"])
@pytest.mark.parametrize("tenant", ["", "vision"])
def test_whom_it_counts_for_is_a_model_and_a_tenant(model: str, tenant: str) -> None:
    assert model_and_tenant(counted_as(model, tenant)) == (model, tenant)
    assert counted_as("", tenant) == tenant


def test_counts_are_by_model_and_tenant_and_say_whose_process_it_is(tmp_path: Path) -> None:
    reader, tally = ServedReader(tmp_path), a_tally(tmp_path)
    assert reader.take() == (Served(OWN, "r1", "", 0, 0, 0.0),)
    ask(tally, "a:1", "vision")
    ask(tally, "a:1", "vision")
    ask(tally, "b:7", "vision", 0.25)
    tally.worked("b:7", 1.5)
    tally.write()
    assert reader.take() == (
        Served("serve-app:shared\ta:1", "r1", "vision", 2, 4, 1.0, OWN),
        Served("serve-app:shared\tb:7", "r1", "", 0, 0, 1.5, OWN),
        Served("serve-app:shared\tb:7", "r1", "vision", 1, 2, 0.25, OWN),
    )


@pytest.mark.parametrize(
    "names",
    [
        *(["a:1\t" + "t" * 64], ["a\0:1\tt"], ["a\tb\tt"], ["m" * 201 + "\tt"]),
        [f"a:1\tt{n}" for n in range(served.MAX_TENANTS + 2)],
        [f"a:{n}\tt" for n in range(served.MAX_COUNTS + 2)],
    ],
)
def test_counts_that_no_replica_wrote_say_nothing(names: list[str], tmp_path: Path) -> None:
    reader = ServedReader(tmp_path)
    a_tally(tmp_path)
    path = tmp_path / "r1.replica.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "counts": {name: [1, 1, 1] for name in names}}))
    assert reader.take() == ()


def test_beyond_what_it_tells_apart_a_replica_counts_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "MAX_COUNTS", 4)
    monkeypatch.setattr(served, "MAX_TENANTS", 2)
    reader, tally = ServedReader(tmp_path), a_tally(tmp_path)
    for model, tenant in [
        ("a:1", "x"),
        ("a:1", "y"),
        ("a:1", "z"),
        ("b:1", "x"),
        ("c:1", "x"),
        ("a:1", "w"),
        ("b:1", "x"),
    ]:
        ask(tally, model, tenant, 1.0)
    a, b = "serve-app:shared\ta:1", "serve-app:shared\tb:1"
    known = {(a, "x"): (1, 1.0), (a, "y"): (1, 1.0), (a, ""): (2, 2.0), (b, "x"): (2, 2.0), (OWN, ""): (1, 1.0)}
    assert counts(reader.take()) == known
    monkeypatch.setattr(served, "_KEPT_S", -1.0)  # all of it was long ago
    ask(tally, "c:1", "x", 2.0)
    assert counts(reader.take()) == {("serve-app:shared\tc:1", "x"): (1, 2.0)}
    assert reader.flags == ()
    ask(tally, "a:1", "x", 3.0)  # once more, from the start
    assert counts(reader.take()) == {(a, "x"): (1, 3.0)}
    path = tmp_path / "r1.replica.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "counts": {**told["counts"], "": [0, 0, 0.0]}}))
    reader.take()
    assert reader.flags == (COUNTS_FELL,)


def test_an_agent_that_is_killed_counts_each_request_once(tmp_path: Path) -> None:
    controller = Controller()
    agent = an_agent(tmp_path, controller)
    tally = a_tally(agent.config.served_dir)
    for _ in range(3):
        agent._keep(agent.sample())
        ask(tally, "a:1", "vision")
        ask(tally, "b:1", "vision")
        agent._spool.put(agent.sample())  # and is killed before it notes what it took
        agent = an_agent(tmp_path, controller)
    agent._keep(agent.sample())
    agent.ship()
    assert not any(COUNTS_FELL in sample["flags"] for sample in controller.got)
    rows = [one for sample in controller.got for one in sample["served"] if one["requests"]]
    assert sorted((one["owner_id"], one["requests"]) for one in rows) == [
        (f"serve-app:shared\t{name}:1", 1) for name in "aaabbb"
    ]


MODELS = st.builds(
    Served,
    st.sampled_from(["a:1", "a:2", "b:1", "shared"]),
    st.sampled_from(["r1", "r2"]),
    st.sampled_from(["", "x", "y"]),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.one_of(st.just(0.0), st.floats(0, 1e9)),
    st.just("shared"),
)


@given(
    st.dictionaries(st.sampled_from(["r1", "r2"]), st.integers(0, 10**15), max_size=2), st.lists(MODELS, max_size=10)
)
@settings(deadline=None)
def test_models_and_tenants_sum_to_the_process_in_any_order(energy_of: dict[str, int], rows: list[Served]) -> None:
    shares = [Share("model", "shared", 0, energy_mj, part=part) for part, energy_mj in energy_of.items()]
    parts = split_by_tenant(shares, rows)
    for part, energy_mj in energy_of.items():
        mine = [one for one in parts if one.part == part]
        known = [one for one in rows if one.part == part]
        assert sum(one.energy_mj for one in mine) == energy_mj
        assert all(one.energy_mj >= 0 for one in mine)
        assert len({(one.owner_id, one.tenant) for one in mine}) == len(mine)
        for model in {one.owner_id for one in known}:
            told = sum(one.requests or 0 for one in mine if one.owner_id == model)
            assert told == sum(one.requests for one in known if one.owner_id == model)
        work_s = sum(one.service_s for one in known)
        if work_s > 0 and energy_mj:
            for one in mine:
                its_s = sum(x.service_s for x in known if (x.owner_id, x.tenant) == (one.owner_id, one.tenant))
                assert one.energy_mj == pytest.approx(energy_mj * its_s / work_s, rel=1e-9, abs=2)
    assert split_by_tenant(shares, rows[::-1]) == parts


def test_energy_goes_by_work_to_models_and_waiting_to_the_replicas_own_name(tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    tally = a_tally(agent.config.served_dir)
    store, models = MemoryStore(), {"shared": ("a:1", "b:1"), "model.a": ("a:1",)}
    directory = Directory({}, models, lambda job: False)
    for step in (lambda: None, lambda: (ask(tally, "a:1", "x", 3.0), ask(tally, "b:1", "x", 1.0))):
        step()
        sample = agent.sample()
        book(store, Grid(), [sample.__class__(**{**_fields(sample), "node": "n1"})], directory=directory)
    waited, a, b = [row for row in store.owner_intervals("model") if row.part == "r1"]
    assert (waited.owner_id, waited.tenant, waited.requests) == ("shared", "", 0)
    assert [(row.owner_id, row.tenant, row.requests) for row in (a, b)] == [("a:1", "x", 1), ("b:1", "x", 1)]
    assert a.energy_mj == pytest.approx(3 * b.energy_mj, abs=4)
    assert b.energy_mj > 0


def _fields(sample: Any) -> dict[str, Any]:
    return {name: getattr(sample, name) for name in sample.__dataclass_fields__}


@given(st.lists(st.sampled_from(["a:1", "b:1", "load a:1", "load b:1"]), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_requests_of_each_model_settle_to_its_rows(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    folder = tmp_path_factory.mktemp("c")
    cluster = Cluster(folder)
    tally = Tally("shared", f"r{os.getpid()}", 1.0, model="shared")
    tally.keep_in(folder / "spool" / "served")
    cluster.sample(tally)
    asked = []
    for number, step in enumerate(steps):
        if step.startswith("load "):
            tally.worked(step[5:], 0.7)
        else:
            ask(tally, step, "vision", 0.1 * (number + 1), f"id{number}")
            asked.append((step, f"id{number}"))
        if number % 3 == 2:
            cluster.sample(tally)
    cluster.sample(tally)
    found: dict[tuple[str, float], int] = {}
    for model, request_id in asked:
        (usage,) = cluster.settled("vision", request_id)
        assert (usage.state, usage.counted.model) == (State.SETTLED, model)
        assert usage.row is not None
        assert usage.row.owner_id == model
        found[model, usage.row.start_s] = found.get((model, usage.row.start_s), 0) + (usage.energy_mj or 0)
    rows = [row for row in cluster.store.owner_intervals("model") if row.requests]
    assert found == {(row.owner_id, row.start_s): row.energy_mj for row in rows}
