"""The documents of the control API, as `eco_ray.Client` gives them and as its OpenAPI document describes them.

They are those that the command line prints with `-o json` (docs/json.md). Keys may be added to them at any time: what
is not known here is kept, in `model_extra`. `None` means unknown, never zero.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, WithJsonSchema

#: where all paths of the API begin
BASE = "/api/v1"
#: what a job, a submission or a step is named by
JOB_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
#: header that makes a repeated submission the same one (draft-ietf-httpapi-idempotency-key-header)
IDEMPOTENCY_KEY = "Idempotency-Key"
#: what may stand in it: visible ASCII
IDEMPOTENCY_PATTERN = r"[!-~]{1,255}"
#: name of the event with which a stream of output ends; also its id, so that who comes again with it is told to stop
END = "end"
#: names of all events of streams
EVENTS = ("job", "log", "problem", END)

State = Literal["queued", "running", "suspended", "succeeded", "failed", "cancelled"]


class Document(BaseModel):
    """What the API tells: nothing changes after it came, and what is added later does no harm."""

    model_config = ConfigDict(frozen=True, extra="allow")


class JobLine(Document):
    """A line of `job list`."""

    id: str
    name: str
    tenant: str
    state: State
    reason: str
    message: str
    #: [s since epoch]
    submitted_s: float
    #: latest finish [s since epoch]
    deadline_s: float
    #: launches so far
    attempts: int
    #: share of the work that is done; None: never reported
    progress: float | None


class JobStatus(Document):
    """`job status`."""

    id: str
    name: str
    tenant: str
    state: State
    reason: str
    message: str
    progress: float | None
    submitted: str
    deadline: str
    resumes: int
    #: a sentence for each stretch
    plan: list[str]
    #: a sentence for each launch
    attempts: list[str]
    metrics: dict[str, Any]


class Submitted(Document):
    """`job submit`."""

    id: str
    state: State
    reason: str
    message: str


class Steered(Document):
    """`job cancel`, `suspend` and `resume`: it has been asked for."""

    id: str
    message: str


class Stretch(Document):
    """A stretch of a plan."""

    zone: str
    node: str
    start: str
    end: str
    workers: int


class JobPlan(Document):
    """`job plan`. Without `segments` there is no plan, and what follows them is not known."""

    reason: str
    message: str
    segments: list[Stretch]
    alternatives: list[dict[str, Any]]
    #: own jobs that would move to make room
    gives_way: list[dict[str, Any]] = []
    #: how many jobs of other tenants would, too; not told where nobody has a key
    gives_way_others: int = 0
    why: str | None = None
    unblock: str | None = None
    #: [g]
    carbon_g: float | None = None
    added_g: float | None = None
    run_now_g: float | None = None
    saved_g: float | None = None


class Happening(Document):
    """What happened to a job, in `job explain`."""

    time: str
    event: str
    what: str


class JobExplanation(Document):
    """`job explain`."""

    id: str
    state: State
    reason: str
    message: str
    until: str | None
    unblock: str
    plan: dict[str, Any] | None
    scaling: str | None
    events: list[Happening]


class LedgerLine(Document):
    """A line of `ledger query`; of the first eight, the one that was summed by."""

    tenant: str | None = None
    model: str | None = None
    replica: str | None = None
    job: str | None = None
    zone: str | None = None
    day: str | None = None
    node: str | None = None
    kind: str | None = None
    part: Literal["attributed", "unallocated"] | None = None
    energy_j: float
    #: location-based; None: an intensity is unknown, or kinds are several
    operational_g: float | None
    nature: Literal["measured", "modelled", "assumed"]
    carbon_nature: Literal["measured", "modelled", "assumed"]
    error_pct: float
    intensity_kinds: list[str]
    intensity_age_s: float | None
    sources: list[str]
    requests: int | None


class NodeLine(Document):
    """A line of `node list`. Energies are of all tenants together: who has a key is told None."""

    node: str
    zone: str
    cpus: float
    pue: float
    energy_j: float | None
    unallocated_j: float | None
    power_source: str


class GridNow(Document):
    """A line of `grid now`."""

    zone: str
    intensity_g_per_kwh: float | None
    kind: str | None
    nature: str | None
    age_s: float | None
    source: str


#: validators of older dialects of JSON Schema know no `prefixItems`
_Step = Annotated[tuple[str, float], WithJsonSchema({"type": "array", "minItems": 2, "maxItems": 2})]


class GridForecast(Document):
    """`grid forecast`."""

    zone: str
    source: str
    kind: str
    nature: str
    issued: str
    age_s: float | None
    step_s: float
    #: [time, g/kWh]
    series: list[_Step]
    quantiles: dict[str, list[float]]


class JobEvent(Document):
    """What happened to a job, as it happens."""

    #: grows with each event of the cluster; `after` and Last-Event-ID name the last one that is known
    number: int
    time: str
    job: str
    event: str
    what: str


class LogText(Document):
    """A piece of the output of a job's attempt."""

    attempt: int
    #: where it begins in the output of the attempt [bytes]
    offset: int
    text: str
    #: output before it that nobody kept [bytes]
    lost_bytes: int = 0
