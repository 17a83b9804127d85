"""Our forecaster and our modelled profile beside what a user would plan with instead, on the truth of 2022.

Jobs that may start within 24 h take the full hour whose window looks cleanest, and are counted by the truth. The traces
are in ../shared (not part of this repository).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from functools import cache, partial, update_wrapper
from pathlib import Path

import numpy as np
from common import run_tables, table

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.grid.forecast import forecast
from eco_ray.grid.mixes import ZONES
from eco_ray.grid.profile import year_intensity

SHARED = Path(__file__).resolve().parents[2] / "shared"
CARBON = SHARED / "data" / "carbon"
#: zones with the forecasts that were really made
REAL = ("AU-SA", "DE", "CA-ON")
LENGTHS_H = (1, 6, 12, 24)
SLACK_H = 24
#: hours ahead that any start needs, if its forecast was issued at the last midnight
AHEAD_H = 24 + SLACK_H + max(LENGTHS_H)
#: full hours from 9 January 2022 00:00 UTC on, the starts of reference/real_forecasts.json
STARTS = np.arange(8 * 24, 8 * 24 + 8448)
HISTORY_DAYS = 28

Hours = np.ndarray


def column(path: Path, name: str) -> Hours:
    """A column of hours: shape (T,)."""
    with path.open() as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


@cache
def truth(zone: str) -> Hours:
    """Direct intensity of a zone of REAL, hour by hour."""
    return column(CARBON / f"carbonx_actual_{zone}_2022.csv", "direct")[:8760]


@cache
def lifecycle() -> dict[str, Hours]:
    """Life-cycle intensity of 32 zones, hour by hour."""
    with (CARBON / "em2022_hourly_32zones.csv").open() as file:
        head, *rows = csv.reader(file)
    values = np.array([[float(cell) for cell in row[1:]] for row in rows])
    return dict(zip(head[1:], values.T, strict=True))


@cache
def real_forecasts(zone: str) -> Hours:
    """The forecasts issued at each midnight: shape (365, 96)."""
    with (CARBON / f"carbonx_sundial96h_{zone}_2022.csv").open() as file:
        return np.array([[float(cell) for cell in row[1:]] for row in list(csv.reader(file))[1:]])


def ours(values: Hours, at_h: Hours, days: int = HISTORY_DAYS) -> tuple[Hours, Hours, Hours, float]:
    """Our forecast, its 0.1 and 0.9, each of shape (len(at_h), 96), and CPU time of each [ms]."""
    made = np.empty((3, len(at_h), 96))
    began_s = time.process_time()
    for row, hour in enumerate(at_h):
        first = max(0, hour - days * 24)
        past = IntensitySeries(
            "X", first * 3600.0, 3600.0, values[first:hour], SignalKind.AVERAGE_DIRECT, "trace", Nature.MEASURED
        )
        series = forecast(past, hour * 3600.0, (hour + 96) * 3600.0)
        made[:, row] = series.values_g_per_kwh, *series.quantiles_g_per_kwh.values()
    return *made, (time.process_time() - began_s) / len(at_h) * 1000


def window(values: Hours, starts: Hours, hours: int = SLACK_H + max(LENGTHS_H)) -> Hours:
    """The hours from each start on: shape (len(starts), hours)."""
    return values[starts[:, None] + np.arange(hours)]


def mean_day(values: Hours, starts: Hours, days: int) -> Hours:
    """Every day ahead is the mean of the last `days`."""
    hour = np.arange(SLACK_H + max(LENGTHS_H)) % 24
    return np.mean([values[starts[:, None] - 24 * day + hour] for day in range(1, days + 1)], axis=0)


def from_midnight(issued: Hours, starts: Hours) -> Hours:
    """What forecasts of each midnight (shape (days, 96)) say from each start on; 0 where none needs it."""
    whole = np.pad(issued, ((0, 0), (0, AHEAD_H)))
    return whole[(starts // 24)[:, None], (starts % 24)[:, None] + np.arange(SLACK_H + max(LENGTHS_H))]


def kept(values: Hours, believed: Hours, starts: Hours) -> list[float]:
    """Grams saved against run-now [%], by length of the job, starting where `believed` is lowest."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    looks = np.pad(np.cumsum(believed, axis=1), ((0, 0), (1, 0)))
    offset = np.arange(SLACK_H + 1)
    saved = []
    for length in LENGTHS_H:
        best = starts + np.argmin(looks[:, offset + length] - looks[:, offset], axis=1)
        saved.append(
            100 * (1 - (sums[best + length] - sums[best]).sum() / (sums[starts + length] - sums[starts]).sum())
        )
    return saved


