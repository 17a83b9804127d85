"""Checkpoints in the background and far away: slow, full, cut and damaged places, and who is told."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid

import fsspec
import numpy as np
import pytest

from eco_ray.errors import DamagedError, NotFoundError, UnreachableError, UsageError
from eco_ray.train import session
from eco_ray.train.checkpoint import CheckpointError, CheckpointStore
from eco_ray.train.fence import raise_fence
from eco_ray.train.storage import Folder, Remote, open_storage


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in [
        n for n in os.environ if n.startswith("ECO_RAY_") or n in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "WORLD_SIZE")
    ]:
        monkeypatch.delenv(name)


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def place(request, tmp_path):
    match request.param:
        case "folder":
            return str(tmp_path / "c")
        case "file":
            return f"file://{tmp_path}/c"
        case "memory":
            return f"memory://{uuid.uuid4().hex}/c"
        case _:
            return f"{request.getfixturevalue('s3_url')}/c"


@pytest.fixture
def attempt(monkeypatch, tmp_path):
    """A function that opens a session as an attempt on a node of its own."""

    def open_session(number, place, *, resumes=False):
        variables = {
            "JOB_ID": "job-1",
            "ATTEMPT": number,
            "RUN_DIR": tmp_path / f"node-{number}",
            "CHECKPOINT_DIR": place,
        }
        for name, value in {**variables, "HAS_CHECKPOINT": int(resumes)}.items():
            monkeypatch.setenv(f"ECO_RAY_{name}", str(value))
        return session.open()

    return open_session


def state(number):
    return {"n": number, "w": np.full(1000, float(number))}


def spoil(storage, name, harm):
    """Replace a checkpoint by what is left of it."""
    with storage.reading(name) as (file, _):
        data = file.read()
    with storage.writing(name, lambda: None) as file:
        file.write(harm(data))


def checkpoints(storage):
    return sorted(name for name in storage.names() if "ckpt" in name)


# --- every place ------------------------------------------------------------------------------------------------------


def test_a_job_goes_on_on_another_node_through_the_place_of_its_checkpoints(place, attempt, tmp_path):
    with pytest.raises(session.Paused), attempt(1, place) as run:  # noqa: PT012
        assert run.restore() is None
        for number in (1, 2, 3):
            run.checkpoint(state(number))
        (tmp_path / "node-1" / "pause").touch()
        run.pause_point(lambda: state(4))
    raise_fence(open_storage(place), 2)
    with attempt(2, place, resumes=True) as run:
        restored = run.restore()
        assert restored["n"] == 4
        assert (restored["w"] == 4).all()
        assert checkpoints(open_storage(place)) == ["ckpt-1-3.safetensors", "ckpt-1-4.safetensors"]
        run.checkpoint(state(5))
    with pytest.raises(session.StaleAttempt, match="attempt 1 of job job-1 is stale"):
        attempt(1, place)
    with attempt(3, place) as run:
        assert run.restore()["n"] == 5


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-1], lambda data: b"", lambda data: data[:900] + b"x" + data[901:]],
    ids=["cut", "empty", "changed"],
)  # fmt: skip
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_goes_on(place, harm, capfd):
    with session.open(checkpoint_dir=place) as run:
        run.checkpoint(state(1))
        run.checkpoint(state(2))
    storage = open_storage(place)
    spoil(storage, "ckpt-1-2.safetensors", harm)
    with session.open(checkpoint_dir=place) as run:
        assert run.restore()["n"] == 1
        assert "ckpt-1-2.safetensors is damaged" in capfd.readouterr().err
        assert checkpoints(storage) == ["ckpt-1-1.safetensors", "damaged-ckpt-1-2.safetensors"]
        spoil(storage, "ckpt-1-1.safetensors", harm)
        for _ in range(2):
            with pytest.raises(DamagedError, match=r"ckpt-1-1.*does not begin anew"):
                run.restore()


def test_a_job_that_has_a_checkpoint_does_not_begin_anew_where_there_is_none(place, attempt):
    with (
        attempt(2, place, resumes=True) as run,
        pytest.raises(NotFoundError, match=r"job-1 has written.*checkpoint_url"),
    ):
        run.restore()


def test_an_attempt_that_was_overtaken_while_it_wrote_leaves_no_trace(place):
    store = CheckpointStore(place, 1, pytest.fail)
    store.save(state(1), {}, lambda: None)

    def overtaken():
        raise session.StaleAttempt

    with pytest.raises(session.StaleAttempt):
        store.save(state(2), {}, overtaken)
    assert sorted(store.storage.names()) == ["ckpt-1-1.safetensors", "latest"]


# --- far away ---------------------------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_is_refused_without_its_password():
    with pytest.raises(UsageError, match=r"checkpoints in nowhere://host/x: .*s3: pip install s3fs") as error:
        session.open(checkpoint_dir="nowhere://me:secret@host/x")
    assert "secret" not in str(error.value)
    assert Remote("memory://me:secret@x/y").url == "memory://x/y"


def test_a_bucket_that_is_not_there_is_an_error_and_not_a_first_attempt(s3_url):
    with session.open(checkpoint_dir="s3://no-such-bucket-here/c") as run:
        with pytest.raises(Exception, match="bucket does not exist") as error:
            run.restore()
        assert "make the place reachable" in str(error.value)


def test_an_upload_that_breaks_off_leaves_the_last_checkpoint(monkeypatch):
    place = f"memory://{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    with session.open(checkpoint_dir=place) as run:
        run.checkpoint(state(1))
    real = fs.put_file

    def breaks(lpath, rpath, **how):
        real(lpath, rpath, **how)
        fs.pipe_file(rpath, fs.cat_file(rpath)[:500])  # as a store that promises too much would leave it
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(fs, "put_file", breaks)
    with pytest.raises(CheckpointError, match=r"ConnectionError: reset by peer; the last complete one is intact"):
        session.open(checkpoint_dir=place).checkpoint(state(2), wait=True)
    monkeypatch.undo()
    with session.open(checkpoint_dir=place) as run:
        assert run.restore()["n"] == 1


def test_a_place_that_does_not_answer_is_told(monkeypatch, attempt):
    def away(self, name):
        raise OSError("Timeout: no answer")

    monkeypatch.setattr(Remote, "read_text", away)
    with pytest.raises(UnreachableError, match="fence cannot be read: Timeout: no answer"):
        attempt(1, f"memory://{uuid.uuid4().hex}")


# --- in the background ------------------------------------------------------------------------------------------------


class Gate:
    """A disk that takes nothing until it is opened."""

    def __init__(self, monkeypatch):
        self.opened, self.waiting, self.most, self._now = threading.Event(), threading.Event(), 0, 0
        self.error = None
        real = Folder.writing
        gate = self

        @contextlib.contextmanager
        def writing(self, name, still_allowed):
            gate._now += 1
            gate.most = max(gate.most, gate._now)
            gate.waiting.set()
            assert gate.opened.wait(20)
            gate._now -= 1
            if gate.error:
                raise gate.error
            with real(self, name, still_allowed) as file:
                yield file

        monkeypatch.setattr(Folder, "writing", writing)


@pytest.fixture
def gate(monkeypatch):
    made = Gate(monkeypatch)
    yield made
    made.opened.set()


def test_the_work_goes_on_while_a_slow_disk_takes_its_time(tmp_path, gate):
    w = np.zeros(10)
    with session.open(checkpoint_dir=tmp_path) as run:
        for step in range(1, 50):
            w += 1
            run.pause_point(lambda step=step, w=w: {"step": step, "w": w}, every_s=0)
        assert gate.waiting.wait(20)
        assert not list(tmp_path.glob("ckpt-*.safetensors"))
        gate.opened.set()
    assert gate.most == 1
    restored = session.open(checkpoint_dir=tmp_path).restore()
    assert restored["step"] == 1
    assert (restored["w"] == 1).all()  # not what was made of it meanwhile


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path, gate):
    with session.open(checkpoint_dir=tmp_path) as run:
        run.checkpoint(state(1))
        threading.Timer(0.1, gate.opened.set).start()
        run.checkpoint(state(2))
        assert (tmp_path / "ckpt-1-1.safetensors").exists()
        run.finish()
        assert (tmp_path / "ckpt-1-2.safetensors").exists()
    assert gate.most == 1


def test_a_pause_has_its_checkpoint_before_the_process_leaves(tmp_path, gate):
    with session.open(checkpoint_dir=tmp_path) as run:
        run.checkpoint(state(1))
        run.should_pause.asked = True
        threading.Timer(0.1, gate.opened.set).start()
        with pytest.raises(session.Paused):
            run.pause_point(lambda: state(2))
        assert (tmp_path / "ckpt-1-2.safetensors").exists()  # when the ranks are told that they may leave
    assert session.open(checkpoint_dir=tmp_path).restore()["n"] == 2


NEXT = {
    "checkpoint": lambda run: run.checkpoint(state(3)),
    "pause_point": lambda run: run.pause_point(lambda: state(3)),
    "progress": lambda run: run.progress(0.5),
    "finish": lambda run: run.finish(),
    "restore": lambda run: run.restore(),
    "the end of the block": lambda run: run.__exit__(None, None, None),
}


@pytest.mark.parametrize("call", NEXT)
def test_a_full_disk_is_told_by_the_next_call_once(tmp_path, gate, call):
    with session.open(checkpoint_dir=tmp_path) as run:
        gate.opened.set()
        run.checkpoint(state(1), wait=True)
        gate.error = OSError(28, "No space left on device")
        run.checkpoint(state(2))
        end = time.monotonic() + 20
        while not run._background.ended:
            assert time.monotonic() < end
            time.sleep(0.001)
        run._next_report = 0.0
        with pytest.raises(CheckpointError, match=r"checkpoint of 8000 bytes .* No space left on device.*intact"):
            NEXT[call](run)
        gate.error = None
        run.checkpoint(state(4))
    assert session.open(checkpoint_dir=tmp_path).restore()["n"] == 4


def test_a_full_disk_is_told_beside_the_error_that_ends_the_work(tmp_path, gate, capfd):
    with pytest.raises(ZeroDivisionError), session.open(checkpoint_dir=tmp_path) as run:  # noqa: PT012
        gate.error = OSError(28, "No space left on device")
        run.checkpoint(state(1))
        gate.opened.set()
        raise ZeroDivisionError
    assert "No space left on device" in capfd.readouterr().err


def test_drafts_of_killed_writers_go_before_their_room_is_needed(tmp_path, gate):
    draft, later = tmp_path / "ckpt-1-7.safetensors.part-99", tmp_path / "ckpt-2-1.safetensors.part-99"
    for path in (draft, later):
        path.write_bytes(b"half")
    gate.error = OSError(28, "No space left on device")
    gate.opened.set()
    with pytest.raises(CheckpointError):
        session.open(checkpoint_dir=tmp_path).checkpoint(state(1), wait=True)
    assert (draft.exists(), later.exists()) == (False, True)  # a newer attempt's may be at work
