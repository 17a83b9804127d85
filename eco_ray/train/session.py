"""How a training script reports progress, keeps checkpoints and lets itself be paused: with eco_ray, or alone.

    from eco_ray.train import session

    with session.open() as run:
        state = run.restore() or {"step": 0, "w": w}
        for step in range(state["step"], STEPS):
            ...
            run.progress((step + 1, STEPS), loss=loss)
            run.pause_point(lambda: {"step": step + 1, "w": w}, every_s=60)
        run.finish(accuracy=accuracy)

Outside a cluster the same script just runs: nobody asks for a pause, and checkpoints go nowhere unless `open` is given
a `checkpoint_dir`. Use one session per job, in its main process (rank 0), from one thread.

Between the attempt and the agent of its node stand files in a directory of that node, so any language can take part.
The launcher sets ECO_RAY_JOB_ID, ECO_RAY_ATTEMPT (1, 2, ...), ECO_RAY_RUN_DIR (this attempt on this node),
ECO_RAY_CHECKPOINT_DIR (all attempts of the job) and ECO_RAY_WORKERS (how many this attempt has resources for). Times
are wall time [s since epoch].

    RUN_DIR/progress.json   written here, replaced atomically at most every 0.1 s:
                            {"attempt", "pid", "time_s", "done": 0..1 or null, "metrics": {},
                            "resumed_s": when a checkpoint was restored or work began, or null,
                            "checkpoint_s": when this attempt last completed a checkpoint, or null,
                            "checkpoint_bytes": size of that checkpoint on disk, or null, "paused": bool}
    RUN_DIR/pause           made by the agent: write a checkpoint and leave with exit code 75 (also asked by SIGTERM)
    CHECKPOINT_DIR/fence    written by the controller: number of the newest attempt; a session with a lower number
                            raises StaleAttempt instead of writing, so that a half-dead attempt never overwrites a
                            newer one's state
    CHECKPOINT_DIR/ckpt-*   see checkpoint.py

In a stock Ray job (`ray job submit --metadata-json '{"eco.deadline": "6h"}' -- python train.py`) the process replaces
itself, inside `open`, by `eco-ray run -- python train.py`, which waits for its place in time and space and runs the
command there with the variables above; what stands before `open` runs twice, so open early. A Ray job without a key
`eco.*` just runs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from eco_ray.core.attempts import PAUSED_EXIT_CODE
from eco_ray.errors import EcoRayError, NotAllowedError, UsageError
from eco_ray.train.checkpoint import CheckpointStore, write_atomically

__all__ = ["open", "Session", "Paused", "StaleAttempt", "PAUSED_EXIT_CODE"]

#: how often the pause file is looked for [s]
PAUSE_CHECK_S = 0.2
#: shortest time between two writes of progress.json [s]
PROGRESS_WRITE_S = 0.1

State = dict[Any, Any]


class Paused(SystemExit):
    """Raised by `pause_point`: the process ends with PAUSED_EXIT_CODE; the job goes on from its checkpoint later."""

    def __init__(self) -> None:
        super().__init__(PAUSED_EXIT_CODE)


class StaleAttempt(NotAllowedError):
    """A newer attempt of this job has been started; this one must not write any more."""


def open(*, checkpoint_dir: str | Path | None = None) -> Session:
    """Join the cluster that started this process, or none; in a stock Ray job with `eco.*` metadata, queue first."""
    environ = os.environ
    if "ECO_RAY_RUN_DIR" not in environ:
        _queue_if_asked(environ)
        return Session(None, checkpoint_dir, job_id=None, attempt=1, workers=_from_one("ECO_RAY_WORKERS"))
    missing = [n for n in ("ECO_RAY_JOB_ID", "ECO_RAY_ATTEMPT", "ECO_RAY_CHECKPOINT_DIR") if not environ.get(n)]
    if missing:
        raise UsageError(
            f"ECO_RAY_RUN_DIR is set but {', '.join(missing)} is not; an attempt needs them all: start it with "
            "`eco-ray run`, or unset ECO_RAY_RUN_DIR to run without a cluster"
        )
    return Session(
        environ["ECO_RAY_RUN_DIR"],
        environ["ECO_RAY_CHECKPOINT_DIR"],
        job_id=environ["ECO_RAY_JOB_ID"],
        attempt=_from_one("ECO_RAY_ATTEMPT"),
        workers=_from_one("ECO_RAY_WORKERS"),
    )


def _from_one(name: str) -> int:
    """A whole number from the environment, 1 where it is not set."""
    number = os.environ.get(name) or "1"
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(
            f"{name}={number!r} is not an integer from 1; correct it, or start the script with `eco-ray run`"
        )
    return int(number)


class Session:
    """One attempt's side of the channel; made by `open`."""

    def __init__(
        self,
        run_dir: str | Path | None,
        checkpoint_dir: str | Path | None,
        *,
        job_id: str | None,
        attempt: int,
        workers: int = 1,
    ) -> None:
        #: None outside a cluster
        self.job_id = job_id
        self.attempt = attempt
        self._workers = workers
        #: kept for all attempts of the job; None: nowhere
        self.checkpoint_dir = Path(checkpoint_dir) if checkpoint_dir is not None else None
        self._run_dir = Path(run_dir) if run_dir is not None else None
        self._store: CheckpointStore | None = None
        for directory in filter(None, (self._run_dir, self.checkpoint_dir)):
            _make_directory(directory)
        if self.checkpoint_dir is not None:
            self._refuse_if_stale()
            self._store = CheckpointStore(self.checkpoint_dir, attempt, _warn)
        self._done: float | None = None
        self._metrics: dict[str, Any] = {}
        self._resumed_s: float | None = None
        self._checkpoint_s: float | None = None
        self._checkpoint_bytes: int | None = None
        self._paused = False
        self._terminated = False
        self._pause_seen = False
        self._next_pause_check = 0.0
        self._next_report = 0.0
        self._last_checkpoint = time.monotonic()
        self._old_handler: Any = None
        self._pid = os.getpid()
        self._reports_fail = False

    def __enter__(self) -> Session:
        # a process that cannot keep its state is better ended by SIGTERM as usual
        if self._store is not None and threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._on_sigterm)
        self._report()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._report()
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._pid:
            self._terminated = True
        else:  # a forked child (a data loader, a pool) inherits this handler, and its parent wants it gone
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def restore(self) -> State | None:
        """The state of the last complete checkpoint (tensors on the CPU), or None at the first attempt."""
        if self._store is None:
            return None
        self._refuse_if_stale()
        checkpoint = self._store.load()
        if checkpoint is None:
            return None
        self._done = checkpoint.about["done"]
        self._metrics = checkpoint.about["metrics"]
        self._last_checkpoint = time.monotonic()
        self._mark_work()
        self._report()
        return checkpoint.state

    def progress(self, done: float | tuple[float, float] | None, /, **metrics: Any) -> None:
        """Say how much of the work is done, as a share in [0, 1] or as (done, total), and the newest metrics.

        Cheap enough for every batch. None: the share is unknown.
        """
        self._metrics.update(_checked_metrics(metrics))
        if done is not None:
            self._done = _share(done)
        self._mark_work()
        if time.monotonic() >= self._next_report:
            self._report()

    @property
    def workers(self) -> int:
        """How many workers (processes, GPUs) this attempt holds resources for: start so many.

        It may be another number at the next attempt. Outside a cluster ECO_RAY_WORKERS, or 1.
        """
        return self._workers

    @property
    def should_pause(self) -> bool:
        """Whether a checkpoint and the way out are wanted now; `pause_point` is usually what you need."""
        if self._terminated or self._run_dir is None:
            return self._terminated
        now = time.monotonic()
        if now >= self._next_pause_check:
            self._next_pause_check = now + PAUSE_CHECK_S
            self._pause_seen = (self._run_dir / "pause").exists()
        return self._pause_seen

    def checkpoint(self, state: State) -> None:
        """Keep the state (see checkpoint.py for what it may hold); the last two are kept.

        Raises CheckpointError if it cannot be written, with the previous one intact, and StaleAttempt after a newer
        attempt has been started.
        """
        self._mark_work()
        if self._store is None:
            return
        self._refuse_if_stale()
        now = time.time()
        about = {"attempt": self.attempt, "time_s": now, "done": self._done, "metrics": self._metrics}
        self._checkpoint_bytes = self._store.save(state, about, self._refuse_if_stale)
        self._checkpoint_s = now
        self._last_checkpoint = time.monotonic()
        self._report()

    def pause_point(self, state: Callable[[], State], *, every_s: float | None = None) -> None:
        """A place where the work may be interrupted: call it between batches, it costs a microsecond.

        If a pause was asked for: checkpoint `state()` and leave by raising Paused. Otherwise, with `every_s`, write a
        checkpoint when the last one is older than that.
        """
        if self._resumed_s is None:
            self._mark_work()
        if self._store is None:
            return
        if self.should_pause:
            self.checkpoint(state())
            self._paused = True
            self._report()
            raise Paused
        if every_s is not None and time.monotonic() - self._last_checkpoint >= every_s:
            self.checkpoint(state())

    def finish(self, **metrics: Any) -> None:
        """The work is complete: done = 1, with the final metrics."""
        checked = _checked_metrics(metrics)
        self._refuse_if_stale()
        self._metrics.update(checked)
        self._done = 1.0
        self._mark_work()
        self._report()

    def _mark_work(self) -> None:
        if self._resumed_s is None:
            self._resumed_s = time.time()

    def _report(self) -> None:
        """Replace progress.json; that it fails is no reason to end a training run."""
        if self._run_dir is None:
            return
        self._next_report = time.monotonic() + PROGRESS_WRITE_S
        document = {
            "attempt": self.attempt,
            "pid": os.getpid(),
            "time_s": time.time(),
            "done": self._done,
            "metrics": self._metrics,
            "resumed_s": self._resumed_s,
            "checkpoint_s": self._checkpoint_s,
            "checkpoint_bytes": self._checkpoint_bytes,
            "paused": self._paused,
        }
        try:
            write_atomically(self._run_dir / "progress.json", json.dumps(document))
            self._reports_fail = False
        except OSError as error:
            if not self._reports_fail:
                _warn(f"progress cannot be reported in {self._run_dir} ({error}); the work goes on")
            self._reports_fail = True

    def _refuse_if_stale(self) -> None:
        if self.checkpoint_dir is None or self.job_id is None:
            return
        fence = _read_fence(self.checkpoint_dir / "fence")
        if self.attempt < fence:
            raise StaleAttempt(
                f"attempt {self.attempt} of job {self.job_id} is stale: attempt {fence} has been started since; "
                "end this process, the newer attempt has the work"
            )


