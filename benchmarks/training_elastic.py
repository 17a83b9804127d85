"""Grams of an elastic job beside the same job with one worker that may only be suspended: live, and simulated.

    python benchmarks/training_elastic.py [--cases elastic,fixed]      # needs ../shared, [train]

Both train jobs/elastic_mnist.py, for the same number of images, from the same hour on, to the same deadline, on
cluster/elastic.yaml, with the hourly intensity of AU-SA, DE and GB from 14 November 2022 20:00 UTC on (EM 2022,
../shared) and a clock that plays an hour in 12 s (--speed). What starts and pauses cost is then 300 times what it
would be in real time, so that the elastic job, which starts more processes and moves more often, has the worse part of
that. Power is modelled, from CPU time that was measured. The bar: the elastic job is in time and emits less.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, cluster, describe_run, saved_output, table, verdict
from published import EM2022

from eco_ray.cluster_file import load_cluster_file
from eco_ray.config import load_settings
from eco_ray.core.jobs import Workers
from eco_ray.core.scaling import in_words, paces
from eco_ray.grid.trace import CsvTrace
from eco_ray.job_file import load_job_file
from eco_ray.report.document import build_report
from eco_ray.sim.foresight import Known
from eco_ray.sim.simulate import Setup, simulate
from eco_ray.sim.trace import Trace
from eco_ray.sim.workload import Workload

ZONES = ("AU-SA", "DE", "GB")
BEGIN = datetime(2022, 11, 14, 20, tzinfo=UTC)
#: grid seconds per second, where nothing else is asked for
SPEED = 300.0
#: of the work with one worker, and from submission to deadline [h of the grid]
WORK_H, DELAY_H = 12, 14
#: what the owner says two workers do, times the work of one
SAID = 1.7
#: what a resume takes, as the job file has it [s at the machine]
RESUME_S = 15
CASES = {"elastic": 2, "fixed": 1}
#: it emits less: by what the table can show
BAR_GRAMS = 0.999
JOB = """
name: {name}
run: {python} {root}/jobs/elastic_mnist.py --epochs {epochs}
resources: {{num_cpus: 1, memory_gb: 1}}
workers: {{min: 1, max: {most}{throughput}}}
carbon:
  expected_duration: {work_s:.0f}s
  max_delay: {delay_h}h
  suspend: {{allow: true, min_run: 12s, resume_cost: {resume_s}s}}
retries: {{max: 1}}
"""


def main() -> int:
    """Run the cases, print them beside the simulator's; 0 if the bar holds."""
    parser = argparse.ArgumentParser(description="Grams of an elastic job beside one worker that may be suspended.")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--keep", type=Path, help="file to which results are added, and from which others are taken")
    parser.add_argument("--speed", type=float, default=SPEED, help="grid seconds per second")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    with saved_output("training_elastic", save=not args.no_save):
        describe_run("An elastic training job beside a fixed one under a varying grid")
        found: dict[str, Any] = json.loads(args.keep.read_text()) if args.keep and args.keep.exists() else {}
        found.setdefault("epochs", epochs_for(WORK_H * 3600 / args.speed))
        for name in args.cases.split(","):
            found[name] = live(name, found["epochs"], args.speed)
            if args.keep:
                args.keep.write_text(json.dumps(found))
        return show(found, args.speed)


