"""All that a training run goes on from: its parts and every random generator, captured and restored together.

batches = BatchOrder(len(x), 64, seed=0)
state = TrainState(model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler, batches=batches)
with session.open() as run:
    state.restore(run.restore())
    while batches.epoch < EPOCHS:
        rows = batches.rows()
        ...
        batches.advance()
        run.progress(batches.step, EPOCHS * len(batches))
        run.pause_point(state.capture, every_s=60)
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

from eco_ray.errors import UsageError

_GENERATORS = "generators"


class TrainState:
    """Parts by name: whatever has `state_dict` and `load_state_dict`, numpy's Generator, and torch's.

    The global generators of python, numpy and torch, on the CPU and on GPUs, belong to it always.
    """

    def __init__(self, **parts: Any) -> None:
        if _GENERATORS in parts:
            raise UsageError(
                f"{_GENERATORS!r} is what the global generators are kept under; give the part another name"
            )
        for name, part in parts.items():
            if part is not None and not (_is_generator(part) or _has_state(part)):
                raise UsageError(
                    f"{name} is a {type(part).__name__}, without state_dict() and load_state_dict(); a part has both, "
                    "or is a generator of numpy or torch"
                )
        #: those that are None (no scaler on a CPU) are left out
        self.parts = {name: part for name, part in parts.items() if part is not None}

    def capture(self) -> dict[str, Any]:
        """The state, for `checkpoint` and `pause_point`; it refers to the parts' own tensors."""
        parts = {name: _state_of(part) for name, part in self.parts.items()}
        return {**parts, _GENERATORS: _global_generators()}

    def restore(self, state: Mapping[str, Any] | None, *, rank: int = 0) -> bool:
        """Put all parts back to where they were captured; False, and nothing is changed, for None (the first attempt).

        Raises UsageError if the checkpoint has other parts. A checkpoint has the global generators of rank 0; those of
        another rank are seeded from them and its number, differently on each rank.
        """
        if state is None:
            return False
        kept = set(state) - {_GENERATORS}
        if kept != set(self.parts) or _GENERATORS not in state:
            raise UsageError(
                f"the checkpoint has {_names(kept)}, the script {_names(set(self.parts))}; a run goes on with the "
                "parts it began with, or begins anew in another checkpoint directory"
            )
        for name, part in self.parts.items():
            _put_back(part, state[name])
        _restore_generators(state[_GENERATORS])
        if rank:
            _seed_apart(rank)
        return True


def _names(parts: set[str]) -> str:
    return ", ".join(sorted(parts)) or "no parts"


def _has_state(part: Any) -> bool:
    return callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))


def _is_generator(part: Any) -> bool:
    return _is_numpy_generator(part) or _is_torch_generator(part)


def _is_numpy_generator(part: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(part, numpy.random.Generator)


def _is_torch_generator(part: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(part, torch.Generator)


def _state_of(part: Any) -> Any:
    if _is_numpy_generator(part):
        return dict(part.bit_generator.state)
    return part.get_state() if _is_torch_generator(part) else part.state_dict()


def _put_back(part: Any, state: Any) -> None:
    if _is_numpy_generator(part):
        part.bit_generator.state = state
    elif _is_torch_generator(part):
        part.set_state(state)
    else:
        part.load_state_dict(state)


def _global_generators() -> dict[str, Any]:
    # numpy and torch are asked only if the program has imported them: it has drawn nothing of theirs otherwise
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    found: dict[str, Any] = {"python": random.getstate()}
    if numpy is not None:
        found["numpy"] = numpy.random.get_state(legacy=False)
    if torch is not None:
        found["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def _restore_generators(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    if "numpy" in state:
        import numpy as np

        np.random.set_state(state["numpy"])
    if "torch" in state:
        import torch

        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            # the node that goes on may have fewer GPUs, or more
            for device, one in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
                torch.cuda.set_rng_state(one, device)


def _seed_apart(rank: int) -> None:
    """Seed the global generators from what rank 0 would draw next, and the rank."""
    seed = (random.getrandbits(62) ^ (rank * 0x9E3779B97F4A7C15)) & (2**62 - 1)
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed & (2**32 - 1))
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)  # on GPUs too
