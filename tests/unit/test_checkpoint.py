import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file

from eco_ray.errors import DamagedError, UsageError
from eco_ray.train import session
from eco_ray.train.checkpoint import CheckpointError, CheckpointStore
from eco_ray.train.storage import Folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("ECO_RAY_RUN_DIR", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def joined(folder):
    """A function that opens a session with the folder's checkpoints."""
    return lambda: session.open(checkpoint_dir=folder)


def names(folder):
    return sorted(p.name for p in folder.glob("*ckpt-*"))


def test_adam_goes_on_exactly(folder, joined):
    def setup():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).to(torch.bfloat16)
        return model, torch.optim.Adam(model.parameters(), lr=0.01)

    def train(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.rand(5, 3, dtype=torch.bfloat16)).square().sum().backward()
            optimizer.step()

    model, optimizer = setup()
    train(model, optimizer, 3)
    with joined() as run:
        run.checkpoint({"model": model.state_dict(), "adam": optimizer.state_dict(), "rng": torch.get_rng_state()})
    train(model, optimizer, 3)

    restored, restored_optimizer = setup()
    state = joined().restore()
    assert set(state["adam"]["state"]) == {0, 1, 2, 3}
    assert state["adam"]["param_groups"][0]["betas"] == (0.9, 0.999)
    restored.load_state_dict(state["model"])
    restored_optimizer.load_state_dict(state["adam"])
    torch.set_rng_state(state["rng"])
    train(restored, restored_optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), restored.parameters(), strict=True))

    tensors = load_file(folder / "ckpt-1-1.safetensors")  # readable without eco_ray
    assert tensors["model.0.weight"].dtype == torch.bfloat16
    assert "adam.state.0.exp_avg" in tensors


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5)
ARRAYS = hnp.arrays(
    hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="?") | hnp.unsigned_integer_dtypes(endianness="=")
    | hnp.floating_dtypes(sizes=(16, 32, 64)) | hnp.complex_number_dtypes(sizes=64),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
)  # fmt: skip
TENSORS = hnp.arrays(st.sampled_from([bool, "u1", "i8", "f4", "c8"]), hnp.array_shapes(min_dims=0, min_side=0)).map(
    torch.from_numpy
)
KEYS = st.text(max_size=4) | st.integers()
VALUES = st.recursive(
    SCALARS | ARRAYS | ARRAYS.map(np.transpose) | ARRAYS.map(lambda a: a.reshape(-1)[0] if a.size else 0) | TENSORS,
    lambda v: st.lists(v, max_size=3) | st.lists(v, max_size=3).map(tuple) | st.dictionaries(KEYS, v, max_size=3),
    max_leaves=8,
)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        assert list(map(type, a)) == list(map(type, b))
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype.newbyteorder(a.dtype.byteorder)
        np.testing.assert_array_equal(a, b, strict=a.dtype == b.dtype)
    else:
        assert repr(a) == repr(b)