def epochs_for(seconds: float) -> int:
    """How many epochs one worker does in so many seconds, alone on this machine."""

    def run_s(epochs: int) -> float:
        began = time.monotonic()
        command = [sys.executable, "jobs/elastic_mnist.py", "--epochs", str(epochs)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - began

    short_s, long_s = run_s(1), run_s(13)
    return max(10, round(seconds * 12 / (long_s - short_s)))


def live(name: str, epochs: int, speed: float) -> dict[str, Any]:
    """One case on a cluster of its own."""
    most = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        trace, described, job = (Path(folder) / file for file in ("grid.csv", "cluster.yaml", "job.yaml"))
        trace.write_text("\n".join([f"time,{','.join(ZONES)}", *_trace_rows()]))
        text = (ROOT / "cluster" / "elastic.yaml").read_text()
        text = text.replace("{source: profile}", f"{{source: trace, file: {trace}}}")
        described.write_text(text.replace("start: now", f'start: "{BEGIN:%Y-%m-%dT%H:%MZ}"'))
        job.write_text(
            JOB.format(
                name=name,
                python=sys.executable,
                root=ROOT,
                epochs=epochs,
                most=most,
                throughput=f", throughput: [1, {SAID}]" if most > 1 else "",
                work_s=WORK_H * 3600 / speed,
                delay_h=DELAY_H,
                resume_s=RESUME_S,
            )
        )
        with cluster(speed=speed, file=described) as client:
            job_id = client.submit(load_job_file(job))
            ended = client.wait(job_id, 2 * DELAY_H * 3600 / speed)
            time.sleep(3.0)  # what agents still have to tell
            report = build_report(client.store, BEGIN.timestamp() + 48 * 3600)
            told = next(one for one in report["jobs"] if one["id"] == job_id)
            log = [f"{e.time_s:.0f} {e.kind}: {e.message}" for e in client.store.job_log(job_id)]
    attempts = [(a.workers, a.zone, a.started_s, a.productive_s, a.ended_s) for a in ended.attempts]
    return {
        "state": str(ended.state),
        "message": ended.message,
        "grams": told["operational_g"],
        "joules": told["energy_j"],
        "baseline_g": told["baseline_g"],
        "attempts": attempts,
        "deadline_s": ended.spec.deadline_s,
        "finished_s": ended.finished_s,
        "accuracy": ended.metrics.get("accuracy"),
        "scaling": in_words(ended),
        "paces": {str(count): pace for count, pace in paces(ended).items()},
        "log": log,
    }


def _trace_rows() -> list[str]:
    with EM2022.open() as file:
        by_hour = {row["hour_utc"]: row for row in csv.DictReader(file)}
    hours = (BEGIN + timedelta(hours=h) for h in range(-24, 96))
    return [
        f"{hour.isoformat()},{','.join(by_hour[hour.strftime('%Y-%m-%dT%H:%M')][zone] for zone in ZONES)}"
        for hour in hours
    ]


def simulated(most: int, faster: float, speed: float) -> tuple[float, float]:
    """Grams and joules of the same job in the simulator, on the same machines; a start costs what a resume does."""
    begin_s, span_s, tick_s = BEGIN.timestamp(), 3 * 86_400, 900
    file = CsvTrace(EM2022, columns={zone: zone for zone in ZONES}, start_s=begin_s, end_s=begin_s + span_s)
    traces = [Trace.of(file.rows(zone, begin_s, begin_s + span_s), begin_s, tick_s) for zone in ZONES]
    described = load_cluster_file(ROOT / "cluster" / "elastic.yaml", load_settings({}))
    nodes = tuple(described.to_nodes())
    work = Workload(
        ids=["job"],
        arrival_s=np.zeros(1, np.int64),
        length_s=np.array([WORK_H * 3600], np.int64),
        expected_s=np.array([WORK_H * 3600], np.int64),
        cpus=np.ones(1),
        gpus=np.zeros(1),
        max_wait_s=np.array([(DELAY_H - WORK_H) * 3600], np.int64),
        max_workers=np.array([most], np.int64),
        zones=[(0, 1, 2)],
        workers=[Workers(1, most, (1.0, faster)[:most])],
    )
    made = Setup(
        workload=work,
        traces=traces,
        beliefs=[Known(trace) for trace in traces],
        begin_s=begin_s,
        span_s=span_s,
        resolution_s=tick_s,
        nodes=nodes,
        interruptible=True,
        resume_cost_s=round(RESUME_S * speed),
        min_run_s=round(12 * speed),
    )
    done = simulate(made, "eco")
    assert done.schedule is not None
    joules = float(done.schedule.power_kw @ (done.schedule.end_s - done.schedule.start_s)) * 1000
    return done.outcome.carbon_g, joules


def measured_speed(found: dict[str, Any]) -> float | None:
    """How much faster two workers were than one; None where nothing tells."""
    measured = found.get("elastic", {}).get("paces", {})
    if {"1", "2"} <= measured.keys():
        return float(measured["2"] / measured["1"])
    if not set(CASES) <= found.keys() or {workers for workers, *_ in found["elastic"]["attempts"]} != {2}:
        return None
    worked = {
        name: sum(ended_s - works_s for _, _, _, works_s, ended_s in found[name]["attempts"] if works_s)
        for name in CASES
    }
    return worked["fixed"] / worked["elastic"] if all(worked.values()) else None


def show(found: dict[str, Any], speed: float) -> int:
    """The table, and whether the bar holds."""
    rows = []
    elastic = found.get("elastic", {})
    faster = measured_speed(found) or SAID
    told = "measured here" if measured_speed(found) else "the owner says"
    for name, most in CASES.items():
        if name in found:
            one = found[name]
            early_h = (one["deadline_s"] - (one["finished_s"] or np.inf)) / 3600
            where = " > ".join(f"{workers}x{zone}" for workers, zone, *_ in one["attempts"])
            rows.append([f"live, {name}", _n(one["grams"]), f"{one['joules'] / 3.6e6:.3f}", f"{early_h:.1f}", where])
        grams, joules = simulated(most, faster, speed)
        rows.append(
            [f"simulated, {name}", _n(grams), f"{joules / 3.6e6:.3f}", "", f"two are {faster:.2f} x one, as {told}"]
        )
    print(f"\n{found['epochs']} epochs; {WORK_H} h of work with one worker, {DELAY_H} h from submission to deadline\n")
    table(["", "g", "kWh", "h early", "workers x zone, by attempt"], rows)
    for name in CASES:
        if name in found:
            one = found[name]
            print(f"\n{name}: {one['state']}, accuracy {one['accuracy']}; {one['scaling'] or 'one worker'}")
            for line in one["log"]:
                print(f"    {line}")
    if not set(CASES) <= found.keys():
        return 0
    fixed = found["fixed"]
    late_h = (elastic["finished_s"] - elastic["deadline_s"]) / 3600 if elastic["state"] == "succeeded" else np.inf
    print()
    holds = verdict("elastic: its end after the deadline", late_h, 0.0, " h")
    holds &= verdict("grams of elastic / of fixed", elastic["grams"] / fixed["grams"], BAR_GRAMS)
    return 0 if holds else 1


def _n(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
