"""What an attempt is told when it is launched, and where its checkpoints are."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eco_ray.core.jobs import Attempt, AttemptState, Job, JobSpec, JobState, Reason
from eco_ray.on_ray.launcher import Launcher
from eco_ray.train import session
from eco_ray.train.storage import open_storage


def attempt(number: int, checkpoint_s: float | None = None) -> Attempt:
    return Attempt(number, f"j-a{number}", "node", "DE", AttemptState.PAUSED, 0.0, checkpoint_s=checkpoint_s)


def launched(folder: Path, url: str | None, *attempts: Attempt) -> dict[str, str]:
    """The environment of the last attempt, as Ray's job API is given it."""
    asked: list[dict[str, Any]] = []
    launcher = Launcher("http://127.0.0.1:1", folder / "state", folder / "run", url)
    launcher._client = SimpleNamespace(submit_job=lambda **how: asked.append(how))
    job = Job("j", JobSpec("j", "true", deadline_s=9.0), JobState.RUNNING, Reason.RUNNING, "", 0.0, attempts=attempts)
    launcher.start(job, attempts[-1], "ray-node")
    environment: dict[str, str] = asked[0]["runtime_env"]["env_vars"]
    return environment


@pytest.mark.parametrize("url", [None, "folder", "memory://checkpoints-{}"])
def test_attempts_have_one_place_for_checkpoints_and_older_ones_are_fenced_off(
    tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "own") if url == "folder" else url and url.format(uuid.uuid4().hex)

    def join(environment: dict[str, str]) -> session.Session:
        for name in ("ECO_RAY_HAS_CHECKPOINT", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return session.open()

    first = launched(tmp_path, place, attempt(1))
    assert first["ECO_RAY_CHECKPOINT_DIR"] == f"{place or tmp_path / 'state' / 'checkpoints'}/j"
    with join(first) as run:
        run.checkpoint({"x": 1})
    second = launched(tmp_path, place, attempt(1, checkpoint_s=5.0), attempt(2))
    with pytest.raises(session.StaleAttempt):
        join(first)
    with join(second) as run:
        assert run.restore() == {"x": 1}
    assert "fence" in open_storage(second["ECO_RAY_CHECKPOINT_DIR"]).names()


def test_an_attempt_is_told_that_there_must_be_a_checkpoint(tmp_path: Path) -> None:
    """Only once its session has said so: an exit code alone may mean anything."""
    assert "ECO_RAY_HAS_CHECKPOINT" not in launched(tmp_path, None, attempt(1), attempt(2))
    assert launched(tmp_path, None, attempt(1, 5.0), attempt(2), attempt(3))["ECO_RAY_HAS_CHECKPOINT"] == "1"
