"""The edge to NVML: opening it, asking it, and believing only answers that can be true."""

from __future__ import annotations

import math
from typing import Any

from eco_ray.errors import NotFoundError
from eco_ray.power._counter import MAX_PLAUSIBLE_W

#: nvml.h: NVML_FI_DEV_POWER_AVERAGE (over 1 s, which integrates better) and NVML_FI_DEV_POWER_INSTANT, both in mW
_POWER_FIELDS = (185, 186)


def load(nvml: Any = None) -> Any:
    """NVML, opened (a `pynvml` module; imported when not given). Raises NotFoundError without driver."""
    if nvml is None:
        try:
            import pynvml  # of no use on most machines
        except ImportError as error:
            raise NotFoundError("pynvml is not installed: `pip install nvidia-ml-py`") from error
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NotFoundError(f"no NVIDIA driver ({error}): GPUs are not measured on this node") from error
    return nvml


def close(nvml: Any) -> None:
    """Release NVML; it counts how often it was opened."""
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        return


def ask(nvml: Any, function: str, *args: Any) -> Any:
    """The answer of a function; None where the driver refuses it, or where this pynvml no longer has it."""
    try:
        return getattr(nvml, function)(*args)
    except (nvml.NVMLError, AttributeError):
        return None


def number(value: Any) -> float | None:
    """A count or an amount as NVML gives it; None if it is no number, not finite or negative."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def is_error(nvml: Any, error: Exception, *names: str) -> bool:
    """Whether an NVMLError is one of these, e.g. `NVML_ERROR_NOT_FOUND`."""
    code = getattr(error, "value", None)
    return code is not None and code in [getattr(nvml, name, None) for name in names]


def uuid(nvml: Any, handle: Any, index: int) -> str:
    """UUID of a GPU, or `index-N` where it tells none."""
    text = ask(nvml, "nvmlDeviceGetUUID", handle)
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return text if isinstance(text, str) and text else f"index-{index}"


def power_w(nvml: Any, handle: Any) -> float | None:
    """Power of a GPU now [W]; None: it does not tell."""
    power_mw = number(ask(nvml, "nvmlDeviceGetPowerUsage", handle))
    if power_mw is None:
        power_mw = _power_field_mw(nvml, handle)
    return None if power_mw is None or power_mw > MAX_PLAUSIBLE_W * 1000 else power_mw / 1000


def _power_field_mw(nvml: Any, handle: Any) -> float | None:
    """Power by the newer interface, for GPUs that refuse the older one."""
    values = ask(nvml, "nvmlDeviceGetFieldValues", handle, list(_POWER_FIELDS))
    for value in values if values is not None else ():
        if value.nvmlReturn == 0:
            return number(value.value.uiVal)
    return None
