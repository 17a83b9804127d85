"""How much later `python -c pass` starts and ends through eco_ray than through Ray's own job client.

    python benchmarks/dispatch.py [--rounds 10] [--poll-ms 5] [--no-save]

One cluster, the arms one after the other in every round, in an order that changes from round to round:

    eco_ray        Client.submit of a job with policy run-now; looked at in eco_ray's store
    ray            JobSubmissionClient.submit_job with the same CPU and pinned to the same node; looked at over HTTP
    ray unpinned   the same without CPUs and node: Ray runs it on the head

"running" is the first look that shows the attempt (the Ray job) running or over, "succeeded" the first look that shows
it succeeded. Both are looked at by this process at the same period.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common import cluster, describe_run, median, saved_output, table, verdict

from eco_ray.core.jobs import AttemptState
from eco_ray.job_file import JobFile, job_from_flags
from eco_ray.on_ray.client import Client

COMMAND = "python -c pass"
BAR = 1.25
#: rest between two submissions, so that the clean-up of one is not in the time of the next [s]
REST_S = 2.5
TIMEOUT_S = 60.0
ECO, RAY, UNPINNED = "eco_ray", "ray", "ray unpinned"


@dataclass(frozen=True)
class Times:
    """What one submission took [s]."""

    #: the call itself
    call: float
    #: from the call to its process being started
    running: float
    #: from the call to its success
    succeeded: float


def timed(submit: Callable[[], str], look: Callable[[str], tuple[bool, bool]], poll_s: float) -> Times:
    """Submit and look until it has succeeded; `look` says (running or later, succeeded) and raises for a failure."""
    began = time.perf_counter()
    job_id = submit()
    called = time.perf_counter()
    running_at: float | None = None
    due = called
    while True:
        running, succeeded = look(job_id)
        now = time.perf_counter()
        if running and running_at is None:
            running_at = now
        if succeeded and running_at is not None:
            return Times(called - began, running_at - began, now - began)
        if now - began > TIMEOUT_S:
            raise TimeoutError(f"{job_id} has not succeeded within {TIMEOUT_S:g} s")
        due = max(due + poll_s, now)
        time.sleep(max(0.0, due - now))


class EcoArm:
    """Submits through eco_ray."""

    def __init__(self, client: Client, job: JobFile) -> None:
        self.client = client
        self.job = job

    def submit(self) -> str:
        return self.client.submit(self.job)

    def look(self, job_id: str) -> tuple[bool, bool]:
        job = self.client.job(job_id)
        if job.state in ("failed", "cancelled"):
            raise RuntimeError(f"{job_id}: {job.message}")
        running = bool(job.attempts) and job.attempts[-1].state is not AttemptState.LAUNCHING
        return running, job.state == "succeeded"


class RayArm:
    """Submits through Ray's own job client."""

    def __init__(self, url: str, **options: Any) -> None:
        from ray.job_submission import JobSubmissionClient

        self.client = JobSubmissionClient(url)
        self.options = options

    def submit(self) -> str:
        return str(self.client.submit_job(entrypoint=COMMAND, **self.options))

    def look(self, job_id: str) -> tuple[bool, bool]:
        status = self.client.get_job_status(job_id).value
        if status in ("FAILED", "STOPPED"):
            raise RuntimeError(f"{job_id}: {self.client.get_job_info(job_id).message}")
        return status in ("RUNNING", "SUCCEEDED"), status == "SUCCEEDED"


def node_id_of(client: Client, node: str) -> str:
    """Ray's id of one of our nodes."""
    import ray

    client.status()
    return next(str(n["NodeID"]) for n in ray.nodes() if n["Alive"] and n["Labels"].get("eco_node") == node)


def measure(rounds: int, poll_s: float) -> dict[str, list[Times]]:
    """Times of every arm, one of each per round, after one unmeasured round."""
    with cluster() as client:
        eco = EcoArm(client, job_from_flags(COMMAND, {"policy": "run-now", "name": "pass"}))
        first = eco.submit()
        node = client.wait(first, TIMEOUT_S).attempts[-1].node  # where eco_ray puts it, Ray shall put it
        url = client.record.dashboard_url
        pinned = {"ray.io/node-id": node_id_of(client, node)}
        arms: dict[str, EcoArm | RayArm] = {
            ECO: eco,
            RAY: RayArm(url, entrypoint_num_cpus=1, entrypoint_label_selector=pinned),
            UNPINNED: RayArm(url),
        }
        times: dict[str, list[Times]] = {name: [] for name in arms}
        for number in range(-1, rounds):
            order = list(arms) if number % 2 else list(arms)[::-1]
            for name in order:
                time.sleep(REST_S)
                arm = arms[name]
                took = timed(arm.submit, arm.look, poll_s)
                if number >= 0:
                    times[name].append(took)
    return times


def show(times: dict[str, list[Times]]) -> bool:
    """Print the comparison; returns whether the bar holds."""
    rows, ratio_rows, holds = [], [], []
    for field, label in (("call", "submit call"), ("running", "submit to running"), ("succeeded", "submit to success")):
        values = {name: [getattr(t, field) * 1000 for t in list_] for name, list_ in times.items()}
        rows += [
            [f"{label}, {name}", f"{median(v):.0f}", f"{min(v):.0f}", f"{max(v):.0f}"] for name, v in values.items()
        ]
        for other in (RAY, UNPINNED):
            of_medians = median(values[ECO]) / median(values[other])
            paired = median([a / b for a, b in zip(values[ECO], values[other], strict=True)])
            ratio_rows.append([f"{label}, eco_ray / {other}", f"{of_medians:.2f}", f"{paired:.2f}"])
            if other == RAY and field != "call":
                holds.append((label, of_medians, paired))
    table(["milliseconds", "median", "min", "max"], rows)
    print()
    table(["ratio", "of medians", "median of pairs"], ratio_rows)
    print()
    results = []
    for label, of_medians, paired in holds:
        results.append(verdict(f"{label}, eco_ray / ray, ratio of medians", of_medians, BAR))
        results.append(verdict(f"{label}, eco_ray / ray, median of paired ratios", paired, BAR))
    return all(results)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--poll-ms", type=float, default=5.0)
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    with saved_output("dispatch", save=not args.no_save):
        describe_run(f"dispatch of `{COMMAND}`: eco_ray beside Ray's own job client")
        print(
            f"{args.rounds} rounds, looked at every {args.poll_ms:g} ms, {REST_S:g} s of rest before each submission\n"
        )
        holds = show(measure(args.rounds, args.poll_ms / 1000))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
