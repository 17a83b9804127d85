"""Runs that are suspended at random points end with the very weights of runs that are not."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from eco_ray.errors import UsageError
from eco_ray.train import session
from eco_ray.train.batch_order import BatchOrder
from eco_ray.train.state import TrainState

EPOCHS = 3


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("ECO_RAY_RUN_DIR", "RAY_JOB_CONFIG_JSON_ENV_VAR", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Run:
    """One process's part of a training: what a script makes from nothing, whatever the attempt."""

    def __init__(self, seed=0):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        self.x, self.y = self.data()
        self.batches = BatchOrder(len(self.x), 8, seed=seed)
        self.model = self.make_model()
        self.optimizer = self.make_optimizer()
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, EPOCHS * len(self.batches))
        self.noise = np.random.default_rng(seed)
        self.extra = {}
        self.make_more()
        self.state = TrainState(
            model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, batches=self.batches,
            noise=self.noise, **self.extra,
        )  # fmt: skip

    def make_more(self):
        pass

    def train(self, run, every_s=None):
        self.state.restore(run.restore())
        while self.batches.epoch < EPOCHS:
            self.step()
            self.batches.advance()
            run.progress(self.batches.step, EPOCHS * len(self.batches))
            run.pause_point(self.state.capture, every_s=every_s)
        run.finish()
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def step(self):
        rows = torch.from_numpy(self.batches.rows())
        # what people do to their data: noise of numpy's two kinds, and a coin of python's
        x = self.x[rows] + 0.01 * self.noise.standard_normal() + 0.01 * np.random.rand()
        x = x if random.random() < 0.5 else -x
        self.optimizer.zero_grad()
        self.loss(self.model(x), self.y[rows]).backward()
        self.optimizer.step()
        self.scheduler.step()


class Linear(Run):
    """Linear regression by plain gradient descent."""

    loss = staticmethod(mse_loss)

    def data(self):
        x = torch.randn(40, 5, dtype=torch.float64)
        return x, x @ torch.arange(5.0, dtype=torch.float64)[:, None]

    def make_model(self):
        return nn.Linear(5, 1).double()

    def make_optimizer(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.05)


class Perceptron(Run):
    """Dropout, momentum, and a scaler of gradients, which changes its scale each second step."""

    loss = staticmethod(cross_entropy)

    def data(self):
        return torch.randn(40, 6), torch.randint(0, 3, (40,))

    def make_model(self):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))

    def make_optimizer(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)

    def make_more(self):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)
        self.masks = torch.Generator().manual_seed(3)
        self.extra = {"scaler": self.scaler, "masks": self.masks}

    def step(self):
        rows = torch.from_numpy(self.batches.rows())
        x = self.x[rows] * torch.randint(0, 2, (len(rows), 6), generator=self.masks)
        self.optimizer.zero_grad()
        self.scaler.scale(self.loss(self.model(x), self.y[rows])).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()


class Convolutions(Run):
    """Batch normalisation, dropout and Adam."""

    loss = staticmethod(cross_entropy)

    def data(self):
        return torch.randn(40, 1, 8, 8), torch.randint(0, 4, (40,))

    def make_model(self):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(36, 4),
        )  # fmt: skip

    def make_optimizer(self):
        return torch.optim.AdamW(self.model.parameters(), lr=0.01, amsgrad=True)


MODELS = [Linear, Perceptron, Convolutions]
STEPS = EPOCHS * 5


def paused_after(run, steps):
    """Make a session that is asked to pause after so many of its steps."""
    count = 0
    point = run.pause_point

    def counted(*args, **how):
        nonlocal count
        count += 1
        if count == steps:
            run.should_pause.asked = True
        point(*args, **how)

    run.pause_point = counted


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=8)
@given(pauses=st.lists(st.integers(1, STEPS - 1), min_size=1, max_size=4))
def test_suspended_runs_end_with_the_very_same_weights(tmp_path_factory, model, pauses):
    folder = tmp_path_factory.mktemp("run")
    with session.open() as run:
        whole = model().train(run)
    for steps in pauses:
        with session.open(checkpoint_dir=folder) as run:
            paused_after(run, steps)
            try:
                weights = model().train(run)
                break
            except session.Paused:
                random.seed()  # another process begins with other numbers
    else:
        with session.open(checkpoint_dir=folder) as run:
            weights = model().train(run)
    assert same(whole, weights)


@pytest.mark.parametrize("model", MODELS)
def test_killed_runs_repeat_what_no_checkpoint_holds_and_end_with_the_very_same_weights(tmp_path, model):
    with session.open() as run:
        whole = model().train(run)
    chance = random.Random(1)
    for _ in range(3):
        one = model()
        step = one.step

        def killed(step=step, one=one):
            if chance.random() < 0.2:
                raise KeyboardInterrupt
            step()

        one.step = killed
        with pytest.raises(KeyboardInterrupt), session.open(checkpoint_dir=tmp_path) as run:
            one.train(run, every_s=0)
    with session.open(checkpoint_dir=tmp_path) as run:
        assert same(whole, model().train(run))


def without(part):
    """The perceptron, with a part that starts anew at each attempt."""

    class Without(Perceptron):
        def __init__(self):
            super().__init__()
            if part == "generators":
                capture, restore = self.state.capture, self.state.restore
                begun = capture()[part]
                self.state.capture = lambda: {**capture(), part: begun}
                self.state.restore = restore
            else:
                del self.state.parts[part]

    return Without