def _read_fence(path: Path) -> int:
    """Number of the newest attempt; 0 without a fence."""
    text = ""
    for _ in range(3):  # a writer that does not rename may be seen half way
        try:
            text = path.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return 0
        if text.isdecimal():
            return int(text)
        time.sleep(0.02)
    raise EcoRayError(
        f"{path} holds {text[:40]!r}, not the number of the newest attempt, so writing here may not be safe; "
        "remove the file if no other attempt of the job runs"
    )


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be made ({error.strerror}); give a directory that can be written") from error


def _share(done: float | tuple[float, float]) -> float:
    part, total = done if isinstance(done, tuple) else (done, 1.0)
    # a sum of many small steps may end a rounding error above its total
    if total > 0 and 0 <= part <= total * (1 + 1e-6):
        return float(min(1.0, part / total))
    raise UsageError(
        f"progress {done!r} is outside [0, 1]; give a share such as 0.25, or (done, total) such as (3, 12)"
    )


def _checked_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    checked = {}
    for name, given in metrics.items():
        value = given
        with contextlib.suppress(AttributeError, ValueError, RuntimeError):
            value = given.item()  # a scalar of numpy or torch
        if not isinstance(value, bool | int | float | str):
            raise UsageError(f"metric {name} is a {type(value).__name__}; a metric is a number, a string or a bool")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"metric {name}={value} is not finite, and JSON has no such number; leave it out")
        checked[name] = value
    return checked


def _warn(message: str) -> None:
    print(f"eco_ray: warning: {message}", file=sys.stderr, flush=True)  # noqa: T201  # the script's own stderr


def _queue_if_asked(environ: Mapping[str, str]) -> None:
    """In a stock Ray job whose metadata has a key `eco.*`, become `eco-ray run -- <this very command>`."""
    try:
        metadata = json.loads(environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("metadata") or {}
        asked = any(str(key).startswith("eco.") for key in metadata)
    except (ValueError, AttributeError, TypeError):
        return  # not ours to judge
    if not asked:
        return
    if "ECO_RAY_RUN_GUARD" in environ:
        _warn(
            "the job's metadata has eco.* keys, but `eco-ray run` gave it no place (ECO_RAY_RUN_DIR); running at once"
        )
        return
    os.environ["ECO_RAY_RUN_GUARD"] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execv(sys.executable, [sys.executable, "-m", "eco_ray.cli.main", "run", "--", *command])  # noqa: S606
