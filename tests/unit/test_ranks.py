"""A distributed training: rank 0 writes, all leave after the same step, and another number of ranks goes on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eco_ray.errors import UsageError
from eco_ray.train import session
from eco_ray.train.batch_order import BatchOrder
from eco_ray.train.state import TrainState

SCRIPT = Path(__file__).parents[1] / "scripts" / "trains_together.py"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in [n for n in os.environ if n.startswith("ECO_RAY_")]:
        monkeypatch.delenv(name)
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


def train(folder, ranks, *pause):
    """Of each rank: exit code, where it ended, a random number, weights."""
    command = [sys.executable, SCRIPT, folder / "checkpoints", folder / f"meet-{ranks}", *map(str, pause)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    ended = []
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode in (0, session.PAUSED_EXIT_CODE), err
        step, number, weights = out.split(maxsplit=2)
        ended.append((process.returncode, int(step), float(number), json.loads(weights)))
    return ended


def trained_alone():
    """What the script computes, in one process and in one piece."""
    torch.manual_seed(0)
    x = torch.randn(96, 4, dtype=torch.float64)
    y = x @ torch.arange(4.0, dtype=torch.float64)
    model = torch.nn.Linear(4, 1).double()
    batches = BatchOrder(len(x), 12, seed=0)
    for step in range(40):
        rows = torch.from_numpy(batches.rows(step))
        loss = torch.nn.functional.mse_loss(model(x[rows])[:, 0], y[rows])
        for parameter, gradient in zip(
            model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            parameter.data -= 0.05 * gradient
    return model.weight.tolist()[0]


def test_all_ranks_leave_at_the_step_at_which_one_is_asked_and_fewer_go_on(tmp_path):
    paused = train(tmp_path, 2, 17)
    assert [one[:2] for one in paused] == [(session.PAUSED_EXIT_CODE, 17)] * 2
    ((code, step, _, weights),) = train(tmp_path, 1)
    assert (code, step) == (0, 40)
    assert weights == pytest.approx(trained_alone(), rel=1e-12)


def test_restored_ranks_draw_numbers_of_their_own():
    state = TrainState()
    kept = state.capture()
    drawn = []
    for rank in (0, 1, 2, 1, 0):
        state.restore(kept, rank=rank)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert (drawn[0], drawn[1]) == (drawn[4], drawn[3])
    for numbers in zip(*drawn[:3], strict=True):
        assert len(set(numbers)) == 3


def test_other_ranks_read_and_neither_report_nor_write(tmp_path, monkeypatch):
    for name, value in {
        "JOB_ID": "j",
        "ATTEMPT": "1",
        "RUN_DIR": tmp_path / "run",
        "CHECKPOINT_DIR": tmp_path / "c",
    }.items():
        monkeypatch.setenv(f"ECO_RAY_{name}", str(value))
    with session.open(rank=1, world_size=2) as run:
        assert (run.ranks.rank, run.ranks.world_size) == (1, 2)
        run.progress(0.5)
        run.checkpoint({"x": 1})
        run.pause_point(lambda: pytest.fail("asked of rank 0 alone"), every_s=0)
        run.finish()
    assert not (tmp_path / "run").exists()
    assert list((tmp_path / "c").iterdir()) == []
    with session.open(rank=0, world_size=2) as run:
        run.checkpoint({"x": 1})
    damaged = tmp_path / "c" / "ckpt-1-1.safetensors"
    with session.open(rank=1, world_size=2) as run:
        assert run.restore() == {"x": 1}
        damaged.write_bytes(damaged.read_bytes()[:-1])
        with pytest.raises(Exception, match="is damaged"):
            run.restore()
    assert damaged.exists()  # rank 0 puts it aside


def test_what_all_do_is_what_is_agreed(tmp_path):
    wishes = []

    def agree(wanted):
        wishes.append(wanted)
        return len(wishes) > 2

    with session.open(checkpoint_dir=tmp_path, rank=1, world_size=2, agree=agree) as run:
        for _ in range(2):
            run.pause_point(dict)
        with pytest.raises(session.Paused):
            run.pause_point(dict)
    assert wishes == [False, False, False, True]  # the last is the wait for the checkpoint of rank 0


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_cannot_be_is_refused(rank, world_size):
    with pytest.raises(UsageError, match=f"rank {rank} of a world of {world_size}"):
        session.open(rank=rank, world_size=world_size)


def test_a_session_of_rank_0_alone_waits_for_nobody_and_no_other_rank_may_write_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    with session.open(checkpoint_dir=tmp_path) as run:
        run.pause_point(dict, every_s=0)
        assert run.ranks.world_size == 1
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(UsageError, match=r"rank 3 of 4 .* rank 0 alone, or give each rank"):
        session.open(checkpoint_dir=tmp_path)
    assert session.open().restore() is None  # it writes nothing
