"""Runs a training function in as many workers as the attempt holds resources for, and ends as the controller expects.

One worker is this very process, without Ray Train. More are a TorchTrainer of Ray Train v2. Ray counts the attempt's
CPUs, GPUs and memory once, for its driver; the workers run inside them: they are pinned to its node and hold next to
nothing themselves.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.on_ray.training.run import Run
from eco_ray.train import session
from eco_ray.train.storage import open_storage

#: of a node's own resource `node:ADDRESS`, that all its processes share: a bundle without any is refused
_PINNED = 0.0001
#: how often Ray Train looks at its workers; its own 2 s would be added to every pause [s]
_LOOK_S = "0.25"
#: what the launcher tells an attempt. No more of the environment: Ray shows what its workers are given, and settings
#: of eco_ray may be keys
_ATTEMPT = (
    "ECO_RAY_JOB_ID",
    "ECO_RAY_ATTEMPT",
    "ECO_RAY_WORKERS",
    "ECO_RAY_CPUS",
    "ECO_RAY_RUN_DIR",
    "ECO_RAY_CHECKPOINT_DIR",
    "ECO_RAY_HAS_CHECKPOINT",
)
#: workers of an attempt that were lost are started again at most so often
MAX_RESTARTS = 3

Train = Callable[[Run], None]


def fit(train: Train, *, max_restarts: int = MAX_RESTARTS) -> None:
    """Call `train(run)` in every worker, and return when it is done.

    A pause that the controller asks for ends the process with code 75, as a session does. Where a worker is lost, all
    are started again from the last checkpoint, at most `max_restarts` times and only if there is a newer one than at
    the last start: else the process ends with code 1 and the reason, and the job's own `retries` decide.
    """
    workers = _workers()
    if workers == 1:
        with session.open() as kept:
            train(Run(kept, 0, 1, None))
        return
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError(f"{workers} workers need Ray Train: `pip install 'eco-ray[train]'`, or set workers.max: 1")
    _fit(train, workers, max_restarts)


def _workers() -> int:
    """As the attempt says; one outside of a cluster."""
    if "ECO_RAY_RUN_DIR" not in os.environ:
        # in a stock Ray job this may replace the process, see session.open
        return session.open().workers
    return int(os.environ.get("ECO_RAY_WORKERS") or 1)


def _fit(train: Train, workers: int, max_restarts: int) -> None:
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _LOOK_S)
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths in a script mean what they mean in its driver
    import ray

    ray.init(address="auto" if "ECO_RAY_RUN_DIR" in os.environ else None)
    _pause_on_sigterm()
    code = until_done(lambda: _once(train, workers), _newest_checkpoint, max_restarts)
    if code == session.PAUSED_EXIT_CODE:
        raise session.Paused


class WorkersLost(EcoRayError):
    """A worker ended before its training function returned, by itself or because it was killed."""


def until_done(once: Callable[[], int], newest: Callable[[], str | None], max_restarts: int) -> int:
    """Run all workers, again after a loss, until they are done or paused; returns what rank 0 returned.

    newest: name of the newest checkpoint. Where going on would repeat all work, or the very same work once more, the
    process ends with code 1 instead.
    """
    restarts = 0
    while True:
        before = newest()
        try:
            return once()
        except WorkersLost as lost:
            now = newest()
            if now is None:
                _fail(f"{lost}; there is no checkpoint to go on from, and nothing begins again unasked")
            if now == before:
                _fail(f"{lost}; no checkpoint was written since the last start, so another one would end alike")
            if restarts == max_restarts:
                _fail(f"{lost}; its workers were started again {restarts} times already, which is the limit")
            restarts += 1
            _say(f"{lost}; all workers start again from {now} (restart {restarts} of {max_restarts})")


def _once(train: Train, workers: int) -> int:
    from ray.train import TrainingFailedError

    try:
        result = _trainer(train, workers).fit()
    except TrainingFailedError as error:
        raise WorkersLost(_reason(error)) from error
    return int(result.return_value or 0)


def _trainer(train: Train, workers: int) -> Any:
    """A TorchTrainer whose workers are on this node, inside of what the attempt holds."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    here = ray.get_runtime_context().get_node_id()
    node = next(one for one in ray.nodes() if one["NodeID"] == here)
    address = next(name for name in node["Resources"] if name.startswith("node:") and "__" not in name)
    gpus = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    # NCCL refuses two ranks on one GPU
    backend = "nccl" if len(gpus) >= workers else "gloo"
    # Ray would hide all GPUs from a worker that asks for none; these are the attempt's own
    shared = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"} if gpus else {}
    return TorchTrainer(
        partial(_work, train),
        torch_config=TorchConfig(backend=backend),
        scaling_config=ScalingConfig(
            num_workers=workers, resources_per_worker={address: _PINNED}, label_selector={"ray.io/node-id": here}
        ),
        run_config=RunConfig(
            storage_path=str(_scratch()), worker_runtime_env={"env_vars": {**_own_variables(), **shared}}
        ),
    )


