"""Scenarios of the simulator: the options of `eco-ray simulate`, in a YAML file that can also describe machines.

    jobs: jobs.csv                     # or workload: lets-wait-awhile-ml
    intensity: ci.csv
    zones: [DE, FR]                    # the first one is home; {AU-SA: direct} names another column
    start: 2022-10-19T16:00Z
    hours: 720
    forecast: {DE: forecast-de.csv}    # or oracle, profile, persistence, week-mean
    compare: [run-now, lowest-window, wait-awhile, eco, bound]
    nodes:                             # as in a cluster file: capacity, power curve, PUE
      - {name: de-1, zone: DE, num_cpus: 64, memory_gb: 512, power: {idle_w: 120, max_w: 480, source: wall meter}}

Paths are relative to the file's folder. Options on the command line win over the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from eco_ray import schema
from eco_ray.cluster_file import NodeFile
from eco_ray.schema import Amount, Duration, Label, PositiveDuration, Strict, Whole
from eco_ray.yaml_file import load_yaml

#: looking ahead without a file
FORESIGHT = ("oracle", "profile", "persistence", "week-mean")
DAY = "24h"


class Scenario(Strict):
    """Everything that a simulation depends on, checked."""

    #: CSV of the jobs
    jobs: Path | None = None
    #: a workload of the literature, generated
    workload: Literal["lets-wait-awhile-ml", "nightly"] | None = None
    seed: Whole = Field(default=0, ge=0)
    #: CSV of what served models need of the nodes
    serving: Path | None = None
    #: CSV of the carbon intensity
    intensity: Path
    #: zone: column of the intensity file; the first zone is home
    zones: dict[Label, str] = Field(min_length=1, max_length=200)
    #: ISO time; None: where the intensity file begins
    start: str | None = None
    #: None: to the end of the intensity file
    hours: Amount | None = Field(default=None, gt=0, le=100_000)
    policy: str = "eco"
    #: several policies, in one table
    compare: tuple[str, ...] = ()
    #: CPUs of each zone; None: without limit
    capacity_cpus: Amount | None = Field(default=None, gt=0, le=1e9)
    #: oracle, profile, persistence, week-mean, or a file; by zone, or for all of them ("*")
    forecast: dict[str, str] = Field(default_factory=lambda: {"*": "oracle"})
    #: jobs below it wait in the short queue
    short_max: PositiveDuration = Field(default="2h", validate_default=True)
    max_delay_short: Duration = Field(default="6h", validate_default=True)
    max_delay_long: Duration = Field(default=DAY, validate_default=True)
    #: length of a tick; None: 5 minutes, or what fits the steps of the intensity file
    resolution: PositiveDuration | None = None
    knows_duration: Literal["yes", "mean", "no"] = "yes"
    resume_cost: Duration = Field(default=0, validate_default=True)
    min_run: Duration = Field(default=0, validate_default=True)
    min_saving_pct: Amount = Field(default=0.0, ge=0, le=100)
    watts_per_cpu: Amount = Field(default=1.0, gt=0, le=10_000)
    interruptible: bool = False
    published_quirks: bool = False
    #: what 1 means in the times of the jobs file
    time_unit: Literal["s", "m", "h"] = "s"
    #: machines; None: one without limits (or of capacity_cpus) per zone
    nodes: tuple[NodeFile, ...] = Field(default=(), max_length=10_000)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        zones, forecast = data.get("zones"), data.get("forecast")
        if isinstance(zones, list):
            data["zones"] = {zone: zone for zone in zones if isinstance(zone, str)}
        if isinstance(forecast, str):
            data["forecast"] = {"*": forecast}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        if (self.jobs is None) == (self.workload is None):
            raise ValueError("needs jobs (a CSV file) or workload (a name), and not both")
        for key in ("resolution", "resume_cost", "short_max"):
            if (getattr(self, key) or 0) % 1:
                raise ValueError(f"{key} {getattr(self, key):g} s: whole seconds are needed")
        for zone in self.forecast:
            if zone != "*" and zone not in self.zones:
                raise ValueError(f"forecast for {zone!r}, which is not one of the zones {', '.join(self.zones)}")
        for node in self.nodes:
            if node.zone not in self.zones:
                raise ValueError(f"node {node.name} is in {node.zone!r}, not one of the zones {', '.join(self.zones)}")
        missing = [zone for zone in self.zones if self.nodes and zone not in {node.zone for node in self.nodes}]
        if missing:
            raise ValueError(f"no node in zone {', '.join(missing)}; add one, or leave the zone out")
        if self.nodes and self.capacity_cpus is not None:
            raise ValueError("capacity_cpus and nodes: the nodes have a capacity; leave capacity_cpus out")
        return self


def load_scenario(path: Path | None, options: Mapping[str, Any]) -> Scenario:
    """A scenario from a file, from options (those that are None were not given), or both. Raises UsageError."""
    data: dict[str, Any] = {}
    labels: dict[schema.Path, str] = {}
    where, line_of = "eco-ray simulate", None
    if path is not None:
        document = load_yaml(path, "scenario")
        data, where, line_of = dict(document.value), document.where, document.line_of
        folder = path.absolute().parent
        for key in ("jobs", "intensity", "serving"):
            if isinstance(data.get(key), str):
                data[key] = folder / data[key]
        forecast = data.get("forecast")
        if isinstance(forecast, str):
            data["forecast"] = {"*": forecast}
        if isinstance(data.get("forecast"), dict):
            data["forecast"] = {
                zone: source if source in FORESIGHT or not isinstance(source, str) else str(folder / source)
                for zone, source in data["forecast"].items()
            }
    for key, value in options.items():
        if value is not None:
            data[key] = value
            labels[(key,)] = f"--{key.replace('_', '-')}"
    if options.get("jobs") is not None and options.get("workload") is None:
        data.pop("workload", None)  # what is said on the command line stands for what the file says
    if options.get("workload") is not None and options.get("jobs") is None:
        data.pop("jobs", None)
    return schema.check(Scenario, data, where, line_of or (lambda _path: None), labels)
