"""Check what `eco-ray demo -o json` printed: the contract's keys, the arithmetic, and that it showed what it promises.

    .venv/bin/python .ci/check_demo.py REPORT.json --out DIR --state-dir DIR --seconds N

The lists of keys stand here a second time on purpose: they are the contract with programs outside this repository.
"""

# ruff: noqa: T201 - this script's result is what it prints

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from eco_ray.report import check_report

TOP = "clock_speed home_zone series jobs totals residual_mj sources model"
JOB = """id name tenant state reason submitted deadline attempts resumes segments
         energy_j operational_g embodied_g baseline_g saved_g nature metrics"""
SEGMENT = "zone node start end workers energy_j operational_g"
TOTALS = "node_energy_j attributed_j unallocated_j operational_g baseline_g saved_g"
SOURCE = "zone source kind nature age_s"
MODEL = "name version requests correct energy_j"
STATES = ("queued", "running", "suspended", "succeeded", "failed", "cancelled")
NATURES = ("measured", "modelled", "assumed")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

#: what the demo is to take at most [wall s]
LIMIT_S = 120.0
#: a job that is launched within this did not wait for the grid [wall s]
LAUNCH_S = 10.0
LEAST_RIGHT = 0.9
#: tenants that ask the served model
ASKING = 2

Check = tuple[bool, str]


def main() -> None:
    """Print every check; exit code 1 if one fails."""
    parser = argparse.ArgumentParser(description="Check the JSON of a finished demo.")
    parser.add_argument("report", type=Path, help="what the demo printed on stdout")
    parser.add_argument("--out", type=Path, required=True, help="the demo's --out")
    parser.add_argument("--state-dir", type=Path, required=True, help="the demo's --state-dir")
    parser.add_argument("--seconds", type=float, required=True, help="how long the demo took")
    args = parser.parse_args()
    doc = json.loads(args.report.read_text())
    failed = 0
    for fine, text in checks(doc, args.out, args.state_dir, args.seconds):
        print("ok    " if fine else "FAILED", text)
        failed += not fine
    for job in doc["jobs"]:  # a deadline is a plan, not a guarantee: a slow machine may overrun it
        late_s = seconds(job["segments"][-1]["end"]) - seconds(job["deadline"]) if job["segments"] else 0.0
        if late_s > 0:
            print("note  ", f"{job['name']} ended {late_s / 60:.0f} min of grid time after its deadline")
    sys.exit(1 if failed else 0)


def checks(doc: dict[str, Any], out: Path, state_dir: Path, took_s: float) -> Iterator[Check]:
    """Everything that must hold: (whether it does, what it is)."""
    yield from form(doc)
    yield from arithmetic(doc)
    yield from story(doc)
    same = json.loads((out / "report.json").read_text()) == doc
    yield same, f"{out / 'report.json'} is what was printed"
    yield (out / "report.html").stat().st_size > 0, "report.html is there"
    yield took_s <= LIMIT_S, f"it took {took_s:.0f} s (limit {LIMIT_S:.0f} s)"
    left = left_behind(state_dir)
    yield not left, f"processes left behind: {'; '.join(left) or 'none'}"


def form(doc: dict[str, Any]) -> Iterator[Check]:
    """Keys, states, natures and times of the contract."""
    parts = [("report", doc, TOP), ("totals", doc["totals"], TOTALS), ("model", doc["model"] or {}, MODEL)]
    parts += [(f"source {row.get('zone')}", row, SOURCE) for row in doc["sources"]]
    for job in doc["jobs"]:
        parts += [(f"job {job.get('name')}", job, JOB)]
        parts += [(f"segment of {job.get('name')}", segment, SEGMENT) for segment in job["segments"]]
    missing = [f"{name}: {key}" for name, part, keys in parts for key in keys.split() if key not in part]
    yield not missing, f"keys of the contract: {', '.join(missing) or 'all there'}"
    strange = [job["state"] for job in doc["jobs"] if job["state"] not in STATES]
    strange += [part["nature"] for part in [*doc["jobs"], *doc["sources"]] if part["nature"] not in NATURES]
    yield not strange, f"states and natures: {', '.join(map(str, strange)) or 'all known'}"
    times = [job[key] for job in doc["jobs"] for key in ("submitted", "deadline")]
    times += [segment[key] for job in doc["jobs"] for segment in job["segments"] for key in ("start", "end")]
    times += [time_ for rows in doc["series"].values() for time_, _ in rows]
    wrong = [text for text in times if not TIME.fullmatch(text)]
    yield not wrong, f"times are ISO 8601 UTC with seconds: {', '.join(wrong) or f'all {len(times)}'}"


