"""How much later `python -c pass` starts and ends through eco_ray than through Ray's own job client.

    python benchmarks/dispatch.py [--rounds 10] [--poll-ms 5 50] [--no-save]

One cluster, the arms one after the other in every round, in an order that changes from round to round:

    eco_ray        Client.submit of a job with policy run-now; looked at in eco_ray's store
    ray            JobSubmissionClient.submit_job with the same CPU and pinned to the same node; looked at over HTTP
    ray unpinned   the same without CPUs and node: Ray runs it on the head

"running" is the first look that shows the attempt (the Ray job) running or over, "success" the first look that shows
it succeeded. Both are looked at by this process at the same period. A look at Ray is an HTTP request, and 200 a second
slow down the very machine that starts the process, while a look at eco_ray's store costs Ray nothing: so everything is
measured again with a slow period, whose ratios are the fairer ones. "over, by Ray" is the end that Ray itself wrote
down, for both: what eco_ray adds until then is before and during the run, the rest is how late it notices.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from common import cluster, describe_run, median, saved_output, table, verdict

from eco_ray.core.jobs import AttemptState
from eco_ray.job_file import JobFile, job_from_flags
from eco_ray.on_ray.client import Client

COMMAND = "python -c pass"
BAR = 1.25
#: rest between two submissions, so that the clean-up of one is not in the time of the next [s]
REST_S = 2.5
TIMEOUT_S = 60.0
FIELDS = {
    "call": "submit call",
    "running": "submit to running",
    "over": "submit to over, by Ray",
    "succeeded": "submit to success",
}
BARRED = ("running", "succeeded")
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
    #: from the call to the end of its process in Ray's own record
    over: float


class Arm(Protocol):
    """One way to run the command."""

    def submit(self) -> str:
        """Submit it; returns its id."""

    def look(self, job_id: str) -> tuple[bool, bool]:
        """Whether it is running or over, and whether it has succeeded; raises when it has failed."""

    def ended_wall_s(self, job_id: str) -> float:
        """When it ended, by Ray's own record [s since epoch]."""


def timed(arm: Arm, poll_s: float) -> Times:
    """Submit and look until it has succeeded."""
    began_wall_s, began = time.time(), time.perf_counter()
    job_id = arm.submit()
    called = time.perf_counter()
    running_at: float | None = None
    due = called
    while True:
        running, succeeded = arm.look(job_id)
        now = time.perf_counter()
        if running and running_at is None:
            running_at = now
        if succeeded and running_at is not None:
            over_s = arm.ended_wall_s(job_id) - began_wall_s
            return Times(called - began, running_at - began, now - began, over_s)
        if now - began > TIMEOUT_S:
            raise TimeoutError(f"{job_id} has not succeeded within {TIMEOUT_S:g} s")
        due = max(due + poll_s, now)
        time.sleep(max(0.0, due - now))


class EcoArm:
    """Submits through eco_ray."""

    def __init__(self, client: Client, job: JobFile, ray_api: Any) -> None:
        self.client = client
        self.job = job
        self.ray_api = ray_api

    def submit(self) -> str:
        return self.client.submit(self.job)

    def ended_wall_s(self, job_id: str) -> float:
        submission = self.client.job(job_id).attempts[-1].submission_id
        return float(self.ray_api.get_job_info(submission).end_time) / 1000

    def look(self, job_id: str) -> tuple[bool, bool]:
        job = self.client.job(job_id)
        if job.state in ("failed", "cancelled"):
            raise RuntimeError(f"{job_id}: {job.message}")
        running = bool(job.attempts) and job.attempts[-1].state is not AttemptState.LAUNCHING
        return running, job.state == "succeeded"


class RayArm:
    """Submits through Ray's own job client."""

    def __init__(self, ray_api: Any, **options: Any) -> None:
        self.client = ray_api
        self.options = options

    def submit(self) -> str:
        return str(self.client.submit_job(entrypoint=COMMAND, **self.options))

    def ended_wall_s(self, job_id: str) -> float:
        return float(self.client.get_job_info(job_id).end_time) / 1000

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


def measure(rounds: int, polls_s: Sequence[float]) -> dict[float, dict[str, list[Times]]]:
    """Times by period and arm, one of each arm per round; before the first, one round that does not count."""
    with cluster() as client:
        from ray.job_submission import JobSubmissionClient  # after the cluster has set Ray's environment

        ray_api = JobSubmissionClient(client.record.dashboard_url)
        eco = EcoArm(client, job_from_flags(COMMAND, {"policy": "run-now", "name": "pass"}), ray_api)
        first = eco.submit()
        node = client.wait(first, TIMEOUT_S).attempts[-1].node  # where eco_ray puts it, Ray shall put it
        pinned = {"ray.io/node-id": node_id_of(client, node)}
        arms: dict[str, Arm] = {
            ECO: eco,
            RAY: RayArm(ray_api, entrypoint_num_cpus=1, entrypoint_label_selector=pinned),
            UNPINNED: RayArm(ray_api),
        }
        times: dict[float, dict[str, list[Times]]] = {poll_s: {name: [] for name in arms} for poll_s in polls_s}
        run_round(arms, polls_s[0], backwards=False)
        for poll_s in polls_s:
            for number in range(rounds):
                for name, took in run_round(arms, poll_s, backwards=number % 2 == 1).items():
                    times[poll_s][name].append(took)
    return times


def run_round(arms: dict[str, Arm], poll_s: float, *, backwards: bool) -> dict[str, Times]:
    """Each arm once."""
    took = {}
    for name in list(arms)[:: -1 if backwards else 1]:
        time.sleep(REST_S)
        took[name] = timed(arms[name], poll_s)
    return took


def show(times: dict[str, list[Times]]) -> bool:
    """Print the comparison; returns whether the bar holds."""
    rows, ratio_rows, holds = [], [], []
    for field, label in FIELDS.items():
        values = {name: [getattr(t, field) * 1000 for t in list_] for name, list_ in times.items()}
        rows += [
            [f"{label}, {name}", f"{median(v):.0f}", f"{min(v):.0f}", f"{max(v):.0f}"] for name, v in values.items()
        ]
        for other in (RAY, UNPINNED):
            of_medians = median(values[ECO]) / median(values[other])
            paired = median([a / b for a, b in zip(values[ECO], values[other], strict=True)])
            ratio_rows.append([f"{label}, eco_ray / {other}", f"{of_medians:.2f}", f"{paired:.2f}"])
            if other == RAY and field in BARRED:
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
    parser.add_argument("--poll-ms", type=float, nargs="+", default=[5.0, 50.0], help="periods of looking")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    with saved_output("dispatch", save=not args.no_save):
        describe_run(f"dispatch of `{COMMAND}`: eco_ray beside Ray's own job client")
        print(f"{args.rounds} rounds per period of looking, {REST_S:g} s of rest before each submission")
        holds = []
        for poll_s, times in measure(args.rounds, [ms / 1000 for ms in args.poll_ms]).items():
            print(f"\nlooked at every {poll_s * 1000:g} ms\n")
            holds.append(show(times))
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
