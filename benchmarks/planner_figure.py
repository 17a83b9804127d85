"""Draws docs/planner.svg: two days of one cluster of 20 CPUs, run-now beside eco, with the prices of the market.

    python benchmarks/planner_figure.py

The intensity is that of the built-in profile of Germany; the jobs are made up, with a fixed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.events import ForecastArrived
from eco_ray.core.jobs import JobSpec, SuspendRule
from eco_ray.core.orchestrator import Orchestrator, OrchestratorConfig
from eco_ray.core.power import PowerCurve
from eco_ray.core.situation import PlannerConfig
from eco_ray.grid.profile import ModelledProfile
from eco_ray.sim.replay import Replay, Submission

OUT = Path(__file__).resolve().parents[1] / "docs" / "planner.svg"
HOUR_S, HOURS, CPUS = 3600.0, 48, 20
BEGIN_S = 1_782_864_000.0  # 2026-07-01 00:00 UTC
WIDTH, LEFT, PANEL = 760, 70, 110
INK, GRID, GREEN, GREY, RED = "#1f2933", "#d5dbe1", "#2f9e6e", "#9aa5b1", "#c2410c"

Floats = NDArray[np.float64]


def jobs(policy: str) -> list[Submission]:
    """120 jobs in a day and a half; each may wait 16 h, and pause."""
    chance, made = np.random.default_rng(3), []
    for number, arrival_h in enumerate(np.sort(chance.uniform(0, 32, 120))):
        length_h = float(chance.choice([0.5, 1, 2, 4]))
        arrival_s = BEGIN_S + float(arrival_h) * HOUR_S
        spec = JobSpec(
            name=f"j{number}",
            run="true",
            deadline_s=arrival_s + (length_h + 16) * HOUR_S,
            demand=Resources(cpus=float(chance.choice([1, 2, 4]))),
            policy=policy,
            expected_duration_s=length_h * HOUR_S,
            suspend=SuspendRule(True, 0.0, 0.0),
        )
        made.append(Submission(f"j{number}", arrival_s, spec, length_h * HOUR_S))
    return made


class OneForecast:
    """What the profile says of the whole time, told at the beginning."""

    def __init__(self) -> None:
        self.series = ModelledProfile().forecast("DE", BEGIN_S, BEGIN_S + 2 * HOURS * HOUR_S)

    def times_s(self) -> Sequence[float]:
        return [BEGIN_S]

    def at(self, now_s: float) -> ForecastArrived:
        return ForecastArrived({"DE": self.series})


class Watched(Orchestrator):
    """Keeps the price of each hour as it was when the hour began [g per CPU and hour]."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.price = np.zeros(HOURS)

    def handle(self, event: object, now_s: float) -> list[object]:  # type: ignore[override]
        actions = super().handle(event, now_s)  # type: ignore[arg-type]
        market, hour = self.book.market, int((now_s - BEGIN_S) // HOUR_S)
        if market is not None and 0 <= hour < HOURS:
            self.price[hour] = float(market.price_g[0, 0, 0]) * HOUR_S
        return actions  # type: ignore[return-value]


def simulated(policy: str) -> tuple[Floats, Floats, float]:
    """Mean CPUs in use in each quarter of an hour, prices, and grams."""
    curve = PowerCurve((0.0, 1.0), (0.0, 10.0 * CPUS), "assumed: 10 W per CPU")
    brain = Watched("DE", BEGIN_S, OrchestratorConfig(planner=PlannerConfig(slot_s=900.0), replan_limit=200))
    news, submissions = OneForecast(), jobs(policy)
    node = Node("node", "DE", Resources(cpus=float(CPUS)), curve)
    done = Replay(
        brain, [node], submissions, news, begin_s=BEGIN_S, end_s=BEGIN_S + 2 * HOURS * HOUR_S, tick_s=300.0
    ).run()
    edges_s, load, grams = np.arange(HOURS * 4 + 1) * 900.0, np.zeros(HOURS * 4), 0.0
    for job, _, start_s, end_s, _ in done.rows:
        cpus = submissions[job].spec.demand.cpus
        load += cpus * np.clip(np.minimum(edges_s[1:], end_s) - np.maximum(edges_s[:-1], start_s), 0, None) / 900
        grams += cpus * 10 * (end_s - start_s) / 3.6e6 * news.series.mean(BEGIN_S + start_s, BEGIN_S + end_s)
    return load, brain.price, grams


def panel(top: int, title: str, values: Floats, most: float, unit: str, color: str, limit: float | None = None) -> str:
    """Bars of a series under a title; `limit`: a dashed line."""
    x = LEFT + np.arange(len(values) + 1) * (WIDTH - LEFT - 20) / len(values)
    y = top + PANEL - np.minimum(values / most, 1.0) * (PANEL - 26)
    path = f"M{x[0]:.1f} {top + PANEL}" + "".join(
        f"V{height:.1f}H{right:.1f}" for height, right in zip(y, x[1:], strict=True)
    )
    parts = [
        f'<text x="{LEFT}" y="{top + 12}" fill="{INK}" font-weight="600">{title}</text>',
        f'<path d="{path}V{top + PANEL}Z" fill="{color}" fill-opacity="0.75"/>',
        f'<path d="M{LEFT} {top + PANEL}H{WIDTH - 20}" stroke="{GRID}"/>',
        f'<text x="{LEFT - 8}" y="{top + 30}" text-anchor="end" fill="{INK}">{most:g}</text>',
        f'<text x="{LEFT - 8}" y="{top + 44}" text-anchor="end" fill="{GREY}">{unit}</text>',
        f'<text x="{LEFT - 8}" y="{top + PANEL}" text-anchor="end" fill="{INK}">0</text>',
    ]
    if limit is not None:
        at = top + PANEL - limit / most * (PANEL - 26)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - 20}" stroke="{RED}" stroke-dasharray="5 4"/>')
    return "\n".join(parts)


def main() -> None:
    now, _, now_g = simulated("run-now")
    eco, price, eco_g = simulated("eco")
    series = OneForecast().series
    intensity = series.means(BEGIN_S + np.arange(HOURS + 1) * HOUR_S)
    step = PANEL + 24
    panels = [
        panel(10, "carbon intensity", intensity, float(np.ceil(intensity.max() / 50) * 50), "g/kWh", GREY),
        panel(10 + step, f"run-now: {now_g:,.0f} g", now, CPUS * 1.1, "CPUs", GREY, CPUS),
        panel(
            10 + 2 * step, f"eco: {eco_g:,.0f} g ({1 - eco_g / now_g:.0%} less)", eco, CPUS * 1.1, "CPUs", GREEN, CPUS
        ),
        panel(
            10 + 3 * step, "what a CPU is worth to the others", price, round(float(price.max()) + 0.05, 1), "g/h", RED
        ),
    ]
    bottom = 10 + 4 * step
    hours = "".join(
        f'<text x="{LEFT + hour * (WIDTH - LEFT - 20) / HOURS:.0f}" y="{bottom + 2}" text-anchor="middle" '
        f'fill="{INK}">{hour % 24:02}:00</text>'
        for hour in range(0, HOURS + 1, 6)
    )
    OUT.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 12}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(panels)
        + f"\n{hours}\n</svg>\n"
    )
    print(f"{OUT.name}: run-now {now_g:.0f} g, eco {eco_g:.0f} g; prices up to {price.max():.2f} g per CPU and hour")


if __name__ == "__main__":
    main()
