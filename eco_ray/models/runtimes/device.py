"""Where a model computes: on the CPU, or on a GPU, of whose memory this process may take a part."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from eco_ray.errors import DeviceFullError, EcoRayError, UsageError

CPU = torch.device("cpu")
P = ParamSpec("P")
R = TypeVar("R")


def open_device(name: str, memory_bytes: int | None = None) -> torch.device:
    """The device that torch calls `cpu`, `cuda` or `cuda:NUMBER`, with its number.

    `memory_bytes`: of a GPU's, that torch may take in this process from now on; None: all. The context of CUDA, some
    hundred MB, is beside it. Raises UsageError for another name, EcoRayError for a device that is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is none that models are served on; give cpu, cuda or cuda:NUMBER")
    if device.type == "cpu":
        return CPU
    if not torch.cuda.is_available():
        raise EcoRayError(
            f"device {name!r} is asked for, and torch {torch.__version__} finds no GPU; install a torch with CUDA and "
            "the driver, look at CUDA_VISIBLE_DEVICES, or compute on cpu"
        )
    # torch compares devices with their number, and bounds the memory of such ones only
    device = torch.device("cuda", device.index or 0)
    if device.index >= (count := torch.cuda.device_count()):
        raise EcoRayError(
            f"device {name!r} is asked for, and this process sees {count} GPUs; give cuda:0 to cuda:{count - 1}, or "
            "let CUDA_VISIBLE_DEVICES name more"
        )
    if memory_bytes is not None:
        has_bytes = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / has_bytes), device)
    return device


def described(device: torch.device) -> str:
    """For people: with the model of a GPU."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def gives_back(work: Callable[P, R]) -> Callable[P, R]:
    """The same, and DeviceFullError where the device has no memory left for it, which then has what was taken back."""

    @wraps(work)
    def done(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return work(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            short = " ".join(str(error).split())[:200]
        # only here nobody holds the tensors of the frames that failed
        torch.cuda.empty_cache()
        raise full(short)

    return done


def full(why: str) -> DeviceFullError:
    """That a device's memory does not do."""
    return DeviceFullError(f"{why}; ask for less at once, or deploy the model with more --gpu-memory")


def must_work() -> None:
    """Raise EcoRayError where an error has left the GPU of no use to this process: CUDA refuses all that follows."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no types for it
        try:
            torch.cuda.current_stream().query()
        except RuntimeError as error:
            short = " ".join(str(error).split())[:200]
            raise EcoRayError(f"the GPU is lost to this process: {short}; start another one") from None