def shape_of(zone: str, starts: Hours) -> Hours | None:
    """What the modelled profile says from each start on; None where it lacks the zone."""
    if zone not in ZONES:
        return None
    return window(np.concatenate([year_intensity(zone, 2022), year_intensity(zone, 2023)]), starts)


def forecaster(every: int) -> bool:
    """The forecaster on three zones with real forecasts, and on 32: what planning with it saves, and its 80 % band."""
    holds = reproduced()
    holds &= saved_with_real_forecasts(every)
    return others(every) and holds


def reproduced() -> bool:
    """Whether the way we count gives the published figures."""
    published = json.loads((SHARED / "reference" / "real_forecasts.json").read_text())["rows"]
    apart = 0.0
    for zone in REAL:
        values = truth(zone)
        saved = {
            "oracle": kept(values, window(values, STARTS), STARTS),
            "sundial96": kept(values, from_midnight(real_forecasts(zone), STARTS), STARTS),
            "weekmean": kept(values, mean_day(values, STARTS, 7), STARTS),
            "persistence": kept(values, mean_day(values, STARTS, 1), STARTS),
        }
        for row in published:
            if row["zone"] == zone:
                at = LENGTHS_H.index(row["job_h"])
                apart = max(apart, *(abs(saved[name][at] - row[f"{name}_nonint_saved_pct"]) for name in saved))
    print(
        f"{'ok    ' if apart <= 0.15 else 'MISSED'}  reference/real_forecasts.json, at most apart: {apart:.2f} points"
    )
    return apart <= 0.15


def saved_with_real_forecasts(every: int) -> bool:
    """What planning saves, and how well our band holds, on the zones with real forecasts."""
    starts = STARTS[::every]
    rows, band_rows, holds = [], [], True
    for zone in REAL:
        values, midnights = truth(zone), np.arange(STARTS[0] // 24, 364)
        at_midnight = np.zeros((365, 96))
        at_midnight[midnights] = ours(values, midnights * 24)[0]
        made, low, high, took_ms = ours(values, starts)
        believed = {
            "oracle": window(values, starts),
            "real, 00:00": from_midnight(real_forecasts(zone), starts),
            "ours, 00:00": from_midnight(at_midnight, starts),
            "ours": made,
            "week-mean": mean_day(values, starts, 7),
            "persistence": mean_day(values, starts, 1),
            "profile": shape_of(zone, starts),
        }
        saved = {name: kept(values, belief, starts) for name, belief in believed.items() if belief is not None}
        for at, length in enumerate(LENGTHS_H):
            good = saved["ours"][at] > saved["week-mean"][at]
            holds &= good
            rows.append([f"{zone} {length:2} h", *(f"{saved[name][at]:.1f}" for name in believed), verdict(good)])
        complete = starts + 96 <= len(values)
        came = window(values, starts[complete], 96)
        inside = ((low[complete] <= came) & (came <= high[complete])).reshape(-1, 4, 24)
        wrong = 100 * np.abs(made[complete] - came).reshape(-1, 4, 24).mean(axis=(0, 2)) / values.mean()
        good = 0.75 <= inside.mean() <= 0.85 and took_ms < 50
        holds &= good
        by_day = [f"{100 * share:.1f}" for share in inside.mean(axis=(0, 2))]
        off = [f"{error:.1f}" for error in wrong]
        band_rows.append([zone, f"{100 * inside.mean():.1f}", *by_day, *off, f"{took_ms:.1f}", verdict(good)])
    print(
        f"\nSaved against run-now [%]; {len(starts)} starts, 24 h of slack, direct intensity. Real forecasts and `ours,"
    )
    print("00:00` are of the last midnight; ours, week-mean and persistence know all that had passed at the start.\n")
    table(["job", *believed, "> week-mean"], rows)
    print("\nTruth within the 80 % band [%] (bar: 75 to 85 overall), and mean error [% of the mean], by day ahead\n")
    table(
        ["zone", "all", *(f"day {n}" for n in range(1, 5)), *(f"error {n}" for n in range(1, 5)), "ms", ""], band_rows
    )
    return holds


def verdict(good: bool) -> str:
    return "ok" if good else "MISSED"


def others(every: int) -> bool:
    """The 32 zones, of which none took part in choosing the constants."""
    rows, won, cells, inside = [], 0, 0, []
    starts = STARTS[HISTORY_DAYS * 24 :: every * 11]
    for zone, values in lifecycle().items():
        starts = starts[starts + 96 <= 8760]
        made, low, high, _ = ours(values, starts)
        came = window(values, starts, 96)
        inside.append(float(((low <= came) & (came <= high)).mean()))
        believed = {
            "oracle": came,
            "ours": made,
            "week": mean_day(values, starts, 7),
            "day": mean_day(values, starts, 1),
        }
        saved = {name: kept(values, belief, starts) for name, belief in believed.items()}
        better = sum(a > b for a, b in zip(saved["ours"], saved["week"], strict=True))
        won, cells = won + better, cells + len(LENGTHS_H)
        shown = [f"{saved[name][at]:.1f}" for at in (0, 1, 3) for name in believed]
        rows.append([zone, *shown, f"{better}/4", f"{100 * inside[-1]:.1f}"])
    print(
        f"\n32 zones, life-cycle intensity, {len(starts)} starts; 1, 6 and 24 h: oracle, ours, week-mean, persistence\n"
    )
    table(["zone", *["or.", "ours", "week", "day"] * 3, "cells won", "band %"], rows)
    all_four = sum(row[-2] == "4/4" for row in rows)
    print(f"\nours saves more than week-mean in {won} of {cells} cells, in all four in {all_four} of {len(rows)} zones")
    print(
        f"80 % band holds {100 * np.mean(inside):.1f} %, by zone {100 * min(inside):.1f} to {100 * max(inside):.1f} %"
    )
    return won >= 0.9 * cells


def ranks(values: Hours) -> Hours:
    """Rank of each value along the last axis (equal ones in order: the traces have two decimals)."""
    return np.argsort(np.argsort(values, axis=-1), axis=-1).astype(float)


def rank_correlation(one: Hours, other: Hours) -> Hours:
    """Spearman's, along the last axis."""
    a, b = (ranks(values) - (values.shape[-1] - 1) / 2 for values in (one, other))
    return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))


