"""Job files, and the same keys as options and as metadata of a Ray job: one model, one set of checks.

    name: train-mnist                    # optional: from the file's name
    run: python jobs/train_mnist.py      # a shell command
    workdir: .                           # snapshot of this folder for the job; relative to the current directory
    resources: {num_cpus: 1, memory_gb: 1}
    carbon: {expected_duration: 3h, deadline: 6h, zones: [DE, FR]}

Which clock: `deadline`, `max_delay` and `not_before` are grid time. `expected_duration`, `suspend.min_run` and
`suspend.resume_cost` say how long the program computes, in wall time; they are multiplied by the clock's speed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from eco_ray import schema
from eco_ray.errors import InfeasibleError, UsageError
from eco_ray.schema import Amount, Duration, Label, Moment, Name, PositiveDuration, Strict, Whole
from eco_ray.times import When, human_duration, iso_utc
from eco_ray.yaml_file import load_yaml

if TYPE_CHECKING:
    from eco_ray.core.jobs import JobSpec

#: longest command [bytes]
MAX_RUN_BYTES = 32 << 10
#: policies that decide something in this version
POLICIES = ("eco", "run-now", "lowest-slot", "lowest-window", "carbon-time", "wait-awhile", "threshold")
#: policies that job files may name and that this version does not have
LATER_POLICIES = ("carbon-scaler",)


def _run(value: str) -> str:
    command = value.strip()
    size = len(command.encode("utf-8", "replace"))
    if not command:
        raise ValueError("the command is empty; give one, for example `python jobs/train_mnist.py`")
    if "\0" in command:
        raise ValueError("the command holds a NUL character, which no shell accepts; remove it")
    if size > MAX_RUN_BYTES:
        raise ValueError(f"the command has {size} bytes, above the limit of {MAX_RUN_BYTES}; put it in a script")
    return command


def _workdir(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError(f"{value!r} is not a folder; give its path, or leave workdir out for no snapshot")
    return value


def _policy(value: Any) -> Any:
    if value in LATER_POLICIES:
        raise ValueError(f"{value!r} is not in this version; use one of {', '.join(POLICIES)}")
    if value not in POLICIES:
        raise ValueError(schema.unknown("policy", str(value), POLICIES))
    return value


def _zones(value: Any) -> Any:
    if isinstance(value, str):  # "DE,FR", the form of options and metadata
        value = [zone.strip() for zone in value.split(",") if zone.strip()]
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(
                "[] allows no zone at all; name one or more, or leave zones out for every zone of the cluster"
            )
        if len(value) > 500:
            raise ValueError(f"{len(value)} zones are above the limit of 500; leave zones out for every zone")
        for zone in value:
            if value.count(zone) > 1:
                raise ValueError(f"{zone!r} is there twice; keep one")
    return value


def _budget(value: Any) -> None:
    if value is not None:
        raise ValueError(
            f"{value!r}: budgets have no effect in this version; remove the key, or limit with deadline and zones"
        )


def _on_missing_signal(value: Any) -> Any:
    if value != "run":
        raise ValueError(
            f"{value!r} is not in this version: a job never blocks on a missing signal; write run or leave it out"
        )
    return value


def _gpus(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError(f"{value:g} is neither a whole number nor a share of one GPU; give 0.25, 1 or 2, for example")
    return value


def _exit_codes(value: list[int]) -> list[int]:
    for code in value:
        if not 1 <= code <= 255:
            raise ValueError(f"{code} is outside 1 to 255, the exit codes of a failure; remove it")
    return sorted(set(value))


def _runtime_env(value: dict[str, Any]) -> dict[str, Any]:
    if "working_dir" in value:
        raise ValueError("working_dir is set from workdir; remove it here and give workdir: FOLDER at the top")
    variables = value.get("env_vars") or {}
    if not isinstance(variables, dict):
        raise ValueError("env_vars is not a mapping; write env_vars: {NAME: 'value'}")
    for name, setting in variables.items():
        # the value itself stays out of the message: it may be a secret
        if not isinstance(setting, str):
            raise ValueError(f"env_vars.{name} is not text but {type(setting).__name__}; put it in quotes")
    return value


class Demand(Strict):
    """What one attempt holds on its node."""

    num_cpus: Amount = Field(default=1.0, gt=0)
    num_gpus: Annotated[Amount, AfterValidator(_gpus)] = Field(default=0.0, ge=0)
    memory_gb: Amount = Field(default=0.0, ge=0)


class Workers(Strict):
    """Elastic size; this version runs one worker."""

    min: Whole = Field(default=1, ge=1)
    max: Whole = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one(self) -> Workers:
        if self.max > 1 or self.min > 1:
            raise ValueError(f"min {self.min}, max {self.max}: this version runs 1 worker per job; set both to 1")
        return self


class Suspend(Strict):
    """Whether the job may be suspended for a cleaner hour, and what that costs."""

    allow: bool = True
    #: shortest useful run between two suspensions [s of computing]
    min_run_s: Duration = Field(default=60.0, alias="min_run")
    #: what a resumed attempt needs before it works again [s of computing]
    resume_cost_s: Duration = Field(default=10.0, alias="resume_cost")


class Carbon(Strict):
    """When and where the job may run."""

    policy: Annotated[str, BeforeValidator(_policy)] = "eco"
    #: time that the program computes [s]; None: unknown
    expected_duration_s: PositiveDuration | None = Field(default=None, alias="expected_duration")
    #: earliest start
    not_before: Moment = When(after_s=0.0)
    #: latest finish; None: see max_delay
    deadline: Moment | None = None
    #: latest finish after the submission [s]
    max_delay_s: PositiveDuration | None = Field(default=None, alias="max_delay")
    #: empty: every zone of the cluster
    zones: Annotated[tuple[Label, ...], BeforeValidator(_zones)] = ()
    #: no run above this intensity while the deadline allows it [g/kWh]
    max_intensity: Amount | None = Field(default=None, gt=0)
    #: do not wait for less saving than this against run-now [%]
    min_saving_pct: Amount = Field(default=0.0, ge=0, le=100)
    suspend: Suspend = Suspend()
    budget: Annotated[None, BeforeValidator(_budget)] = None
    on_missing_signal: Annotated[Literal["run"], BeforeValidator(_on_missing_signal)] = "run"

    @model_validator(mode="after")
    def _consistent(self) -> Carbon:
        if self.deadline is not None and self.max_delay_s is not None:
            raise ValueError("deadline and max_delay say the same thing twice; keep one of the two")
        return self


class Retries(Strict):
    """How often a failed attempt is started again."""

    max: Whole = Field(default=0, ge=0, le=100)
    #: empty: every exit code other than 0
    on_exit_codes: Annotated[list[Whole], AfterValidator(_exit_codes)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _used(self) -> Retries:
        if self.on_exit_codes and self.max == 0:
            raise ValueError("on_exit_codes has no effect with max 0; set max to 1 or more, or remove it")
        return self


class JobFile(Strict):
    """A job as its owner described it, checked. Times that count from the submission are still relative."""

    name: Name
    run: Annotated[str, AfterValidator(_run)]
    #: folder whose snapshot the job gets, relative to the current directory; None: no snapshot
    workdir: Annotated[str, AfterValidator(_workdir)] | None = None
    runtime_env: Annotated[dict[str, Any], AfterValidator(_runtime_env)] = Field(default_factory=dict)
    resources: Demand = Demand()
    workers: Workers = Workers()
    tenant: Label = "default"
    #: higher goes first among jobs that compete for a node
    priority: Whole = Field(default=500, ge=0, le=1000)
    carbon: Carbon = Carbon()
    retries: Retries = Retries()

    def to_spec(
        self, now_s: float, clock_speed: float, default_max_delay_s: float, package: str | None = None
    ) -> JobSpec:
        """The job submitted at `now_s` (grid time), with absolute times; `package` is its snapshot.

        A job with neither deadline nor max_delay ends within `default_max_delay_s` of its earliest start, or, if it is
        longer than that, of its earliest end. Raises InfeasibleError for a deadline that has passed.
        """
        from eco_ray.core.cluster import Resources
        from eco_ray.core.jobs import JobSpec, SuspendRule

        carbon = self.carbon
        expected_s = None if carbon.expected_duration_s is None else carbon.expected_duration_s * clock_speed
        not_before_s = carbon.not_before.resolve(now_s)
        return JobSpec(
            name=self.name,
            run=self.run,
            deadline_s=self._deadline_s(now_s, not_before_s, expected_s or 0.0, default_max_delay_s),
            demand=Resources(self.resources.num_cpus, self.resources.num_gpus, self.resources.memory_gb),
            tenant=self.tenant,
            priority=self.priority,
            policy=carbon.policy,
            expected_duration_s=expected_s,
            not_before_s=not_before_s,
            zones=carbon.zones,
            max_intensity=carbon.max_intensity,
            min_saving_pct=carbon.min_saving_pct,
            suspend=SuspendRule(
                carbon.suspend.allow, carbon.suspend.min_run_s * clock_speed, carbon.suspend.resume_cost_s * clock_speed
            ),
            max_retries=self.retries.max,
            retry_exit_codes=tuple(self.retries.on_exit_codes),
            runtime_env=dict(self.runtime_env),
            package=package,
        )

    def _deadline_s(self, now_s: float, not_before_s: float, expected_s: float, default_max_delay_s: float) -> float:
        carbon = self.carbon
        if carbon.deadline is not None:
            deadline_s = carbon.deadline.resolve(now_s)
        elif carbon.max_delay_s is not None:
            deadline_s = now_s + carbon.max_delay_s
        else:
            earliest_s = max(now_s, not_before_s)
            return earliest_s + default_max_delay_s + (expected_s if expected_s >= default_max_delay_s else 0.0)
        if deadline_s <= now_s:
            raise InfeasibleError(
                f"deadline {iso_utc(deadline_s)} of job {self.name} passed {human_duration(now_s - deadline_s)} "
                f"before its submission at {iso_utc(now_s)}; give a later one, for example --deadline 6h"
            )
        if not_before_s >= deadline_s:
            raise UsageError(
                f"not_before {iso_utc(not_before_s)} of job {self.name} is not before its deadline "
                f"{iso_utc(deadline_s)}; make one earlier or the other later"
            )
        return deadline_s


#: short keys of options (`--expected-duration`) and of Ray's metadata (`eco.expected_duration`), and where they belong
SHORT_KEYS: dict[str, tuple[str, ...]] = {
    "name": ("name",),
    "tenant": ("tenant",),
    "priority": ("priority",),
    "num_cpus": ("resources", "num_cpus"),
    "num_gpus": ("resources", "num_gpus"),
    "memory_gb": ("resources", "memory_gb"),
    "policy": ("carbon", "policy"),
    "expected_duration": ("carbon", "expected_duration"),
    "not_before": ("carbon", "not_before"),
    "deadline": ("carbon", "deadline"),
    "max_delay": ("carbon", "max_delay"),
    "zones": ("carbon", "zones"),
    "max_intensity": ("carbon", "max_intensity"),
    "min_saving_pct": ("carbon", "min_saving_pct"),
    "suspend": ("carbon", "suspend", "allow"),
}
#: short keys that only options have
OPTION_KEYS: dict[str, tuple[str, ...]] = {
    **SHORT_KEYS,
    "workdir": ("workdir",),
    "retries": ("retries", "max"),
    "min_run": ("carbon", "suspend", "min_run"),
    "resume_cost": ("carbon", "suspend", "resume_cost"),
}
_PREFIX = "eco."
_RIVALS: dict[tuple[str, ...], str] = {("carbon", "deadline"): "max_delay", ("carbon", "max_delay"): "deadline"}


def load_job_file(path: str | Path, overrides: Mapping[str, Any] | None = None) -> JobFile:
    """Read and check a job file. `overrides` are options by their short key; None means not given.

    A deadline among the overrides replaces a max_delay of the file, and the reverse. Raises UsageError.
    """
    path = Path(path)
    document = load_yaml(path, "job file")
    data = {"name": schema.slug(path.stem), **document.value}
    labels = _put(data, overrides or {}, OPTION_KEYS, lambda key: f"--{key.replace('_', '-')}")
    return schema.check(JobFile, data, document.where, document.line_of, labels)


def job_from_flags(
    run: str, flags: Mapping[str, Any] | None = None, metadata: Mapping[str, str] | None = None
) -> JobFile:
    """A job from a command, options by their short key (None: not given) and a Ray job's metadata; options win."""
    data: dict[str, Any] = {"name": _name_of(run), "run": run}
    labels = _put(data, _eco_keys(metadata or {}), SHORT_KEYS, lambda key: _PREFIX + key)
    labels |= _put(data, flags or {}, OPTION_KEYS, lambda key: f"--{key.replace('_', '-')}")
    return schema.check(JobFile, data, "job", labels=labels)


