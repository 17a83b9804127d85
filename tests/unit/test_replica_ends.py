"""The end of a replica: its last answers count, and after its death it is charged nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from service_cases import INFER, Echo, ask, footprint, request
from test_node_agent import Controller, Meter, an_agent

from eco_ray.core.ledger import Sample
from eco_ray.core.requests import ServiceUse
from eco_ray.errors import EcoRayError
from eco_ray.on_ray.hosting import Host
from eco_ray.on_ray.node_agent import NodeAgent
from eco_ray.on_ray.served import Tally, process_start
from eco_ray.on_ray.surroundings import Surroundings
from eco_ray.service.app import ModelApp
from eco_ray.service.limits import Limits

ANSWERS = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from eco_ray.core.requests import ServiceUse
from eco_ray.on_ray.served import Tally
tally = Tally("app", "r1", 0.25)
tally.keep_in(Path(sys.argv[1]))
for n in range(50):
    tally.add(ServiceUse("", "t", 0.01), 1)
    time.sleep(0.001)
{end}
"""


@pytest.mark.parametrize("end", ["sys.exit(0)", "raise ValueError", "", "sys.exit(3)"])
def test_a_replica_that_ends_in_order_writes_its_last_counts(end: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", ANSWERS.format(end=end), str(tmp_path)], check=False, capture_output=True)
    told = json.loads((tmp_path / "r1.replica.json").read_text())
    assert told["counts"]["t"][0] == 50


def test_serve_ends_a_replica_by_its_destructor(tmp_path: Path) -> None:
    replica = object.__new__(Host)
    replica.__del__()  # its constructor failed
    tally = Tally("app", "r1", 0.25)
    ended: list[float] = []
    replica._around = around = object.__new__(Surroundings)
    around.tally, around.avoided = tally, SimpleNamespace(end=lambda now_s, write: ended.append(now_s))
    tally._path = tmp_path / "r1.replica.json"
    tally.add(ServiceUse("", "t", 0.01), 1)
    replica.__del__()
    assert json.loads(tally._path.read_text())["counts"] == {"t": [1, 1, 0.01]}
    assert len(ended) == 1


def test_serve_replaces_a_replica_whose_model_hangs() -> None:
    release = threading.Event()
    replica = object.__new__(Host)
    replica._app = ModelApp(Echo(act=lambda inputs: release.wait(10) and None), footprint, limits=Limits(answer_s=0.1))
    replica.check_health()
    assert ask(replica._app, "POST", INFER, request([1.0])).status == 503
    deadline = time.monotonic() + 5
    while not replica._app.stuck and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(EcoRayError, match="takes longer than its limit"):
        replica.check_health()
    release.set()
    while replica._app.stuck and time.monotonic() < deadline:
        time.sleep(0.01)
    replica.check_health()


class Process:
    """A replica in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(["sleep", "60"])
        tally = Tally("app", "r1", 2.0)
        tally._told |= {"pid": self.process.pid, "start_ticks": process_start(self.process.pid)}
        tally._path = folder / "r1.replica.json"
        tally.write()
        self.tally = tally

    def answer(self, requests: int) -> None:
        for _ in range(requests):
            self.tally.add(ServiceUse("", "t", 0.01), 1)
        self.tally.write()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def told(sample: Sample) -> list[tuple[float, int]]:
    """(CPUs held, requests) of the replica; empty: it is not there."""
    requests = sum(one.requests for one in sample.served)
    return [(use.reserved_cpus, requests) for use in sample.usages]


def sampled(agent: NodeAgent) -> list[tuple[float, int]]:
    sample = agent.sample()
    agent._keep(sample)
    return told(sample)


def test_a_replica_is_charged_for_the_interval_in_which_it_died_and_no_more(tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    replica = Process(agent.config.served_dir)
    replica.answer(1)
    assert sampled(agent) == [(2.0, 1)]
    replica.answer(2)
    replica.end()
    assert [sampled(agent), sampled(agent)] == [[(2.0, 2)], []]


def test_on_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent(tmp_path, Controller())
    replica = Process(agent.config.served_dir)
    sampled(agent)
    replica.end()
    with monkeypatch.context() as patch:
        patch.setattr(agent._spool, "put", lambda _sample: False)
        assert [sampled(agent), sampled(agent)] == [[(2.0, 0)], [(0.0, 0)]]
    assert [sampled(agent), sampled(agent)] == [[(0.0, 0)], []]


def test_one_that_died_while_no_agent_ran_is_charged_nothing_and_its_requests_count(tmp_path: Path) -> None:
    first = an_agent(tmp_path, Controller())
    replica = Process(first.config.served_dir)
    replica.answer(1)
    sampled(first)
    replica.answer(2)
    replica.end()
    time.sleep(0.01)
    second = an_agent(tmp_path, Controller())
    assert told(second._unsent[-1]) == [(0.0, 2)]
    assert [sampled(second), sampled(second)] == [[(0.0, 0)], []]


def test_one_that_began_and_died_between_two_samples_is_counted_to_its_end(tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    replica = Process(agent.config.served_dir)
    replica.answer(3)
    replica.end()
    assert [sampled(agent), sampled(agent), sampled(agent)] == [[(0.0, 3)], [(0.0, 0)], []]


def test_a_process_that_has_ended_and_is_not_reaped_is_gone() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(process.pid) is None
    process.wait()


class Failing(Meter):
    """Fails once."""

    fail = True

    def read(self, use):  # type: ignore[no-untyped-def]
        if self.fail:
            raise ValueError
        return super().read(use)


def test_a_round_that_fails_leaves_the_interval_of_its_death_to_the_next(tmp_path: Path) -> None:
    meter = Failing()
    meter.fail = False
    agent = an_agent(tmp_path, Controller(), meter)
    replica = Process(agent.config.served_dir)
    sampled(agent)
    replica.end()
    meter.fail = True
    agent.round()
    meter.fail = False
    assert [sampled(agent), sampled(agent)] == [[(2.0, 0)], []]
