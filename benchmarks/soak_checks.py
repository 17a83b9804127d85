"""What a soak counts in the end: jobs and their steps, and every row of the ledger beside what was seen on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from soak_database import Database

from eco_ray.core.jobs import JobState
from eco_ray.json_file import read_json
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.served import served_dir
from eco_ray.report import check_report, write_report

#: a join of two intervals is exact but for the clock's rounding [grid s]
JOIN_S = 0.01
#: how long agents may take to send what they kept [s]
SENT_S = 120.0
#: (what, count, whether it has to be 0)
Check = tuple[str, float, bool]
#: node, life of its agent, sequence number
Seen = tuple[str, str, int]


class Witness:
    """Looks at what agents have on disk for the controller, again and again: all of it must get into the ledger."""

    def __init__(self, state_dir: Path) -> None:
        self.seen: set[Seen] = set()
        #: most samples that one node had on disk
        self.most = 0
        self._state_dir = state_dir
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look a last time, also at what each node's agent made last."""
        self._stopped.set()
        self._thread.join()
        self._look()
        for folder in (self._state_dir / "spool").iterdir():
            noted = read_json(served_dir(self._state_dir, folder.name) / "taken.json", 10_000_000)
            self.seen.add((folder.name, noted["boot_id"], noted["seq"]))

    def missing(self, database: Database) -> set[Seen]:
        """What is not in the ledger, after the agents had time to send it."""
        deadline = time.monotonic() + SENT_S
        while True:
            rows = database.rows("select node, boot_id, seq from intervals")
            missing = self.seen - {(node, boot, int(seq)) for node, boot, seq in rows}
            if not missing or time.monotonic() > deadline:
                return missing
            time.sleep(1.0)

    def damaged(self) -> int:
        """Files that agents or the controller set aside."""
        spools = list((self._state_dir / "spool").glob("*/*.damaged"))
        return len(spools) + len(list((self._state_dir / "rejected").glob("*")))

    def waits(self) -> int:
        """How often a controller could not start again, as the database was away."""
        logs = (self._state_dir / "logs").glob("controller.log*")
        return sum(path.read_text(errors="replace").count("could not start again") for path in logs)

    def _look_on(self) -> None:
        while not self._stopped.wait(0.2):
            self._look()

    def _look(self) -> None:
        for folder in (self._state_dir / "spool").glob("*"):
            names = [path.name.split(".")[0] for path in folder.glob("*.sample.json")]
            self.seen |= {(folder.name, name.rpartition("-")[0], int(name.rpartition("-")[2])) for name in names}
            self.most = max(self.most, len(names))


def job_checks(client: Client, steps_of: Mapping[str, int], refused: list[str], folder: Path) -> Iterator[Check]:
    """Every step of every job once."""
    jobs = {job_id: client.job(job_id) for job_id in steps_of}
    yield "jobs submitted", len(jobs), False
    yield "jobs that did not succeed", sum(job.state is not JobState.SUCCEEDED for job in jobs.values()), True
    yield "attempts", sum(len(job.attempts) for job in jobs.values()), False
    missing = twice = 0
    for job_id, steps in steps_of.items():
        path = folder / job_id
        lines = path.read_text().splitlines() if path.exists() else []
        done = Counter(line.split()[1] for line in lines)
        missing += steps - len(done)
        twice += sum(count > 1 for count in done.values())
    yield "steps", sum(steps_of.values()), False
    yield "steps that are missing", missing, True
    yield "steps that were done twice", twice, True
    yield "submissions that were refused, as the database was away", len(refused), False
    yield "refused jobs that ran all the same", sum((folder / job_id).exists() for job_id in refused), True


def ledger_checks(database: Database, witness: Witness) -> Iterator[Check]:
    """Every interval sums to its whole; none is missing, doubled or overlapping; no time of a node is left out."""
    missing_samples = witness.missing(database)
    rows = [
        (node, boot, int(seq), start_s, end_s, int(energy), int(unallocated), flags, int(shared))
        for node, boot, seq, start_s, end_s, energy, unallocated, flags, shared in database.rows(
            "select i.node, i.boot_id, i.seq, i.start_s, i.end_s, i.energy_mj, i.unallocated_mj, i.flags,"
            " (select coalesce(sum(s.energy_mj), 0) from shares s where s.interval_id = i.id) from intervals i"
        )
    ]
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
    yield "samples that were seen on the agents' disks", len(witness.seen), False
    yield "of these, samples that are not in the ledger", len(missing_samples), True
    yield "most samples that one agent had to keep", witness.most, False
    yield "samples that were refused or set aside", witness.damaged(), True
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


def command_checks(client: Client, now_s: float) -> Iterator[Check]:
    """What a user would run."""
    verify = subprocess.run(
        [sys.executable, "-m", "eco_ray.cli.main", "ledger", "verify", "-o", "json"],
        env={
            **os.environ,
            "ECO_RAY_STATE_DIR": str(client.settings.state_dir),
            "ECO_RAY_STORE_URL": client.settings.store_url,
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if verify.returncode:
        print(verify.stdout.strip() or verify.stderr.strip())
    yield "`eco-ray ledger verify`: exit code", verify.returncode, True
    with tempfile.TemporaryDirectory() as folder:
        complaints = check_report(write_report(client.store, folder, now_s))
    for complaint in complaints:
        print(f"note    report: {complaint}")
    yield "complaints of the report's own check", len(complaints), True
