"""Cluster files: which nodes there are, in which grid zones, at what power, and by which clock and signal.

`cluster/laptop.yaml` is an example with comments; `cluster/README.md` lists the keys. A file of Ray's cluster launcher
(`cluster/aws.yaml`) is one too (`launcher_file`). Paths in a cluster file are relative to its own folder. `planner`,
`serve`, `pause_timeout` and `sample_period` default to the settings (`eco_ray.config`), and an option or an ECO_RAY_*
variable for one of them wins over the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from eco_ray import schema
from eco_ray.config import PauseTimeout, SamplePeriod, Settings, Slot, load_settings, origin
from eco_ray.embodied_file import EmbodiedFile, MarketFile
from eco_ray.errors import UsageError
from eco_ray.grid_file import Grid
from eco_ray.launcher_file import as_cluster_file, is_launcher_file
from eco_ray.schema import Amount, Label, Name, PositiveDuration, Strict, Whole
from eco_ray.times import compact_duration, parse_instant
from eco_ray.yaml_file import load_yaml

if TYPE_CHECKING:
    from eco_ray.core.clock import Clock
    from eco_ray.core.cluster import Node
    from eco_ray.core.power import PowerCurve

#: from a zone to another and back [ms]
RoundTrip = Annotated[Amount, Field(ge=0, le=10_000)]
#: most steps that the planner may look ahead
MAX_SLOTS = 10_000


def _start(value: Any) -> float | None:
    if isinstance(value, str) and value.strip().lower() == "now":
        return None
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not an instant; write 2026-11-22T08:00Z or now")
    try:
        return parse_instant(value)
    except UsageError as error:
        raise ValueError(f"{error}, or now") from None


class Power(Strict):
    """How many watts a node draws: exactly one of four forms."""

    #: watts without load and at full load, a straight line between them
    idle_w: Amount | None = Field(default=None, ge=0, le=100_000)
    max_w: Amount | None = Field(default=None, ge=0, le=100_000)
    #: points [CPU utilisation in 0..1, watts], with straight lines between them
    curve: list[tuple[Amount, Amount]] | None = Field(default=None, max_length=1_000)
    #: where idle_w and max_w, or curve, come from
    source: str | None = Field(default=None, min_length=1, max_length=500)
    #: CPU family of the cited table (`power/modelled.py`)
    cpu: str | None = None
    vcpus: Amount | None = Field(default=None, gt=0, le=100_000)
    #: memory that draws power, with cpu or tdp_w
    memory_gb: Amount | None = Field(default=None, ge=0, le=1_000_000)
    #: thermal design power of the CPUs
    tdp_w: Amount | None = Field(default=None, gt=0, le=100_000)

    @model_validator(mode="after")
    def _one_form(self) -> Power:
        given = [key for key in Power.model_fields if getattr(self, key) is not None]
        form = next((form for form in _FORMS if form in given), None)
        if form is None:
            raise ValueError(f"{', '.join(given) or 'no key'} is no power profile; give {_FORMS_TEXT}")
        needed, optional = _FORMS[form]
        missing = [key for key in needed if key not in given]
        extra = [key for key in given if key not in needed + optional]
        if extra:
            raise ValueError(f"{', '.join(extra)} does not go with {form}; give {_FORMS_TEXT}")
        if missing:
            why = " (where the figures come from, for example 'wall meter')" if "source" in missing else ""
            raise ValueError(f"{form} also needs {', '.join(missing)}{why}")
        try:
            self.to_curve()
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    def to_curve(self) -> PowerCurve:
        """The power curve of this form."""
        from eco_ray.core.power import PowerCurve
        from eco_ray.core.units import Nature

        if self.curve is not None:
            points = self.curve
        elif self.idle_w is not None and self.max_w is not None:
            points = [(0.0, self.idle_w), (1.0, self.max_w)]
        else:
            # numpy and the tables are loaded only where they are used
            from eco_ray.power.modelled import curve_from_cpu, curve_from_tdp

            if self.cpu is not None:
                return curve_from_cpu(self.cpu, self.vcpus or 0.0, self.memory_gb or 0.0)
            return curve_from_tdp(self.tdp_w or 0.0, self.memory_gb or 0.0)
        return PowerCurve(
            tuple(utilisation for utilisation, _ in points),
            tuple(watts for _, watts in points),
            source=self.source or "",
            nature=Nature.MODELLED,
        )


#: the key that decides the form: what it needs, what it may have
_FORMS: dict[str, tuple[list[str], list[str]]] = {
    "cpu": (["cpu", "vcpus", "memory_gb"], []),
    "tdp_w": (["tdp_w"], ["memory_gb"]),
    "curve": (["curve", "source"], []),
    "idle_w": (["idle_w", "max_w", "source"], []),
    "max_w": (["idle_w", "max_w", "source"], []),
}
_FORMS_TEXT = "one of {cpu, vcpus, memory_gb}, {tdp_w}, {idle_w, max_w, source}, {curve: [[0, 30], [1, 120]], source}"


class GpuPower(Strict):
    """How many watts one GPU draws."""

    #: without work, and with a job on it
    idle_w: Amount = Field(ge=0, le=100_000)
    busy_w: Amount = Field(ge=0, le=100_000)
    #: where the figures come from
    source: str = Field(min_length=1, max_length=500)

    @model_validator(mode="after")
    def _rises(self) -> GpuPower:
        if self.busy_w < self.idle_w:
            raise ValueError(f"busy_w {self.busy_w:g} is below idle_w {self.idle_w:g}; exchange or correct them")
        return self


class NodeFile(Strict):
    """One worker node."""

    name: Name
    zone: Label
    #: whole numbers, as Ray counts a node's CPUs and GPUs
    num_cpus: Whole = Field(ge=1, le=100_000)
    num_gpus: Whole = Field(default=0, ge=0, le=10_000)
    memory_gb: Amount = Field(gt=0, le=1_000_000)
    #: of all its GPUs together
    gpu_memory_gb: Amount = Field(default=0.0, ge=0, le=1_000_000)
    #: facility energy / IT energy
    pue: Amount = Field(default=1.0, ge=1, le=10)
    #: of all but its GPUs
    power: Power
    #: of each GPU; None: not counted
    gpu_power: GpuPower | None = None
    #: it is switched off while nobody uses it, and draws nothing then
    sleeps: bool = False
    #: energy that switching it on takes [Wh]
    wake_wh: Amount = Field(default=0.0, ge=0, le=1_000_000)
    #: making its machine; None: unknown
    embodied: EmbodiedFile | None = None
    #: it stands for all nodes of Ray's node group of this name, which an autoscaler starts; else for one node
    group: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> NodeFile:
        for key in ("gpu_memory_gb", "gpu_power"):
            if getattr(self, key) and not self.num_gpus:
                raise ValueError(f"{key} has no effect with num_gpus 0; give num_gpus, or remove {key}")
        if self.wake_wh and not self.sleeps:
            raise ValueError(
                f"wake_wh {self.wake_wh:g} has no effect with sleeps false; set sleeps: true, or remove wake_wh"
            )
        return self

    def to_node(self) -> Node:
        """The node with its power curve."""
        from eco_ray.core.cluster import Node, Resources
        from eco_ray.core.units import J_PER_KWH

        gpu = self.gpu_power
        return Node(
            self.name,
            self.zone,
            Resources(float(self.num_cpus), float(self.num_gpus), self.memory_gb, self.gpu_memory_gb),
            self.power.to_curve(),
            self.pue,
            gpu_idle_w=gpu.idle_w if gpu else 0.0,
            gpu_busy_w=gpu.busy_w if gpu else 0.0,
            gpu_source=gpu.source if gpu else "",
            sleeps=self.sleeps,
            wake_j=self.wake_wh / 1000 * J_PER_KWH,
            embodied=self.embodied.to_embodied() if self.embodied else None,
        )


class Head(Strict):
    """The head node: Ray's own processes and our controller."""

    num_cpus: Whole = Field(default=0, ge=0, le=100_000)
    #: its own zone; default: the home zone
    zone: Label | None = None
    pue: Amount = Field(default=1.0, ge=1, le=10)
    #: None: the head's energy is not counted
    power: Power | None = None
    #: making its machine; None: unknown
    embodied: EmbodiedFile | None = None


