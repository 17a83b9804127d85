"""What a queue of 10,000 deferred jobs costs: submitting, listing, memory and idle CPU of the controller.

    python benchmarks/queued_jobs.py [--jobs 10000] [--cpus 64 1] [--no-save]

The jobs compute for an hour, start in 12 h at the earliest and end within 90 h, so that nothing runs. With 64 CPUs per
node every job gets a planned place; with 1 CPU per node all but a few hundred wait for capacity. Each case has a
cluster of its own.
"""

from __future__ import annotations

import argparse
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import cluster, describe_run, median, quantile, saved_output, table, verdict

from eco_ray.core.jobs import JobState
from eco_ray.job_file import job_from_flags
from eco_ray.on_ray.client import Client

SUBMIT_BAR_MS, LIST_BAR_S, RSS_BAR_MB = 50.0, 1.0, 500.0
LIST_RUNS = 5
IDLE_S = 10.0
#: changes of the full queue that are timed one by one
CHANGES = 20
DEFERRED = {"expected_duration": "1h", "not_before": "12h", "max_delay": "90h", "name": "deferred"}
#: runs the command line and fails if it has imported ray
WITHOUT_RAY = """
import sys
from eco_ray.cli.main import main
try:
    main()
finally:
    assert "ray" not in sys.modules, "`job list` imports ray"
"""


def timed(call: Callable[[], Any]) -> float:
    """How long a call takes [s]."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rss_mb(pid: int) -> float:
    """Resident memory of a process [MB]."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no VmRSS")


