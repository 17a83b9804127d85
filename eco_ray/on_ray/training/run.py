"""What a training function holds in each worker: the session of rank 0, agreed on by all workers at the same step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from eco_ray.errors import EcoRayError
from eco_ray.train import session
from eco_ray.train.batches import Batch, batches

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

#: what rank 0 says at a pause point: everybody goes on, keeps the state, or keeps it and leaves
_GO_ON, _KEEP, _LEAVE = 0, 1, 2


class Run:
    """One worker's side of a training run; made by `fit`.

    Only rank 0 talks to the node's agent and writes checkpoints. `restore`, `pause_point` and `finish` must be called
    by all workers in the same order, as they wait for each other.
    """

    def __init__(self, kept: session.Session | None, rank: int, workers: int, control: ProcessGroup | None) -> None:
        """kept: of rank 0, else None. control: a gloo group of all workers; None: there is one."""
        #: number of this worker, from 0
        self.rank = rank
        #: how many there are; at the next attempt there may be more or fewer
        self.workers = workers
        self._session = kept
        self._control = control
        self._kept_mono_s = time.monotonic()

    @property
    def device(self) -> torch.device:
        """Where this worker computes: its GPU of those that the attempt holds, or the CPU."""
        import torch

        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.rank % torch.cuda.device_count())

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model on this worker's device, with gradients that are means over all workers.

        All begin with rank 0's weights. What a checkpoint holds is the model that was given, not this one.
        """
        model = model.to(self.device)
        if self._control is None:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model)

    def batches(self, rows: int, *, size: int, epochs: int, start: int = 0, seed: int = 0) -> Iterator[Batch]:
        """The part of this worker of the batches after `start` consumed rows, see eco_ray/train/batches.py."""
        return batches(rows, size, epochs, start=start, rank=self.rank, workers=self.workers, seed=seed)

    def restore(self) -> session.State | None:
        """The state of the last complete checkpoint in every worker, as rank 0 read it; None: the work begins."""
        found: session.State | None = self._from_first(self._session.restore() if self._session is not None else None)
        return found

    def progress(self, done: float | tuple[float, float] | None, /, **metrics: Any) -> None:
        """As `Session.progress`; what workers other than rank 0 say is not looked at."""
        if self._session is not None:
            self._session.progress(done, **metrics)

    def pause_point(self, state: Callable[[], session.State], *, every_s: float | None = None) -> None:
        """A place where the work may be interrupted, between two steps.

        Rank 0 sees whether a pause is asked for or a checkpoint is due, and tells the others: all of them call `state`
        after the same step, as gathering it may need them all, and rank 0 keeps what it returns there. On a pause all
        leave by raising Paused.
        """
        said = self._say(every_s)
        if self._control is not None:
            import torch
            from torch.distributed import broadcast

            word = torch.tensor([said], dtype=torch.uint8)
            broadcast(word, src=0, group=self._control)
            said = int(word)
        if said == _GO_ON:
            return
        whole = state()
        if self._session is not None:
            _keep(self._session, whole, leave=said == _LEAVE)
        self._kept_mono_s = time.monotonic()
        self._together()
        if said == _LEAVE:
            raise session.Paused

    def finish(self, **metrics: Any) -> None:
        """The work is complete in all workers."""
        self._together()
        if self._session is not None:
            self._session.finish(**metrics)

    def _say(self, every_s: float | None) -> int:
        if self._session is None:
            return _GO_ON  # rank 0 says it
        if self._session.should_pause:
            return _LEAVE
        due = every_s is not None and time.monotonic() - self._kept_mono_s >= every_s
        return _KEEP if due else _GO_ON

    def _from_first(self, value: Any) -> Any:
        if self._control is None:
            return value
        from torch.distributed import broadcast_object_list

        box = [value]
        broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def _together(self) -> None:
        if self._control is not None:
            from torch.distributed import barrier

            barrier(group=self._control)


def _keep(kept: session.Session, whole: session.State, *, leave: bool) -> None:
    if not leave:
        kept.checkpoint(whole)
        return
    try:
        kept.pause_point(lambda: whole)
    except session.Paused:
        return  # raised once all workers are here
    raise EcoRayError("a pause was asked for and then taken back, which no agent does; the file `pause` was removed")
