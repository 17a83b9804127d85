"""What a service tells Prometheus, with labels of few values."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

from eco_ray.core.footprint import Footprint

CONTENT_TYPE = CONTENT_TYPE_LATEST
#: of the time in a replica [s]
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one service."""

    def __init__(self, model: str, version: int) -> None:
        self._registry = CollectorRegistry()
        names, labels = ("model", "version"), (model, str(version))
        self._requests = Counter("eco_requests", "Answered requests", (*names, "status"), registry=self._registry)
        self._labels = labels
        self._by_status: dict[int, Counter] = {}

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, names, registry=self._registry).labels(*labels)

        self._seconds = Histogram(
            "eco_inference_seconds", "Time of an inference in the replica", names,
            buckets=_BUCKETS, registry=self._registry,
        ).labels(*labels)  # fmt: skip
        self._energy_j = counter("eco_energy_joules", "Energy of inferences, as their footprints tell it")
        self._carbon_g = Counter(
            "eco_carbon_grams", "Carbon of inferences whose grid's intensity was known", (*names, "component"),
            registry=self._registry,
        ).labels(*labels, "operational")  # fmt: skip
        self._hits = counter("eco_cache_hits", "Inferences answered from the cache")
        self._avoided_j = counter("eco_energy_avoided_joules", "Energy that hits of the cache avoided")

    def answered(self, status: int) -> None:
        """A request has its answer."""
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self._requests.labels(*self._labels, str(status))
        counter.inc()

    def inferred(self, footprint: Footprint) -> None:
        """An inference has taken so much."""
        self._seconds.observe(footprint.duration_s)
        self._energy_j.inc(max(0.0, footprint.energy_j))
        if footprint.carbon_g is not None:
            self._carbon_g.inc(max(0.0, footprint.carbon_g))

    def hit(self, avoided_j: float) -> None:
        """An answer was in the cache."""
        self._hits.inc()
        self._avoided_j.inc(avoided_j)

    def text(self) -> bytes:
        """All of it, in Prometheus' format."""
        return generate_latest(self._registry)
