"""From what agents saw to ledger rows: whose energy it was, and at which carbon intensity."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from eco_ray.core.attribution import attribute
from eco_ray.core.cluster import Node
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.ledger import GpuSample, GpuUse, Interval, OwnerKind, Sample, Usage, check_times
from eco_ray.core.ports import GridSource, LiveGridSource
from eco_ray.core.store_port import Store
from eco_ray.core.tenants import split_by_tenant
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError
from eco_ray.on_ray.owners import RAY_JOB_PREFIX, SERVE_APP_PREFIX, app_and_model
from eco_ray.on_ray.spool import Spool
from eco_ray.store.rows import interval_rows

log = logging.getLogger("eco_ray.controller")

#: how much of a series is fetched at once [s]
_CHUNK_S = 86_400.0
#: an interval longer than this is flagged: its energy is right, its one intensity and its shares are coarse [s]
LONG_S = 86_400.0
#: intervals of one agent that overlap by less than this follow each other [s]
_TOUCH_S = 1e-3
_ATTEMPT_ID = re.compile(r"(?P<job>.+)-a(?P<number>\d+)")

#: what one bad sample may raise where it is counted: the others go on
_BAD = (EcoRayError, OverflowError, ValueError)

#: by node and life of its agent: sequence number and end of the newest interval
Newest = dict[tuple[str, str], tuple[int, float]]

Use = TypeVar("Use", Usage, GpuUse)


@dataclass
class Directory:
    """Translates what an agent can see of an owner into jobs and models."""

    #: Ray's job id -> submission id, for drivers of submissions
    submissions: Mapping[str, str | None]
    #: Serve application -> name:version of all that it was deployed with, the newest last
    models: Mapping[str, tuple[str, ...]]
    #: whether a job is one of ours
    is_job: Callable[[str], bool]
    #: who a job or model works for; empty: not known
    tenant: Callable[[OwnerKind, str], str] = lambda kind, owner_id: ""

    def model(self, owner_id: str) -> str:
        """The model that a replica says it runs, unless it is another application's.

        One that says nothing runs what the application was last deployed with; without that, it goes by its name.
        """
        app, said = app_and_model(owner_id)
        own = self.models.get(app, ())
        others = any(said in models for of, models in self.models.items() if of != app)
        if said and (said in own or not others):
            return said
        return own[-1] if own else app

    def owner(self, usage: Use) -> Use | None:
        """The use under its job or model; None when it belongs to the system."""
        owner_id = usage.owner_id
        if owner_id.startswith(SERVE_APP_PREFIX):
            return replace(usage, owner_id=self.model(owner_id))
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
        self._newest: Newest = {}

    def book_sound(
        self, samples: Sequence[Sample], nodes: Mapping[str, Node], directory: Directory, refused: Spool
    ) -> int:
        """Append samples to the ledger; returns how many were new.

        A sample that is wrong itself, or of an unknown node, does not hold up the others: it is kept in `refused`.

        A store that is away, locked, full or read-only says nothing of the samples: its error is raised, nothing of
        them is kept, and all may come again. So it is where `refused` cannot be written.
        """
        newest: Newest = {}
        intervals = []
        for sample in samples:
            try:
                intervals.append(self._interval(sample, nodes, directory, newest))
            except _BAD as error:
                _refuse(sample, refused, error)
        try:
            return self._append(intervals, newest)
        except _BAD:
            # without the store: what its rows cannot hold is wrong whatever state the store is in
            wrong = [(interval, why) for interval in intervals if (why := _row_error(interval)) is not None]
            if not wrong:
                raise
        for interval, why in wrong:
            _refuse(interval.sample, refused, why)
        unfit = {id(interval) for interval, _ in wrong}
        return self._append([interval for interval in intervals if id(interval) not in unfit], newest)

    def _append(self, intervals: list[Interval], newest: Newest) -> int:
        new = self._store.add_intervals(intervals)
        # only now: samples that come again after an outage are looked at as if for the first time
        self._newest.update(newest)
        return new

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

    def _interval(self, sample: Sample, nodes: Mapping[str, Node], directory: Directory, newest: Newest) -> Interval:
        node = nodes.get(sample.node)
        if node is None:
            raise EcoRayError(
                f"a sample of node {sample.node!r}, which is not in this cluster ({', '.join(sorted(nodes))}); "
                "restart its agent with `eco-ray up`"
            )
        # before the source is asked for all of an absurd span
        check_times(sample.start_s, sample.end_s, f"sample {sample.seq} of node {sample.node!r:.80}")
        sample = self._flagged(_translated(sample, directory), newest)
        series = self._series(node.zone, sample.start_s, sample.end_s)
        shares = split_by_tenant(attribute(sample, metered_cpus(node)), sample.served)
        return Interval(
            sample=sample,
            zone=node.zone,
            pue=node.pue,
            shares=tuple(replace(s, tenant=s.tenant or directory.tenant(s.owner_kind, s.owner_id)) for s in shares),
            intensity_g_per_kwh=series.mean(sample.start_s, sample.end_s) if series else None,
            intensity_source=series.source if series else "unknown",
            intensity_kind=series.kind.value if series else "",
            intensity_nature=series.nature if series else None,
            intensity_age_s=_age_s(series, sample.end_s) if series else None,
        )

    def _flagged(self, sample: Sample, newest: Newest) -> Sample:
        """With flags for what an agent cannot see of itself: an interval over another one of it, or a very long one."""
        life = (sample.node, sample.boot_id)
        seq, end_s = newest.get(life) or self._newest.get(life, (-1, -math.inf))
        flags = list(sample.flags)
        if sample.seq > seq:
            if sample.start_s < end_s - _TOUCH_S:
                flags.append("overlap")
            newest[life] = (sample.seq, max(end_s, sample.end_s))
        if sample.end_s - sample.start_s > LONG_S:
            flags.append("long-interval")
        return sample if len(flags) == len(sample.flags) else replace(sample, flags=tuple(flags))

    def _series(self, zone: str, start_s: float, end_s: float) -> IntensitySeries | None:
        """The actual intensity over a span; None where the source has none."""
        if isinstance(self._grid, LiveGridSource):  # it knows more with every minute, and nothing of the future
            try:
                return self._grid.actual(zone, start_s, end_s)
            except EcoRayError:
                return None
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


def _row_error(interval: Interval) -> Exception | None:
    """Why no ledger takes an interval; None: it is sound."""
    try:
        interval_rows(interval)
    except _BAD as error:
        return error
    return None


def _refuse(sample: Sample, refused: Spool, error: Exception) -> None:
    log.error("a sample is refused and kept in the folder %s: %s", refused.folder.name, error)
    if not (refused.put(sample) or refused.set_aside(sample)):
        raise EcoRayError(
            f"a sample is refused and cannot be kept in {refused.folder}, so its agent keeps it: free some space there"
        ) from error


def metered_cpus(node: Node) -> float:
    """CPUs by which a node's load is counted; a head without CPUs for jobs is taken as one core."""
    return node.capacity.cpus or 1.0


