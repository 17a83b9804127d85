"""How a training script reports progress, keeps checkpoints and lets itself be paused: with eco_ray, or alone.

    from eco_ray.train import session

    with session.open() as run:
        state = run.restore() or {"step": 0, "w": w}
        for step in range(state["step"], STEPS):
            ...
            run.progress(step + 1, STEPS, loss=loss)
            run.pause_point(lambda: {"step": step + 1, "w": w}, every_s=60)
        run.finish(accuracy=accuracy)

Outside a cluster the same script just runs: nobody asks for a pause, and checkpoints go nowhere unless `open` is given
a `checkpoint_dir`. state.py captures a model with optimizer, generators and data position; docs/training.md shows how.

Checkpoints are written in the background: `checkpoint` copies the state and returns. One is under way at most; what
goes wrong is raised by the next call, by `finish` or at the end of the block. That of a pause is there before the
process leaves. Use one session in a process, from one thread. Of a distributed training rank 0 opens one; or all do,
with their `rank` and `world_size`: then rank 0 reports and writes, all read, and all leave after the same
`pause_point`.

Between the attempt and the agent of its node stand files in a directory of that node, so any language can take part.
The launcher sets ECO_RAY_JOB_ID, ECO_RAY_ATTEMPT (1, 2, ...), ECO_RAY_RUN_DIR (this attempt on this node),
ECO_RAY_CHECKPOINT_DIR (all attempts of the job; a directory or an fsspec URL), ECO_RAY_WORKERS (how many this attempt
has resources for), ECO_RAY_CPUS (that each worker holds) and, once an attempt has told of a checkpoint,
ECO_RAY_HAS_CHECKPOINT=1. Times are wall time [s since epoch].

    RUN_DIR/progress.json   written here, replaced atomically at most every 0.5 s:
                            {"attempt", "pid", "time_s", "done": 0..1 or null, "metrics": {},
                            "resumed_s": when a checkpoint was restored or work began, or null,
                            "checkpoint_s": state of when this attempt has last kept, or null,
                            "checkpoint_bytes": size of that checkpoint on disk, or null, "paused": bool}
    RUN_DIR/pause           made by the agent: write a checkpoint and leave with exit code 75 (also asked by SIGTERM)
    RUN_DIR/standing.json   written by the agent: what the job has used, its deadline and the forecast; see standing.py
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

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from eco_ray.core.attempts import PAUSED_EXIT_CODE
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.train.background import Background
from eco_ray.train.checkpoint import KEEP, CheckpointStore
from eco_ray.train.checkpoint_file import encode
from eco_ray.train.fence import StaleAttempt, refuse_if_stale
from eco_ray.train.pausing import PauseQuestion
from eco_ray.train.progress import checked_metrics, of_now, share
from eco_ray.train.ranks import Ranks, refuse_if_other_rank
from eco_ray.train.report_file import ReportFile
from eco_ray.train.stock_job import queue_if_asked
from eco_ray.train.storage import Storage, make_directory, open_storage

__all__ = ["open", "Session", "Paused", "StaleAttempt", "PAUSED_EXIT_CODE"]

#: shortest time between two writes of progress.json [s]; the agent reads it once a second
PROGRESS_WRITE_S = 0.5
#: how often a pause point of a single process looks around [s]
LOOK_S = 0.1

State = dict[Any, Any]


class Paused(SystemExit):
    """Raised by `pause_point`: the process ends with PAUSED_EXIT_CODE; the job goes on from its checkpoint later."""

    def __init__(self) -> None:
        super().__init__(PAUSED_EXIT_CODE)


def open(
    *,
    checkpoint_dir: str | Path | None = None,
    keep: int = KEEP,
    rank: int | None = None,
    world_size: int | None = None,
    agree: Callable[[bool], bool] | None = None,
) -> Session:
    """Join the cluster that started this process, or none; in a stock Ray job with `eco.*` metadata, queue first.

    `checkpoint_dir`: where checkpoints are kept outside a cluster, a directory or an fsspec URL; `keep`: how many.
    `rank` and `world_size`: where every rank of a distributed training opens a session; without them rank 0 alone does.
    `agree`: makes of what each rank wants whether all pause, the same on all of them; None: whether any rank of
    torch.distributed wants it.
    """
    environ = os.environ
    ranks = Ranks(rank or 0, 1 if world_size is None else world_size, agree)
    if world_size is None and (checkpoint_dir is not None or "ECO_RAY_RUN_DIR" in environ):
        refuse_if_other_rank(environ)
    if "ECO_RAY_RUN_DIR" not in environ:
        queue_if_asked(environ, _warn)
        workers = _from_one("ECO_RAY_WORKERS")
        return Session(None, checkpoint_dir, job_id=None, attempt=1, workers=workers, keep=keep, ranks=ranks)
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
        keep=keep,
        ranks=ranks,
        must_resume=environ.get("ECO_RAY_HAS_CHECKPOINT") == "1",
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
        keep: int = KEEP,
        ranks: Ranks = Ranks(),  # noqa: B008  # frozen
        must_resume: bool = False,
    ) -> None:
        #: None outside a cluster
        self.job_id = job_id
        self.attempt = attempt
        #: of this process; only rank 0 reports and writes
        self.ranks = ranks
        self._alone = ranks.world_size == 1
        self._workers = workers
        self._must_resume = must_resume
        self._run_dir = Path(run_dir) if run_dir is not None else None
        self._store: CheckpointStore | None = None
        self._report_file: ReportFile | None = None
        if self._run_dir is not None and ranks.writes:
            make_directory(self._run_dir)
            self._report_file = ReportFile(self._run_dir / "progress.json", _warn)
        self._storage: Storage | None = open_storage(checkpoint_dir) if checkpoint_dir is not None else None
        if self._storage is not None:
            self._refuse_if_stale()
            self._store = CheckpointStore(self._storage, attempt, _warn, keep=keep, read_only=not ranks.writes)
        #: whether a checkpoint and the way out are wanted now: `if run.should_pause()`; `pause_point` does the rest
        self.should_pause = PauseQuestion(self._run_dir / "pause" if self._run_dir is not None else None)
        self._background = Background("eco-ray-checkpoint")
        self._done: float | None = None
        self._metrics: dict[str, Any] = {}
        #: what `progress` was told and nobody has looked at yet: a share or (done, total), and metrics
        self._said: float | tuple[float, float] | None = None
        self._said_metrics: dict[str, Any] = {}
        self._resumed_s: float | None = None
        self._checkpoint_s: float | None = None
        self._checkpoint_bytes: int | None = None
        self._paused = False
        self._next_report = 0.0
        self._next_look = 0.0
        self._last_checkpoint = time.monotonic()

    def __enter__(self) -> Session:
        if self._store is not None:  # a process that cannot keep its state is better ended by SIGTERM as usual
            self.should_pause.listen()
        self._report()
        self._next_report = 0.0  # what is told first is looked at at once
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._collect()
            self._take()
        except EcoRayError as failure:
            if error is None:
                raise
            _warn(str(failure))  # beside the error that ends the work
        finally:
            self._report()
            self.should_pause.leave()

    @property
    def checkpoint_dir(self) -> Path | None:
        """Kept for all attempts of the job; None: nowhere, or under a URL."""
        return self._storage.path if self._storage is not None else None

    @property
    def workers(self) -> int:
        """How many workers (processes, GPUs) this attempt holds resources for: start so many.

        It may be another number at the next attempt. Outside a cluster ECO_RAY_WORKERS, or 1.
        """
        return self._workers

    def restore(self) -> State | None:
        """The state of the last complete checkpoint (tensors on the CPU); None at the first attempt.

        Raises DamagedError or NotFoundError where there must be a checkpoint and none can be read.
        """
        if self._store is None:
            return None
        self._collect()
        self._refuse_if_stale()
        checkpoint = self._store.load()
        if checkpoint is None:
            if self._must_resume:
                raise NotFoundError(
                    f"job {self.job_id} has written a checkpoint, but there is none in {self._store.storage.url} as "
                    "seen from this node; mount the same directory on all nodes, or set checkpoint_url to a place "
                    "that all of them reach (such as s3://BUCKET/checkpoints)"
                )
            return None
        self._done = checkpoint.about["done"]
        self._metrics = checkpoint.about["metrics"]
        self._last_checkpoint = time.monotonic()
        self._mark_work()
        self._report()
        return checkpoint.state

    def progress(self, done: float | tuple[float, float] | None, total: float | None = None, /, **metrics: Any) -> None:
        """Say how much of the work is done, as (done, total) or a share in [0, 1], and the newest metrics.

        `progress(3, 12, loss=0.5)`; a tuple (3, 12) is the same. None: unknown. Cheap enough for every batch: what is
        said is looked at every half second, so that a loss on a GPU is not waited for at each step. Raises UsageError
        then.
        """
        if done is not None:
            self._said = done if total is None or isinstance(done, tuple) else (done, total)
        for name, value in metrics.items():
            self._said_metrics[name] = value if type(value) is float else of_now(value)
        if time.monotonic() >= self._next_report:
            self._mark_work()
            self._take()
            if self._background.ended:
                self._collect()
            self._report_soon()

    def _take(self) -> None:
        """Look at what was said since the last time. Raises UsageError, and forgets what is wrong."""
        said, self._said = self._said, None
        metrics, self._said_metrics = self._said_metrics, {}
        self._metrics.update(checked_metrics(metrics))
        if said is not None:
            self._done = share(said)

    def checkpoint(self, state: State, *, wait: bool = False) -> None:
        """Keep the state (see checkpoint_file.py for what it may hold): a copy is written in the background.

        With `wait` it is on disk when this returns, and needs no copy in memory. An earlier one that is still being
        written is waited for. Raises CheckpointError if one, this or the earlier one, could not be written, with
        the last complete one intact, and StaleAttempt after a newer attempt has been started.
        """
        self._mark_work()
        if self._store is None or not self.ranks.writes:
            return
        store = self._store
        try:
            self._take()
        except UsageError as error:
            _warn(f"{error}; the checkpoint is written without it")
        if store.storage.path is not None:  # in a place far away it is looked for in the background
            self._refuse_if_stale()
        self._collect()
        now_s = time.time()
        about = {"attempt": self.attempt, "time_s": now_s, "done": self._done, "metrics": dict(self._metrics)}
        encoded = encode(state, copy=not wait)
        self._last_checkpoint = time.monotonic()

        def write() -> None:
            size = store.write(encoded, about, self._refuse_if_stale)
            self._checkpoint_s, self._checkpoint_bytes = now_s, size

        if wait:
            write()
            self._report()
        else:
            self._background.start(write)

    def pause_point(self, state: Callable[[], State], *, every_s: float | None = None) -> None:
        """A place where the work may be interrupted: call it between batches, it costs a microsecond.

        If a pause was asked for: checkpoint `state()` and leave by raising Paused. Otherwise, with `every_s`, begin a
        checkpoint when the last one is older than that and has been written. All ranks call it at the same steps;
        `state` is asked on rank 0 alone.
        """
        if self._resumed_s is None:
            self._mark_work()
        if self._store is None:
            return
        now_s = time.monotonic()
        due = every_s is not None and now_s - self._last_checkpoint >= every_s
        idle = not (due or self._background.ended or self.should_pause.asked)
        if idle and self._alone and now_s < self._next_look:
            return  # of nearly all steps: what Python has to fetch after a step's work costs more than to run it
        self._next_look = now_s + LOOK_S
        if self.ranks.decide(self.should_pause()):
            if self.ranks.writes:
                self.checkpoint(state(), wait=True)
            self.ranks.decide(True)  # nobody leaves before it is written
            self._paused = True
            self._report()
            raise Paused
        if self._background.ended:
            self._collect()
        if due and self.ranks.writes and not self._background.busy:
            self.checkpoint(state())

    def finish(self, **metrics: Any) -> None:
        """The work is complete: done = 1, with the final metrics. The last checkpoint is on disk by then."""
        checked = checked_metrics(metrics)
        self._take()
        self._collect()
        self._refuse_if_stale()
        self._metrics.update(checked)
        self._done = 1.0
        self._mark_work()
        self._report()

    def _collect(self) -> None:
        """Wait for what is being written, and tell of it. Raises what went wrong."""
        if self._background.collect():
            self._report_soon()

    def _mark_work(self) -> None:
        if self._resumed_s is None:
            self._resumed_s = time.time()

    def _report(self) -> None:
        """Replace progress.json now."""
        if self._report_file is not None:
            self._report_file.write(self._news())

    def _report_soon(self) -> None:
        """Replace progress.json without a wait for the disk."""
        if self._report_file is not None:
            self._report_file.write_soon(self._news())

    def _news(self) -> dict[str, Any]:
        self._next_report = time.monotonic() + PROGRESS_WRITE_S
        return {
            "attempt": self.attempt,
            "pid": os.getpid(),
            "time_s": time.time(),
            "done": self._done,
            "metrics": dict(self._metrics),
            "resumed_s": self._resumed_s,
            "checkpoint_s": self._checkpoint_s,
            "checkpoint_bytes": self._checkpoint_bytes,
            "paused": self._paused,
        }

    def _refuse_if_stale(self) -> None:
        if self._storage is None or self.job_id is None:
            return
        refuse_if_stale(self._storage, self.job_id, self.attempt)


def _warn(message: str) -> None:
    print(f"eco_ray: warning: {message}", file=sys.stderr, flush=True)  # noqa: T201  # the script's own stderr
