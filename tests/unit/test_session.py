import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from timing import quiet_seconds_of

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.train import session
from eco_ray.train.checkpoint import CheckpointStore

COUNTS = Path(__file__).parents[1] / "scripts" / "counts.py"


class Place:
    """What a launcher gives to the attempts of one job."""

    def __init__(self, root):
        self.root, self.checkpoints = root, root / "checkpoints"
        self.attempt = 1

    @property
    def run_dir(self):
        return self.root / f"run-{self.attempt}"

    @property
    def variables(self):
        return {
            "ECO_RAY_JOB_ID": "job-1",
            "ECO_RAY_ATTEMPT": str(self.attempt),
            "ECO_RAY_RUN_DIR": str(self.run_dir),
            "ECO_RAY_CHECKPOINT_DIR": str(self.checkpoints),
        }

    def next_attempt(self):
        self.attempt += 1
        self.checkpoints.mkdir(exist_ok=True)
        (self.checkpoints / "fence").write_text(str(self.attempt))

    def progress(self):
        return json.loads((self.run_dir / "progress.json").read_text())

    def start(self, *arguments):
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **self.variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def names(self):
        return sorted(p.name for p in self.checkpoints.glob("*ckpt-*"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("ECO_RAY_") or n == "RAY_JOB_CONFIG_JSON_ENV_VAR"]:
        monkeypatch.delenv(name)
    return Place(tmp_path)


@pytest.fixture
def joined(place, monkeypatch):
    """A function that opens a session of the present attempt in this process."""

    def open_session():
        for name, value in place.variables.items():
            monkeypatch.setenv(name, value)
        return session.open()

    return open_session


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# --- alone ------------------------------------------------------------------------------------------------------------


def test_alone_everything_works_and_nothing_is_written(place, monkeypatch):
    monkeypatch.chdir(place.root)
    handler = signal.getsignal(signal.SIGTERM)
    with session.open() as run:
        assert run.restore() is None
        run.progress((1, 2), loss=0.5)
        run.checkpoint({"step": 1})
        run.pause_point(lambda: pytest.fail("no state is needed"), every_s=0)
        assert not run.should_pause
        assert signal.getsignal(signal.SIGTERM) is handler
        run.finish(accuracy=1)
    assert list(place.root.iterdir()) == []


def test_alone_with_a_checkpoint_dir_a_second_run_goes_on(place):
    with session.open(checkpoint_dir=place.checkpoints) as run:
        run.checkpoint({"step": 1})
    with session.open(checkpoint_dir=place.checkpoints) as run:
        assert run.restore() == {"step": 1}
        run.checkpoint({"step": 2})
    assert place.names() == ["ckpt-1-1.safetensors", "ckpt-1-2.safetensors"]
    with session.open(checkpoint_dir=place.checkpoints) as run:
        assert run.restore() == {"step": 2}


# --- the run directory ------------------------------------------------------------------------------------------------


def test_progress_json_is_what_the_agent_expects(place, joined):
    with joined() as run:
        first = place.progress()
        began = time.time()
        run.progress(0.25, loss=np.float32(0.5), epoch=torch.tensor(3), name="a", good=True)
        run.checkpoint({}, wait=True)
        run.progress((1, 2))
        after = place.progress()
        run.finish(accuracy=0.9)
    assert first == {
        "attempt": 1, "pid": os.getpid(), "time_s": pytest.approx(began, abs=5), "done": None, "metrics": {},
        "resumed_s": None, "checkpoint_s": None, "checkpoint_bytes": None, "paused": False,
    }  # fmt: skip
    assert after["done"] == 0.25  # 0.5 came within 0.5 s of the last write
    assert after["metrics"] == {"loss": 0.5, "epoch": 3, "name": "a", "good": True}
    assert began <= after["resumed_s"] <= after["checkpoint_s"] <= time.time()
    assert after["checkpoint_bytes"] == (place.checkpoints / "ckpt-1-1.safetensors").stat().st_size > 0
    last = place.progress()
    assert last["done"] == 1
    assert last["metrics"]["accuracy"] == 0.9
    assert last["resumed_s"] == after["resumed_s"]
    assert place.run_dir.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in place.run_dir.iterdir()] == ["progress.json"]


def test_each_checkpoint_is_reported_with_its_size(place, joined):
    sizes = []
    with joined() as run:
        for count in (10, 1_000_000):
            run.checkpoint({"w": np.zeros(count)}, wait=True)
            sizes.append(place.progress()["checkpoint_bytes"])
    assert 80 < sizes[0] < 2_000 < 8_000_000 < sizes[1] < 8_002_000
    place.next_attempt()
    with joined() as run:  # what it restored was reported by the attempt that wrote it
        run.restore()
        assert place.progress()["checkpoint_bytes"] is None


