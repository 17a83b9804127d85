"""What was decided on the replicas of a deployment, with all that it was decided from: replayed, it is decided again.

A record needs no other one: it has what was seen, what was remembered, and what had been asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from eco_ray.core.replica_counts import ColdStart, ReplicaDecision, ReplicaLoad, Scaling, ScalingState, next_replicas

#: fields that are minus infinity until there was a change, which JSON does not know
_NEVER = ("risen_s", "changed_s")


@dataclass(frozen=True, slots=True)
class ScalingRecord:
    """One decision."""

    #: application of Ray Serve
    app: str
    load: ReplicaLoad
    state: ScalingState | None
    scaling: Scaling
    decision: ReplicaDecision

    @property
    def about(self) -> str:
        """What it is about."""
        return self.app

    def again(self) -> ReplicaDecision:
        """What would be decided from the same now."""
        return next_replicas(self.load, self.state, self.scaling)[0]

    def to_json(self) -> dict[str, Any]:
        """As it is kept: floats to the last bit."""
        return {
            "app": self.app,
            "load": asdict(self.load),
            "state": state_to_json(self.state),
            "scaling": asdict(self.scaling),
            "decision": asdict(self.decision),
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> ScalingRecord:
        """What `to_json` gave. Raises KeyError and TypeError."""
        cold = told["scaling"]["cold"]
        scaling = Scaling(**{**told["scaling"], "cold": cold and ColdStart(**cold)})
        load, decision = ReplicaLoad(**told["load"]), ReplicaDecision(**told["decision"])
        return cls(told["app"], load, state_from_json(told["state"]), scaling, decision)


def replay(records: Iterable[ScalingRecord]) -> list[ReplicaDecision]:
    """What would be decided from the same now."""
    return [one.again() for one in records]


def state_to_json(state: ScalingState | None) -> dict[str, Any] | None:
    """As JSON can keep it."""
    if state is None:
        return None
    kept = asdict(state)
    return {**kept, **{key: None for key in _NEVER if kept[key] == -math.inf}}


def state_from_json(told: Mapping[str, Any] | None) -> ScalingState | None:
    """What `state_to_json` gave. Raises TypeError."""
    if told is None:
        return None
    return ScalingState(**{**told, **{key: -math.inf for key in _NEVER if told.get(key) is None}})
