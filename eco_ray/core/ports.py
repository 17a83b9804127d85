"""What the rooms need of each other, as Protocols; adapters stand in their rooms and are wired in cli or on_ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.tensors import Tensor
from eco_ray.core.text import Message, Piece, Sampling
from eco_ray.core.units import Nature


class GridSource(Protocol):
    """Carbon intensity of one or more zones."""

    #: shown beside every number made from it
    name: str

    def zones(self) -> tuple[str, ...]:
        """The zones that it knows."""
        ...

    def actual(self, zone: str, start_s: float, end_s: float) -> IntensitySeries:
        """What was (or, for a model, is taken to have been) the intensity over [start_s, end_s].

        Raises NotFoundError for an unknown zone and EcoRayError for a span that is not covered.
        """
        ...

    def forecast(self, zone: str, now_s: float, end_s: float) -> IntensitySeries:
        """What can be known at `now_s` about [now_s, end_s]; may end earlier than asked, never reads the future."""
        ...


@dataclass(frozen=True, slots=True)
class SignalUse:
    """What answers for the intensity of a zone now, and why nothing better does."""

    zone: str
    #: how far down the ladder it comes from (`grid.answers.Rung`)
    rung: str
    #: in words, as in the series
    source: str
    kind: SignalKind | None = None
    nature: Nature | None = None
    #: since it was issued or published [s]; None: it is computed for every moment
    age_s: float | None = None
    #: what the sources before it answered; empty where the first choice did
    why: str = ""


@runtime_checkable
class LiveGridSource(GridSource, Protocol):
    """A source that learns from a network: `refresh` asks it, `actual` and `forecast` answer from what is known."""

    def refresh(self, zone: str, now_s: float, end_s: float) -> bool:
        """Ask for news of a zone up to `end_s`, where due, and wait; returns whether there is any. Never raises."""
        ...

    def use(self, zone: str, now_s: float) -> SignalUse:
        """What answers for a zone now."""
        ...


@dataclass(frozen=True, slots=True)
class CpuUse:
    """What the processes of a node did since the last reading."""

    #: CPU time used [s]
    cpu_s: float
    #: wall time passed [s]
    wall_s: float
    #: CPUs of the node
    cpus: float

    @property
    def utilisation(self) -> float:
        """Used share of the node's CPU time, in [0, 1]."""
        return min(1.0, max(0.0, self.cpu_s / (self.wall_s * self.cpus))) if self.wall_s * self.cpus > 0 else 0.0


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU since the last reading, in wall time."""

    #: UUID, or `index-N` where it has none
    gpu: str
    #: number of the device on its node, as in CUDA_VISIBLE_DEVICES
    index: int
    energy_mj: float
    #: what it would have used idle [mJ], <= energy_mj
    idle_mj: float
    #: by process id: SM utilisation x slice x time [s]; where the driver does not tell, equal parts of the time
    busy_s: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """Energy since the last reading, in wall time."""

    energy_mj: float
    #: what an idle node would have used [mJ], <= energy_mj
    idle_mj: float
    nature: Nature
    source: str
    error_rel: float
    flags: tuple[str, ...] = ()
    #: the GPUs whose energy is a part of `energy_mj`
    gpus: tuple[GpuReading, ...] = ()


class EnergyMeter(Protocol):
    """Energy of one node (or of one part of it) between two readings."""

    #: e.g. "rapl", "nvml", "modelled"
    name: str

    def read(self, use: CpuUse) -> Reading:
        """Energy since the previous call (the first call: over `use.wall_s`)."""
        ...


@dataclass(frozen=True, slots=True)
class WorkEnergy:
    """What one piece of work of this process used."""

    #: its share of the node's energy [J]
    energy_j: float
    #: CPU time of this process, and wall time [s]
    cpu_s: float
    wall_s: float
    nature: Nature
    #: the meter, and how the share was found
    source: str
    error_rel: float


class WorkMeter(Protocol):
    """Joules of a piece of work that this process does by itself."""

    def measure(self, work: Callable[[], object]) -> WorkEnergy:
        """Do the work, and say what it used. It should take a tenth of a second or more."""
        ...


class LapMeter(Protocol):
    """Joules of what this process does from one lap to the next."""

    def lap(self) -> WorkEnergy:
        """What was used since the last lap, or since the meter was opened. It should be a tenth of a second or more."""
        ...


@dataclass(frozen=True, slots=True)
class PowerDevice:
    """A device whose power can be limited, as it is now."""

    #: UUID, or `index-N` where it has none
    id: str
    #: position among the node's devices; may change at a reboot
    index: int
    #: model, e.g. "NVIDIA H200"
    name: str
    #: limit now, limit after a reboot, and what may be set [W]
    limit_w: float
    default_w: float
    min_w: float
    max_w: float
    #: lowest and highest core clock that can be locked [MHz]; None: clocks cannot be locked
    clocks_mhz: tuple[int, int] | None = None


class PowerControl(Protocol):
    """Power limits and clocks of the devices of one node; everything that was changed can be undone.

    As a context manager it first undoes what a crashed owner left, and on leaving what was changed inside.
    """

    #: e.g. "nvml"
    name: str

    def devices(self) -> Sequence[PowerDevice]:
        """The devices that can be limited, by index."""
        ...

    def set_limit(self, device: str, watts: float) -> None:
        """Limit a device's power [W]. Raises UsageError outside its range, NotAllowedError without privilege."""
        ...

    def lock_clocks(self, device: str, min_mhz: int, max_mhz: int) -> None:
        """Keep a device's core clock within a range [MHz]. Raises as `set_limit`."""
        ...

    def restore(self) -> Sequence[str]:
        """Give each device back what it had before the first change; ids of those that were given back."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Knob(Protocol):
    """What makes a training on this node slower and more frugal, such as a power limit or the number of threads.

    A context manager: on leaving, by an error too, everything is as it was before.
    """

    #: what it sets and in which unit, as the name of a metric: "power_limit_w", "threads"
    name: str
    #: what it works on: what was seen on another hardware says nothing about this one
    hardware: str

    def settings(self) -> Sequence[float]:
        """What it can be turned to, the fastest first."""
        ...

    def turn(self, setting: float) -> None:
        """Turn it. Raises EcoRayError where that is refused, NotAllowedError without privilege."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


