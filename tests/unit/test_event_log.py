"""Whatever an orchestrator was told, a fresh one decides the same from what was written down."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orchestrator_world import DE, FLAT, FR, SETTINGS, World
from planning_cases import HOUR_S, T0, a_job, a_node, a_spec
from test_orchestrator_always import make, moves

from eco_ray.core.cluster import Resources
from eco_ray.core.event_log import Beginning, Step, decided, step_from_json, step_to_json, without_secrets
from eco_ray.core.events import AttemptProgressed, JobSubmitted, NeededReplica, ServingNeeds
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.on_ray.event_file import EventFile
from eco_ray.sim.recorded import decide_again


def recorded(folder, history, began, **how):
    """The same as the controller does."""
    file = EventFile(folder / "decisions", **how)
    file.begin(began)
    core = began.orchestrator()
    for event, now_s, _ in history:
        actions = core.handle(event, now_s)
        file.note(event, now_s, actions, core.take_changes()[0], core.needs.take_news())
    return core


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(moves, min_size=15, max_size=60))
def test_any_events(tmp_path_factory, events):
    folder, world = tmp_path_factory.mktemp("e"), World(DE, FR)
    for move, argument in events:
        make(world, move, argument)
    recorded(folder, world.history, Beginning("DE", T0, SETTINGS))
    (found,) = decide_again(folder)
    assert (found.different, found.decisions) == ((), len(world.history))


def given_way():
    """A job that leaves room to a replica, and comes back."""
    world = World(FLAT, nodes={"n": a_node("n", "DE", 2.0)})
    world.running("a", hours=2, deadline_h=20, policy="run-now", demand=Resources(2.0))
    world.tick(hours=0.5)
    world.do(ServingNeeds("m", (NeededReplica(Resources(1.0)),), T0 + 2 * HOUR_S, 0.2))
    world.exited(75, "a")
    for _ in range(8):
        world.tick(hours=0.5)
    return world


def test_jobs_that_give_way_and_come_back(tmp_path):
    world = given_way()
    assert len(world.job("a").attempts) == 2
    recorded(tmp_path, world.history, Beginning("DE", T0, SETTINGS))
    (found,) = decide_again(tmp_path)
    assert found.different == ()
    told = (found.file).read_text()
    assert "gives way to model m" in told
    assert "python train.py" not in told


def test_a_later_life_goes_on_with_what_was_there(tmp_path):
    world = given_way()
    half = len(world.history) // 2
    core = recorded(tmp_path / "x", world.history[:half], Beginning("DE", T0, SETTINGS))
    jobs, now_s = tuple(core.book.jobs.values()), world.history[half][1]
    began = Beginning("DE", now_s, SETTINGS, (a_job(productive_s=60.0),), jobs, {})
    recorded(tmp_path, world.history[half:], began)
    (found,) = decide_again(tmp_path)
    assert found.different == ()


def test_the_first_event_that_is_decided_otherwise_is_told(tmp_path):
    recorded(tmp_path, given_way().history, Beginning("DE", T0, SETTINGS))
    (file,) = (tmp_path / "decisions").glob("jobs-*.jsonl")
    lines = file.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if '"AskToCheckpoint"' in line)
    lines[number] = lines[number].replace('"AskToCheckpoint"', '"StopAttempt"')
    file.write_text("\n".join(lines) + "\n")
    (found,) = decide_again(tmp_path)
    (one,) = found.different
    assert one.about == f"ServingNeeds, event {number}"
    assert [did.action for did in one.again.actions] == ["AskToCheckpoint"]
    file.write_text("\n".join([*lines[:3], '{"event": "Tock"}']) + "\n")
    with pytest.raises(UsageError, match=r"line 4: .*'Tock' is not known"):
        decide_again(tmp_path)


def test_a_file_that_is_full_ends_and_the_last_four_are_kept(tmp_path, monkeypatch, caplog):
    history, began = given_way().history, Beginning("DE", T0, SETTINGS)
    for number in range(6):
        monkeypatch.setattr("time.time_ns", lambda number=number: number * 10**9)
        recorded(tmp_path, history, began, most_bytes=4000)
    files = sorted((tmp_path / "decisions").iterdir())
    assert [file.name for file in files] == [f"jobs-{number}000.jsonl" for number in range(2, 6)]
    assert all(file.stat().st_size <= 4000 for file in files)
    assert "is full" in caplog.text
    assert all(0 < one.decisions < len(history) and not one.different for one in decide_again(tmp_path))


def test_nobody_needs_it(tmp_path, caplog):
    recorded(tmp_path, given_way().history, Beginning("DE", T0, SETTINGS))
    (tmp_path / "full").write_text("")
    recorded(tmp_path / "full", given_way().history, Beginning("DE", T0, SETTINGS))
    assert "events are not written down" in caplog.text
    EventFile(None).begin(Beginning("DE", T0, SETTINGS))


def test_what_is_secret_is_not_in_it():
    spec = a_spec(run="curl -H 'key: 1'", runtime_env={"env_vars": {"KEY": "1"}}, package="p")
    told = [JobSubmitted("j", spec), AttemptProgressed("j", 1, 0.5, {"note": "KEY=1"})]
    text = json.dumps([step_to_json(Step(0.0, without_secrets(event), decided(jobs=[a_job(spec)]))) for event in told])
    assert "KEY" not in text
    assert "key" not in text
    back = step_from_json(json.loads(text)[0])
    assert back.event == without_secrets(told[0])
    with pytest.raises(EcoRayError, match="not known"):
        step_from_json({})
