"""What a job's owner says of it: one model with its checks, for job files, options and metadata of a Ray job.

    name: train-mnist                    # optional: from the file's name
    run: python jobs/train_mnist.py      # a shell command
    workdir: .                           # snapshot of this folder for the job; relative to the current directory
    resources: {num_cpus: 1, memory_gb: 1}
    carbon: {expected_duration: 3h, deadline: 6h, zones: [DE, FR]}

Which clock: `deadline`, `max_delay` and `not_before` are grid time. `expected_duration`, `suspend.min_run` and
`suspend.resume_cost` say how long the program computes, in wall time; they are multiplied by the clock's speed.
`budget` is what the ledger counts, which is power x grid time: it stays as it is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from eco_ray import schema
from eco_ray.errors import InfeasibleError, UsageError
from eco_ray.schema import Amount, Duration, Label, Moment, Name, PositiveDuration, Strict, Whole
from eco_ray.times import When, human_duration, iso_utc

if TYPE_CHECKING:
    from eco_ray.core.jobs import JobSpec

#: longest command [bytes]
MAX_RUN_BYTES = 32 << 10
#: most workers of one job
MAX_WORKERS = 1000
#: a job with its most workers may be so many times as fast as with its least; more is a slip of units
_MAX_SPEEDUP = 1e6
#: policies that decide something
POLICIES = (
    "eco", "run-now", "lowest-slot", "lowest-window", "carbon-time", "wait-awhile", "threshold", "carbon-scaler",
)  # fmt: skip
#: those that suspend jobs by themselves; eco does where it may
_PAUSES = ("wait-awhile", "threshold", "carbon-scaler")


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
    """What one worker holds on the attempt's node."""

    num_cpus: Amount = Field(default=1.0, gt=0)
    num_gpus: Annotated[Amount, AfterValidator(_gpus)] = Field(default=0.0, ge=0)
    memory_gb: Amount = Field(default=0.0, ge=0)
    #: of all its GPUs together
    gpu_memory_gb: Amount = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _on_a_gpu(self) -> Demand:
        if self.gpu_memory_gb and not self.num_gpus:
            raise ValueError(
                f"gpu_memory_gb {self.gpu_memory_gb:g} needs a GPU, and num_gpus is 0; give num_gpus (a share such as "
                "0.5 will do), or remove gpu_memory_gb"
            )
        return self


class Workers(Strict):
    """Elastic size: an attempt holds the job's resources once for each worker."""

    min: Whole = Field(default=1, ge=1, le=MAX_WORKERS)
    #: None: as min
    max: Whole | None = Field(default=None, ge=1, le=MAX_WORKERS)
    #: work per second with min, min + 1, ..., max workers, in any unit; None: it grows in proportion
    throughput: list[Amount] | None = None

    @property
    def most(self) -> int:
        """The greatest number of workers."""
        return self.min if self.max is None else self.max

    @model_validator(mode="after")
    def _in_order(self) -> Workers:
        if self.most < self.min:
            raise ValueError(f"min {self.min} is above max {self.max}; lower min or raise max")
        if self.throughput is not None:
            _check_throughput(self.throughput, self.min, self.most)
        return self

    def normalised(self) -> tuple[float, ...]:
        """The throughput in terms of that with the least workers; empty: it grows in proportion."""
        if self.throughput is None or self.most == self.min:
            return ()
        return tuple(value / self.throughput[0] for value in self.throughput)


def _check_throughput(values: list[float], least: int, most: int) -> None:
    """Refuse a table that does not say how fast each number of workers is."""
    if len(values) != most - least + 1:
        numbers = f"{least} to {most} workers" if most > least else f"{least} worker{'s' if least > 1 else ''}"
        raise ValueError(
            f"throughput has {len(values)} values, and {most - least + 1} are needed: one for each of {numbers}; add "
            "or remove some, or leave throughput out where it grows in proportion"
        )
    for workers, value in enumerate(values, least):
        if value <= 0:
            raise ValueError(
                f"throughput {value:g} with {workers} workers is not above 0; give work per second, in any unit"
            )
    for workers, (fewer, more) in enumerate(pairwise(values), least + 1):
        if more < fewer:
            raise ValueError(
                f"throughput {more:g} with {workers} workers is below {fewer:g} with {workers - 1}; give work per "
                f"second (not seconds), or set max to {workers - 1} where more workers only hold each other up"
            )
    if values[-1] / values[0] > _MAX_SPEEDUP:
        raise ValueError(
            f"throughput grows from {values[0]:g} to {values[-1]:g}, by more than a factor of {_MAX_SPEEDUP:g}; give "
            "all values in the same unit"
        )