#: by name
Arrays = Mapping[str, np.ndarray[Any, Any]]


class Runtime(Protocol):
    """A model that is loaded and answers; `service` puts it behind HTTP."""

    @property
    def name(self) -> str:
        """Letters, digits, `.`, `_`, `-`: it is a part of URLs."""
        ...

    @property
    def version(self) -> int:
        """Of the model."""
        ...

    @property
    def kind(self) -> str:
        """What it is for: a `Kind` of models/signature.py; empty: not known.

        An `embedding` model has the input `text` (BYTES, [-1]) and the outputs `embedding` (FP32, [-1, size]) and
        `tokens` (INT64, [-1]), so many as were computed. A `text-generation` model is a TextRuntime.
        """
        ...

    @property
    def platform(self) -> str:
        """What the model's description tells as its platform."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the description tells as parameters, of what is text, a number, true or false."""
        ...

    @property
    def inputs(self) -> Sequence[Tensor]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> Sequence[Tensor]:
        """What it gives."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether the same inputs have the same outputs, so that answers may be kept."""
        ...

    def infer(self, inputs: Arrays) -> Arrays:
        """The outputs, all of them; called by one thread at a time.

        Inputs have a datatype and shape that `inputs` names, and may be read-only. BF16 is its bits as uint16, BYTES an
        array of `bytes`. An output may be of a wider type than it is told to be: JSON shows it as it is, binary tensors
        have the datatype. Raises UsageError for values that the model does not take.
        """
        ...


class TextRuntime(Runtime, Protocol):
    """A language model."""

    @property
    def context_tokens(self) -> int:
        """Of prompt and answer together at most."""
        ...

    def chat(self, messages: Sequence[Message]) -> Sequence[int]:
        """The tokens of a conversation, up to where the model has to go on. Raises UsageError for unknown roles."""
        ...

    def tokens(self, text: str) -> Sequence[int]:
        """The tokens of a plain prompt."""
        ...

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        """Go on after a prompt; the last piece says why it ends. Closing the iterator ends the work.

        Called by one thread at a time. Raises UsageError where prompt and answer have no room in the context.
        """
        ...


@runtime_checkable
class Explains(Protocol):
    """A model that can say what in its inputs an answer comes from."""

    def explain(self, inputs: Arrays, target: int | None) -> Arrays:
        """How much each input value speaks for a class: an array for each input that was explained, of its shape.

        `target`: the class; None: the one that is answered, for each row. Called as `infer`, with the same errors.
        """
        ...