def cpu_s(pid: int) -> float:
    """CPU time of a process so far [s]."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_cpu_pct(pid: int) -> float:
    """CPU use of a process while nobody asks it anything [% of one core]."""
    before_s, began = cpu_s(pid), time.perf_counter()
    time.sleep(IDLE_S)
    return 100 * (cpu_s(pid) - before_s) / (time.perf_counter() - began)


def controller_pid(client: Client) -> int:
    """The process of the controller."""
    pid = int(client.status()["pid"])
    title = Path(f"/proc/{pid}/cmdline").read_text()
    if not title.startswith("ray::ControllerActor"):
        raise RuntimeError(f"process {pid} is {title!r}, not the controller")
    return pid


def list_command(client: Client, *options: str) -> list[str]:
    """`eco-ray job list`, as installed."""
    state_dir = str(client.settings.state_dir)
    return [str(Path(sys.executable).parent / "eco-ray"), "job", "list", "--state-dir", state_dir, *options]


def list_s(client: Client, *options: str) -> list[float]:
    """How long `eco-ray job list` takes into a pipe, from start to exit [s]."""
    command = list_command(client, *options)
    return [timed(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(LIST_RUNS)]


def list_in_terminal_s(client: Client, *options: str) -> list[float]:
    """The same on a (pseudo-)terminal of 120 columns, where it draws a table."""
    return [timed(lambda: _in_terminal(list_command(client, *options))) for _ in range(LIST_RUNS)]


def _in_terminal(command: list[str]) -> None:
    ours, theirs = pty.openpty()

    def swallow() -> None:
        try:
            while os.read(ours, 1 << 16):
                pass
        except OSError:
            pass  # the other end was closed

    reader = threading.Thread(target=swallow)
    reader.start()
    subprocess.run(command, check=True, stdout=theirs, env={**os.environ, "COLUMNS": "120"})
    os.close(theirs)
    reader.join()
    os.close(ours)


def assert_no_ray(client: Client) -> None:
    """`eco-ray job list` must not import ray."""
    arguments = list_command(client)[1:]
    subprocess.run([sys.executable, "-c", WITHOUT_RAY, *arguments], check=True, stdout=subprocess.DEVNULL)


def restart_s(client: Client, pid: int) -> float:
    """From SIGKILL of the controller until its next life answers, with all jobs [s]."""
    os.kill(pid, signal.SIGKILL)
    return timed(client.status)


def measure(count: int, cpus: float) -> bool:
    """Fill the queue, print what it costs; returns whether the bars hold."""
    with cluster(num_cpus=cpus) as client:
        pid = controller_pid(client)
        job = job_from_flags("python -c pass", DEFERRED)
        client.cancel(client.submit(job))  # what is done once (imports, the first plan) is not in the first time
        empty_cpu_pct, empty_mb = idle_cpu_pct(pid), rss_mb(pid)
        before_s = cpu_s(pid)
        ids: list[str] = []
        submit_ms = [timed(lambda: ids.append(client.submit(job))) * 1000 for _ in range(count)]
        submit_cpu_ms = (cpu_s(pid) - before_s) * 1000 / count
        full_mb = rss_mb(pid)
        queued = client.store.load_jobs([JobState.QUEUED])
        assert len(queued) == count, "not every job is queued"
        planned = sum(job.plan is not None for job in queued)
        del queued
        time.sleep(3.0)
        full_cpu_pct = idle_cpu_pct(pid)
        assert_no_ray(client)
        lists = {
            "eco-ray job list (pipe)": list_s(client),
            "eco-ray job list -o json (pipe)": list_s(client, "-o", "json"),
            "eco-ray job list --limit 50 (pipe)": list_s(client, "--limit", "50"),
            "eco-ray job list (terminal)": list_in_terminal_s(client),
        }
        cancel_ms = [timed(lambda i=i: client.cancel(ids[i])) * 1000 for i in range(0, count, max(1, count // CHANGES))]
        again_ms = [timed(lambda: client.submit(job)) * 1000 for _ in range(CHANGES)]
        killed_s = restart_s(client, pid)
        assert sum(client.status()["open_jobs"].values()) == count + CHANGES - len(cancel_ms), "jobs were lost"

    print(f"\n{count} jobs, {cpus:g} CPUs per node: {planned} have a planned place, {count - planned} wait for one\n")
    part = min(1000, count)
    rows = [
        [f"submit, {what}", *(f"{x:.1f}" for x in (median(v), quantile(v, 0.95), max(v)))]
        for what, v in [
            ("all", submit_ms),
            (f"first {part}", submit_ms[:part]),
            (f"last {part}", submit_ms[-part:]),
            (f"{CHANGES} more", again_ms),
        ]
    ]
    rows.append(["cancel", *(f"{x:.1f}" for x in (median(cancel_ms), quantile(cancel_ms, 0.95), max(cancel_ms)))])
    table(["milliseconds, as the client sees it", "p50", "p95", "max"], rows)
    print()
    table(
        ["seconds, whole process", "median", "min", "max"],
        [[name, f"{median(v):.2f}", f"{min(v):.2f}", f"{max(v):.2f}"] for name, v in lists.items()],
    )
    print()
    table(
        ["controller", "empty queue", "full queue"],
        [
            ["resident memory [MB]", f"{empty_mb:.0f}", f"{full_mb:.0f}"],
            ["idle CPU [% of a core]", f"{empty_cpu_pct:.1f}", f"{full_cpu_pct:.1f}"],
            ["CPU per submission, mean [ms]", "", f"{submit_cpu_ms:.1f}"],
            ["SIGKILL until it answers [s]", "", f"{killed_s:.1f}"],
        ],
    )
    print("\n`job list` does not import ray: checked")
    holds = [verdict("submit, median", median(submit_ms), SUBMIT_BAR_MS, " ms")]
    holds.append(verdict(f"submit, median of the last {part}", median(submit_ms[-part:]), SUBMIT_BAR_MS, " ms"))
    holds += [verdict(f"{name}, median", median(v), LIST_BAR_S, " s") for name, v in lists.items()]
    holds.append(verdict("resident memory of the controller", full_mb, RSS_BAR_MB, " MB"))
    return all(holds)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--cpus", type=float, nargs="+", default=[64.0, 1.0], help="CPUs of each of the three nodes")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--one-case", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one_case:
        return 0 if measure(args.jobs, args.cpus[0]) else 1
    with saved_output("queued_jobs", save=not args.no_save):
        describe_run(f"a controller with {args.jobs} queued jobs")
        holds = [case(args.jobs, cpus) for cpus in args.cpus]
    return 0 if all(holds) else 1


def case(count: int, cpus: float) -> bool:
    """Measure in a process of its own: a process that has joined one Ray cluster keeps that cluster's token."""
    command = [sys.executable, __file__, "--one-case", "--jobs", str(count), "--cpus", str(cpus)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    # Ray tells every driver that the controller was killed, which it was on purpose
    print("\n".join(line for line in done.stdout.splitlines() if "(raylet)" not in line), flush=True)
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(f"the case with {cpus:g} CPUs per node broke off")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
