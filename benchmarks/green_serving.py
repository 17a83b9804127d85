"""Serving with few grams, beside what was published and what solvers find.

    python benchmarks/green_serving.py [--only casper,nodes] [--no-save]
    python benchmarks/green_serving.py --only conv,week       # on a real cluster, 35 min: green_cluster.py

Needs ../shared (traces that are not ours to ship); without it, it says so and ends.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from dataclasses import dataclass
from functools import cache

import numpy as np
from common import run_tables, table, verdict
from published import SHARED
from scipy.optimize import Bounds, LinearConstraint, milp

from eco_ray.core.serving import Traffic, plan_traffic, split_traffic
from eco_ray.core.zone_power import Curve

DATA = SHARED / "data" / "serving"
HOURS = 168
#: requests of each region and hour, as published; of each server
REGION, SERVER = 1000.0, 10.0
#: of the way [ms]; the published one first
LIMITS_MS = (50.0, 5.0, 20.0, 100.0, 150.0, 200.0, 300.0)
#: nodes of our own example: requests that one answers, and its watts as soon as it is on, and busy
NODE, IDLE_W, BUSY_W = 100.0, 100.0, 200.0
POINTS = 0.1


@dataclass(frozen=True)
class Week:
    """CASPER's inputs: [hours, regions], and milliseconds between regions."""

    requests: np.ndarray
    intensity: np.ndarray
    rtt_ms: np.ndarray

    @property
    def local(self) -> float:
        return float((self.requests * self.intensity).sum())


@cache
def week() -> Week:
    with (DATA / "casper_ci_7aws_hourly_2021-2022.csv").open() as file:
        intensity = {row["timestamp"]: row for row in csv.DictReader(file)}
    with (DATA / "casper_requests.csv").open() as file:
        hours = [row for row in csv.DictReader(file) if row["timestamp"] in intensity][:HOURS]
    with (DATA / "casper_latency.csv").open() as file:
        names, *rtt_ms = csv.reader(file)
    return Week(
        np.array([[float(row[name]) for name in names] for row in hours]),
        np.array([[float(intensity[row["timestamp"]][name]) for name in names] for row in hours]),
        np.array(rtt_ms, float),
    )


def rows_of(regions: int) -> tuple[np.ndarray, np.ndarray]:
    """Of requests that are sent: summed by destination, and by origin."""
    each = np.eye(regions)
    return np.kron(np.ones((1, regions)), each), np.kron(each, np.ones((1, regions)))


def solved(
    requests: np.ndarray, rtt_ms: np.ndarray, limit_ms: float, cost: np.ndarray, each: float, most: float
) -> np.ndarray | None:
    """A MILP of one hour: whole servers (or nodes) of `each` requests, `most` of them a region; [R * R + R]."""
    regions = len(requests)
    to, of = rows_of(regions)
    found = milp(
        cost,
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, np.concatenate([np.where(rtt_ms.ravel() <= limit_ms, np.inf, 0), np.full(regions, most)])),
        constraints=[
            LinearConstraint(np.hstack([to, -each * np.eye(regions)]), -np.inf, 0),
            LinearConstraint(np.hstack([of, np.zeros((regions, regions))]), requests, requests),
        ],
    )
    return None if found.x is None else np.round(found.x)


def casper() -> bool:
    """168 h of six regions: what is saved against serving locally [%], by the published MILP (HiGHS) and by ours."""
    given, rows, holds, worst = week(), [], True, np.zeros(3)
    regions = given.requests.shape[1]
    published = json.loads((SHARED / "reference" / "casper.json").read_text())["rows"][1]["saved_pct"]
    capacity = np.full(regions, REGION)
    for limit_ms in LIMITS_MS:
        sums, took_s = np.zeros(4), np.zeros(2)
        for requests, intensity in zip(given.requests, given.intensity, strict=True):
            began_s = time.process_time()
            carbon = 0.9 * np.tile(intensity, regions) / (intensity.max() * requests.sum())
            servers = np.full(regions, 0.1 / (regions * REGION / SERVER))
            found = solved(requests, given.rtt_ms, limit_ms, np.concatenate([carbon, servers]), SERVER, REGION / SERVER)
            between_s = time.process_time()
            share = split_traffic(requests, intensity, given.rtt_ms, capacity, limit_ms)
            took_s += between_s - began_s, time.process_time() - between_s
            if found is None:
                raise RuntimeError(f"the MILP has no plan within {limit_ms} ms")
            by_milp, ours = found[: regions * regions].reshape(regions, regions), share * requests[:, None]
            for at, sent in enumerate((by_milp, ours)):
                sums[2 * at :][:2] += (sent * intensity).sum(), (sent * given.rtt_ms).sum()
        saved = 100 * (1 - sums[::2] / given.local)
        apart = abs(saved[1] - saved[0])
        said = f"{published:.2f}" if limit_ms == LIMITS_MS[0] else ""
        off = abs(saved[1] - published) if said else 0.0
        worst = np.maximum(worst, (off, apart, took_s[1] / took_s[0]))
        good = apart <= POINTS and took_s[1] < took_s[0] and off <= POINTS
        holds &= good
        rows.append(
            [
                f"{limit_ms:.0f} ms",
                said,
                *(f"{one:.2f}" for one in saved),
                f"{apart:.3f}",
                *(f"{one:.2f}" for one in sums[1::2] / given.requests.sum()),
                *(f"{one:.3f}" for one in took_s),
                "ok" if good else "MISSED",
            ]
        )
    table(
        ["way at most", "published", "MILP", "ours", "points apart", "ms, MILP", "ms, ours", "CPU-s, MILP", "ours", ""],
        rows,
    )
    print()
    verdict("casper: ours beside the published saving", worst[0], POINTS, " points")
    verdict("casper: ours beside the MILP, of all rows the most", worst[1], POINTS, " points")
    verdict("casper: CPU time of ours / that of the MILP, of all rows the most", worst[2], 1.0)
    print("published: 3.7 s")
    return holds