class ClockFile(Strict):
    """How fast grid time runs, and when it starts."""

    #: grid seconds per wall second
    speed: Amount = Field(default=1.0, gt=0, le=100_000)
    #: grid time at the start [s since epoch]; None: now
    start_s: Annotated[float | None, BeforeValidator(_start)] = Field(default=None, alias="start")

    def to_clock(self, wall_now_s: float, speed: float | None = None) -> Clock:
        """The clock of a cluster that starts at `wall_now_s`; `speed` is an option that wins over the file."""
        from eco_ray.core.clock import Clock

        return Clock(speed or self.speed, wall_now_s, wall_now_s if self.start_s is None else self.start_s)


class Planner(Strict):
    """How finely and how far the planner looks, in grid time."""

    slot_s: Slot = Field(alias="slot")
    horizon_s: PositiveDuration = Field(alias="horizon")
    default_max_delay_s: PositiveDuration = Field(alias="default_max_delay")

    @model_validator(mode="after")
    def _sensible(self) -> Planner:
        slots = self.horizon_s / self.slot_s
        if not 1 <= slots <= MAX_SLOTS:
            raise ValueError(
                f"horizon {compact_duration(self.horizon_s)} holds {slots:g} slots of {compact_duration(self.slot_s)}, "
                f"outside 1 to {MAX_SLOTS}; change slot or horizon"
            )
        return self


