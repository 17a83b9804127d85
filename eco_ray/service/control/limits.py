"""What the control API takes at most."""

from __future__ import annotations

from dataclasses import dataclass, field

from eco_ray.service.limits import MIB
from eco_ray.service.limits import Limits as BodyLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one replica."""

    #: of bodies: a job file as JSON is small
    body: BodyLimits = field(
        default_factory=lambda: BodyLimits(body_bytes=MIB, held_bytes=32 * MIB, json_nodes=10_000, read_s=10.0)
    )
    #: calls of the cluster at once, and of them those of one tenant
    calls: int = 16
    calls_of_one: int = 4
    #: for one call [s]
    call_s: float = 30.0
    #: streams at once, and of them those of one tenant
    streams: int = 64
    streams_of_one: int = 8
    #: a stream that lasts so long is ended, and its client comes again with Last-Event-ID: so a key that was revoked
    #: ends, too [s]
    stream_s: float = 300.0
    #: how often a stream looks for news [s]
    poll_s: float = 0.5
    #: in which a stream without news shows that it lives [s]
    heartbeat_s: float = 15.0
    #: of output in one event, and events in one look: what a stream holds for its client [bytes], [events]
    chunk_bytes: int = 64 * 1024
    chunk_events: int = 100