def job_from_metadata(metadata: Mapping[str, str], run: str) -> JobFile:
    """A job from a Ray job's metadata and its command. Keys without `eco.` belong to others and are left alone."""
    return job_from_flags(run, metadata=metadata)


def _eco_keys(metadata: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for key, value in metadata.items():
        if not key.startswith(_PREFIX):
            continue
        if key.removeprefix(_PREFIX) not in SHORT_KEYS:
            raise UsageError(f"metadata: {schema.unknown('key', key, [_PREFIX + short for short in SHORT_KEYS])}")
        found[key.removeprefix(_PREFIX)] = value
    return found


def _put(
    data: dict[str, Any], values: Mapping[str, Any], keys: Mapping[str, tuple[str, ...]], label: Any
) -> dict[schema.Path, str]:
    """Put short keys where they belong, and return what to call those places in errors."""
    labels: dict[schema.Path, str] = {}
    for short, value in values.items():
        if value is None:
            continue
        if short not in keys:
            raise UsageError(schema.unknown("option", short, keys))
        path = keys[short]
        place = data
        for part in path[:-1]:
            inner = place.get(part)
            if inner is not None and not isinstance(inner, dict):
                break  # the file has something else here, which the check refuses
            # a copy: aliases of a file may share the mapping
            place[part] = place = dict(inner or {})
        else:
            place[path[-1]] = value
            labels[path] = label(short)
            rival = _RIVALS.get(path)
            if rival and rival not in values:
                place.pop(rival, None)
    return labels


def _name_of(run: str) -> str:
    """A name from the command: that of its first Python script, else of its program."""
    words = run.split()
    script = next((word for word in words if re.search(r"\.(py|sh)$", word)), words[0] if words else "job")
    return schema.slug(Path(script).stem)