def _translated(sample: Sample, directory: Directory) -> Sample:
    """With the owners that the ledger knows; what several processes of one owner used is added up."""
    usages, system_cpu_s = _merged(
        sample.usages,
        directory,
        lambda use: use.cpu_s,
        lambda a, b: replace(a, cpu_s=a.cpu_s + b.cpu_s, reserved_cpus=a.reserved_cpus + b.reserved_cpus),
    )
    gpus = tuple(_translated_gpu(gpu, directory) for gpu in sample.gpus)
    served = tuple(
        replace(one, owner_id=directory.model(one.owner_id), process=one.process and directory.model(one.process))
        for one in sample.served
    )
    system_cpu_s += sample.system_cpu_s
    return replace(sample, usages=usages, system_cpu_s=system_cpu_s, gpus=gpus, served=served)


def _translated_gpu(gpu: GpuSample, directory: Directory) -> GpuSample:
    uses, system_busy_s = _merged(
        gpu.uses,
        directory,
        lambda use: use.busy_s,
        lambda a, b: replace(a, busy_s=a.busy_s + b.busy_s, reserved=a.reserved + b.reserved),
    )
    return replace(gpu, uses=uses, system_busy_s=gpu.system_busy_s + system_busy_s)


def _merged(
    uses: Iterable[Use], directory: Directory, used_s: Callable[[Use], float], add: Callable[[Use, Use], Use]
) -> tuple[tuple[Use, ...], float]:
    """Uses by owner, and what belongs to nobody [s]."""
    merged: dict[tuple[str, str, int, str], Use] = {}
    system_s = 0.0
    for seen in uses:
        use = directory.owner(seen)
        if use is None:
            system_s += used_s(seen)
            continue
        key = (use.owner_kind, use.owner_id, use.attempt, use.part)
        merged[key] = add(merged[key], use) if key in merged else use
    return tuple(merged.values()), system_s


def _age_s(series: IntensitySeries, end_s: float) -> float:
    """How long before `end_s` the value was renewed [s]; a modelled one is computed for every moment."""
    if series.issued_s is not None:
        return max(0.0, end_s - series.issued_s)
    if series.nature is Nature.MODELLED:
        return 0.0
    # the start of the step in which the interval ends; an end on the turn of a step belongs to the step before
    step = max(0, math.ceil((end_s - series.start_s) / series.step_s) - 1)
    return max(0.0, end_s - (series.start_s + step * series.step_s))