def node_curve(intensity: float) -> Curve:
    """Ten nodes that sleep while nothing is there."""
    x, y = [0.0], [0.0]
    for node in range(round(REGION / NODE)):
        asleep_g = node * BUSY_W * intensity / 1000
        x += [node * NODE, (node + 1) * NODE]
        y += [asleep_g + IDLE_W * intensity / 1000, asleep_g + BUSY_W * intensity / 1000]
    return Curve(tuple(x), tuple(y))


def nodes() -> bool:
    """The same week on ten nodes a region, 100 W as soon as one is on, 200 W busy: by a MILP of nodes, and ours."""
    given, rows, holds, all_s, worst = week(), [], True, np.zeros(2), 0.0
    regions = given.requests.shape[1]
    rtt_ms = tuple(map(tuple, given.rtt_ms.tolist()))
    for limit_ms in LIMITS_MS:
        sums, took_s, by_servers = np.zeros(3), np.zeros(2), 0.0
        for requests, intensity in zip(given.requests, given.intensity, strict=True):
            each = intensity / 1000
            began_s = time.process_time()
            cost = np.concatenate([np.tile((BUSY_W - IDLE_W) / NODE * each, regions), IDLE_W * each])
            found = solved(requests, given.rtt_ms, limit_ms, cost, NODE, REGION / NODE)
            between_s = time.process_time()
            curves = tuple(map(node_curve, intensity.tolist()))
            plan = plan_traffic(Traffic(0.0, tuple(requests.tolist()), curves, rtt_ms, limit_ms))
            took_s += between_s - began_s, time.process_time() - between_s
            if found is None:
                raise RuntimeError(f"the MILP has no plan within {limit_ms} ms")
            local = sum(curve.grams(load) for curve, load in zip(curves, requests.tolist(), strict=True))
            sums += local, float(cost @ found), plan.grams_per_h
            blind = split_traffic(requests, intensity, given.rtt_ms, np.full(regions, REGION), limit_ms)
            loads = (blind * requests[:, None]).sum(0).tolist()
            by_servers += sum(curve.grams(load) for curve, load in zip(curves, loads, strict=True))
        saved = 100 * (1 - np.array([by_servers, *sums[1:]]) / sums[0])
        apart = saved[1] - saved[2]
        good, worst = apart <= POINTS, max(worst, apart)
        holds &= good
        all_s += took_s
        cells = [*(f"{one:.2f}" for one in saved), f"{apart:.3f}", *(f"{one:.3f}" for one in took_s)]
        rows.append([f"{limit_ms:.0f} ms", *cells, "ok" if good else "MISSED"])
    table(["way at most", "grams of requests", "MILP", "ours", "points apart", "CPU-s, MILP", "ours", ""], rows)
    print()
    holds &= verdict("nodes: ours beside the MILP, of all rows the most", worst, POINTS, " points")
    holds &= verdict("nodes: CPU time of ours for all rows / that of the MILP", all_s[1] / all_s[0], 1.0)
    print("grams of requests: what the plan of the table above saves here; it does not know that a node has to wake")
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="tables, with commas between them: casper, nodes; or conv, week")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    if not SHARED.exists():
        print("skipped: ../shared, with the traces and the published results, is not here")
        return 0
    name, tables = "casper", {"casper": casper, "nodes": nodes}
    if args.only and not set(args.only.split(",")) & tables.keys():
        from green_cluster import TABLES

        name, tables = "cluster", TABLES
    return run_tables(f"green-serving-{name}", "Serving with few grams", tables, args.only, save=not args.no_save)


if __name__ == "__main__":
    sys.exit(main())
