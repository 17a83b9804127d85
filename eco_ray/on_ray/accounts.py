"""From what agents saw to ledger rows: whose energy it was, and at which carbon intensity."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from eco_ray.core.attribution import attribute
from eco_ray.core.cluster import Node
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.ledger import Interval, Sample, Usage
from eco_ray.core.ports import GridSource, Store
from eco_ray.errors import EcoRayError
from eco_ray.on_ray.owners import RAY_JOB_PREFIX, SERVE_APP_PREFIX

#: how much of a series is fetched at once [s]
_CHUNK_S = 86_400.0
_ATTEMPT_ID = re.compile(r"(?P<job>.+)-a(?P<number>\d+)")


@dataclass
class Directory:
    """Translates what an agent can see of an owner into jobs and models."""

    #: Ray's job id -> submission id, for drivers of submissions
    submissions: Mapping[str, str | None]
    #: Serve application -> name:version
    models: Mapping[str, str]
    #: whether a job is one of ours
    is_job: Callable[[str], bool]

    def owner(self, usage: Usage) -> Usage | None:
        """The usage under its job or model; None when it belongs to the system."""
        owner_id = usage.owner_id
        if owner_id.startswith(SERVE_APP_PREFIX):
            app = owner_id.removeprefix(SERVE_APP_PREFIX)
            return replace(usage, owner_id=self.models.get(app, app))
        if owner_id.startswith(RAY_JOB_PREFIX):
            submission = self.submissions.get(owner_id.removeprefix(RAY_JOB_PREFIX))
            if submission is None:
                return None  # Ray's internal jobs, our own actors, drivers outside the job API
            owner_id = submission
        match = _ATTEMPT_ID.fullmatch(owner_id)
        if match and self.is_job(match["job"]):
            return replace(usage, owner_id=match["job"], attempt=int(match["number"]))
        return replace(usage, owner_id=owner_id)


class Accounts:
    """Makes ledger intervals of samples, and keeps the intensities that they were accounted with."""

    def __init__(self, store: Store, grid: GridSource) -> None:
        self._store = store
        self._grid = grid
        self._cache: dict[str, IntensitySeries] = {}
        self._kept_until: dict[str, float] = {}

    def book(self, samples: Iterable[Sample], nodes: Mapping[str, Node], directory: Directory) -> int:
        """Append samples to the ledger; returns how many were new. Samples of unknown nodes are refused."""
        intervals = [self._interval(sample, nodes, directory) for sample in samples]
        return self._store.add_intervals(intervals)

    def keep_series(self, zones: Iterable[str], now_s: float) -> None:
        """Write down the intensity of each zone up to now, so that reports use what the ledger used."""
        for zone in zones:
            since = self._kept_until.get(zone, now_s - 3600.0)
            series = self._series(zone, since, now_s)
            if series is None:
                continue
            first = max(0, math.floor((since - series.start_s) / series.step_s))
            last = math.ceil((now_s - series.start_s) / series.step_s)
            part = replace(
                series,
                start_s=series.start_s + first * series.step_s,
                values_g_per_kwh=series.values_g_per_kwh[first:last],
            )
            if len(part.values_g_per_kwh):
                self._store.add_series(part)
                self._kept_until[zone] = part.end_s - series.step_s

    def _interval(self, sample: Sample, nodes: Mapping[str, Node], directory: Directory) -> Interval:
        node = nodes.get(sample.node)
        if node is None:
            raise EcoRayError(
                f"a sample of node {sample.node!r}, which is not in this cluster ({', '.join(sorted(nodes))}); "
                "restart its agent with `eco-ray up`"
            )
        sample = self._translated(sample, directory)
        series = self._series(node.zone, sample.start_s, sample.end_s)
        return Interval(
            sample=sample,
            zone=node.zone,
            pue=node.pue,
            shares=attribute(sample, metered_cpus(node)),
            intensity_g_per_kwh=series.mean(sample.start_s, sample.end_s) if series else None,
            intensity_source=series.source if series else "unknown",
        )

    @staticmethod
    def _translated(sample: Sample, directory: Directory) -> Sample:
        merged: dict[tuple[str, str, int], Usage] = {}
        system_s = sample.system_cpu_s
        for seen in sample.usages:
            usage = directory.owner(seen)
            if usage is None:
                system_s += seen.cpu_s
                continue
            key = (usage.owner_kind, usage.owner_id, usage.attempt)
            old = merged.get(key)
            merged[key] = (
                usage
                if old is None
                else replace(old, cpu_s=old.cpu_s + usage.cpu_s, reserved_cpus=old.reserved_cpus + usage.reserved_cpus)
            )
        return replace(sample, usages=tuple(merged.values()), system_cpu_s=system_s)

    def _series(self, zone: str, start_s: float, end_s: float) -> IntensitySeries | None:
        """The actual intensity over a span; None where the source has none."""
        cached = self._cache.get(zone)
        if cached is not None and cached.covers(start_s, end_s):
            return cached
        first = math.floor(start_s / 3600.0) * 3600.0
        for last in (first + _CHUNK_S, math.ceil(end_s / 3600.0) * 3600.0, end_s):
            try:
                series = self._grid.actual(zone, first, max(last, end_s))
            except EcoRayError:
                continue
            if series.covers(start_s, end_s):
                self._cache[zone] = series
                return series
        return None


def metered_cpus(node: Node) -> float:
    """CPUs by which a node's load is counted; a head without CPUs for jobs is taken as one core."""
    return node.capacity.cpus or 1.0
