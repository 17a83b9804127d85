"""What a service tells Prometheus, with labels of few values.

Requests count in plain numbers, and the library's objects are made of them when somebody asks: its own counters take a
lock and several calls for each number, on the way of every request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from eco_ray.core.footprint import Footprint
from eco_ray.core.units import Nature

CONTENT_TYPE = CONTENT_TYPE_LATEST
#: upper ends, of the time in a replica [s]
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics(Collector):
    """Counters of one service. The event loop calls `answered`, whoever infers the others; never two at once."""

    def __init__(self, model: str, version: int) -> None:
        self._labels = {"model": model, "version": str(version)}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._by_status: dict[int, int] = {}
        #: inferences by the bucket of their time; the last one is open
        self._by_time = [0] * (len(_BUCKETS) + 1)
        self._seconds = self._avoided_j = 0.0
        self._hits = 0
        #: energy [J] and carbon [g] of inferences, by grid zone and nature
        self._spent: dict[tuple[str, str], list[float]] = {}

    def answered(self, status: int) -> None:
        """A request has its answer."""
        self._by_status[status] = self._by_status.get(status, 0) + 1

    def inferred(self, footprint: Footprint) -> None:
        """An inference has taken so much."""
        self._by_time[bisect_left(_BUCKETS, footprint.duration_s)] += 1
        self._seconds += footprint.duration_s
        spent = self._spent.setdefault((footprint.signal.zone, footprint.nature), [0.0, 0.0])
        spent[0] += footprint.energy_j
        spent[1] += footprint.carbon_g or 0.0

    def hit(self, avoided_j: float) -> None:
        """An answer was in the cache."""
        self._hits += 1
        self._avoided_j += avoided_j

    @property
    def spent(self) -> tuple[int, float, Nature]:
        """Inferences so far, their energy [J], and how that is known. Another thread may ask."""
        spent = tuple(self._spent.items())
        natures = [Nature(nature) for (_, nature), _ in spent]
        return sum(self._by_time), sum(energy_j for _, (energy_j, _) in spent), Nature.weakest(natures)

    def text(self) -> bytes:
        """All of it, in Prometheus' format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the library asks for."""
        names, values = list(self._labels), list(self._labels.values())
        requests = CounterMetricFamily("eco_requests", "Answered requests", labels=[*names, "status"])
        for status, count in sorted(self._by_status.items()):
            requests.add_metric([*values, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily("eco_inference_seconds", "Time of an inference in the replica", labels=names)
        ends = [*map(str, _BUCKETS), "+Inf"]
        seconds.add_metric(values, list(zip(ends, accumulate(self._by_time), strict=True)), self._seconds)
        yield seconds
        of = [*names, "grid_zone", "nature"]
        energy = CounterMetricFamily(
            "eco_energy_joules", "Energy of inferences, as their footprints tell it", labels=of
        )
        carbon = CounterMetricFamily(
            "eco_carbon_grams",
            "Carbon of inferences while the grid's intensity was known",
            labels=[*of, "component"],
        )
        for (zone, nature), (energy_j, carbon_g) in sorted(self._spent.items()):
            energy.add_metric([*values, zone, nature], energy_j)
            carbon.add_metric([*values, zone, nature, "operational"], carbon_g)
        yield energy
        yield carbon
        for name, text, value in (
            ("eco_cache_hits", "Inferences answered from the cache", self._hits),
            ("eco_energy_avoided_joules", "Energy that hits of the cache avoided, by an estimate", self._avoided_j),
        ):
            counter = CounterMetricFamily(name, text, labels=names)
            counter.add_metric(values, value)
            yield counter