def test_the_number_of_workers_is_told(place, joined, monkeypatch):
    assert session.open().workers == 1
    monkeypatch.setenv("ECO_RAY_WORKERS", "3")
    assert session.open().workers == 3  # alone, too
    assert joined().workers == 3
    monkeypatch.delenv("ECO_RAY_WORKERS")
    assert joined().workers == 1
    with pytest.raises(AttributeError):
        joined().workers = 2


@pytest.mark.parametrize("done", [-0.1, 1.1, math.nan, (3, 2), (1, 0), (math.nan, 1), 3])
def test_progress_outside_0_to_1_is_refused(place, joined, done):
    with joined() as run, pytest.raises(UsageError, match=r"outside \[0, 1\].*\(3, 12\)"):
        run.progress(done)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, [1], np.float32("nan"), np.zeros(2), torch.zeros(2)])
def test_metrics_that_json_cannot_hold_are_refused(place, joined, value):
    with joined() as run:
        run.progress(0.1, loss=1.0)
        for report in (lambda: run.progress(0.2, loss=value), lambda: run.finish(loss=value)):
            run._next_report = 0
            with pytest.raises(UsageError, match="metric loss"):
                report()
    assert (place.progress()["done"], place.progress()["metrics"]) == (0.1, {"loss": 1.0})


def test_what_is_said_between_two_looks_is_looked_at_before_it_is_passed_on(place, joined, capfd):
    with joined() as run:
        run.progress(0.1, loss=1.0)
        run.progress(0.2, loss=math.nan, epoch=1)
        run.checkpoint({"step": 1}, wait=True)
        assert "loss=nan is not finite" in capfd.readouterr().err
        assert (place.progress()["done"], place.progress()["metrics"]) == (0.1, {"loss": 1.0})
        run.progress(0.3, loss=math.nan)
        with pytest.raises(UsageError, match="loss=nan"):
            run.finish()
    with pytest.raises(UsageError, match="loss=nan"), joined() as run:  # noqa: PT012
        run.progress(0.4)
        run.progress(0.5, loss=math.nan)
    with pytest.raises(ZeroDivisionError), joined() as run:  # noqa: PT012
        run.progress(0.4)
        run.progress(2.0)
        raise ZeroDivisionError
    assert "progress 2.0 is outside" in capfd.readouterr().err


class OnGpu:
    """A scalar whose value has to be waited for."""

    is_cuda, waits = True, 0

    def detach(self):
        return self

    clone = detach

    def numel(self):
        return 1

    def item(self):
        self.waits += 1
        return 0.5


def test_a_loss_on_a_gpu_is_waited_for_at_reports_alone(place, joined):
    loss = OnGpu()
    with joined() as run:
        for step in range(10):
            run.progress(step, 10, loss=loss)
        assert loss.waits == 1  # of the first step
        run.finish()
    assert loss.waits == 2
    assert place.progress()["metrics"] == {"loss": 0.5}


def test_a_metric_is_that_of_its_moment(place, joined):
    seen = torch.zeros(())
    with joined() as run:
        run.progress(0.1)
        run.progress(0.2, seen=seen)
        seen += 1
        run.finish()
    assert place.progress()["metrics"] == {"seen": 0}


def test_a_run_directory_that_fills_up_does_not_end_the_work(place, joined, capfd, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    with joined() as run:
        monkeypatch.setattr("eco_ray.train.report_file.write_atomically", full)
        run.finish()
        run.finish()
    assert capfd.readouterr().err.count("No space left on device") == 1


def test_a_disk_that_is_busy_keeps_no_step_waiting(place, joined, monkeypatch):
    asked, free, written = threading.Event(), threading.Event(), []

    def busy(path, text):
        asked.set()
        assert free.wait(20)
        written.append(json.loads(text)["done"])

    with joined() as run:
        monkeypatch.setattr("eco_ray.train.report_file.write_atomically", busy)
        for step in range(5):
            run._next_report = 0
            run.progress(step, 10)
            assert asked.wait(20)
        assert written == []
        free.set()
        run.finish()
        assert written == [0, 0.4, 1]  # the one at work, the newest that waited, the last


def test_steps_are_told_of_while_they_are_done(place, joined):
    with joined() as run:
        run._next_report = 0
        run.progress(1, 4)
        wait_for(lambda: place.progress()["done"] == 0.25)
        run._next_report = 0
        run.progress(2, 4)
        wait_for(lambda: place.progress()["done"] == 0.5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("ECO_RAY_ATTEMPT", "0", "'0' is not an integer from 1"), ("ECO_RAY_ATTEMPT", "x", "'x'"),
     ("ECO_RAY_WORKERS", "0", "ECO_RAY_WORKERS='0' is not an integer from 1"), ("ECO_RAY_WORKERS", "2.5", "'2.5'"),
     ("ECO_RAY_CHECKPOINT_DIR", "", "ECO_RAY_CHECKPOINT_DIR is not.*unset ECO_RAY_RUN_DIR"),
     ("ECO_RAY_CHECKPOINT_DIR", "/dev/null/x", "cannot be made")],
)  # fmt: skip
def test_a_wrong_environment_is_refused(place, monkeypatch, name, value, message):
    for key, good in place.variables.items():
        monkeypatch.setenv(key, good)
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        session.open()


