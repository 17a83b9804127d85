"""A new version under the same Serve app: each replica is charged to the version that it runs, whenever booked."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_accounts import NODE, Grid, book
from test_node_agent import Controller, an_agent

from eco_ray.core.ledger import Sample
from eco_ray.core.requests import ServiceUse
from eco_ray.on_ray.accounts import Directory
from eco_ray.on_ray.owners import OwnerFinder, served_by
from eco_ray.on_ray.served import ServedReader, Tally, process_start
from eco_ray.store.memory import MemoryStore

ME = os.getpid(), process_start(os.getpid()) or 0


def a_replica(folder: Path, name: str = "r1", model: str = "digits:1", app: str = "digits", **told: Any) -> Tally:
    tally = Tally(app, name, 0.25, model=model)
    tally._told |= told
    tally._path = folder / f"{name}.replica.json"
    tally.add(ServiceUse("", "vision", 0.5), 1)
    tally.write()
    return tally


def charged(samples: list[Sample], models: dict[str, tuple[str, ...]]) -> set[tuple[str, str, int | None]]:
    """(model, replica, requests)."""
    store = MemoryStore()
    directory = Directory({}, models, lambda job: False)
    book(store, Grid(), [replace(one, node="n1") for one in samples], NODE, directory)
    return {(row.owner_id, row.part, row.requests) for row in store.owner_intervals("model")}


def test_a_buffered_sample_is_charged_to_the_version_that_ran(tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    a_replica(agent.config.served_dir)
    agent._keep(agent.sample())
    (buffered,) = an_agent(tmp_path, Controller())._unsent[:1]  # from disk, by the agent's next life
    deployed = {"digits": ("digits:1", "digits:2")}  # meanwhile v2 was put under the same app
    assert charged([buffered], deployed) == {("digits:1", "r1", 1)}


def test_replicas_of_the_old_version_drain_beside_the_new_ones(tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    a_replica(agent.config.served_dir)
    a_replica(agent.config.served_dir, "r2", "digits:2", pid=os.getppid(), start_ticks=process_start(os.getppid()))
    both = {("digits:1", "r1", 1), ("digits:2", "r2", 1)}
    sample = agent.sample()
    assert charged([sample], {"digits": ("digits:1",)}) == both  # v2 runs before it is put
    assert charged([sample], {"digits": ("digits:1", "digits:2")}) == both
    assert charged([sample], {}) == both  # nobody has named the app


@pytest.mark.parametrize("told", [{}, {"model": ""}, {"model": None}])
def test_a_file_of_before_this_field_goes_by_its_app(told: dict[str, Any], tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    a_replica(agent.config.served_dir)
    path = agent.config.served_dir / "r1.replica.json"
    content = {key: value for key, value in json.loads(path.read_text()).items() if key != "model"}
    path.write_text(json.dumps({**content, **told}))
    assert charged([agent.sample()], {"digits": ("digits:1", "digits:2")}) == {("digits:2", "r1", 1)}


def test_a_replica_cannot_charge_the_model_of_another_app(tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    a_replica(agent.config.served_dir, model="victim:7")
    sample = agent.sample()
    mine = {("digits:2", "r1", 1)}
    assert charged([sample], {"digits": ("digits:1", "digits:2"), "victim": ("victim:7",)}) == mine
    assert charged([sample], {"digits": ("digits:2",), "victim": ("victim:7", "victim:8")}) == mine
    # one model under two apps is both's
    shared = {"digits": ("victim:7", "digits:2"), "green": ("victim:7",)}
    assert charged([sample], shared) == {("victim:7", "r1", 1)}


@pytest.mark.parametrize("model", [5, ["digits:1"], "a\0b", "a\tb", "\udc80", "m" * 201, True, {}])
def test_a_file_with_a_model_that_is_no_name_says_nothing(model: Any, tmp_path: Path) -> None:
    reader = ServedReader(tmp_path)
    a_replica(tmp_path, model=model)
    a_replica(tmp_path, "r2")
    assert {one.part for one in reader.take()} == {"r2"}


def test_the_processes_of_a_replica_are_its_models(tmp_path: Path) -> None:
    reader = ServedReader(tmp_path)
    a_replica(tmp_path)
    reader.take()

    class Table:
        def environ_of(self, process: Any, names: Any) -> dict[str, str]:
            return {"RAY_JOB_ID": "02"}

    class Process:
        pid, id = ME[0], ME

    def owner(title: str) -> Any:
        proc = tmp_path / "proc" / str(ME[0])
        proc.mkdir(parents=True, exist_ok=True)
        (proc / "cmdline").write_text(title)
        return OwnerFinder(Table(), tmp_path / "proc", reader.replica_of)(Process())  # type: ignore[arg-type]

    assert owner("ray::ServeReplica:digits:Replica") == ("model", served_by("digits", "digits:1"), 0, "r1")
    # by its title it is another app's: a file cannot say otherwise
    assert owner("ray::ServeReplica:other:Replica") == ("model", served_by("other"), 0, "")


def test_of_two_files_that_claim_one_process_none_is_believed_about_it(tmp_path: Path) -> None:
    reader = ServedReader(tmp_path)
    a_replica(tmp_path)
    a_replica(tmp_path, "r0", "evil:1")
    reader.take()
    assert reader.replica_of(ME) is None