@pytest.mark.parametrize("part", ["optimizer", "scheduler", "scaler", "masks", "batches", "generators"])
def test_each_part_matters(tmp_path, part):
    """Or the tests above would say nothing of it."""
    with session.open() as run:
        whole = Perceptron().train(run)
    with session.open(checkpoint_dir=tmp_path) as run, pytest.raises(session.Paused):  # noqa: PT012
        paused_after(run, 7)
        without(part)().train(run)
    with session.open(checkpoint_dir=tmp_path) as run:
        one = without(part)()
        if part == "scaler":  # a power of two changes no weight, only the scale
            one.train(run)
            assert one.scaler.get_scale() != 16.0 * 2 ** (STEPS // 2)
        else:
            assert not same(whole, one.train(run))


def test_a_checkpoint_is_of_the_moment_it_was_asked_for(tmp_path):
    one = Convolutions()
    with session.open(checkpoint_dir=tmp_path) as run:
        one.step()
        then = {name: value.clone() for name, value in one.model.state_dict().items()}
        run.checkpoint(one.state.capture())
        for _ in range(5):  # while it is being written
            one.step()
    with session.open(checkpoint_dir=tmp_path) as run:
        again = Convolutions()
        again.state.restore(run.restore())
    assert same(then, again.model.state_dict())


def test_a_data_loader_goes_on_where_it_was(tmp_path):
    """With workers that read ahead, and a generator of its own, as it would draw from torch's at each `iter`."""

    def train(run):
        torch.manual_seed(0)
        x = torch.randn(40, 5)
        model = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5), nn.Linear(5, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = BatchOrder(40, 8, seed=0)
        loader = torch.utils.data.DataLoader(x, batch_sampler=batches, generator=torch.Generator())
        state = TrainState(model=model, optimizer=optimizer, batches=batches)
        state.restore(run.restore())
        while batches.epoch < 2:
            for rows in loader:
                optimizer.zero_grad()
                model(rows).square().mean().backward()
                optimizer.step()
                batches.advance()
                run.pause_point(state.capture)
        return {name: value.clone() for name, value in model.state_dict().items()}

    with session.open() as run:
        whole = train(run)
    with session.open(checkpoint_dir=tmp_path) as run, pytest.raises(session.Paused):  # noqa: PT012
        paused_after(run, 3)
        train(run)
    with session.open(checkpoint_dir=tmp_path) as run:
        assert same(whole, train(run))


def test_a_checkpoint_of_other_parts_or_batches_is_refused():
    one = Perceptron()
    state = one.state.capture()
    with pytest.raises(UsageError, match=r"has batches, masks, .*scaler.*the script batches, model, noise"):
        Linear().state.restore(state)
    with pytest.raises(UsageError, match=r"batch_size=8, now 4; a run goes on"):
        BatchOrder(40, 4).load_state_dict(one.batches.state_dict())
    assert one.state.restore(None) is False
    for part in ({"model": 3}, {"generators": one.model}):
        with pytest.raises(UsageError, match=r"state_dict|another name"):
            TrainState(**part)
    TrainState(scaler=None)


def test_the_script_of_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    script = text.partition("After:")[2].partition("```python")[2].partition("```")[0]
    names = {"Net": lambda: nn.Linear(3, 2), "x": torch.randn(130, 3), "y": torch.randint(0, 2, (130,)), "EPOCHS": 2}
    exec(compile(script, "docs/training.md", "exec"), {**names, "loss_of": cross_entropy})


# --- batches ----------------------------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 60), size=st.integers(1, 60), seed=st.integers(0, 9), world=st.integers(1, 4),
    shuffle=st.booleans(), drop_last=st.booleans(),
)  # fmt: skip
def test_each_row_is_seen_once_an_epoch_by_one_rank_however_many_there_are(rows, size, seed, world, shuffle, drop_last):
    made = partial(BatchOrder, rows, size, seed=seed, shuffle=shuffle, drop_last=drop_last)
    try:
        ranks = [made(rank=rank, world_size=world) for rank in range(world)]
    except UsageError:
        return
    alone = made()
    for epoch in range(2):
        seen = []
        for step in range(epoch * len(alone), (epoch + 1) * len(alone)):
            shares = [rank.rows(step) for rank in ranks]
            assert all(len(share) for share in shares)
            assert sorted(np.concatenate(shares)) == sorted(alone.rows(step))
            seen += alone.rows(step).tolist()
        assert len(seen) == len(set(seen)) == (rows // size * size if drop_last else rows)
        assert shuffle or seen == sorted(seen)


def test_iterating_reads_ahead_and_changes_nothing():
    batches = BatchOrder(40, 8)
    batches.step = 7
    assert [rows.tolist() for rows in batches] == [batches.rows(step).tolist() for step in (7, 8, 9)]
    assert (batches.step, batches.epoch, len(batches)) == (7, 1, 5)
    assert batches.rows(7).tolist() != batches.rows(2).tolist()  # another order in each epoch


@pytest.mark.parametrize("size", [0, 41])
def test_batches_that_cannot_be_are_refused(size):
    with pytest.raises(UsageError, match=f"batch_size={size} is not from 1 to the 40 rows"):
        BatchOrder(40, size)
    with pytest.raises(UsageError, match="rank 3 of 3 has no rows"):
        BatchOrder(40, 8, rank=3, world_size=3)
