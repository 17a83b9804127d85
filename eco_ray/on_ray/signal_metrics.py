"""Gauges of the carbon signal, exported by Ray with its own metrics (their names begin with `ray_` there).

ray_eco_grid_carbon_intensity_gco2e_per_kwh{grid_zone, source, kind}   what energy is accounted with now
ray_eco_signal_age_seconds{grid_zone, rung}                            how old what is planned with is
ray_eco_signal_rung{grid_zone, rung}                                   1 for the rung in use, 0 for those left
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SignalMetrics:
    """The gauges; a series whose labels are no longer true is set to 0, or NaN where 0 would be a statement."""

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        self._intensity = Gauge(
            "eco_grid_carbon_intensity_gco2e_per_kwh",
            "Carbon intensity of the zone now.",
            ("grid_zone", "source", "kind"),
        )
        self._age = Gauge("eco_signal_age_seconds", "Age of the signal that is planned with.", ("grid_zone", "rung"))
        self._rung = Gauge("eco_signal_rung", "1: how the zone is planned now.", ("grid_zone", "rung"))
        self._last: dict[str, tuple[dict[str, str], dict[str, str]]] = {}

    def show(self, zone: str, facts: Mapping[str, Any]) -> None:
        """Export what `Signals.now` says of a zone."""
        value, age_s = facts.get("intensity_g_per_kwh"), facts.get("age_s")
        # the words before the first comma or semicolon: dates and remarks would be a new series every hour
        source = str(facts.get("source", "unknown")).replace(";", ",").split(",")[0][:60]
        told = {"grid_zone": zone, "source": source, "kind": str(facts.get("kind") or "")}
        used = {"grid_zone": zone, "rung": str(facts.get("rung") or "offline")}
        before = self._last.get(zone)
        if before is not None and before[0] != told:
            self._intensity.set(float("nan"), before[0])
        if before is not None and before[1] != used:
            self._age.set(float("nan"), before[1])
            self._rung.set(0.0, before[1])
        self._intensity.set(float("nan") if value is None else float(value), told)
        self._age.set(float("nan") if age_s is None else float(age_s), used)
        self._rung.set(1.0, used)
        self._last[zone] = told, used
