"""The agent goes on, whatever lies where it reads and whatever fails in a round."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_accounts import DIRECTORY, NODE, Grid
from test_node_agent import Controller, Meter, an_agent

from eco_ray.core.ports import CpuUse, Reading
from eco_ray.core.requests import ServiceUse
from eco_ray.on_ray.accounts import Accounts
from eco_ray.on_ray.node_agent import NodeAgent
from eco_ray.on_ray.owners import Owner, OwnerFinder, _submission_id
from eco_ray.on_ray.served import Tally
from eco_ray.on_ray.spool import Spool
from eco_ray.store.memory import MemoryStore

DEEP = "[" * 60_000
FILES = [
    "spool/served/r1.replica.json", "spool/served/taken.json", "spool/served/taken.json.part",
    "spool/b-000000001.sample.json", "spool/metered-until.json", "run/j-a1/progress.json", "run/j-a1/reserved.json",
]  # fmt: skip
THINGS: dict[str, Callable[[Path], Any]] = {
    "nested": lambda path: path.write_text(DEEP),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a huge number": lambda path: path.write_text(f'["j", 1{"0" * 400}, 1{"0" * 400}, 1]'),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("file", FILES)
def test_an_agent_begins_and_goes_on_whatever_lies_there(file: str, thing: str, tmp_path: Path) -> None:
    controller = Controller()
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    for _ in ("before it begins", "while it runs"):
        if not path.exists():
            THINGS[thing](path)
        agent = an_agent(tmp_path, controller)
        for _ in range(3):
            agent.round()
        assert agent.failed_rounds == 0
    assert len(controller.got) >= 6


@pytest.mark.parametrize("value", ["nan", "-1", "1e300", "true", '"1"', "1" + "0" * 400])
def test_what_an_attempt_writes_of_itself_spoils_no_row(value: str, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "j-a1"
    folder.mkdir(parents=True)
    (folder / "reserved.json").write_text(f'["j", 1, {value.replace("nan", "NaN")}, 0]')
    (usage, *_) = an_agent(tmp_path, Controller()).sample().usages or (None,)
    assert usage is None or usage.reserved_cpus == 1.0


class Failing(Meter):
    """Fails when it is told to."""

    fail = False

    def read(self, use: CpuUse) -> Reading:
        if self.fail:
            raise RecursionError("of the meter")
        return super().read(use)


def failing_agent(folder: Path, controller: Controller) -> tuple[NodeAgent, Failing]:
    meter = Failing()
    return an_agent(folder, controller, meter), meter


def test_a_round_that_fails_is_logged_counted_and_shown_and_the_next_one_has_its_time_and_requests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    controller = Controller()
    agent, meter = failing_agent(tmp_path, controller)
    tally = Tally("app", "r1", 0.25)
    tally._path = tmp_path / "spool/served/r1.replica.json"
    tally.add(ServiceUse("", "t", 0.1), 1)
    agent.round()
    tally.write()
    meter.fail = True
    with caplog.at_level(logging.ERROR, "eco_ray.agent"):
        agent.round()
    assert "of the meter" in caplog.text
    assert agent.failed_rounds == 1
    (finding,) = [one for one in agent.examine()["findings"] if one["part"] == "agent"]
    assert "1 rounds of the agent failed, the last one by RecursionError: of the meter" in finding["source"]
    meter.fail = False
    agent.round()
    agent.round()
    first, second, third = controller.got
    assert [one["flags"] for one in controller.got] == [(), ("round-failed",), ()]
    assert second["start_s"] == pytest.approx(first["end_s"], abs=1e-3)
    assert [one["requests"] for one in second["served"]] == [1]
    assert [one["requests"] for one in third["served"]] == [0]


def test_the_loop_outlives_a_round_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller()
    agent, meter = failing_agent(tmp_path, controller)
    object.__setattr__(agent.config, "sample_period_s", 0.02)
    meter.fail = True
    agent.start()
    wait_for(lambda: agent.failed_rounds >= 2)
    meter.fail = False
    wait_for(lambda: len(controller.got) >= 2)
    agent.stop()


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_samples_are_sent_where_reports_cannot_be_listed(tmp_path: Path) -> None:
    controller = Controller()
    agent = an_agent(tmp_path, controller)
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("")
    agent.round()
    assert (len(controller.got), agent.failed_rounds) == (1, 0)


def test_a_sample_that_cannot_be_read_now_is_read_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = an_agent(tmp_path, Controller())
    first._keep(first.sample())
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_args, **_how: (_ for _ in ()).throw(OSError(24, "too many open files")))
        assert first._spool.load() == []
    assert len(first._spool.load()) == 1


def test_a_job_config_that_is_nested_too_deep_names_no_submission() -> None:
    assert _submission_id(DEEP) is None
    assert _submission_id(json.dumps({"metadata": {"job_submission_id": "j"}})) == "j"


@pytest.mark.parametrize("app", ["", "a\0b", "\udc80", "x" * 201])
def test_a_bad_file_is_one_bad_replica_and_never_a_bad_node(app: str, tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    for name, its_app in (("r1", "app"), ("r2", app)):
        tally = Tally(its_app, name, 0.25)
        tally._path = agent.config.served_dir / f"{name}.replica.json"
        tally.write()
    sample = replace(agent.sample(), node="n1")
    rejected = Spool(tmp_path / "rejected")
    assert Accounts(MemoryStore(), Grid()).book_sound([sample], {"n1": NODE}, DIRECTORY, rejected) == 1
    assert [use.part for use in sample.usages] == ["r1"]


@pytest.mark.parametrize(
    "env",
    [
        {"ECO_RAY_JOB_ID": ""},
        {"ECO_RAY_JOB_ID": "\udc80"},
        {"ECO_RAY_JOB_ID": "j" * 201},
        {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"metadata": {"job_submission_id": "a\\u0000"}}'},
        {"RAY_JOB_ID": "\udc80"},
    ],
    ids=str,
)
def test_a_process_whose_environment_names_no_owner_has_none(env: dict[str, str]) -> None:
    table: Any = SimpleNamespace(environ_of=lambda _process, _names: env)
    process: Any = SimpleNamespace(pid=os.getpid(), id=(os.getpid(), 1))
    assert OwnerFinder(table)(process) is None


@pytest.mark.parametrize(("number", "attempt"), [("7", 7), ("9" * 30, 0), ("9" * 5000, 0), ("x", 0)])
def test_an_attempt_that_the_ledger_cannot_hold_is_not_known(number: str, attempt: int) -> None:
    table: Any = SimpleNamespace(environ_of=lambda *_: {"ECO_RAY_JOB_ID": "j", "ECO_RAY_ATTEMPT": number})
    assert OwnerFinder(table)(SimpleNamespace(pid=1)) == Owner("job", "j", attempt)  # type: ignore[arg-type]


def test_an_application_without_a_name_is_no_owner(tmp_path: Path) -> None:
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "cmdline").write_bytes(b"ray::ServeReplica::x")
    table: Any = SimpleNamespace(environ_of=lambda *_: {"RAY_JOB_ID": "02"})
    assert OwnerFinder(table, tmp_path)(SimpleNamespace(pid=5, id=(5, 1))) is None  # type: ignore[arg-type]
