"""The power limit and the clock of GPUs as one knob each, for a training that looks for the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from eco_ray.core.ports import Knob, PowerControl, PowerDevice
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.power.capping import open_control

#: between two power limits that are tried [W], as Zeus has it (arXiv:2208.06102, section 6.1)
STEP_W = 25.0
#: clocks that are tried
CLOCKS = 8


class GpuPowerLimit:
    """The same power limit for some GPUs, which the control gives back."""

    name = "power_limit_w"

    def __init__(self, control: PowerControl, gpus: Sequence[str], step_w: float = STEP_W) -> None:
        """`gpus`: UUIDs. Raises NotFoundError where one is not there, UsageError for a step that is none."""
        if not step_w > 0:
            raise UsageError(f"a step of {step_w} W between power limits is not above 0")
        self._control, self._step_w = control, step_w
        self._gpus = _found(control, gpus)
        self.hardware = _described(self._gpus)

    @property
    def max_power_w(self) -> float:
        """Highest limit that can be set, of all of them together [W]."""
        return sum(gpu.max_w for gpu in self._gpus)

    def settings(self) -> Sequence[float]:
        """From the highest limit that all of them take, in steps down to the lowest [W]."""
        high, low = min(gpu.max_w for gpu in self._gpus), max(gpu.min_w for gpu in self._gpus)
        if high < low:
            return ()
        count = int((high - low) / self._step_w + 1e-9)
        return [high - self._step_w * index for index in range(count + 1)]

    def turn(self, setting: float) -> None:
        """Limit all of them [W]."""
        for gpu in self._gpus:
            self._control.set_limit(gpu.id, setting)

    def __enter__(self) -> Self:
        self._control.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._control.__exit__(*error)


class GpuClock:
    """The same highest core clock for some GPUs: for work that a power limit does not slow down, such as decoding."""

    name = "clock_mhz"

    def __init__(self, control: PowerControl, gpus: Sequence[str], count: int = CLOCKS) -> None:
        """`gpus`: UUIDs; so many clocks are tried. Raises NotFoundError, and EcoRayError where clocks cannot be locked.

        Raises UsageError for less than two clocks.
        """
        if count < 2:
            raise UsageError(f"{count} clocks are nothing to choose from; try 2 or more")
        self._control, self._count = control, count
        self._gpus = _found(control, gpus)
        self.hardware = _described(self._gpus)
        ranges = [gpu.clocks_mhz for gpu in self._gpus]
        known = [each for each in ranges if each is not None]
        if len(known) < len(ranges):
            raise EcoRayError(f"the clocks of {self.hardware} cannot be locked: limit its power instead")
        self._low, self._high = max(low for low, _ in known), min(high for _, high in known)

    def settings(self) -> Sequence[float]:
        """Evenly from the highest clock down to the lowest [MHz]; the driver takes the nearest that there is."""
        if self._high < self._low:
            return ()
        step = (self._high - self._low) / (self._count - 1)
        return list(dict.fromkeys(float(round(self._high - step * index)) for index in range(self._count)))

    def turn(self, setting: float) -> None:
        """Let none of them run faster [MHz]."""
        for gpu in self._gpus:
            self._control.lock_clocks(gpu.id, self._low, int(setting))

    def __enter__(self) -> Self:
        self._control.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._control.__exit__(*error)


class NoKnob:
    """What stands where there is none: whoever turns it is told why."""

    name = "power_limit_w"
    hardware = "unknown"

    def __init__(self, why: EcoRayError) -> None:
        self._why = why

    def settings(self) -> Sequence[float]:
        """Raises what hinders it."""
        raise self._why

    def turn(self, setting: float) -> None:
        """Raises what hinders it."""
        raise self._why

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def open_gpu_knob(gpus: Sequence[str], *, clock: bool = False) -> Knob:
    """The power limit, or the clock, of some GPUs by their UUIDs; NoKnob where they have none."""
    try:
        control = open_control()
        return GpuClock(control, gpus) if clock else GpuPowerLimit(control, gpus)
    except EcoRayError as error:  # MIG, a driver without limits: no reason not to train
        return NoKnob(error)


def _found(control: PowerControl, gpus: Sequence[str]) -> list[PowerDevice]:
    there = {gpu.id: gpu for gpu in control.devices()}
    missing = [gpu for gpu in gpus if gpu not in there]
    if missing or not gpus:
        raise NotFoundError(
            f"no GPU {', '.join(missing) or 'was named'} whose power can be limited; this node has "
            f"{', '.join(there) or 'none'}: see `eco-ray power limits`"
        )
    return [there[gpu] for gpu in gpus]


def _described(gpus: Sequence[PowerDevice]) -> str:
    names = sorted(gpu.name for gpu in gpus)
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
