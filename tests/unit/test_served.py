"""What replicas count and agents take: every request once, whoever is killed when."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_accounts import Grid, book
from test_node_agent import Controller, an_agent

from eco_ray.core.ledger import Served
from eco_ray.core.requests import ServiceUse
from eco_ray.errors import EcoRayError
from eco_ray.json_file import read_json
from eco_ray.on_ray import replica_file
from eco_ray.on_ray.node_agent import NodeAgent
from eco_ray.on_ray.owners import Owner, OwnerFinder
from eco_ray.on_ray.served import COUNTS_FELL, MAX_TENANTS, ServedReader, Tally, process_start
from eco_ray.store.memory import MemoryStore


def a_tally(folder: Path) -> Tally:
    """One that writes only when it is asked to."""
    tally = Tally("app", "r1", 0.25)
    tally._path = folder / "r1.replica.json"
    tally.write()
    return tally


def ask(tally: Tally, tenant: str, times: int = 1, service_s: float = 0.5, images: int = 2) -> None:
    for _ in range(times):
        tally.add(ServiceUse("", tenant, service_s), images)
    tally.write()


def counts(served: Any) -> dict[tuple[str, str], tuple[int, int, float]]:
    return {(one.part, one.tenant): (one.requests, one.items, one.service_s) for one in served}


def test_the_growth_of_the_counts_is_taken_once(tmp_path: Path) -> None:
    reader = ServedReader(tmp_path)
    tally = a_tally(tmp_path)
    ask(tally, "vision", 3)
    ask(tally, "")
    (anonymous, vision) = reader.take()
    assert vision == Served("serve-app:app", "r1", "vision", 3, 6, 1.5)
    assert (anonymous.tenant, anonymous.requests) == ("", 1)
    assert counts(reader.take()) == {("r1", ""): (0, 0, 0.0)}  # it reports, and answered nobody
    ask(tally, "text")
    assert counts(reader.take()) == {("r1", "text"): (1, 2, 0.5)}


def test_a_busy_replica_writes_by_itself(tmp_path: Path) -> None:
    reader, tally = ServedReader(tmp_path / "new"), Tally("app", "r1", 0.25)
    tally.add(ServiceUse("", "vision", 0.1), 1)
    tally.keep_in(tmp_path / "new")
    assert counts(reader.take()) == {("r1", "vision"): (1, 1, 0.1)}
    tally.add(ServiceUse("", "vision", 0.1), 1)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and ("r1", "vision") not in counts(reader.take()):
        time.sleep(0.01)
    assert time.monotonic() < deadline


def test_a_disk_that_hangs_holds_up_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = a_tally(tmp_path)
    writes, goes_on, real = threading.Event(), threading.Event(), Path.write_text

    def hang(path: Path, text: str) -> int:
        writes.set()
        goes_on.wait(10)
        return real(path, text)

    monkeypatch.setattr(Path, "write_text", hang)
    writer = threading.Thread(target=tally.write)
    writer.start()
    assert writes.wait(10)
    answered = threading.Thread(target=tally.add, args=(ServiceUse("", "vision", 0.5), 1))
    answered.start()
    answered.join(5)
    assert not answered.is_alive()
    goes_on.set()
    writer.join(10)
    tally.write()
    assert read_json(tmp_path / "r1.replica.json", 10_000)["counts"]["vision"][0] == 1


def test_a_share_of_a_batch_weighs_less(tmp_path: Path) -> None:
    reader, tally = ServedReader(tmp_path), a_tally(tmp_path)
    tally.add(ServiceUse("a", "vision", 2.0, batch_share=0.25), 1)
    tally.write()
    assert counts(reader.take()) == {("r1", "vision"): (1, 1, 0.5)}
    with pytest.raises(EcoRayError, match="share 2 of its batch"):
        tally.add(ServiceUse("a", "vision", 2.0, batch_share=2), 1)


def test_a_replica_tells_a_hundred_tenants_apart_and_forgets_no_request(tmp_path: Path) -> None:
    reader, tally = ServedReader(tmp_path), a_tally(tmp_path)
    for number in range(MAX_TENANTS + 7):
        tally.add(ServiceUse("", f"t{number}", 0.1), 1)
    ask(tally, "t0")
    found = counts(reader.take())
    assert len(found) == MAX_TENANTS + 1
    assert (found["r1", ""][0], found["r1", "t0"][0]) == (7, 2)


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "{}", '{"app": "a"}', "null",
        {"counts": {"t": [-1, 0, 0]}}, {"counts": {"t": [1, 0]}}, {"counts": {"t": [1, 0, "x"]}}, {"counts": []},
        {"counts": {"t": [True, 0, 0]}}, {"counts": {"t": [1.5, 0, 0]}}, {"counts": {"t": [1, 0, float("nan")]}},
        {"counts": {"t": [10**400, 0, 0]}}, {"replica": "../x"}, {"replica": "r2"}, {"cpus": -1}, {"pid": "1"},
        {"devices": [1]}, {"app": 5}, {"app": ""}, {"app": "a\0b"}, {"app": "\udc80"}, {"app": "a" * 201},
        {"devices": ["0\n"]}, {"devices": ["0"] * 65}, {"cpus": 2.5}, {"cpus": 2**53}, {"gpus": 1.5},
        {"counts": {"t" * 64: [1, 1, 1]}}, {"counts": {"a\0": [1, 1, 1]}}, {"counts": {"-": [1, 1, 1]}},
        {"counts": {f"t{n}": [1, 1, 1] for n in range(MAX_TENANTS + 2)}},
        {"replica": "r" * 101}, {"start_ticks": 1e400},
    ],
)  # fmt: skip
def test_a_file_that_no_replica_wrote_says_nothing(content: Any, tmp_path: Path) -> None:
    reader = ServedReader(tmp_path, cpus=2.0, gpus=1.0)
    ask(a_tally(tmp_path), "vision")
    path = tmp_path / "r1.replica.json"
    sound = json.loads(path.read_text())
    path.write_text(content if isinstance(content, str) else json.dumps({**sound, **content}))
    assert reader.take() == ()
    path.write_text(json.dumps(sound))
    assert counts(reader.take()) == {("r1", "vision"): (1, 2, 0.5)}
    path.write_text("{")
    assert reader.take() == ()
    reader.note("boot", 1)
    path.write_text(json.dumps(sound))
    assert counts(reader.take()) == {("r1", ""): (0, 0, 0.0)}  # not once more


FELL = {
    "requests": {"a": [4, 10, 5.0], "b": [1, 1, 1.0]},
    "items": {"a": [20, 5, 5.0], "b": [1, 1, 1.0]},
    "service time": {"a": [20, 20, 0.5], "b": [1, 1, 1.0]},
    "a tenant is gone": {"a": [20, 20, 5.0]},
}


@pytest.mark.parametrize("what", FELL)
def test_of_counts_that_go_down_nothing_is_known_and_the_row_says_so(what: str, tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    a_tally(agent.config.served_dir)
    path = agent.config.served_dir / "r1.replica.json"
    told = json.loads(path.read_text())
    after = {**FELL[what], "a": [one + 3 for one in FELL[what]["a"]]}
    store = MemoryStore()
    for step in ({"a": [10, 10, 5.0], "b": [1, 1, 1.0]}, FELL[what], FELL[what], after):
        path.write_text(json.dumps({**told, "counts": step}))
        sample = replace(agent.sample(), node="n1")
        book(store, Grid(), [sample])
    rows = list(store.ledger_entries())[1:]
    assert [row["flags"] for row in rows] == [[], [COUNTS_FELL], [], []]
    seen = [[share.get("requests") for share in row["shares"]] for row in rows]
    assert seen == [[10, 1], [None], [0], [3]]


def test_a_replica_that_ended_is_counted_to_its_end_and_let_go(tmp_path: Path) -> None:
    reader = ServedReader(tmp_path)
    ask(a_tally(tmp_path), "vision")
    reader.take()
    reader.note("boot", 1)
    path = tmp_path / "r1.replica.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "counts": {"vision": [4, 8, 2.0]}, "pid": 2**22 + 1}))
    reader.take()
    assert reader.replicas["r1"].pid == 2**22 + 1
    assert counts(reader.take()) == {("r1", ""): (0, 0, 0.0)}
    reader.note("boot", 3)
    assert (reader.replicas, path.exists(), reader.take()) == ({}, False, ())


def test_a_process_is_known_as_its_replica_by_pid_and_start(tmp_path: Path) -> None:
    reader = ServedReader(tmp_path)
    a_tally(tmp_path)
    reader.take()
    me = os.getpid(), process_start(os.getpid()) or 0
    assert reader.replica_of(me) == reader.replicas["r1"]
    assert reader.replica_of((me[0], me[1] + 1)) is None

    class Table:
        def environ_of(self, process: Any, names: Any) -> dict[str, str]:
            return {"RAY_JOB_ID": "02"}

    class Process:
        pid, id = me[0], me

    proc = tmp_path / "proc" / str(me[0])
    proc.mkdir(parents=True)
    (proc / "cmdline").write_text("ray::ServeReplica:app:digits")
    finder = OwnerFinder(Table(), tmp_path / "proc", reader.replica_of)  # type: ignore[arg-type]
    assert finder(Process()) == Owner("model", "serve-app:app", 0, "r1")  # type: ignore[arg-type]


def test_a_file_that_has_not_changed_is_not_read_again_and_every_change_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, tally = ServedReader(tmp_path), a_tally(tmp_path)
    ask(tally, "a")
    path = tmp_path / "r1.replica.json"
    opened: list[Path] = []
    monkeypatch.setattr(replica_file, "read_json", lambda path, limit: (opened.append(path), read_json(path, limit))[1])
    assert counts(reader.take()) == {("r1", "a"): (1, 2, 0.5)}
    assert counts(reader.take()) == {("r1", ""): (0, 0, 0.0)}
    assert len(opened) == 2  # it was so young that it could have changed without another time stamp
    time.sleep(0.06)
    for _ in range(3):
        reader.take()
    assert len(opened) == 3
    told = json.loads(path.read_text())
    status = path.stat()
    path.write_text(json.dumps({**told, "counts": {"a": [3, 2, 0.5]}}))  # in its place, as long as before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_size) == (status.st_ino, status.st_size)
    assert counts(reader.take()) == {("r1", "a"): (2, 0, 0.0)}
    time.sleep(0.06)
    path.write_text("{")
    assert [reader.take(), reader.take()] == [(), ()]
    path.unlink()
    assert reader.take() == ()


# --- in the agent


def requests(controller: Controller) -> int:
    return sum(one["requests"] for sample in controller.got for one in sample["served"])


def keep(agent: NodeAgent) -> None:
    agent._keep(agent.sample())


def test_a_replica_holds_its_cpus_and_its_requests_are_in_the_sample(tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    tally = a_tally(agent.config.served_dir)
    ask(tally, "vision", 3)
    sample = agent.sample()
    (usage,) = sample.usages
    assert (usage.owner_kind, usage.owner_id, usage.part) == ("model", "serve-app:app", "r1")
    assert (usage.reserved_cpus, usage.attempt) == (0.25, 0)
    assert counts(sample.served) == {("r1", "vision"): (3, 6, 1.5)}


def test_a_replica_is_one_owner_from_its_first_interval_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent(tmp_path, Controller())
    finder = agent._owners
    me = os.getpid(), process_start(os.getpid()) or 0
    monkeypatch.setattr(agent._cpu, "_owner_of", lambda process: finder._served("app", me))
    (before,) = agent.sample().usages
    a_tally(agent.config.served_dir)
    (after,) = agent.sample().usages
    assert [(use.part, use.reserved_cpus) for use in (before, after)] == [("", 0.0), ("r1", 0.25)]


def test_time_without_an_agent_has_the_requests_that_were_answered_in_it(tmp_path: Path) -> None:
    controller = Controller()
    first = an_agent(tmp_path, controller)
    tally = a_tally(first.config.served_dir)
    ask(tally, "vision", 2)
    keep(first)
    time.sleep(0.02)
    ask(tally, "vision", 3)
    second = an_agent(tmp_path, controller)
    second.ship()
    assert [counts(_served(s)) for s in controller.got] == [
        {("r1", "vision"): (2, 4, 1.0)}, {("r1", "vision"): (3, 6, 1.5)},
    ]  # fmt: skip
    assert controller.got[-1]["usages"][0]["reserved_cpus"] == 0.25


def _served(sample: dict[str, Any]) -> list[Served]:
    return [Served(**one) for one in sample["served"]]


#: what happens between samples: a request, a sample, a sample after which the agent dies before it notes anything,
#: the agent's end, a report to the controller
STEPS = st.lists(st.sampled_from(["ask", "sample", "torn", "killed", "ship"]), max_size=25)


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_every_request_is_counted_once_whenever_the_agent_is_killed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("w")
    controller = Controller()
    agent = an_agent(folder, controller)
    keep(agent)
    tally = a_tally(agent.config.served_dir)
    asked = 0
    for step in [*steps, "sample", "ship"]:
        if step == "ask":
            ask(tally, "vision")
            asked += 1
        elif step == "sample":
            keep(agent)
        elif step == "torn":
            agent._spool.put(agent.sample())
            agent = an_agent(folder, controller)
        elif step == "killed":
            agent = an_agent(folder, controller)
        else:
            agent.ship()
    assert requests(controller) == asked


def test_with_a_full_disk_requests_may_be_lost_and_never_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller()
    first = an_agent(tmp_path, controller)
    keep(first)
    tally = a_tally(first.config.served_dir)
    ask(tally, "vision", 3)
    monkeypatch.setattr(first._spool, "put", lambda sample: False)
    keep(first)
    first.ship()
    assert requests(controller) == 3
    ask(tally, "vision", 2)
    second = an_agent(tmp_path, controller)  # the first one was killed, and nothing on disk says what it took
    keep(second)
    ask(tally, "vision", 1)
    keep(second)
    second.ship()
    assert requests(controller) == 4
