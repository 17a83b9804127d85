"""What the controller does for served models; `Controller` is one, as Ray calls an actor's own methods."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.consolidation import Guest
from eco_ray.core.events import Event, ForeignUse, NodeDraining, NodeKept, ServingNeeds
from eco_ray.core.grants import held_by_others, total
from eco_ray.core.orchestrator import Orchestrator
from eco_ray.core.replica_places import Room
from eco_ray.core.store_port import Store
from eco_ray.on_ray.brain import Brain
from eco_ray.on_ray.controller_config import ControllerConfig
from eco_ray.on_ray.model_accounts import ModelAccounts
from eco_ray.on_ray.performer import Performer
from eco_ray.on_ray.serving.drain_record import TAKEN_S
from eco_ray.on_ray.serving.job_guests import came_since, rooms_and_jobs
from eco_ray.on_ray.serving.rooms import rooms_of

log = logging.getLogger("eco_ray.controller")

#: how often it is asked who holds GPUs [wall s]
_GPUS_S = 5.0
#: how long a node's Ray resources need to settle after one of our attempts came or went [wall s]
_SETTLE_S = 3.0


class ServingSide(ABC):
    """Answers the deployer, replicas, and those who place them."""

    config: ControllerConfig
    _store: Store
    _fleet: Any
    _brain: Brain
    _known: dict[str, Node]
    _models: ModelAccounts
    _performer: Performer
    _core: Orchestrator
    #: nodes that are closed and not drained, and since when [monotonic s]
    _undrained: Mapping[str, float] = MappingProxyType({})
    #: by node: the class of each actor with GPUs, and what Ray has given it
    _gpu_users: Mapping[str, Sequence[tuple[str, Resources]]] = MappingProxyType({})
    _gpus_due_s = 0.0

    @abstractmethod
    def now_s(self) -> float:
        """Grid time now [s since epoch]."""

    @abstractmethod
    def signal(self, zone: str) -> dict[str, Any] | None:
        """The intensity of a zone now."""

    @abstractmethod
    def _zones(self) -> Iterable[str]: ...

    @abstractmethod
    def _request(self, event: Event) -> None: ...

    @abstractmethod
    def _handle(self, *events: Event) -> None: ...

    def put_model(self, app: str, reference: str, demand: Resources | None = None) -> None:
        """Account the replicas of a Serve application to a model `name:version`, but for those that say what they run.

        `demand`: what Ray holds for each of them, for what they carry of their nodes; None: not known.
        """
        self._brain.ask(lambda: self._models.put(app, reference, demand))

    def serving_facts(self, node: str) -> dict[str, Any]:
        """What a replica on a node has to know."""
        return {"node": self._known[node], "clock": self.config.clock, "state_dir": str(self.config.state_dir)}

    def serving_rooms(self, model: str = "") -> list[Room]:
        """What each node has, holds and emits now, and those asleep would; room granted to `model` alone is free."""
        book, rooms = self._core.book, self._rooms(model)
        return [room for room in rooms if room.asleep or book.is_open(room.node.name)]

    def serving_needs(self, told: ServingNeeds | str) -> dict[str, Any]:
        """Take in what a served model needs of the nodes, or only its name; what it was granted, and why not more."""
        if isinstance(told, ServingNeeds):
            self._brain.ask(lambda: self._request(told))
        model = told.model if isinstance(told, ServingNeeds) else told
        return self._brain.ask(lambda: self._core.needs.facts(model, self.now_s()))

    def emptying(self, horizon_s: float) -> tuple[list[Room], list[Guest], frozenset[str]]:
        """All nodes with the mean intensity of so many wall seconds ahead, attempts on them, and where some will be."""
        rooms, now_s, speed = self._rooms(), self.now_s(), self.config.clock.speed
        return self._brain.ask(lambda: rooms_and_jobs(self._core.book, rooms, horizon_s, now_s, speed))

    def close_node(self, node: str, guests: Collection[str]) -> str:
        """Let nothing new begin on a node that is to be emptied; why not, where it was not decided on what is there.

        Between a look and Ray's drain jobs are launched. One after the other here, so that none is in between.
        """

        def close() -> str:
            came = came_since(self._core.book, node, guests)
            if not came:
                self._request(NodeDraining(node))
            return came

        return self._brain.ask(close)

    def _drained(self, draining: Collection[str]) -> None:
        """Take in which nodes Ray drains. One that was closed for that, and is not drained after all, is open again."""
        for name in draining:
            self._handle(NodeDraining(name))
        now_s = time.monotonic()
        self._undrained = {
            name: self._undrained.get(name, now_s) for name in self._core.book.closed if name not in draining
        }
        for name, since_s in self._undrained.items():
            if now_s - since_s > TAKEN_S:
                self._handle(NodeKept(name))

    def _look_at_gpus(self, nodes: Mapping[str, Node], held: Mapping[str, Resources]) -> None:
        """See who holds which parts of GPUs, now and then, where anybody does."""
        now_s = time.monotonic()
        if now_s < self._gpus_due_s:
            return
        self._gpus_due_s = now_s + _GPUS_S
        try:
            self._gpu_users = self._fleet.gpu_users(nodes) if any(one.gpus for one in held.values()) else {}
        except Exception as error:  # Ray's state API may be away: what is held of GPUs counts as one holder's then
            log.warning("who holds GPUs is not known now: %s", error)
            self._gpu_users = {}

    def _used(self, held: Mapping[str, Resources]) -> None:
        """Take in what Ray has given away of each node: what of it is not our attempts' is others'."""
        book = self._core.book
        for name, given in held.items():
            if time.monotonic() - self._performer.changed_on.get(name, 0.0) > _SETTLE_S and name in book.nodes:
                ours = total(job.spec.demand * attempt.workers for job, attempt in book.live() if attempt.node == name)
                each = map(self._models.declared, self._gpu_users.get(name, ()))
                self._handle(ForeignUse(name, held_by_others(given, ours, each, book.nodes[name].capacity)))

    def let_go(self, node: str) -> None:
        """End the agent of a drained node that is empty: the last that keeps Ray there."""
        there = self._core.book.nodes.get(node)
        if there is not None and not self._core.book.is_open(node):
            self._fleet.end_agent(there)

    def _rooms(self, model: str = "") -> list[Room]:
        there = dict(self._core.book.nodes)
        held, asleep = self._fleet.held(there), self._fleet.asleep(there)
        known = {zone: (self.signal(zone) or {}).get("intensity_g_per_kwh") for zone in self._zones()}
        return self._brain.ask(lambda: rooms_of(self._core.book, held, known.get, model, asleep))

    def note_served(self, facts: Mapping[str, Any]) -> None:
        """Keep what is known of a served model (name, version, requests, correct) for the report."""
        self._brain.ask(lambda: self._store.put_meta("model", dict(facts)))