def arithmetic(doc: dict[str, Any]) -> Iterator[Check]:
    """The sums, redone."""
    found = check_report(doc)
    yield not found, f"arithmetic redone from the document: {'; '.join(found) or 'the same'}"
    totals = doc["totals"]
    whole, part, rest = (totals[key] for key in ("node_energy_j", "attributed_j", "unallocated_j"))
    exact = whole == part + rest and round(whole * 1000) == round(part * 1000) + round(rest * 1000)
    yield exact, f"conservation: {whole:.3f} J = {part:.3f} J + {rest:.3f} J"
    yield doc["residual_mj"] == 0, f"ledger residual: {doc['residual_mj']} mJ"
    yield totals["saved_g"] > 0, f"saved: {totals['saved_g']:.1f} g of {totals['baseline_g']:.1f} g"


def story(doc: dict[str, Any]) -> Iterator[Check]:
    """What the demo promises to show."""
    jobs = doc["jobs"]
    ended = [f"{job['name']} is {job['state']}" for job in jobs]
    yield len(jobs) >= 3 and all(job["state"] == "succeeded" for job in jobs), f"jobs: {', '.join(ended)}"
    launch_s = LAUNCH_S * doc["clock_speed"]
    ran = [job for job in jobs if job["segments"]]
    delay_s = {job["name"]: max(0.0, launched_s(job["segments"][0]) - seconds(job["submitted"])) for job in ran}
    delays = ", ".join(f"{name} {delay / 60:.0f} min" for name, delay in delay_s.items())
    yield any(delay > launch_s for delay in delay_s.values()), f"one was delayed: {delays}"
    urgent = min(ran, key=lambda job: seconds(job["deadline"]) - seconds(job["submitted"]), default={"name": "none"})
    at_once = delay_s.get(urgent["name"], launch_s + 1) <= launch_s
    yield at_once, f"the one with the tightest deadline started at once: {urgent['name']}"
    resumed = [job["name"] for job in ran if job["resumes"] >= 1 and len(job["segments"]) >= 2]
    yield bool(resumed), f"one was suspended and resumed: {', '.join(resumed) or 'none'}"
    zones = {job["name"]: [segment["zone"] for segment in job["segments"]] for job in ran}
    elsewhere = [name for name, where in zones.items() if set(where) - {doc["home_zone"]}]
    yield bool(elsewhere), f"one ran outside of the home zone {doc['home_zone']}: {zones}"
    silent = [job["name"] for job in jobs if not job["metrics"]]
    yield not silent, f"every job reports results: {', '.join(silent) or 'yes'}"
    model = doc["model"] or {"requests": 0, "correct": 0}
    right = model["correct"] / model["requests"] if model["requests"] else 0.0
    served = [row for row in doc["models"] if doc["model"] and row["id"] == f"{model['name']}:{model['version']}"]
    counted = {row["tenant"]: row["requests"] for part in served for row in part["tenants"]}
    all_named = len(counted) == ASKING and "" not in counted
    yield all_named and sum(counted.values()) == model["requests"], f"its requests, counted by tenant: {counted}"
    carried_g = sum(part["embodied_g"] or 0.0 for part in served)
    yield carried_g > 0, f"what it reserves carries {carried_g:.2f} g of the making of its node"
    yield right >= LEAST_RIGHT, f"the served model: {model['correct']} of {model['requests']} right"


def launched_s(segment: dict[str, Any]) -> float:
    """When an attempt was launched: its energy is metered from then on, its segment begins when its program runs."""
    return float(min([seconds(segment["start"]), *(segment["metered_s"] or [])[:1]]))


def seconds(text: str) -> float:
    """Seconds since the epoch of a time of the report."""
    return datetime.fromisoformat(text).timestamp()


def left_behind(state_dir: Path, patience_s: float = 3.0) -> list[str]:
    """Processes of the demo's cluster that still run: all of them carry its state directory in their environment."""
    give_up = time.monotonic() + patience_s
    while (left := list(_members(state_dir))) and time.monotonic() < give_up:
        time.sleep(0.2)
    return left


def _members(state_dir: Path) -> Iterator[str]:
    mark = f"ECO_RAY_STATE_DIR={state_dir.absolute()}".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):  # empty for a zombie
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"{process.name} {command[:80].strip()}"
        except OSError:  # it ended meanwhile, or it is somebody else's
            continue


if __name__ == "__main__":
    main()