# --- pausing ----------------------------------------------------------------------------------------------------------


def test_pause_file_then_resume_runs_each_step_once(place):
    lines = place.root / "lines"
    for _ in range(2):
        process = place.start(COUNTS, lines, 200, 0.02)
        wait_for(lambda: lines.exists() and f"\n{place.attempt} " in "\n" + lines.read_text())
        (place.run_dir / "pause").touch()
        assert process.wait(60) == session.PAUSED_EXIT_CODE, process.stderr.read()
        assert place.progress()["paused"] is True
        assert 0 < place.progress()["done"] < 1
        place.next_attempt()
    process = place.start(COUNTS, lines, 200, 0)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "counted to 200\n", "")
    did = [tuple(map(int, line.split())) for line in lines.read_text().splitlines()]
    assert [step for _, step in did] == list(range(200))
    assert [attempt for attempt, _ in did] == sorted(attempt for attempt, _ in did)
    assert {attempt for attempt, _ in did} == {1, 2, 3}
    assert place.progress()["done"] == 1


def test_sigterm_pauses_and_sigkill_leaves_a_whole_checkpoint(place):
    lines = place.root / "lines"
    process = place.start(COUNTS, lines, 100_000, 0)
    wait_for(lambda: lines.exists() and lines.stat().st_size > 100)
    process.terminate()
    assert process.wait(10) == session.PAUSED_EXIT_CODE
    for _ in range(4):  # killed at some moment of a loop that does little but write checkpoints
        place.next_attempt()
        process = place.start(COUNTS, lines, 100_000, 0)
        wait_for(lambda: f"\n{place.attempt} " in lines.read_text())
        time.sleep(0.03)
        process.kill()
        process.wait(10)
    did = [int(line.split()[1]) for line in lines.read_text().splitlines()]
    assert sorted(set(did)) == list(range(max(did) + 1))
    assert len(did) - len(set(did)) <= 4  # the one step between its line and its checkpoint, at each kill
    place.next_attempt()
    store = CheckpointStore(place.checkpoints, place.attempt, pytest.fail)
    assert store.load().state["next"] in (max(did), max(did) + 1)
    store.save({}, {}, lambda: None)
    assert len(place.names()) == 2  # what the killed writers left is gone


def test_pause_asked_in_this_process(place, joined):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left, joined() as run:  # noqa: PT012  # the session is left by it
        run.pause_point(lambda: {"x": 1})
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.should_pause
        run.pause_point(lambda: {"x": 2})
    assert left.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is handler
    place.next_attempt()
    with joined() as run:
        assert run.restore() == {"x": 2}
        assert place.progress()["resumed_s"] is not None
        assert place.progress()["checkpoint_s"] is None


def sleep_after(event):
    event.set()
    time.sleep(30)


def test_a_forked_child_still_dies_of_sigterm(place, joined):
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    with joined() as run:
        child = fork.Process(target=sleep_after, args=(started,))
        child.start()
        assert started.wait(10)  # Python forgets signals that come within the fork
        child.terminate()
        child.join(5)
        assert child.exitcode == -signal.SIGTERM
        assert not run.should_pause


def test_periodic_checkpoints(place, joined):
    with joined() as run:
        run.pause_point(lambda: {"x": 1}, every_s=60)
        assert place.names() == []
        run.pause_point(lambda: {"x": 2}, every_s=0)
        run.finish()
        assert place.names() == ["ckpt-1-1.safetensors"]


def test_a_pause_point_is_cheap(place, joined):
    with joined() as run:

        def batches():
            for i in range(10_000):
                run.progress((i, 10_000), loss=1.0)
                run.pause_point(dict, every_s=60)

        assert quiet_seconds_of(batches) < 1  # 100 us a batch; 2 us are usual


def test_asking_for_a_pause_costs_less_than_a_microsecond(place, joined):
    with joined() as run:
        asked = run.should_pause

        def steps():
            for _ in range(100_000):
                asked()

        assert quiet_seconds_of(steps) < 0.1