class Suspend(Strict):
    """Whether the job may be suspended for a cleaner hour, and what that costs."""

    allow: bool = True
    #: shortest useful run between two suspensions [s of computing]
    min_run_s: Duration = Field(default=60.0, alias="min_run")
    #: what a resumed attempt needs before it works again [s of computing]
    resume_cost_s: Duration = Field(default=10.0, alias="resume_cost")
    #: what a move to another zone has to transfer; what a session reports counts more
    checkpoint_gb: Amount = Field(default=0.0, ge=0)


class Budget(Strict):
    """What all attempts of the job together may use and emit; it does not start where it would need more."""

    carbon_g: Amount | None = Field(default=None, gt=0)
    energy_kwh: Amount | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _of_something(self) -> Budget:
        if self.carbon_g is None and self.energy_kwh is None:
            raise ValueError("limits nothing; give carbon_g, energy_kwh or both, or remove budget")
        return self


class Carbon(Strict):
    """When and where the job may run."""

    policy: Annotated[str, BeforeValidator(_policy)] = "eco"
    #: time that the program computes with the least workers [s]; None: unknown
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
    #: None: no limit
    budget: Budget | None = None
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

    @field_validator("workers")
    @classmethod
    def _whole_gpus(cls, workers: Workers, others: ValidationInfo) -> Workers:
        """Ray gives out shares of one GPU, or whole ones."""
        gpus = others.data["resources"].num_gpus if "resources" in others.data else 0.0
        for count in range(workers.min, workers.most + 1):
            together = gpus * count
            if together > 1 and together != int(together):
                raise ValueError(
                    f"resources.num_gpus {gpus:g} for each of {count} workers is {together:g} GPUs, neither a whole "
                    f"number nor a share of one; give each worker whole GPUs, or take at most {int(1 / gpus)} workers"
                )
        return workers

    @field_validator("carbon")
    @classmethod
    def _can_follow(cls, carbon: Carbon, others: ValidationInfo) -> Carbon:
        least = others.data["workers"].min if "workers" in others.data else 1
        if carbon.policy in _PAUSES and not carbon.suspend.allow:
            raise ValueError(
                f"the policy {carbon.policy} suspends jobs, and carbon.suspend.allow is false; allow it, or set "
                "carbon.policy to eco or lowest-window"
            )
        if carbon.policy == "carbon-scaler" and least > 1:
            raise ValueError(
                f"the policy carbon-scaler begins with 1 worker, and workers.min is {least}; set workers.min to 1, or "
                "carbon.policy to eco"
            )
        return carbon

    def to_spec(
        self, now_s: float, clock_speed: float, default_max_delay_s: float, package: str | None = None
    ) -> JobSpec:
        """The job submitted at `now_s` (grid time), with absolute times; `package` is its snapshot.

        A job with neither deadline nor max_delay ends within `default_max_delay_s` of its earliest start, or, if it is
        longer than that, of its earliest end. Raises InfeasibleError for a deadline that has passed.
        """
        from eco_ray.core import jobs
        from eco_ray.core.cluster import Resources
        from eco_ray.core.units import J_PER_KWH

        carbon, demand, suspend = self.carbon, self.resources, self.carbon.suspend
        budget_kwh = carbon.budget.energy_kwh if carbon.budget else None
        expected_s = None if carbon.expected_duration_s is None else carbon.expected_duration_s * clock_speed
        not_before_s = carbon.not_before.resolve(now_s)
        return jobs.JobSpec(
            name=self.name,
            run=self.run,
            deadline_s=self._deadline_s(now_s, not_before_s, expected_s or 0.0, default_max_delay_s),
            demand=Resources(demand.num_cpus, demand.num_gpus, demand.memory_gb, demand.gpu_memory_gb),
            tenant=self.tenant,
            priority=self.priority,
            policy=carbon.policy,
            expected_duration_s=expected_s,
            not_before_s=not_before_s,
            zones=carbon.zones,
            max_intensity=carbon.max_intensity,
            min_saving_pct=carbon.min_saving_pct,
            suspend=jobs.SuspendRule(
                suspend.allow, suspend.min_run_s * clock_speed, suspend.resume_cost_s * clock_speed
            ),
            max_retries=self.retries.max,
            retry_exit_codes=tuple(self.retries.on_exit_codes),
            workers=jobs.Workers(self.workers.min, self.workers.most, self.workers.normalised()),
            budget_g=carbon.budget.carbon_g if carbon.budget else None,
            budget_j=None if budget_kwh is None else budget_kwh * J_PER_KWH,
            checkpoint_gb=suspend.checkpoint_gb,
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
