"""What a policy sees of its deployment: what Ray Serve shows, what replicas tell, and what it remembers of before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from eco_ray.core.replica_counts import ReplicaLoad, ScalingState
from eco_ray.core.replica_facts import Start

#: requests and work are compared over about so long, and of so many requests at least [s]
_OVER_S, _FEW = 30.0, 5.0
#: after a start of Serve's controller replicas tell what they counted before, one after the other [s]
_FIRST_S = 5.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What a policy remembers between two looks. Lost with Serve's controller, and with each change of a version."""

    since_s: float
    at_s: float
    state: ScalingState | None = None
    #: by replica: requests, and work [s], that it has told of
    told: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    #: that came so far
    requests: int = 0
    #: of these, so many were seen to wait and have not been told of by a replica
    ahead: int = 0
    #: of late: requests, and work [s]
    recent: tuple[float, float] = (0.0, 0.0)
    running: int = 0
    #: what was decided last
    replicas: int = -1
    #: why there is none, while there is none
    none_why: str = ""
    #: from the request that woke the first replica to its start [s]; None: it has not slept
    woke_s: float | None = None
    start: Start | None = None
    logged_s: float = -math.inf


@dataclass(frozen=True, slots=True)
class Sight:
    """What is there now."""

    load: ReplicaLoad
    memory: Memory
    #: replicas by index of the deployment's nodes; -1: unknown
    nodes: Mapping[int, int]


def look(ctx: Any, memory: Memory | None, service_s: float, now_s: float) -> Sight:
    """`ctx`: Serve's AutoscalingContext (2.60). Raises whatever a strange one leads to."""
    total = amount(ctx.total_num_requests)
    replicas, running = int(ctx.target_num_replicas), int(ctx.current_num_replicas)
    stats = _stats(ctx.raw_metrics)
    before = memory or Memory(now_s, now_s)
    came, worked_s, told = _growth(before, stats, {_id(one) for one in ctx.running_replicas}, now_s)
    came, ahead = max(0, came - before.ahead), max(0, before.ahead - came)
    woke_s, seen_running = before.woke_s, running
    if running and not before.running and not before.replicas:  # Serve asks for nothing while requests wait (2.60)
        waiting = math.ceil(total)
        woke_s, seen_running = max(0.0, now_s - before.at_s), 0
        ahead += max(0, waiting - came)
        came = max(came, waiting)
    kept = math.exp(-max(0.0, now_s - before.at_s) / _OVER_S)
    recent = before.recent[0] * kept + came, before.recent[1] * kept + worked_s
    after = replace(
        before,
        at_s=now_s,
        told=told,
        requests=before.requests + came,
        ahead=ahead,
        recent=recent,
        running=running,
        woke_s=woke_s,
        start=_start(stats, before.start, woke_s),
    )
    load = ReplicaLoad(
        now_s=now_s,
        ongoing=total,
        requests=after.requests,
        replicas=replicas,
        running=seen_running,
        service_s=service_s,
        work_s=recent[1] / recent[0] if recent[0] >= _FEW else None,
        p95_s=_p95(stats),
    )
    return Sight(load, after, Counter(int(one.get("node", -1.0)) for one in stats.values()))


def amount(value: Any) -> float:
    """A number that is finite and not negative; whatever is not, is 0."""
    number = float(value)
    return number if math.isfinite(number) and number > 0 else 0.0


def _id(replica: Any) -> str:
    return str(getattr(replica, "unique_id", replica))


def _stats(raw: Mapping[str, Mapping[Any, Any]] | None) -> dict[str, dict[str, float]]:
    """By replica: what it told last, by name."""
    found: dict[str, dict[str, float]] = {}
    for name, of_replicas in (raw or {}).items():
        for replica, series in of_replicas.items():
            if series:
                found.setdefault(_id(replica), {})[name] = float(series[-1].value)
    return {replica: told for replica, told in found.items() if "worked_s" in told}


def _growth(
    before: Memory, stats: Mapping[str, Mapping[str, float]], running: set[str], now_s: float
) -> tuple[int, float, dict[str, tuple[float, float]]]:
    """Requests and work [s] since the last look, and what replicas that run have told of so far."""
    requests = worked_s = 0.0
    told = {replica: counts for replica, counts in before.told.items() if replica in running}
    for replica, one in stats.items():
        now = amount(one["requests"]), amount(one["worked_s"])
        first = now if now_s < before.since_s + _FIRST_S else (0.0, 0.0)
        old = before.told.get(replica, first)
        requests += max(0.0, now[0] - old[0])
        worked_s += max(0.0, now[1] - old[1])
        told[replica] = now
    return round(requests), worked_s, told


def _p95(stats: Mapping[str, Mapping[str, float]]) -> float | None:
    """Of all replicas: their 95th percentiles by their answers, as requests go to all of them alike."""
    known = [(one["p95_s"], one["p95_of"]) for one in stats.values() if one.get("p95_of", 0.0) > 0]
    answers = sum(of for _, of in known)
    return sum(p95_s * of for p95_s, of in known) / answers if answers else None


def _start(stats: Mapping[str, Mapping[str, float]], before: Start | None, woke_s: float | None) -> Start | None:
    """As last measured: by who waited for it, else as replicas tell."""
    started = [one for one in stats.values() if one.get("start_s", -1.0) >= 0]
    if not started:
        return before
    start_s = woke_s if woke_s is not None else max(one["start_s"] for one in started)
    idle = [one["idle_w"] for one in started if one.get("idle_w", -1.0) >= 0]
    idle_w = sum(idle) / len(idle) if idle else before.idle_w if before else 0.0
    return Start(start_s, sum(one["start_j"] for one in started) / len(started), idle_w)
