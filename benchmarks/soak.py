"""Jobs come and go on the demo's cluster while its agents and its controller are killed at random; then all is counted.

    python benchmarks/soak.py [--minutes 60] [--seed 1] [--no-save]

Every job writes a line for each of its steps, so that what was lost or done twice can be seen; of the ledger, every
interval is added up again, the sequence numbers of each agent's life are counted, and so is the time of each node that
no interval covers. The seed decides which jobs, pauses and kills there are; when they fall depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from common import ROOT, cluster, describe_run, saved_output, table

from eco_ray.core.jobs import JobState
from eco_ray.job_file import job_from_flags
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.local_cluster import _with_descendants, start_ticks

#: grid seconds per wall second
SPEED = 60.0
#: jobs that are open at a time at most; two cores have one each, and one job waits
OPEN_JOBS = 4
#: wall time between two deeds [s]
PAUSE_S = (2.0, 9.0)
#: how long the last jobs may take [wall s]
PATIENCE_S = 300.0
#: a join of two intervals is exact but for the clock's rounding [grid s]
JOIN_S = 0.01
VICTIMS = {"controller": b"ray::ControllerActor", "agent": b"ray::AgentActor"}


@dataclass
class Soak:
    """What was done."""

    folder: Path
    dice: random.Random
    #: job id -> steps that it has
    steps: dict[str, int] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    suspended: int = 0

    def run(self, client: Client, seconds: float) -> None:
        """Submit, suspend, resume and kill until the time is over, then wait for all jobs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            still_open = [job_id for job_id in self.steps if not client.job(job_id).state.is_final]
            if len(still_open) < OPEN_JOBS:
                self._submit(client)
            elif self.dice.random() < 0.2:
                self._suspend_and_resume(client, self.dice.choice(still_open))
            time.sleep(self.dice.uniform(*PAUSE_S))
            victim = self.dice.choice([*VICTIMS, None])
            pids = list(_processes_titled(client, VICTIMS[victim])) if victim else []
            if victim and pids:
                os.kill(self.dice.choice(pids), signal.SIGKILL)
                self.kills[victim] += 1
        for job_id in self.steps:
            client.wait(job_id, PATIENCE_S)

    def _submit(self, client: Client) -> None:
        steps, number = self.dice.randint(20, 120), len(self.steps)
        job_id = f"soak-{number}"
        script = ROOT / "tests" / "scripts" / "counts.py"
        flags = {
            "policy": self.dice.choice(["eco", "eco", "run-now"]),
            "name": f"soak-{number % 5}",
            "tenant": f"tenant-{number % 3}",
            "expected_duration": f"{steps / 10 + 1:.0f}s",  # time at the machine
            "max_delay": self.dice.choice(["1h", "2h", "4h"]),  # grid time
            "min_run": "1s",
            "resume_cost": "1s",
        }
        self.steps[job_id] = steps
        command = f"{sys.executable} {script} {self.folder / job_id} {steps}"
        client.submit(job_from_flags(command, flags), job_id)

    def _suspend_and_resume(self, client: Client, job_id: str) -> None:
        try:
            client.suspend(job_id)
            time.sleep(self.dice.uniform(0.5, 2.0))
            client.resume(job_id)
        except Exception as error:  # it ended at that moment
            print(f"note    {job_id} was not suspended: {error}")
            return
        self.suspended += 1

    def checks(self, client: Client) -> Iterator[tuple[str, float, bool]]:
        """(what, count, whether it has to be 0) of the jobs."""
        jobs = {job_id: client.job(job_id) for job_id in self.steps}
        yield "jobs submitted", len(jobs), False
        yield "jobs that did not succeed", sum(job.state is not JobState.SUCCEEDED for job in jobs.values()), True
        yield "attempts", sum(len(job.attempts) for job in jobs.values()), False
        missing = twice = 0
        for job_id, steps in self.steps.items():
            path = self.folder / job_id
            lines = path.read_text().splitlines() if path.exists() else []
            done = Counter(line.split()[1] for line in lines)
            missing += steps - len(done)
            twice += sum(count > 1 for count in done.values())
        yield "steps", sum(self.steps.values()), False
        yield "steps that are missing", missing, True
        yield "steps that were done twice", twice, True
        for victim in VICTIMS:
            yield f"kills of the {victim}", self.kills[victim], False
        yield "suspended and resumed by request", self.suspended, False


