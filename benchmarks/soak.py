"""Jobs come and go on the demo's cluster and a model is asked, while agents, the controller, replicas and the database
are killed or taken away at random; then all is counted.

    python benchmarks/soak.py [--minutes 60] [--seed 1] [--postgres] [--no-save]

Every job writes a line for each of its steps, so that what was lost or done twice can be seen; the clients of the model
count their requests; of the ledger, every interval is added up again, the sequence numbers of each agent's life are
counted, and so is the time of each node that no interval covers. The seed decides which jobs, pauses and kills there
are; when they fall depends on the machine.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from common import ROOT, cluster, describe_run, processes, saved_output, table
from soak_checks import Check, Witness, command_checks, job_checks, ledger_checks
from soak_database import Database, away_s, database
from soak_serving import APP, Traffic, kill_one

from eco_ray.core.clock import Clock
from eco_ray.core.jobs import Job
from eco_ray.errors import EcoRayError
from eco_ray.job_file import job_from_flags
from eco_ray.on_ray.client import Client

#: grid seconds per wall second
SPEED = 60.0
#: jobs that are open at a time at most; two cores have one each, and one job waits
OPEN_JOBS = 4
#: wall time between two deeds [s]
PAUSE_S = (2.0, 7.0)
#: how long the last jobs may take [wall s]
PATIENCE_S = 300.0
#: no job is submitted so shortly before the end [wall s]
LAST_S = 30.0
VICTIMS = {
    "controller": "ray::ControllerActor",
    "agent": "ray::AgentActor",
    "replica": f"ray::ServeReplica:model.{APP}:",
}
#: what happens before any of it happens again, in an order that is drawn each time
DEEDS = [*["controller"] * 3, *["agent"] * 3, "replica", "database", "nothing"]
T = TypeVar("T")


@dataclass
class Soak:
    """What was done."""

    client: Client
    folder: Path
    dice: random.Random
    database: Database
    traffic: Traffic
    #: job id -> steps that it has
    steps: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    #: the controller did not answer: job id -> steps
    unsure: dict[str, int] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    submitted: int = 0
    suspended: int = 0

    def run(self, seconds: float) -> None:
        """Submit, suspend, resume and kill until the time is over, then wait for all jobs."""
        end = time.monotonic() + seconds
        deeds: list[str] = []
        while time.monotonic() < end:
            jobs = self._try(self._jobs)
            still_open = [job.id for job in jobs or () if not job.state.is_final]
            left_s = end - time.monotonic()
            if jobs is None:
                pass  # a server that is stopped tells nothing; kills go on
            elif len(still_open) < OPEN_JOBS and left_s > LAST_S:
                self._submit(left_s)
            elif still_open and self.dice.random() < 0.2:
                self._suspend_and_resume(self.dice.choice(still_open))
            time.sleep(self.dice.uniform(*PAUSE_S))
            deeds = deeds or self.dice.sample(DEEDS, len(DEEDS))
            self._do(deeds.pop())
        self.database.wait_back()
        self._finish()

    def _finish(self) -> None:
        """Wait for all jobs."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for job_id in [job_id for job_id in self.unsure if self._try(partial(self.client.job, job_id))]:
                self.steps[job_id] = self.unsure.pop(job_id)
            jobs = self._jobs()
            if all(job.state.is_final for job in jobs):
                break
            for job in jobs:
                if job.held:  # whoever resumed it was told that the database is away
                    self._try(partial(self.client.resume, job.id))
            time.sleep(1.0)
        self.refused += self.unsure

    def _do(self, deed: str) -> None:
        if deed == "database":
            if not self.database.is_away:
                self.database.go_away(away_s(self.dice))
                self.kills["database"] += 1
        elif deed == "replica":
            self.traffic.kill_soon(lambda: kill_one(self._pids("replica"), random.choice))
        elif deed in VICTIMS:
            killed = kill_one(self._pids(deed), self.dice.choice)
            self.kills[deed] += killed is not None
            self.kills[f"{deed} in an outage"] += killed is not None and self.database.is_away

    def _jobs(self) -> list[Job]:
        return [self.client.job(job_id) for job_id in self.steps]

    def _try(self, call: Callable[[], T]) -> T | None:
        """None where the database is away, or the job has gone on meanwhile."""
        try:
            return call()
        except Exception:  # Ray's own errors, too
            return None

    def _submit(self, left_s: float) -> None:
        """`left_s`: until no more is done; a job that could wait for longer would keep us waiting."""
        steps, number = self.dice.randint(20, 100), self.submitted
        self.submitted += 1
        job_id = f"soak-{number}"
        script = ROOT / "tests" / "scripts" / "counts.py"
        flags = {
            "policy": self.dice.choice(["eco", "eco", "run-now"]),
            "name": f"soak-{number % 5}",
            "tenant": f"tenant-{number % 3}",
            "num_cpus": self.dice.choice(["0.5", "1"]),  # half a node has room beside the replicas
            "expected_duration": f"{steps / 10 + 1:.0f}s",  # time at the machine
            "max_delay": f"{max(LAST_S, min(self.dice.choice([60, 120, 240]), left_s)) * SPEED:.0f}s",  # grid time
            "min_run": "1s",
            "resume_cost": "1s",
        }
        command = f"{sys.executable} {script} {self.folder / job_id} {steps}"
        try:
            self.client.submit(job_from_flags(command, flags), job_id)
        except Exception as error:  # Ray's own errors, too
            if isinstance(error, EcoRayError) and str(error).startswith("database "):
                self.refused.append(job_id)
            else:  # nobody knows yet whether it was taken
                print(f"note    {job_id}: {error!s:.200}")
                self.unsure[job_id] = steps
        else:
            self.steps[job_id] = steps

    def _suspend_and_resume(self, job_id: str) -> None:
        try:
            self.client.suspend(job_id)
            time.sleep(self.dice.uniform(0.5, 2.0))
            self.client.resume(job_id)
        except Exception as error:  # Ray's own errors, too
            print(f"note    {job_id} was not suspended and resumed: {error!s:.200}")
            return
        self.suspended += 1

    def _pids(self, victim: str) -> list[int]:
        return processes(self.client, VICTIMS[victim])

    def deeds(self) -> Iterator[Check]:
        """What was done, and how often."""
        for victim in ("controller", "agent"):
            yield f"kills of the {victim}", self.kills[victim], False
            yield "of these while the database was away", self.kills[f"{victim} in an outage"], False
        yield "kills of a replica", self.traffic.kills, False
        yield f"outages of the database ({self.database.words})", self.kills["database"], False
        yield "suspended and resumed by request", self.suspended, False