def test_the_question_is_the_same_with_and_without_parentheses(place, joined):
    with joined() as run:
        assert not run.should_pause
        assert run.should_pause() is False
        (place.run_dir / "pause").touch()
        assert run.should_pause() is False  # the file is looked for now and then
        run.should_pause._next_s = 0
        assert run.should_pause() is True
        assert run.should_pause


def test_progress_is_a_share_or_done_of_a_total(place, joined):
    with joined() as run:
        for done in ((0.25,), (3, 12), ((3, 12),)):
            run.progress(0)
            run._next_report = 0
            run.progress(*done, total=9)
            run._report()
            assert (place.progress()["done"], place.progress()["metrics"]["total"]) == (0.25, 9)
        run._next_report = 0
        with pytest.raises(UsageError, match=r"\(13, 12\) is outside"):
            run.progress(13, 12)


def test_progress_goes_on_where_the_checkpoint_was(place, joined):
    with joined() as run:
        run.progress((4, 5), loss=4)
        run.checkpoint({})
    place.next_attempt()
    with joined() as run:
        assert place.progress()["done"] is None
        run.restore()
        assert (place.progress()["done"], place.progress()["metrics"]) == (0.8, {"loss": 4})


# --- the fence --------------------------------------------------------------------------------------------------------


def test_a_stale_attempt_writes_nothing(place, joined):
    with joined() as run:
        run.checkpoint({"x": 1}, wait=True)
        place.next_attempt()
        stale = r"attempt 1 of job job-1 is stale: attempt 2 .*; end this process"
        for act in (lambda: run.checkpoint({"x": 2}), run.finish, run.restore):
            with pytest.raises(session.StaleAttempt, match=stale):
                act()
        assert place.names() == ["ckpt-1-1.safetensors"]
        (run._run_dir / "pause").touch()
        run.should_pause._next_s = 0
        with pytest.raises(session.StaleAttempt):
            run.pause_point(lambda: {"x": 3})
    place.attempt = 1
    with pytest.raises(session.StaleAttempt):
        joined()
    place.attempt = 2
    assert joined().restore() == {"x": 1}


def test_a_fence_that_is_no_number_is_refused(place, joined):
    with joined() as run:
        (place.checkpoints / "fence").write_text("two")
        with pytest.raises(EcoRayError, match=r"holds 'two'.*remove the file"):
            run.checkpoint({})


# --- in a stock Ray job -----------------------------------------------------------------------------------------------


def exec_of(monkeypatch, config, **environ):
    """What `open` would replace this process by, or None."""
    calls = []
    monkeypatch.setattr(os, "execv", lambda path, argv: calls.append((path, argv)))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "train.py", "--epochs", "2"])
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", config)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    session.open()
    return calls[0] if calls else None


def test_a_ray_job_with_eco_metadata_queues(place, monkeypatch):
    config = json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_1", "eco.deadline": "6h"}})
    python = sys.executable
    assert exec_of(monkeypatch, config) == (
        python,
        [python, "-m", "eco_ray.cli.main", "run", "--", python, "-X", "dev", "train.py", "--epochs", "2"],
    )
    assert os.environ["ECO_RAY_RUN_GUARD"] == "1"


def test_it_queues_once(place, monkeypatch, capfd):
    config = json.dumps({"metadata": {"eco.deadline": "6h"}})
    assert exec_of(monkeypatch, config, **place.variables) is None
    monkeypatch.delenv("ECO_RAY_RUN_DIR")
    assert exec_of(monkeypatch, config, ECO_RAY_RUN_GUARD="1") is None
    assert "running at once" in capfd.readouterr().err


@pytest.mark.parametrize(
    "config", ['{"metadata": {"owner": "eco"}}', '{"metadata": null}', "{}", "", "[]", "not json", '{"metadata": 3}']
)
def test_a_ray_job_without_eco_metadata_just_runs(place, monkeypatch, config):
    assert exec_of(monkeypatch, config) is None


def test_the_second_open_goes_on(place):
    """A real exec, with the command line's part played by a stub that sets what `eco-ray run` sets."""
    (place.root / "script.py").write_text(
        "import os, sys\n"
        "from eco_ray.train import session\n"
        "real = os.execv\n"
        "def execv(path, argv):\n"
        f"    os.environ.update({place.variables!r})\n"
        "    real(path, argv[argv.index('--') + 1:])\n"
        "os.execv = execv\n"
        "print('before')\n"
        "with session.open() as run:\n"
        "    print(run.job_id, sys.argv[1:])\n"
    )
    environ = {**os.environ, "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"metadata": {"eco.zones": "DE"}}'}
    done = subprocess.run(
        [sys.executable, place.root / "script.py", "a b"], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "before\nbefore\njob-1 ['a b']\n"