def ledger_checks(database: Path) -> Iterator[tuple[str, float, bool]]:
    """(what, count, whether it has to be 0) of the ledger, from its tables."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        rows = db.execute(
            "select i.node, i.boot_id, i.seq, i.start_s, i.end_s, i.energy_mj, i.unallocated_mj, i.flags,"
            " (select coalesce(sum(s.energy_mj), 0) from shares s where s.interval_id = i.id) from intervals i"
        ).fetchall()
    yield "intervals in the ledger", len(rows), False
    yield "residual, summed over all intervals [mJ]", sum(abs(e - u - s) for *_, e, u, _, s in rows), True
    lives: dict[tuple[str, str], list[int]] = defaultdict(list)
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    away_s = 0.0
    for node, boot, seq, start_s, end_s, _, _, flags, _ in rows:
        lives[node, boot].append(seq)
        spans[node].append((start_s, end_s))
        away_s += (end_s - start_s) * ("agent-away" in flags)
    yield "lives of agents", len(lives), False
    missing = sum(max(seqs) - len(set(seqs)) for seqs in lives.values())
    yield "sequence numbers that are missing", missing, True
    yield "sequence numbers that count twice", sum(len(seqs) - len(set(seqs)) for seqs in lives.values()), True
    holes = overlaps = 0
    for one in spans.values():
        one.sort()
        for (_, before_s), (after_s, _) in pairwise(one):
            holes += after_s - before_s > JOIN_S
            overlaps += before_s - after_s > JOIN_S
    yield "holes in the time of a node", holes, True
    yield "overlaps in the time of a node", overlaps, True
    covered_s = sum(end_s - start_s for one in spans.values() for start_s, end_s in one)
    yield "node time without an agent, filled as idle [%]", 100 * away_s / covered_s if covered_s else 0.0, False


def _processes_titled(client: Client, title: bytes) -> Iterator[int]:
    """Processes of the cluster that Ray gave this title."""
    roots = [pid for pid, ticks in client.record.processes if start_ticks(pid) == ticks]
    for pid, _ in sorted(_with_descendants(roots)):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title):
                yield pid
        except OSError:
            continue


def soak(minutes: float, seed: int) -> bool:
    """Run it and print what was counted; whether all is well."""
    with tempfile.TemporaryDirectory() as folder, cluster(speed=SPEED) as client:
        done = Soak(Path(folder), random.Random(seed))
        began = time.monotonic()
        done.run(client, minutes * 60)
        time.sleep(5.0)  # agents send what they kept
        took_min = (time.monotonic() - began) / 60
        rows = [*done.checks(client), *ledger_checks(client.settings.state_dir / "eco_ray.db")]
        verify = subprocess.run(
            [sys.executable, "-m", "eco_ray.cli.main", "ledger", "verify", "-o", "json"],
            env={**os.environ, "ECO_RAY_STATE_DIR": str(client.settings.state_dir)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        rows.append(("`eco-ray ledger verify`: exit code", verify.returncode, True))
    print(f"seed {seed}, {took_min:.1f} min, one wall second counts as {SPEED:g} s\n")
    table(
        ["", "count", ""],
        [[what, f"{count:.4g}" if isinstance(count, float) else str(count),
          ("ok" if count == 0 else "NOT 0") if must else ""] for what, count, must in rows],
    )  # fmt: skip
    print(verify.stdout.strip() or verify.stderr.strip())
    return all(count == 0 for _, count, must in rows if must)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long jobs are submitted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    with saved_output("soak", save=not args.no_save):
        describe_run("Soak: jobs come and go, agents and controller are killed at random")
        return 0 if soak(args.minutes, args.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
