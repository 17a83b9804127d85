"""Decides, for the deployer, which part of the requests smaller variants answer, and tells it to replicas that ask.

Replicas tell at the same time what their requests took. What is decided and known is in the store, so that a deployer
that is started again goes on with it: the mix does not change because of that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from eco_ray.core.decision_log import MixRecord
from eco_ray.core.deployments import Deployment
from eco_ray.core.replica_places import Room
from eco_ray.core.store_port import Store
from eco_ray.core.units import Nature
from eco_ray.core.variant_pair import Pair, Spent, VersionFacts, check_pair, intensity_and_pue, joined
from eco_ray.core.variants import Mixing, MixState, next_mix
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.on_ray.serving.decision_file import NOT_KEPT, DecisionFile

log = logging.getLogger("eco_ray.serving")

#: how often it is decided anew [wall s]
_LOOK_S = 10.0
_MIXES, _SPENT = "variant_mixes", "variant_spent"


class Report(NamedTuple):
    """What a replica tells when it asks for the mix: of requests since it told last."""

    model: str
    version: int
    #: the variant that it sends requests to; None: it is the variant's own replica
    variant: int | None
    spent: Spent
    #: of sending requests on, which belongs to what a request to the variant takes
    hops: Spent


@dataclass(frozen=True)
class Decided:
    """What was decided of a deployment last."""

    version: int
    variant: int
    mixing: Mixing
    share: float
    why: str
    state: MixState | None = None
    #: of the mix; None: not known
    accuracy: float | None = None
    #: against the large one alone; None: joules or intensity are not known
    saved_g_per_request: float | None = None
    #: None: not known
    pair: Pair | None = None

    def is_of(self, one: Deployment) -> bool:
        """Whether it was decided of this."""
        return (self.version, self.variant, self.mixing) == (one.version, one.variant, one.mixing)

    def to_json(self) -> dict[str, Any]:
        """What a deployer that is started again goes on with."""
        state = asdict(self.state) if self.state else None
        of = {"version": self.version, "variant": self.variant, "mixing": asdict(self.mixing)}
        return {**of, "share": self.share, "why": self.why, "state": state}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Decided:
        """What `to_json` gave."""
        state = MixState(**told["state"]) if told["state"] else None
        return cls(told["version"], told["variant"], Mixing(**told["mixing"]), told["share"], told["why"], state)


class Mixer:
    """The mixes of all deployments with a variant. Threads may share it."""

    def __init__(
        self,
        store: Store,
        deployments: Callable[[], Sequence[Deployment]],
        facts: Callable[[Deployment, int], VersionFacts],
        rooms: Callable[[], Sequence[Room]],
        now_s: Callable[[], float],
        decisions: DecisionFile = NOT_KEPT,
    ) -> None:
        """`facts`: of a version of a deployment. `now_s`: grid time. `decisions`: their log."""
        self._decisions = decisions
        self._store, self._deployments, self._facts, self._rooms, self._now_s = store, deployments, facts, rooms, now_s
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._stopped = threading.Event()
        told = store.get_meta(_MIXES) or {}
        self._decided = {model: Decided.from_json(one) for model, one in told.items()}
        #: by name:VERSION, and of hops by name alone
        self._spent = {
            name: Spent(requests, energy_j, Nature(nature))
            for name, (requests, energy_j, nature) in (store.get_meta(_SPENT) or {}).items()
        }

    def check(self, wanted: Deployment) -> None:
        """Whether the variant of a deployment may answer for it. Raises EcoRayError."""
        if wanted.variant is None or wanted.mixing is None:
            return
        if wanted.variant == wanted.version:
            raise UsageError(f"{wanted.reference(wanted.version)} is served already; a variant is another version")
        check_pair(self._facts(wanted, wanted.version), self._facts(wanted, wanted.variant), wanted.mixing)

    def share(self, report: Report) -> float:
        """The part of the requests that goes to the variant of a replica that reports; 0 where that is not decided."""
        with self._lock:
            for name, spent in ((f"{report.model}:{report.version}", report.spent), (report.model, report.hops)):
                if spent.is_sound:
                    self._spent[name] = self._spent.get(name, Spent()).plus(spent)
            decided = self._decided.get(report.model)
        if decided is None or (decided.version, decided.variant) != (report.version, report.variant):
            return 0.0
        return decided.share

    def look(self) -> None:
        """Decide of all of them anew."""
        with self._looking:
            mixed = [one for one in self._deployments() if one.variant is not None]
            rooms = self._rooms_or_none() if mixed else []
            found = {one.model: self._decide(one, rooms) for one in mixed}
            with self._lock:
                changed = found != self._decided
                self._decided = found
                kept = {name for one in mixed for name in (one.model, *map(one.reference, one.versions))}
                self._spent = {name: spent for name, spent in self._spent.items() if name in kept}
                spent = {name: (one.requests, one.energy_j, one.nature) for name, one in self._spent.items()}
            if changed or mixed:
                self._store.put_meta(_MIXES, {model: one.to_json() for model, one in found.items()})
                self._store.put_meta(_SPENT, spent)

    def follow(self) -> None:
        """Look again and again, in the background."""

        def run() -> None:
            while True:
                try:
                    self.look()
                except Exception:  # whatever it was, the next look may go well
                    log.exception("mixes of variants could not be decided")
                if self._stopped.wait(_LOOK_S):
                    return

        threading.Thread(target=run, name="mixer", daemon=True).start()

    def row(self, one: Deployment) -> dict[str, Any] | None:
        """What is told of the variant of a deployment; None: it has none."""
        if one.variant is None or one.mixing is None:
            return None
        decided = self._decided.get(one.model)
        if decided is None or not decided.is_of(one):
            self.look()
            decided = self._decided.get(one.model)
        told = decided if decided is not None and decided.is_of(one) else None
        pair = told.pair if told else None
        known = pair is not None and pair.in_joules
        return {
            "version": one.variant,
            "allowed_percent": 100 * one.mixing.max_share,
            "accuracy_floor": one.mixing.accuracy_floor,
            "dirty_above_g_per_kwh": one.mixing.above_g_per_kwh,
            "percent": 100 * told.share if told else 0.0,
            "why": told.why if told else "not decided yet",
            "accuracy": told.accuracy if told else None,
            "saved_g_per_request": told.saved_g_per_request if told else None,
            "j_per_request": {
                "large": pair.large.j_per_request if pair and known else None,
                "small": pair.small.j_per_request if pair and known else None,
            },
            "nature": str(pair.nature) if pair else None,
            "source": pair.source if pair else None,
        }

    def _decide(self, one: Deployment, rooms: Sequence[Room]) -> Decided:
        assert one.variant is not None  # noqa: S101
        assert one.mixing is not None  # noqa: S101
        before = self._decided.get(one.model)
        state = before.state if before is not None and before.is_of(one) else None
        of = one.version, one.variant, one.mixing
        try:
            facts = self._facts(one, one.version), self._facts(one, one.variant)
            with self._lock:
                spent, hop = dict(self._spent), self._spent.get(one.model, Spent())
            pair = joined(*facts, one.mixing, spent, hop)
        except Exception as error:  # an alias may have moved to a version that it does not fit, or the registry is away
            if not isinstance(error, EcoRayError):
                log.exception("the variant of %s cannot be judged", one.model)
            return Decided(*of, 0.0, f"all to {one.reference(one.version)}: {error}", state)
        intensity, pue = intensity_and_pue(one, rooms)
        seen = self._now_s(), intensity, pair.large, pair.small, one.mixing, state, pue
        mix, state = next_mix(*seen)
        self._decisions.note(MixRecord(one.model, *seen, mix), mix.small_share)
        saved_g = mix.saved_g_per_request if pair.in_joules and intensity is not None else None
        return Decided(*of, mix.small_share, mix.why, state, mix.accuracy, saved_g, pair)

    def _rooms_or_none(self) -> Sequence[Room]:
        try:
            return self._rooms()
        except EcoRayError as error:
            log.warning("intensities are not known now: %s", error)
        except Exception:  # the controller may be restarting
            log.warning("intensities are not known now", exc_info=True)
        return []