def profile(every: int) -> bool:
    """The modelled profile on 32 zones: how it ranks the hours of 2022, and what planning with it saves."""
    rows, figures, lacking = [], [], []
    for zone, values in lifecycle().items():
        model = year_intensity(zone, 2022) if zone in ZONES else None
        if model is None:
            lacking.append(zone)
            continue
        year = float(rank_correlation(model, values))
        day = float(rank_correlation(model.reshape(365, 24), values.reshape(365, 24)).mean())
        believed = {
            "oracle": window(values, STARTS),
            "profile": shape_of(zone, STARTS),
            "week": mean_day(values, STARTS, 7),
            "day": mean_day(values, STARTS, 1),
        }
        saved = {name: kept(values, belief, STARTS) for name, belief in believed.items()}
        figures.append([year, day, *(saved[name][at] for at in (0, 1) for name in believed)])
        mean = [f"{model.mean():.0f}", f"{values.mean():.0f}"]
        rows.append([zone, *mean, f"{year:.2f}", f"{day:.2f}", *(f"{figure:.1f}" for figure in figures[-1][2:])])
    print(
        "Means [g/kWh]; rank correlation over the year, within days; saved [%] with 1 h, then 6 h jobs, 24 h of slack\n"
    )
    middle = np.mean(figures, axis=0)
    rows.append(["mean", "", "", f"{middle[0]:.2f}", f"{middle[1]:.2f}", *(f"{figure:.1f}" for figure in middle[2:])])
    table(["zone", "model", "2022", "rank", "in day", *["oracle", "profile", "week", "day"] * 2], rows)
    print(f"\nzones that it lacks: {', '.join(lacking) or 'none'}")
    saves = sum(figure[3] > 0 for figure in figures)
    print(f"planning a 1 h job with it saves something in {saves} of {len(figures)} zones")
    return not lacking


TABLES = {"forecaster": forecaster, "profile": profile}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="tables, with commas between them: " + ", ".join(TABLES))
    parser.add_argument("--every", type=int, default=1, help="only each so-manieth start of the forecaster [1]")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    if not SHARED.exists():
        print("skipped: ../shared, with the traces, is not here")
        return 0
    # update_wrapper keeps the docstring, which is the table's title
    tables = {name: update_wrapper(partial(table, args.every), table) for name, table in TABLES.items()}
    title = "eco_ray's forecaster and modelled profile beside what else one can plan with"
    return run_tables("grid", title, tables, args.only, save=not args.no_save)


if __name__ == "__main__":
    sys.exit(main())