def soak(minutes: float, seed: int, postgres: bool) -> bool:
    """Run it and print what was counted; whether all is well."""
    with (
        tempfile.TemporaryDirectory() as folder,
        database(postgres) as store,
        cluster(speed=SPEED, store_url=store.url) as client,
    ):
        state_dir = client.settings.state_dir
        store.begin(state_dir)
        clock = Clock(**client.store.get_meta("clock"))
        witness, traffic = Witness(state_dir), Traffic(client, Path(folder) / "model.safetensors")
        done = Soak(client, Path(folder), random.Random(seed), store, traffic)
        began = time.monotonic()
        try:
            done.run(minutes * 60)
        finally:
            traffic.stop()
        time.sleep(5.0)  # agents take what replicas counted last, and send what they kept
        witness.stop()
        took_min = (time.monotonic() - began) / 60
        rows = [
            *job_checks(client, done.steps, done.refused, done.folder),
            *done.deeds(),
            ("attempts of a killed controller to start without its database", witness.waits(), False),
            *ledger_checks(store, witness),
            *traffic.checks(client, store),
            *command_checks(client, clock.grid_s(time.time())),
        ]
    print(f"seed {seed}, {took_min:.1f} min, one wall second counts as {SPEED:g} s\n")
    table(
        ["", "count", ""],
        [[what, f"{count:.4g}" if isinstance(count, float) else str(count),
          ("ok" if count == 0 else "NOT 0") if must else ""] for what, count, must in rows],
    )  # fmt: skip
    return all(count == 0 for _, count, must in rows if must)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long jobs are submitted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="the store is a PostgreSQL server of its own")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    with saved_output("soak", save=not args.no_save):
        describe_run("Soak: jobs come and go and a model is asked; agents, controller, replicas, database go at random")
        return 0 if soak(args.minutes, args.seed, args.postgres) else 1


if __name__ == "__main__":
    sys.exit(main())