@settings(max_examples=60, deadline=None)
@given(state=st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_nested_state_survives(tmp_path_factory, state):
    store = CheckpointStore(tmp_path_factory.mktemp("state"), 1, pytest.fail)
    store.save(state, {"done": 0.5}, lambda: None)
    loaded = store.load()
    assert loaded.about == {"done": 0.5}
    assert_same(state, loaded.state)


def test_restored_arrays_can_be_written_to(folder, joined):
    with joined() as run:
        run.checkpoint({"a": np.zeros(3), "t": torch.zeros(3), "p": torch.nn.Parameter(torch.ones(2))})
    state = joined().restore()
    state["a"] += 1
    state["t"] += 1
    assert not state["p"].requires_grad


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": {1, 2}}}, r"state\.a\.b is a set.*state_dict"),
        ({"a": {(1, 2): 3}}, r"key \(1, 2\) of state\.a is a tuple"),
        ({True: 3}, "key True of the state is a bool"),
        ({"a": np.array(["x"])}, r"state\.a is a ndarray of <U1"),
        ({"a": np.ma.masked_array([1.0])}, "MaskedArray"),
        ({"a": torch.eye(2).to_sparse()}, r"sparse_coo tensor"),
        ([1], "a dict, got list; wrap it"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named(folder, joined, state, message):
    with joined() as run, pytest.raises(UsageError, match=message):
        run.checkpoint(state)
    assert names(folder) == []


def test_the_last_two_are_kept_and_latest_points_to_the_newest(folder, joined):
    with joined() as run:
        for i in range(5):
            run.progress((i, 5), loss=i)
            run.checkpoint({"i": i})
    assert names(folder) == ["ckpt-1-4.safetensors", "ckpt-1-5.safetensors"]
    latest = json.loads((folder / "latest").read_text())
    assert (latest["file"], latest["attempt"], latest["done"]) == ("ckpt-1-5.safetensors", 1, 0.8)
    assert latest["bytes"] == (folder / latest["file"]).stat().st_size


def test_so_many_are_kept_as_are_asked_for(folder):
    with session.open(checkpoint_dir=folder, keep=3) as run:
        for i in range(5):
            run.checkpoint({"i": i})
    assert names(folder) == [f"ckpt-1-{n}.safetensors" for n in (3, 4, 5)]
    with pytest.raises(UsageError, match="keep=0"):
        session.open(checkpoint_dir=folder, keep=0)


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "append"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(folder, joined, capfd, harm):
    with joined() as run:
        run.checkpoint({"x": np.arange(50)})
        run.checkpoint({"x": np.arange(50) + 1})
    newest = folder / "ckpt-1-2.safetensors"
    whole = newest.read_bytes()
    size = len(whole)
    cuts = {"truncate": range(1, size, 97), "empty": [0]}.get(harm, [])
    flips = range(0, size, 13) if harm == "flip" else []
    versions = [whole[:n] for n in cuts] + [whole[:n] + bytes([whole[n] ^ 16]) + whole[n + 1 :] for n in flips]
    for damaged in versions or [whole + b"x"]:
        newest.write_bytes(damaged)
        with joined() as run:
            assert (run.restore()["x"] == np.arange(50)).all()
        assert "ckpt-1-2.safetensors is damaged" in capfd.readouterr().err
        assert names(folder) == ["ckpt-1-1.safetensors", "damaged-ckpt-1-2.safetensors"]


def test_without_a_whole_checkpoint_nothing_begins_anew_by_itself(folder, joined):
    with joined() as run:
        run.checkpoint({"x": 1})
    path = folder / "ckpt-1-1.safetensors"
    whole = path.read_bytes()
    path.write_bytes(b"")
    for reason in ("is damaged: 0 bytes", "damaged, put aside earlier"):  # nor at the next try
        with joined() as run, pytest.raises(DamagedError, match=f"{path.name}.*{reason}.*begin anew.*empty this place"):
            run.restore()
    (folder / f"damaged-{path.name}").unlink()
    with joined() as run, pytest.raises(DamagedError, match="'latest' tells of one, but its file is gone"):
        run.restore()
    path.write_bytes(whole)
    assert joined().restore() == {"x": 1}
    for left in folder.iterdir():
        left.unlink()
    assert joined().restore() is None


def test_a_checkpoint_that_cannot_be_read_is_not_put_aside(folder, joined, capfd, monkeypatch):
    with joined() as run:
        run.checkpoint({"x": 1})
        run.checkpoint({"x": 2})
    real = Folder.reading

    def broken(self, name):
        if name in unreadable:
            raise OSError(5, "Input/output error")
        return real(self, name)

    monkeypatch.setattr(Folder, "reading", broken)
    unreadable = ["ckpt-1-2.safetensors"]
    assert joined().restore() == {"x": 1}
    assert "ckpt-1-2.safetensors cannot be read" in capfd.readouterr().err
    unreadable.append("ckpt-1-1.safetensors")
    with pytest.raises(DamagedError, match="Input/output error"):
        joined().restore()
    assert names(folder) == ["ckpt-1-1.safetensors", "ckpt-1-2.safetensors"]


def test_a_full_disk_is_an_error_and_the_previous_checkpoint_is_intact(folder):
    script = """
import resource, sys
from eco_ray.train import session
with session.open(checkpoint_dir=sys.argv[1]) as run:
    run.checkpoint({"x": "small"})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    run.checkpoint({"x": "big" * 100_000})
"""
    command = [sys.executable, "-c", script, folder]
    process = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert process.returncode == 1
    assert "CheckpointError" in process.stderr
    assert "intact; free space there" in process.stderr
    assert names(folder) == ["ckpt-1-1.safetensors"]
    assert CheckpointStore(folder, 1, pytest.fail).load().state == {"x": "small"}


def test_no_space_at_the_very_end(folder, monkeypatch):
    store = CheckpointStore(folder, 1, pytest.fail)
    store.save({"x": 1}, {}, lambda: None)

    def full(descriptor):
        assert "ckpt-1-2.safetensors" not in names(folder)  # the name stands for a complete file
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left"):
            store.save({"x": 2}, {}, lambda: None)
    assert store.load().state == {"x": 1}
    store.save({"x": 3}, {}, lambda: None)
    assert store.load().state == {"x": 3}


def test_a_fence_raised_while_a_checkpoint_is_written(folder):
    store = CheckpointStore(folder, 1, pytest.fail)
    store.save({"x": 1}, {}, lambda: None)

    def refuse():
        raise session.StaleAttempt

    with pytest.raises(session.StaleAttempt):
        store.save({"x": 2}, {}, refuse)
    assert sorted(p.name for p in folder.iterdir()) == ["ckpt-1-1.safetensors", "latest"]


def test_a_late_checkpoint_of_an_older_attempt_never_wins(folder):
    old, new = (CheckpointStore(folder, attempt, pytest.fail) for attempt in (1, 2))
    old.save({"x": "old"}, {}, lambda: None)
    new.save({"x": "new"}, {}, lambda: None)
    new.save({"x": "newer"}, {}, lambda: None)
    old.save({"x": "late"}, {}, lambda: None)
    assert new.load().state == {"x": "newer"}
