"""What the orchestrator of a live cluster was told, and decided: told the same, a fresh one decides the same.

A `Beginning`, then a `Step` for each event. What jobs run and their variables are left out (`without_secrets`): no
decision looks at them. As JSON: {"began": ...} and {"event": NAME, ...}, the fields as `core/plain.py` has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from eco_ray.core.actions import Action, CleanUp, StartAttempt
from eco_ray.core.events import AttemptProgressed, Event, JobSubmitted
from eco_ray.core.jobs import Job, JobSpec
from eco_ray.core.orchestrator import Orchestrator, OrchestratorConfig
from eco_ray.core.plain import from_plain, plain
from eco_ray.errors import EcoRayError

_EVENTS: Mapping[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


@dataclass(frozen=True, slots=True)
class Beginning:
    """With what an orchestrator began."""

    home_zone: str
    #: grid time [s since epoch]
    now_s: float
    config: OrchestratorConfig
    #: jobs that had succeeded before, from which lengths are learned; and those that were open
    learned: tuple[Job, ...] = ()
    jobs: tuple[Job, ...] = ()
    #: what replicas had been granted
    needs: Mapping[str, Any] = field(default_factory=dict)

    def orchestrator(self) -> Orchestrator:
        """One that begins so."""
        made = Orchestrator(self.home_zone, self.now_s, self.config)
        for job in self.learned:
            made.book.durations.succeeded(job)
        made.restore(self.jobs)
        made.needs.restore(self.needs)
        return made


@dataclass(frozen=True, slots=True)
class Did:
    """An action, in short; the job's record has the rest."""

    action: str
    job: str
    attempt: int
    node: str
    workers: int
    final: bool = False


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of an event."""

    actions: tuple[Did, ...] = ()
    #: jobs that changed, as they are now
    jobs: tuple[Job, ...] = ()
    #: what replicas are granted, where that has changed
    needs: Mapping[str, Any] | None = None
    #: that was raised; empty: none
    error: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """An event, and what came of it."""

    #: grid time [s since epoch]
    now_s: float
    event: Event
    decided: Decided


def decided(
    actions: Iterable[Action] = (),
    jobs: Iterable[Job] = (),
    needs: Mapping[str, Any] | None = None,
    error: str = "",
) -> Decided:
    """What came of an event, for the log."""
    return Decided(
        tuple(map(_in_short, actions)), tuple(map(_job_without_secrets, jobs)), needs and plain(needs), error
    )


def told_error(error: EcoRayError) -> str:
    """An error as the log has it."""
    return f"{type(error).__name__}: {error}"


def replayed(began: Beginning, steps: Iterable[Step]) -> Iterator[tuple[Step, Decided]]:
    """Each step, and what a fresh orchestrator decides at it."""
    core = began.orchestrator()
    for step in steps:
        try:
            actions = core.handle(step.event, step.now_s)
        except EcoRayError as error:
            yield step, decided(error=told_error(error))
        else:
            yield step, decided(actions, core.take_changes()[0], core.needs.take_news())


def without_secrets(event: Event) -> Event:
    """The event without what jobs run, their variables and their metrics, which may be anything."""
    if isinstance(event, JobSubmitted):
        return replace(event, spec=_spec_without_secrets(event.spec))
    if isinstance(event, AttemptProgressed):
        return replace(event, metrics={})
    return event


def beginning_to_json(began: Beginning) -> dict[str, Any]:
    """As it is kept."""
    learned, jobs = (tuple(map(_job_without_secrets, some)) for some in (began.learned, began.jobs))
    return {"began": plain(replace(began, learned=learned, jobs=jobs))}


def beginning_from_json(told: Mapping[str, Any]) -> Beginning:
    """What `beginning_to_json` gave. Raises EcoRayError."""
    return from_plain(Beginning, told.get("began"), "the beginning of a log of events")


def step_to_json(step: Step) -> dict[str, Any]:
    """As it is kept."""
    told = plain(step)
    return {
        "event": type(step.event).__name__,
        "now_s": told["now_s"],
        "told": told["event"],
        "decided": told["decided"],
    }


def step_from_json(told: Mapping[str, Any]) -> Step:
    """What `step_to_json` gave. Raises EcoRayError."""
    kind = _EVENTS.get(str(told.get("event")))
    if kind is None:
        raise EcoRayError(f"event {told.get('event')!r:.40} is not known: upgrade eco-ray")
    event: Event = from_plain(kind, told.get("told"), f"event {kind.__name__}")
    return Step(float(told["now_s"]), event, from_plain(Decided, told.get("decided"), f"decided at {kind.__name__}"))


def _in_short(action: Action) -> Did:
    job_id = action.job.id if isinstance(action, StartAttempt) else action.job_id
    attempt, final = action.attempt, isinstance(action, CleanUp) and action.final
    return Did(type(action).__name__, job_id, attempt.number, attempt.node, attempt.workers, final)


def _job_without_secrets(job: Job) -> Job:
    return replace(job, spec=_spec_without_secrets(job.spec), metrics={})


def _spec_without_secrets(spec: JobSpec) -> JobSpec:
    return replace(spec, run="", runtime_env={}, package=None)