class Serve(Strict):
    """HTTP of served models."""

    port: Whole = Field(ge=1, le=65_535)


class ClusterFile(Strict):
    """A cluster as its owner described it, checked."""

    name: Name
    #: zone of the run-now counterfactual
    home_zone: Label
    head: Head = Head()
    nodes: list[NodeFile] = Field(min_length=1, max_length=1_000)
    grid: Grid = Field(default_factory=Grid)
    #: of zones whose electricity was bought by contract: for the market-based figure beside the location-based one
    market_g_per_kwh: dict[Label, MarketFile] = Field(default_factory=dict)
    #: from zone to zone and back, each pair once or twice alike [ms]; a pair that is left out is unknown
    rtt_ms: dict[Label, dict[Label, RoundTrip]] = Field(default_factory=dict)
    clock: ClockFile = ClockFile()
    planner: Planner
    serve: Serve
    #: how long an attempt may take to write its checkpoint and leave [s of wall time]
    pause_timeout_s: PauseTimeout = Field(alias="pause_timeout")
    #: how often node agents read power [s of wall time]
    sample_period_s: SamplePeriod = Field(alias="sample_period")

    @model_validator(mode="after")
    def _consistent(self) -> ClusterFile:
        names = [node.name for node in self.nodes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"nodes: the name {twice[0]!r} is there {names.count(twice[0])} times; give each node its own"
            )
        if self.home_zone not in self.zones:
            raise ValueError(
                f"home_zone {self.home_zone!r} has no node; it must be one of the nodes' zones: {', '.join(self.zones)}"
            )
        try:
            self.grid.check_clock(self.clock.speed, starts_now=self.clock.start_s is None)
        except UsageError as error:
            raise ValueError(str(error)) from None
        known = {*self.zones, self.head.zone}
        for zone in self.market_g_per_kwh:
            if zone not in known:
                raise ValueError(f"market_g_per_kwh: no node is in {zone!r}; the zones are {', '.join(self.zones)}")
        self._check_ways()
        return self

    def _check_ways(self) -> None:
        known = {*self.zones, *([self.head.zone] if self.head.zone else [])}
        for one, told in self.rtt_ms.items():
            for other, way_ms in told.items():
                if missing := {one, other} - known:
                    raise ValueError(f"rtt_ms: no node is in {min(missing)!r}; the zones are {', '.join(self.zones)}")
                back_ms = self.rtt_ms.get(other, {}).get(one, way_ms)
                if back_ms != way_ms:
                    raise ValueError(
                        f"rtt_ms: {one} to {other} is {way_ms:g} and {other} to {one} {back_ms:g}; it is there and "
                        "back, the same both ways: give it once"
                    )

    def to_ways(self) -> dict[str, dict[str, float]]:
        """Round-trip times [ms] that the file tells, both ways."""
        ways: dict[str, dict[str, float]] = {}
        for one, told in self.rtt_ms.items():
            for other, way_ms in told.items():
                ways.setdefault(one, {})[other] = ways.setdefault(other, {})[one] = way_ms
        return ways

    @property
    def zones(self) -> tuple[str, ...]:
        """Zones of the nodes, each once, in the order of the file."""
        return tuple(dict.fromkeys(node.zone for node in self.nodes))

    def to_head(self) -> Node | None:
        """The head as a metered node, or None where the file gives it no power. Raises UsageError."""
        from eco_ray.core.cluster import Node, Resources

        head = self.head
        if head.power is None:
            return None
        capacity = Resources(float(head.num_cpus))
        embodied = head.embodied.to_embodied() if head.embodied else None
        zone = head.zone or self.home_zone
        return Node("head", zone, capacity, head.power.to_curve(), head.pue, embodied=embodied)

    def to_nodes(self) -> list[Node]:
        """The nodes with their power curves, without groups."""
        return [node.to_node() for node in self.nodes if not node.group]

    def to_groups(self) -> dict[str, Node]:
        """What each node of a group is like, by the name of the group."""
        return {node.name: node.to_node() for node in self.nodes if node.group}


