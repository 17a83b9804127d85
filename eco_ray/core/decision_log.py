"""What was decided on nodes, traffic and variants, with all that it was decided from: replayed, it is decided again.

A record needs no other one, as in `core/scaling_log.py`, whose records are replayed here beside the others. As JSON:
{"kind": "drain", ...}, the fields as `core/plain.py` has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eco_ray.core.consolidation import Consolidation, Drain, DrainState, Hosts, next_step
from eco_ray.core.plain import from_plain, plain
from eco_ray.core.scaling_log import ScalingRecord
from eco_ray.core.serving import TrafficConfig, TrafficState
from eco_ray.core.variants import Mix, Mixing, MixState, Variant, next_mix
from eco_ray.core.zone_routes import Routes
from eco_ray.core.zone_traffic import ModelNow, ZonePlan, plan_zones
from eco_ray.errors import EcoRayError


@dataclass(frozen=True, slots=True)
class DrainRecord:
    """Whether a node goes, and which."""

    hosts: Hosts
    #: nodes with nothing on them, and since when
    empty_since_s: Mapping[str, float]
    state: DrainState | None
    config: Consolidation
    decision: Drain

    @property
    def about(self) -> str:
        """What it is about."""
        return "nodes"

    def again(self) -> Drain:
        """What would be decided from the same now."""
        return next_step(self.hosts, self.empty_since_s, self.state, self.config)[0]


@dataclass(frozen=True, slots=True)
class TrafficRecord:
    """Which zone answers which requests of a model."""

    model: str
    now: ModelNow
    ways: Mapping[str, Mapping[str, float]]
    #: routes that held
    before: Routes | None
    state: TrafficState | None
    config: TrafficConfig
    decision: ZonePlan

    @property
    def about(self) -> str:
        """What it is about."""
        return self.model

    def again(self) -> ZonePlan:
        """What would be decided from the same now."""
        return plan_zones(self.now, self.ways, self.before, self.state, self.config)[0]


@dataclass(frozen=True, slots=True)
class MixRecord:
    """Which part of a model's requests its smaller variant answers."""

    model: str
    #: grid time [s since epoch]
    now_s: float
    intensity_g_per_kwh: float | None
    large: Variant
    small: Variant
    mixing: Mixing
    state: MixState | None
    pue: float
    decision: Mix

    @property
    def about(self) -> str:
        """What it is about."""
        return self.model

    def again(self) -> Mix:
        """What would be decided from the same now."""
        grid = self.now_s, self.intensity_g_per_kwh
        return next_mix(*grid, self.large, self.small, self.mixing, self.state, self.pue)[0]


Record = DrainRecord | TrafficRecord | MixRecord
_KINDS: Mapping[str, type[Record]] = {"drain": DrainRecord, "traffic": TrafficRecord, "mix": MixRecord}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Difference:
    """A decision that was another one when it was made."""

    kind: str
    #: model, or what else it is about
    about: str
    decided: object
    again: object


def record_to_json(record: Record) -> dict[str, Any]:
    """As it is kept."""
    return {"kind": _NAMES[type(record)], **plain(record)}


def record_from_json(told: Mapping[str, Any]) -> Record:
    """What `record_to_json` gave. Raises EcoRayError."""
    kind = str(told.get("kind"))
    if kind not in _KINDS:
        raise EcoRayError(f"a record of kind {kind!r:.40} is not known: known are {', '.join(_KINDS)}; upgrade eco-ray")
    return from_plain(_KINDS[kind], dict(told), f"{kind} record")


def kind_of(record: Record | ScalingRecord) -> str:
    """What was decided: drain, traffic, mix or scaling."""
    return "scaling" if isinstance(record, ScalingRecord) else _NAMES[type(record)]


def differences(records: Iterable[Record | ScalingRecord]) -> list[Difference]:
    """Of these decisions, those that are made otherwise now."""
    found = []
    for one in records:
        again = one.again()
        if again != one.decision:
            found.append(Difference(kind_of(one), one.about, one.decision, again))
    return found
