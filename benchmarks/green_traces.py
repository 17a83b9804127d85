"""Traces of requests and intensities for green_cluster.py; all are in ../shared, which is not ours to ship."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from published import SHARED

DATA = SHARED / "data" / "serving"
#: zones here, and the regions of CASPER's traces that they stand for
REGIONS = {"DE": "eu-central-1", "FR": "eu-west-3", "US": "us-east-1"}


@dataclass(frozen=True)
class Arrivals:
    """When requests come, in seconds of the trace, and from which zone."""

    at_s: Sequence[float]
    origins: Sequence[str]
    #: seconds of the trace in one of the clock
    speed: float

    @property
    def length_s(self) -> float:
        """Of the trace."""
        return self.at_s[-1]


def conversations(speed: float, until_s: float = math.inf) -> Arrivals:
    """One in ten of an hour of Azure's conversations; where they come from is as in CASPER's first hour.

    `until_s`: of the trace.
    """
    with (DATA / "azure_llm_2023_conv.csv").open() as file:
        times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in csv.DictReader(file)][::10]
    weights = _requests()[0]
    at_s = [one - times[0] for one in times if one - times[0] < until_s]
    return Arrivals(at_s, _spread(weights, len(at_s)), speed)


def hours(count: int, one_in: int, speed: float) -> Arrivals:
    """CASPER's first hours of requests, one in so many, evenly within each hour."""
    at_s, origins = [], []
    for hour, weights in enumerate(_requests()[:count]):
        total = sum(weights.values()) // one_in
        at_s += [(hour + (one + 0.5) / total) * 3600 for one in range(total)]
        origins += _spread(weights, total)
    return Arrivals(at_s, origins, speed)


def intensity() -> list[tuple[float, dict[str, float]]]:
    """By hour, from where the requests begin: time of its begin, and g/kWh of each zone."""
    begin = _times()[0]
    with (DATA / "casper_ci_7aws_hourly_2021-2022.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["timestamp"]))
    rows = [row for row in rows if int(row["timestamp"]) >= begin]
    return [(float(row["timestamp"]), {zone: float(row[name]) for zone, name in REGIONS.items()}) for row in rows]


def _times() -> list[int]:
    with (DATA / "casper_requests.csv").open() as file:
        return [int(row["timestamp"]) for row in csv.DictReader(file)]


def _requests() -> list[dict[str, int]]:
    with (DATA / "casper_requests.csv").open() as file:
        return [{zone: int(row[name]) for zone, name in REGIONS.items()} for row in csv.DictReader(file)]


def ways_ms() -> dict[tuple[str, str], float]:
    """Round-trip times between zones."""
    with (DATA / "casper_latency.csv").open() as file:
        names, *rows = csv.reader(file)
    between = {
        (a, b): float(one) for a, row in zip(names, rows, strict=True) for b, one in zip(names, row, strict=True)
    }
    return {(a, b): between[REGIONS[a], REGIONS[b]] for a in REGIONS for b in REGIONS}


def _spread(weights: dict[str, int], count: int) -> list[str]:
    """Zones in turn, so that each has its part of any stretch."""
    owed, found = dict.fromkeys(weights, 0.0), []
    for _ in range(count):
        for zone, weight in weights.items():
            owed[zone] += weight / sum(weights.values())
        zone = max(owed, key=lambda one: owed[one])
        owed[zone] -= 1
        found.append(zone)
    return found
