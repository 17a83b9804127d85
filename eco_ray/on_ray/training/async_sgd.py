"""`train.async_sgd` on a Ray cluster: a parameter-server actor, worker actors, and a driver that watches over them.

    with session.open() as run:
        parameters, tally = train(run, task, parameters, SGD(LearningRate(0.1, 0.0)), Options(steps=10_000, workers=4))
        run.finish(accuracy=..., **tally.metrics())

The driver keeps the server's state as the session's checkpoints, pauses when the session asks, and reports the updates.

| killed | what follows |
|---|---|
| a worker, or its node | its step goes to another one; the others go on, and it is started again |
| a worker hangs | after `worker_timeout_s` it is ended: as above |
| the parameter server, or its node | goes on from the last checkpoint; what was done since is told and done again |
| the driver, or its node | the job's next attempt goes on from the last checkpoint, as with every session |
| anything, again and again without progress | the training fails and says why |

In an attempt of eco_ray the job holds the workers' CPUs on its node, so they run there; elsewhere each asks for one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.on_ray.training.sgd_actors import GradientWorkerActor, Look, ParameterServerActor
from eco_ray.train.async_sgd import ParameterServer, SynchronousServer, Tally
from eco_ray.train.gradients import codec
from eco_ray.train.session import Session
from eco_ray.train.sgd import SGD, Task, Tensors

#: how often the driver looks at the server and for a pause [s]
_LOOK_S = 0.2
#: a server that does not answer for so long is taken for lost [s]
_SERVER_TIMEOUT_S = 60.0
#: losses of workers (for each of them), or of the server, without an update in between, until the training is given up
_MOST_LOSSES = 3
#: where no worker has begun after so long, that is told [s]
_START_S = 30.0
#: how much of Ray's reason for a lost actor is told [characters]
_MOST_WORDS = 240
#: longest wait before a worker that was lost again and again is started anew [s]
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class Options:
    """How a training is done."""

    #: gradients in all
    steps: int
    workers: int = 1
    #: async, or sync: an update is the mean of `group` gradients
    method: str = "async"
    #: async: most updates between the pull and the push of a gradient; None: two for each other worker, so that those
    #: of about the same speed seldom wait (docs/async-sgd.md)
    staleness_bound: int | None = None
    #: sync: None is one gradient of each worker
    group: int | None = None
    #: none, int8 or topk:SHARE (train/gradients.py)
    codec: str = "none"
    #: how much work may be lost with the server or the driver [s]
    checkpoint_s: float = 5.0
    #: a worker that computes at one gradient for so long is ended [s]; None: it may take as long as it likes
    worker_timeout_s: float | None = 300.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"{self.workers} workers; give at least 1")
        codec(self.codec)  # raises


def make_server(parameters: Tensors, optimiser: SGD, options: Options, life: int = 1) -> ParameterServer:
    """The plain server of some options. Raises UsageError."""
    if options.method == "sync":
        group = options.workers if options.group is None else options.group
        return SynchronousServer(
            parameters, optimiser, codec(options.codec), steps=options.steps, group=group, life=life
        )
    if options.method != "async":
        raise UsageError(f"no method {options.method!r}; give async or sync")
    bound = 2 * (options.workers - 1) if options.staleness_bound is None else options.staleness_bound
    return ParameterServer(
        parameters, optimiser, codec(options.codec), steps=options.steps, staleness_bound=bound, life=life
    )


@dataclass
class _Place:
    """One of the workers, over all its lives."""

    number: int
    lives: int = 0
    actor: Any = None
    #: its call of `work`
    call: Any = None
    #: when it is started again, if it is lost [s, monotonic]
    start_s: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.number}-{self.lives}"


def train(
    run: Session,
    task: Task,
    parameters: Tensors,
    optimiser: SGD,
    options: Options,
    tell: Callable[[str], None] = lambda text: print(text, flush=True),  # noqa: T201  # the script's own output
) -> tuple[Tensors, Tally]:
    """Train on the cluster of this process, from the session's last checkpoint if there is one.

    Where Ray is not connected, RAY_ADDRESS is joined, or Ray started on this machine for as long as it takes. Raises
    EcoRayError where the training diverges or cannot go on, Paused when the session is asked to pause.
    """
    first = make_server(parameters, optimiser, options)
    if (state := run.restore()) is not None:
        first.load(state)
        tell(f"attempt {run.attempt} goes on after {first.version} of {first.updates} updates")
    if first.is_done:
        return first.parameters, first.tally
    with _on_ray(options):
        driver = _Driver(run, task, optimiser, options, first, tell)
        try:
            return driver.drive()
        finally:
            driver.end()


@contextlib.contextmanager
def _on_ray(options: Options) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    else:  # workers share the CPUs if there are too few
        cpus = max(options.workers, os.cpu_count() or 1)
        ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


class _Driver:
    """Starts the actors, looks at them, and replaces what is lost."""

    def __init__(
        self,
        run: Session,
        task: Task,
        optimiser: SGD,
        options: Options,
        first: ParameterServer,
        tell: Callable[[str], None],
    ) -> None:
        self._run, self._options, self._tell = run, options, tell
        self._optimiser = SGD(optimiser.rate, optimiser.momentum)
        self._task = ray.put(task)
        self._updates = first.updates
        #: the last checkpoint, and the newest version that was seen
        self._kept = first.state()
        self._kept_s = time.monotonic()
        self._seen = first.version
        #: starts of the server by this driver and those before, and what went with those that were lost
        self._life = 1 + first.tally.server_restarts
        self._lost = first.tally.updates_lost
        self._server: Any = None
        self._places = [_Place(number) for number in range(options.workers)]
        #: of workers since the last update, of the server since the last checkpoint that had an update
        self._losses = {"worker": 0, "parameter server": 0}
        self._began_s = time.monotonic()
        self._begun = False
        here = ray.get_runtime_context().get_node_id()
        self._server_at = NodeAffinitySchedulingStrategy(here, soft=True)
        self._worker_options: dict[str, Any] = {"num_cpus": 1}
        if run.job_id is not None:  # the attempt holds the CPUs of its workers, on this node
            self._worker_options = {
                "num_cpus": 0,
                "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
            }

    def drive(self) -> tuple[Tensors, Tally]:
        """Until all updates are done."""
        self._start_server()
        while True:
            try:
                self._start_workers()
                if self._look():
                    self._keep()
                    break
                self._run.pause_point(self._state)
                if time.monotonic() - self._kept_s >= self._options.checkpoint_s:
                    self._keep()
            except (RayActorError, GetTimeoutError) as error:
                self._restore_server(error)
        done = make_server(self._kept["parameters"], self._optimiser, self._options)
        done.load(self._kept)
        return done.parameters, done.tally

    def end(self) -> None:
        """End all actors."""
        for actor in (self._server, *(place.actor for place in self._places)):
            if actor is not None:
                with contextlib.suppress(Exception):  # Ray itself may be gone; then they are, too
                    ray.kill(actor)

    def _ask(self, call: Any) -> Any:
        return ray.get(call, timeout=_SERVER_TIMEOUT_S)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._ask(self._server.state.remote())
        if state["version"] > self._kept["version"]:
            self._losses["parameter server"] = 0
        self._kept, self._kept_s, self._seen = state, time.monotonic(), state["version"]
        return state

    def _keep(self) -> None:
        self._run.checkpoint(self._state())

    def _look(self) -> bool:
        """See to the workers, report; True: all updates are done."""
        calls = {place.call: place for place in self._places if place.call is not None}
        if calls:
            ready, _ = ray.wait(list(calls), timeout=_LOOK_S)
        else:
            ready = []
            time.sleep(_LOOK_S)
        look: Look = self._ask(self._server.look.remote())
        if look.version > self._seen:
            self._seen, self._losses["worker"] = look.version, 0
        loss = {} if look.loss is None else {"loss": look.loss}
        self._run.progress((look.version, self._updates), **loss, **look.tally.metrics())
        for call in ready:
            self._ended(calls[call])
        limit = self._options.worker_timeout_s
        for place in self._places:
            if limit is not None and place.call is not None and look.busy_s.get(place.name, 0.0) > limit:
                self._lose(place, f"it was at one gradient for more than worker_timeout_s={limit:g} s")
        self._tell_if_none_begins(bool(look.busy_s))
        return look.version >= self._updates

    def _tell_if_none_begins(self, busy: bool) -> None:
        self._begun = self._begun or busy
        if not self._begun and time.monotonic() - self._began_s > _START_S:
            self._begun = True  # told
            self._tell(
                f"no worker has begun after {_START_S:g} s: each needs a free CPU, and Ray has "
                f"{ray.available_resources().get('CPU', 0):g} of {ray.cluster_resources().get('CPU', 0):g}; end what "
                "holds them, or give fewer workers"
            )

    def _ended(self, place: _Place) -> None:
        """A worker's call is over: all is done, or the server is lost, or the worker is."""
        try:
            ray.get(place.call)
        except RayActorError as error:
            self._lose(place, str(error))
        except RayTaskError as error:  # the task's own error would come again: no reason to start anew
            cause = error.cause
            if isinstance(cause, EcoRayError):
                raise cause from error
            kind = type(cause).__name__ if cause is not None else "error"
            raise EcoRayError(
                f"worker {place.number} fails: {kind}: {_last_line(str(cause or error))}; mend the task, and go on "
                "from the last checkpoint"
            ) from error
        else:
            place.call = None

    def _lose(self, place: _Place, why: str) -> None:
        self._count("worker", _MOST_LOSSES * len(self._places), why)
        self._tell(f"worker {place.number} is lost, the others go on: {_reason(why)}")
        self._ask(self._server.forget.remote(place.name))
        ray.kill(place.actor)  # a node that is only out of reach may come back with it
        wait_s = min(_LONGEST_WAIT_S, 2.0 ** (place.lives - 1) - 1)
        place.actor, place.call, place.start_s = None, None, time.monotonic() + wait_s

    def _start_workers(self) -> None:
        for place in self._places:
            if place.call is not None or time.monotonic() < place.start_s:
                continue
            if place.actor is None:
                place.lives += 1
                actor = ray.remote(max_restarts=0, **self._worker_options)(GradientWorkerActor)
                place.actor = actor.remote([self._task], self._options.codec, _path())
            place.call = place.actor.work.remote(place.name, self._server)

    def _start_server(self) -> None:
        life, options, optimiser, kept = self._life, self._options, self._optimiser, self._kept
        restarts, lost = life - 1, self._lost

        def make() -> ParameterServer:
            server = make_server(kept["parameters"], optimiser, options, life)
            server.load(kept)
            server.tally.server_restarts, server.tally.updates_lost = restarts, lost
            return server

        actor = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=self._server_at)(ParameterServerActor)
        self._server = actor.remote(make)

    def _restore_server(self, error: Exception) -> None:
        self._count("parameter server", _MOST_LOSSES, str(error))
        lost = self._seen - self._kept["version"]
        self._tell(
            f"the parameter server is lost ({_reason(str(error))}); it goes on from the checkpoint after "
            f"{self._kept['version']} of {self._updates} updates: at least {lost} are done again"
        )
        ray.kill(self._server)
        self._seen = self._kept["version"]
        for place in self._places:  # their calls end by themselves, but one may be in the middle of a gradient
            if place.call is not None:
                ray.wait([place.call], timeout=_LOOK_S)
                place.call = None
        self._life, self._lost = self._life + 1, self._lost + lost
        self._start_server()

    def _count(self, what: str, most: int, why: str) -> None:
        self._losses[what] += 1
        if self._losses[what] > most:
            raise EcoRayError(
                f"a {what} was lost {self._losses[what]} times without progress in between ({_reason(why)}); the "
                f"training stands at {self._kept['version']} of {self._updates} updates in its last checkpoint: give "
                "the node more memory or fewer workers, and start it again"
            )


def _path() -> list[str]:
    """Where this process finds modules: a task's own may stand beside the script, which Ray tells to no worker."""
    return [os.path.realpath(entry) for entry in sys.path]  # "" is the directory of work


def _reason(text: str) -> str:
    """The line of Ray's many that says why an actor died, as far as Ray knows."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason is known"]
    said = next((line for line in lines if " because " in line), lines[0])
    return said if len(said) <= _MOST_WORDS else f"{said[:_MOST_WORDS]}..."


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason is known")
