"""What each worker holds: the session's promises, kept through the group of all workers (here of one)."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from eco_ray.on_ray.training import driver
from eco_ray.on_ray.training.run import Run
from eco_ray.train import session


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """The environment that the launcher makes, and what the attempt left."""
    for name, value in {
        "ECO_RAY_JOB_ID": "j",
        "ECO_RAY_ATTEMPT": "1",
        "ECO_RAY_WORKERS": "1",
        "ECO_RAY_RUN_DIR": str(tmp_path / "run"),
        "ECO_RAY_CHECKPOINT_DIR": str(tmp_path / "kept"),
    }.items():
        monkeypatch.setenv(name, value)
    report = lambda: json.loads((tmp_path / "run" / "progress.json").read_text())  # noqa: E731
    return SimpleNamespace(report=report, pause=tmp_path / "run" / "pause", kept=tmp_path / "kept")


@pytest.fixture(params=["alone", "in a group"])
def control(request):
    if request.param == "alone":
        yield None
        return
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_a_pause_is_taken_after_the_step_and_the_next_attempt_goes_on(attempt, control, monkeypatch):
    def first_attempt():
        with session.open() as kept:
            run = Run(kept, 0, 1, control)
            assert run.restore() is None
            run.progress((1, 4), loss=0.5)
            run.pause_point(lambda: {"consumed": 1})  # nobody asks
            attempt.pause.touch()
            run.progress((2, 4), loss=0.25)
            while True:  # the file is looked for now and then only
                run.pause_point(lambda: {"consumed": 2, "w": torch.ones(3)})

    with pytest.raises(session.Paused) as left:
        first_attempt()
    assert left.value.code == 75
    assert (attempt.report()["paused"], attempt.report()["done"]) == (True, 0.5)
    attempt.pause.unlink()
    monkeypatch.setenv("ECO_RAY_ATTEMPT", "2")
    with session.open() as kept:
        run = Run(kept, 0, 1, control)
        state = run.restore()
        assert state["consumed"] == 2
        assert state["w"].tolist() == [1, 1, 1]
        run.finish(accuracy=0.9)
    assert attempt.report()["done"] == 1.0


def test_a_checkpoint_that_is_due_is_kept_and_the_work_goes_on(attempt, control):
    with session.open() as kept:
        run = Run(kept, 0, 1, control)
        run.pause_point(lambda: {"consumed": 1}, every_s=3600)
        assert not (attempt.kept / "latest").exists()
        run.pause_point(lambda: {"consumed": 1}, every_s=0.0)
    assert json.loads((attempt.kept / "latest").read_text())["file"] == "ckpt-1-1.safetensors"


def test_workers_other_than_the_first_neither_report_nor_keep(attempt):
    run = Run(None, 1, 2, None)
    run.progress((1, 4), loss=1.0)
    run.pause_point(lambda: {"consumed": 1}, every_s=0.0)
    run.finish()
    assert not attempt.kept.exists()


def test_one_worker_is_this_process_and_needs_no_ray(attempt):
    seen = []
    driver.fit(lambda run: seen.append((run.rank, run.workers, str(run.device), run.restore())))
    assert seen == [(0, 1, "cpu", None)] or torch.cuda.is_available()


def test_only_what_belongs_to_the_attempt_is_shown_to_ray(attempt, monkeypatch):
    monkeypatch.setenv("ECO_RAY_KEY_SECRET", "s")
    monkeypatch.setenv("ECO_RAY_HAS_CHECKPOINT", "1")
    monkeypatch.setenv("ECO_RAY_CPUS", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert driver._own_variables().keys() == {*driver._ATTEMPT, "OMP_NUM_THREADS"}
    assert driver._own_variables()["OMP_NUM_THREADS"] == "1"
