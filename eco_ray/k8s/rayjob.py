"""What a RayJob object says: whether it is ours, where it is, and what its annotations ask for."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from eco_ray import schema
from eco_ray.core.jobs import JobSpec
from eco_ray.errors import UsageError
from eco_ray.job_model import JobFile

PREFIX = "eco-ray.io/"
#: what an owner may ask for, and the key of a job file that means the same
ASKS = {
    PREFIX + "deadline": "deadline",
    PREFIX + "expected-duration": "expected_duration",
    PREFIX + "max-intensity": "max_intensity",
    PREFIX + "zones": "zones",
}
#: what the controller writes: the start it planned, a mark of the wishes it planned for, when it let go, and why
PLANNED_START = PREFIX + "planned-start"
PLANNED_FOR = PREFIX + "planned-for"
RELEASED = PREFIX + "released"
REASON = PREFIX + "reason"
#: Kueue suspends and admits what carries it
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
#: annotations below our prefix that are so much like one of ours are taken to be misspelt
_ALIKE = 0.9
_KUBERAY = "ray.io/kuberay-operator"

#: `jobDeploymentStatus` before the Ray job is submitted; "" is KubeRay's New
_BEFORE = ("", "Initializing")
#: of one that is suspended, or about to be
_STILL = (*_BEFORE, "Suspending", "Suspended")


class Stance(StrEnum):
    """Where a RayJob is, as far as holding and releasing it goes."""

    #: without our annotations, being deleted, or managed by Kueue or another controller: never touched
    NOT_OURS = "not ours"
    #: it runs, retries or has ended: never suspended in mid-run
    STARTED = "started"
    #: we let it go before
    RELEASED = "released"
    #: we let it go, and somebody suspended it after that
    SUSPENDED_AGAIN = "suspended again"
    #: we held it, and somebody else let it go
    FREED = "freed"
    #: nothing has run, and nobody holds it
    NEW = "new"
    #: suspended before anything ran
    HELD = "held"


@dataclass(frozen=True, slots=True)
class RayJob:
    """The part of a RayJob object that decides, and what a patch of it needs."""

    namespace: str
    name: str
    uid: str
    #: a patch that carries it is refused (409) where the object has changed since
    resource_version: str
    #: when it was created [s since epoch]
    created_s: float
    annotations: Mapping[str, str]
    stance: Stance
    #: `spec.suspend`
    suspended: bool
    #: why KubeRay would refuse to suspend it, with the cure; empty: it can be suspended
    unfit: str

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def planned_for(self) -> str:
        """A mark of what its annotations ask for: a plan for other wishes is none."""
        asked = "\n".join(f"{key}={self.annotations[key]}" for key in ASKS if key in self.annotations)
        return hashlib.sha256(asked.encode()).hexdigest()[:12]


def read(body: Mapping[str, Any]) -> RayJob:
    """The object as the API server tells it."""
    meta, spec = body.get("metadata") or {}, body.get("spec") or {}
    annotations = {str(key): str(value) for key, value in (meta.get("annotations") or {}).items()}
    return RayJob(
        namespace=str(meta.get("namespace", "default")),
        name=str(meta.get("name", "")),
        uid=str(meta.get("uid", "")),
        resource_version=str(meta.get("resourceVersion", "")),
        created_s=_created_s(meta),
        annotations=annotations,
        stance=_stance(meta, spec, body.get("status") or {}, annotations),
        suspended=spec.get("suspend") is True,
        unfit=_unfit(spec),
    )


def asked(job: RayJob, home_zone: str, default_max_delay_s: float) -> JobSpec:
    """What a RayJob asks for, as any job: times that count from its creation are absolute, its one zone is decided.

    The zone is `home_zone` where it is among those allowed, else the first of these: nothing here moves pods.
    Raises UsageError for an annotation that cannot be read, and InfeasibleError for a deadline before its creation.
    """
    for key in job.annotations:
        if _is_mistaken(key):
            raise UsageError(f"RayJob {job.key}: {schema.unknown('annotation', key, ASKS)}")
    carbon: dict[str, Any] = {short: job.annotations[key] for key, short in ASKS.items() if key in job.annotations}
    # KubeRay's suspend deletes the cluster, and with it all that ran: a job that has begun goes on
    data = {"name": "rayjob", "run": "its entrypoint", "carbon": {**carbon, "suspend": {"allow": False}}}
    labels: dict[schema.Path, str] = {("carbon", short): f"annotation {key}" for key, short in ASKS.items()}
    file = schema.check(JobFile, data, f"RayJob {job.key}", labels=labels)
    spec = file.to_spec(job.created_s, 1.0, default_max_delay_s)
    zone = home_zone if not spec.zones or home_zone in spec.zones else spec.zones[0]
    return replace(spec, zones=(zone,))


def _is_mistaken(key: str) -> bool:
    """Whether an annotation was probably meant as one of ours: others may have annotations below our prefix, too."""
    if not key.startswith(PREFIX) or key in (*ASKS, PLANNED_START, PLANNED_FOR, RELEASED, REASON):
        return False
    return bool(difflib.get_close_matches(key, ASKS, n=1, cutoff=_ALIKE))


def _created_s(meta: Mapping[str, Any]) -> float:
    text = meta.get("creationTimestamp")
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() if text else 0.0


def _stance(
    meta: Mapping[str, Any], spec: Mapping[str, Any], status: Mapping[str, Any], annotations: Mapping[str, str]
) -> Stance:
    ours = any(key in ASKS or _is_mistaken(key) for key in annotations)
    other = KUEUE_QUEUE in (meta.get("labels") or {}) or spec.get("managedBy", _KUBERAY) != _KUBERAY
    if not ours or other or meta.get("deletionTimestamp"):
        return Stance.NOT_OURS
    suspended, phase = spec.get("suspend") is True, status.get("jobDeploymentStatus") or ""
    if RELEASED in annotations:
        again = suspended and phase in (*_STILL, "Running", "Waiting")
        return Stance.SUSPENDED_AGAIN if again else Stance.RELEASED
    # an attempt that failed makes the job New again: it has run
    attempts = (status.get("failed") or 0) + (status.get("succeeded") or 0)
    if suspended and phase in _STILL and not attempts:
        return Stance.HELD
    if suspended or phase not in _BEFORE or attempts or status.get("jobStatus"):
        freed = PLANNED_START in annotations and not suspended and phase in _STILL and not attempts
        return Stance.FREED if freed else Stance.STARTED
    return Stance.FREED if PLANNED_START in annotations else Stance.NEW


def _unfit(spec: Mapping[str, Any]) -> str:
    """KubeRay's own conditions for `suspend` (validation.go, ValidateRayJobSpec)."""
    if spec.get("clusterSelector"):
        return (
            "it runs on a cluster that exists (spec.clusterSelector), and KubeRay cannot suspend such jobs; give it "
            "spec.rayClusterSpec, or wait inside it with `eco-ray run`"
        )
    if spec.get("shutdownAfterJobFinishes") is not True:
        return (
            "spec.shutdownAfterJobFinishes is not true, and KubeRay suspends only jobs whose cluster ends with them; "
            "set it to true"
        )
    return ""
