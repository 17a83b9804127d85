"""What is known of nodes and grid: which nodes are there and what they have promised, forecasts, usual durations."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.durations import Durations
from eco_ray.core.fleet import Fleet
from eco_ray.core.grants import Grant, Grants
from eco_ray.core.intensity import IntensitySeries, kind_of
from eco_ray.core.jobs import Attempt, Job, Plan
from eco_ray.core.late import is_overdue
from eco_ray.core.market import Cleared
from eco_ray.core.situation import Floats, PlannerConfig, Situation
from eco_ray.core.units import MJ_PER_J, grams

#: launches that are remembered, and how many of them are needed to expect anything
_LAUNCHES, _FEW_LAUNCHES = 9, 3


class Inventory:
    """The cluster and its grid, as plans depend on them; the jobs, whose plans hold the nodes, are the book's."""

    def __init__(self, home_zone: str, now_s: float, config: PlannerConfig) -> None:
        self.config = config
        self.home_zone = home_zone
        #: open jobs by id
        self.jobs: dict[str, Job] = {}
        #: nodes that are there, by name; to be changed through `set_node` and `lose_node` only
        self.nodes: dict[str, Node] = {}
        #: those of them that are being emptied: nothing new goes there; to be changed through `close_node` and
        #: `open_node` only
        self.closed: set[str] = set()
        self.forecast: dict[str, IntensitySeries] = {}
        #: intensity of the past, by zone
        self.past: dict[str, IntensitySeries] = {}
        #: what capacity is worth, as last cleared
        self.market: Cleared | None = None
        #: how long jobs take, as far as it is known
        self.durations = Durations(config.assumed_duration_s)
        #: how long a launch takes, from those of late [s]
        self.launch_s = 0.0
        self._launches_s: deque[float] = deque(maxlen=_LAUNCHES)
        #: how often forecasts or nodes have changed
        self.news = 0
        self._means: dict[str, tuple[IntensitySeries, int, Floats]] = {}
        #: what others than our attempts hold, by node; to be changed through `set_foreign` only
        self.foreign: dict[str, Resources] = {}
        #: room that is kept for replicas; to be changed through `grant` and `withdraw` only
        self.grants = Grants()
        self.first_slot = math.floor(now_s / config.slot_s)
        #: None: nodes have come or gone since it was made
        self._calendar: Calendar | None = None

    def situation(self, now_s: float, calendar: Calendar | None = None) -> Situation:
        """What a plan made now depends on; `calendar`: instead of what is promised."""
        return Situation(
            now_s,
            calendar or self.calendar,
            self.forecast,
            self.home_zone,
            self.durations,
            self.market,
            self.past,
            self._means,
            self.launch_s,
        )

    @property
    def calendar(self) -> Calendar:
        """What the nodes that are there have promised; made anew from the plans after nodes came or went."""
        if self._calendar is None:
            self._calendar = self.calendar_of(self.jobs.values())
            self.market = None  # its prices are by pool
        return self._calendar

    def calendar_of(self, jobs: Iterable[Job], nodes: Iterable[Node] | Fleet | None = None) -> Calendar:
        """A calendar with the plans of these jobs alone, of all nodes or of some."""
        if nodes is None:  # a fleet takes long to sort, and remembers its answers
            open_nodes = [node for node in self.nodes.values() if self.is_open(node.name)]
            nodes = self._calendar.fleet if self._calendar is not None else open_nodes
        calendar = Calendar(self.config.slot_s, nodes, self.first_slot)
        for name in self.foreign.keys() & self.nodes.keys():
            calendar.set_foreign(name, self.others(self.nodes[name]))
        for grant in self.grants:
            calendar.reserve(grant.segment, grant.demand)
        for job in jobs:
            for segment in job.plan.segments if job.plan else ():
                calendar.reserve(segment, job.spec.demand)
        return calendar

    def firm_calendar(self, job: Job, until_s: float, now_s: float) -> Calendar:
        """What the node on which a job runs has promised to others that must not wait until a time for it.

        To whom is in time, would be no more if it began then, and goes first: the higher priority, then the earlier
        deadline. And to whom has already waited for too long, whatever its priority.
        """
        node = self.nodes.get(job.live_attempt.node) if job.live_attempt else None

        def must_not_wait(one: Job, plan: Plan) -> bool:
            left_s, deadline_s = self.durations.left_s(one, now_s), one.spec.deadline_s
            if is_overdue(one, now_s, left_s):
                return one.live_attempt is None
            goes_first = (-one.spec.priority, deadline_s) < (-job.spec.priority, job.spec.deadline_s)
            return goes_first and plan.end_s <= deadline_s + 1e-6 < until_s + left_s

        others = (one for one in self.jobs.values() if one.id != job.id and one.plan and must_not_wait(one, one.plan))
        return self.calendar_of(others, [node] if node else [])

    def forecast_arrived(self, series: Mapping[str, IntensitySeries], past: Mapping[str, IntensitySeries]) -> None:
        """What is known of the intensity from now on; what was known of another kind is forgotten."""
        kind = kind_of(*series.values(), *past.values())
        for known, new in ((self.forecast, series), (self.past, past)):
            for zone in [zone for zone, old in known.items() if kind is not None and old.kind is not kind]:
                del known[zone]
            known.update(new)
        self.news += 1

    def set_node(self, node: Node) -> None:
        """A node is there, or is known better: its power was measured, for example."""
        before = self.nodes.get(node.name)
        if before is None or before.ray_node_id != node.ray_node_id:
            self.closed.discard(node.name)  # another one, or it has come back
        if before != node:
            self.nodes[node.name] = node
            self._calendar = None
            self.news += 1

    def lose_node(self, name: str) -> None:
        """A node is gone."""
        self.foreign.pop(name, None)
        self.closed.discard(name)
        if self.nodes.pop(name, None) is not None:
            self._calendar = None
            self.news += 1

    def is_open(self, name: str) -> bool:
        """Whether a node is there, and takes new attempts."""
        return name in self.nodes and name not in self.closed

    def close_node(self, name: str) -> bool:
        """A node that is there is being emptied; returns whether that is new."""
        if not self.is_open(name):
            return False
        self.closed.add(name)
        self._calendar = None
        self.news += 1
        return True

    def open_node(self, name: str) -> bool:
        """A node that is there is not emptied after all; returns whether that is new."""
        if name not in self.closed:
            return False
        self.closed.discard(name)
        self._calendar = None
        self.news += 1
        return True

    def set_foreign(self, name: str, held: Resources) -> bool:
        """What others hold of a node; returns whether that is new."""
        if self.foreign.get(name, Resources()) == held:
            return False
        self.foreign[name] = held
        self.news += 1
        self.grants.saw(name, held)
        self._set_others(name)
        return True

    def grant(self, grant: Grant) -> None:
        """Keep room for a replica: no plan that is made from now on takes it."""
        self.grants.add(grant, self.foreign.get(grant.node, Resources()))
        if self._calendar is not None:
            self._calendar.reserve(grant.segment, grant.demand)
            self._set_others(grant.node)

    def withdraw(self, grant: Grant) -> None:
        """Keep it no more."""
        self.grants.remove(grant)
        if self._calendar is not None:
            self._calendar.release(grant.segment, grant.demand)
            self._set_others(grant.node)

    def _set_others(self, name: str) -> None:
        """Tell the calendar what others hold of a node, without the replicas for which it keeps room."""
        if self._calendar is not None and name in self.nodes:
            self._calendar.set_foreign(name, self.others(self.nodes[name]))

    def others(self, node: Node) -> Resources:
        """What is kept of a node for others than our attempts, without the replicas for which there are grants."""
        return self.grants.others(node, self.foreign.get(node.name, Resources()))

    def forget_before(self, now_s: float) -> None:
        """What is over needs no memory."""
        self.first_slot = math.floor(now_s / self.config.slot_s)
        if self._calendar is not None:
            self._calendar.forget_before(now_s)

    def launched_in(self, seconds: float) -> None:
        """An attempt runs, so long after its launch was decided."""
        self._launches_s.append(seconds)
        if len(self._launches_s) >= _FEW_LAUNCHES:
            self.launch_s = statistics.median_low(self._launches_s)

    def spent(self, job: Job, attempt: Attempt, now_s: float) -> tuple[float, float]:
        """What an attempt used and emitted [J, g], by its node's power curve and what is known of the intensity."""
        node, end_s = self.nodes.get(attempt.node), attempt.ended_s or now_s
        if node is None or attempt.started_s is None or end_s <= attempt.started_s:
            return 0.0, 0.0
        used_j = node.attributed_power_w(job.spec.demand * attempt.workers) * (end_s - attempt.started_s)
        for series in (self.forecast.get(attempt.zone), self.past.get(attempt.zone)):
            if series is not None and series.start_s < end_s <= series.end_s:
                mean = series.mean(max(series.start_s, attempt.started_s), end_s)
                return used_j, grams(used_j * MJ_PER_J, mean, node.pue)
        return used_j, 0.0
