"""The processes of a distributed training: rank 0 writes, and all leave after the same step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from eco_ray.errors import UsageError


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of the processes of a training this one is."""

    rank: int = 0
    #: may be another number at the next attempt
    world_size: int = 1
    #: makes of what each rank wants what all do, the same on all; None: `any_rank`, in a group of torch.distributed
    agree: Callable[[bool], bool] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"rank {self.rank} of a world of {self.world_size} is not from 0 to {self.world_size - 1}; "
                "correct what `session.open` is given"
            )

    @property
    def writes(self) -> bool:
        """Whether this process reports progress and writes checkpoints."""
        return self.rank == 0

    def decide(self, wanted: bool) -> bool:
        """Whether all do what some want; called by all ranks at the same step."""
        if self.world_size == 1:
            return wanted
        if self.agree is not None:
            return self.agree(wanted)
        return any_rank(wanted)


def refuse_if_other_rank(environ: Mapping[str, str]) -> None:
    """Raise UsageError in another rank than 0, as torchrun and Ray Train name them: two would write the same files."""
    rank, world_size = environ.get("RANK", "0"), environ.get("WORLD_SIZE", "1")
    if rank not in ("", "0") and world_size not in ("", "1"):
        raise UsageError(
            f"this process is rank {rank} of {world_size} (RANK, WORLD_SIZE), and each would write the same files; "
            "open the session in rank 0 alone, or give each rank `session.open(rank=..., world_size=...)`"
        )


def any_rank(wanted: bool) -> bool:
    """Whether any rank of torch.distributed's group wants it; without a group, whether this process does.

    A maximum over all ranks (all-reduce of one byte), so that a node which is about to be taken away asks for all.
    """
    torch = sys.modules.get("torch")
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return wanted
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor([wanted], dtype=torch.uint8, device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
