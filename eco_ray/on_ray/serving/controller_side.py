"""What the controller does for served models; `Controller` is one, as Ray calls an actor's own methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.consolidation import Guest
from eco_ray.core.events import Event, ServingNeeds
from eco_ray.core.orchestrator import Orchestrator
from eco_ray.core.replica_places import Room
from eco_ray.core.store_port import Store
from eco_ray.on_ray.brain import Brain
from eco_ray.on_ray.controller_config import ControllerConfig
from eco_ray.on_ray.model_accounts import ModelAccounts
from eco_ray.on_ray.serving.job_guests import rooms_and_jobs
from eco_ray.on_ray.serving.rooms import rooms_of


class ServingSide(ABC):
    """Answers the deployer, replicas, and those who place them."""

    config: ControllerConfig
    _store: Store
    _fleet: Any
    _brain: Brain
    _known: dict[str, Node]
    _models: ModelAccounts
    _core: Orchestrator

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