def _work(train: Train) -> int:
    """One worker: returns the code with which the attempt ends."""
    import ray.train
    import torch
    from torch.distributed import get_backend, group, new_group

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    control = group.WORLD if get_backend() == "gloo" else new_group(backend="gloo")
    with contextlib.ExitStack() as stack:
        run = Run(stack.enter_context(session.open()) if rank == 0 else None, rank, workers, control)
        if run.device.type == "cuda":
            torch.cuda.set_device(run.device)
        try:
            train(run)
        except session.Paused:
            return session.PAUSED_EXIT_CODE
    return 0


def _own_variables() -> dict[str, str]:
    """The attempt's, and one thread for each worker: PyTorch would take all of the machine in every one of them."""
    theirs = {name: os.environ[name] for name in _ATTEMPT if name in os.environ}
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), **theirs}


def _scratch() -> Path:
    """Where Ray Train keeps its own notes: with the attempt's files, that go with it."""
    run_dir = os.environ.get("ECO_RAY_RUN_DIR")
    if run_dir is None:
        import tempfile

        return Path(tempfile.mkdtemp(prefix="eco-ray-train-"))
    return Path(run_dir) / "ray-train"


def _newest_checkpoint() -> str | None:
    """Name of the newest complete checkpoint of the job, from its `latest`; None: there is none."""
    place = os.environ.get("ECO_RAY_CHECKPOINT_DIR")
    try:
        return str(json.loads(open_storage(place).read_text("latest") or "")["file"]) if place else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _pause_on_sigterm() -> None:
    """Whoever ends the driver means the whole run: its workers keep their state and leave, if there is time."""
    run_dir = os.environ.get("ECO_RAY_RUN_DIR")

    def ask(_number: int, _frame: FrameType | None) -> None:
        (Path(run_dir or "") / "pause").touch()

    if run_dir is not None:
        signal.signal(signal.SIGTERM, ask)


def _reason(error: BaseException) -> str:
    """What ended the run, without the traces of all workers, which are in the log: those that died come first."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    died, failed = [], []
    for rank, failure in sorted(failures.items()):
        lines = [line.strip() for line in str(failure).splitlines() if line.strip()] or [type(failure).__name__]
        if "ActorDied" in type(failure).__name__:
            died.append(f"worker {rank} died")
        else:  # of a trace the last line says it
            failed.append(f"worker {rank}: {lines[-1][:200]}")
    return "; ".join([*died, *failed][:4]) or f"training failed: {error!s:.300}"


def _say(message: str) -> None:
    print(f"eco_ray: {message}", file=sys.stderr, flush=True)  # noqa: T201  # the script's own stderr


def _fail(message: str) -> NoReturn:
    _say(message)
    sys.exit(1)
