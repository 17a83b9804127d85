"""The published tables, row by row, from our simulator; and what the simulator costs.

    python benchmarks/simulator.py [--only gaia,speed] [--no-save]

Needs ../shared (traces and published results that are not ours to ship); without it, it says so and ends.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import published
from common import describe_run, saved_output, table, verdict
from published import EM2022, GAIA, GAIA_JOBS, SHARED, Row, setup

from eco_ray.sim.simulate import simulate

CPU_BAR_S, MEMORY_BAR_MB, BOUND_BAR_S = 15.0, 1000.0, 2.0
#: every reference policy that decides without limits on capacity
POLICIES = (
    "run-now",
    "lowest-slot",
    "lowest-window",
    "carbon-time",
    "wait-awhile",
    "threshold",
    "next-workday",
    "semi-weekly",
    "nightly",
    "carbon-scaler",
)


def show(rows: list[Row], listed: bool) -> bool:
    """A line per row, or only the worst ones; then how many hold."""
    worst = sorted(rows, key=lambda row: -row.deviation / (row.bar or 1))
    chosen = rows if listed else worst[:6]
    cells = [
        [row.what, f"{row.published:.8g}", f"{row.ours:.8g}", f"{row.deviation:.1e}", f"{row.bar:g}", row.note]
        for row in chosen
    ]
    table(["row" if listed else "the rows that differ most", "published", "ours", "deviation", "bar", ""], cells)
    good = sum(row.holds for row in rows)
    print(f"{'ok    ' if good == len(rows) else 'MISSED'}  {good} of {len(rows)} rows hold\n")
    return good == len(rows)


def policies_on_gaia() -> None:
    """The policies of which the paper's code gives no figure for this input, and what knowledge is worth."""
    rows = []
    for policy in POLICIES:
        for knows in ("yes", "mean"):
            case = setup(**GAIA, policy=policy, knows_duration=knows)
            done = simulate(case, policy).outcome
            costly = simulate(setup(**GAIA, policy=policy, knows_duration=knows, resume_cost="10m"), policy).outcome
            rows.append(
                [
                    policy,
                    knows,
                    f"{done.saved_pct:.2f}",
                    f"{costly.saved_pct:.2f}",
                    f"{done.mean_delay_h:.2f}",
                    f"{done.p95_delay_h:.2f}",
                    f"{done.peak_cpus:.0f}",
                    str(done.resumes),
                ]
            )
    head = ["policy", "knows lengths", "saved %", "with 10 min per resume", "delay h", "p95 h", "peak CPUs", "resumes"]
    table(head, rows)
    print()


def speed() -> bool:
    """Whole processes on one core: every unlimited policy on the year of 100,000 jobs, and the bound."""
    rows, holds = [], True
    with tempfile.TemporaryDirectory() as folder:
        jobs = Path(folder) / "jobs.csv"
        hours_to_seconds(SHARED / "data" / "jobs" / "gaia_pai-100k.csv.gz", jobs)
        year = ["--jobs", str(jobs), "--zones", "DE", "--start", "2022-01-01T00:00Z", "--hours", "8760"]
        slowest, largest = 0.0, 0.0
        for policy in POLICIES:
            for resolution in ("5m", "5s"):
                cpu_s, memory_mb, found = measure([*year, "--policy", policy, "--resolution", resolution])
                rows.append(
                    [
                        policy,
                        resolution,
                        f"{cpu_s:.2f}",
                        f"{memory_mb:.0f}",
                        f"{found['saved_pct']:.2f}",
                        f"{found['decisions_per_s']:.0f}",
                    ]
                )
                slowest, largest = max(slowest, cpu_s), max(largest, memory_mb)
        table(["100,000 jobs, one year", "tick", "CPU-s", "MB", "saved %", "decisions/s"], rows)
        gaia = ["--jobs", str(GAIA_JOBS), "--zones", "AU-SA", "--start", GAIA["start"], "--hours", "720"]
        bound_s, _, found = measure([*gaia, "--policy", "bound", "--capacity-cpus", "49", "--resolution", "5s"])
        print(f"\nbound of GAIA at 49 CPUs: saves {found['saved_pct']:.3f} %")
        holds &= verdict("slowest policy, CPU of the whole process", slowest, CPU_BAR_S, " s")
        holds &= verdict("largest memory", largest, MEMORY_BAR_MB, " MB")
        holds &= verdict("bound, CPU of the whole process", bound_s, BOUND_BAR_S, " s")
    return holds


def hours_to_seconds(source: Path, target: Path) -> None:
    """The trace's times are in hours."""
    with gzip.open(source, "rt") as read, target.open("w") as write:
        write.write("job_id,arrival_s,duration_s,cpus\n")
        for number, row in enumerate(csv.DictReader(read)):
            arrival_s, length_s = float(row["arrival_time"]) * 3600, float(row["length"]) * 3600
            write.write(f"{number},{arrival_s:.3f},{length_s:.3f},{row['cpus']}\n")


def measure(words: list[str]) -> tuple[float, float, dict[str, float]]:
    """CPU time [s] and memory [MB] of one run of the command, pinned to one core, and what it printed."""
    command = [sys.executable, "-m", "eco_ray.cli.main", "simulate", "--intensity", str(EM2022), *words, "-o", "json"]
    core = {min(os.sched_getaffinity(0))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(
        ["/usr/bin/env", sys.executable, "-c", _WITH_PEAK, *command],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, core),  # noqa: PLW1509 - one thread, nothing else runs here
    ) as process:
        output, _ = process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    text, _, peak_kb = output.decode().rpartition("\n#")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, int(peak_kb) * 1024 / 1e6, json.loads(text)


#: runs a command and adds its peak memory [kB]
_WITH_PEAK = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print("#%d" % resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="tables, with commas between them: " + ", ".join([*published.TABLES, "speed"]))
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    if not SHARED.exists():
        print("skipped: ../shared, with the traces and the published results, is not here")
        return 0
    wanted = args.only.split(",") if args.only else [*published.TABLES, "speed"]
    holds = True
    with saved_output("simulator", save=not args.no_save):
        describe_run("The published tables, from eco_ray's simulator")
        for name in wanted:
            print(f"\n== {name}\n")
            if name == "speed":
                holds &= speed()
                continue
            holds &= show(list(published.TABLES[name]()), listed=name in ("gaia", "lets_wait_awhile"))
            if name == "gaia":
                policies_on_gaia()
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