def load_cluster_file(path: str | Path, settings: Settings | None = None) -> ClusterFile:
    """Read and check a cluster file; what it leaves out comes from the settings. Raises UsageError."""
    path = Path(path)
    document = load_yaml(path, "cluster file")
    data: dict[str, Any] = dict(document.value)
    line_of: Callable[[schema.Path], int | None] = document.line_of
    if is_launcher_file(data):
        data, line_of = as_cluster_file(document)
    labels = _fill(data, settings or load_settings())
    cluster = schema.check(ClusterFile, data, document.where, line_of, labels)
    return cluster.model_copy(update={"grid": cluster.grid.resolved(path, document)})


#: setting: key of the cluster file
_FROM_SETTINGS: dict[str, tuple[str, ...]] = {
    "slot": ("planner", "slot"),
    "horizon": ("planner", "horizon"),
    "default_max_delay": ("planner", "default_max_delay"),
    "serve_port": ("serve", "port"),
    "pause_timeout": ("pause_timeout",),
    "sample_period": ("sample_period",),
}


def _fill(data: dict[str, Any], settings: Settings) -> dict[schema.Path, str]:
    origins = origin(settings)
    labels: dict[schema.Path, str] = {}
    for key, path in _FROM_SETTINGS.items():
        place = data
        for part in path[:-1]:
            inner = place.get(part)
            if inner is not None and not isinstance(inner, dict):
                break  # the file has something else here, which the check refuses
            place[part] = place = dict(inner or {})
        else:
            explicit = origins[key].startswith(("flag", "env "))
            if explicit or path[-1] not in place:
                value = getattr(settings, key) if key == "serve_port" else getattr(settings, f"{key}_s")
                place[path[-1]] = value if key == "serve_port" else compact_duration(value)
                labels[path] = f"{key} (from {origins[key]})"
    return labels
