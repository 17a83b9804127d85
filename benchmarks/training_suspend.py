"""How long a suspended training is away, and what a killed one does again.

    python benchmarks/training_suspend.py [--only alone,suspend,kill] [--rounds 8] [--no-save]

alone: processes without Ray, through the same files; what the session itself takes. suspend and kill: jobs on a real
Ray cluster, about 3 minutes each.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from common import cluster, median, run_tables, table, verdict

from eco_ray.core.jobs import JobState
from eco_ray.job_file import job_from_flags
from eco_ray.on_ray.client import Client

SCRIPT = """
import os, sys, time
{imports}
import numpy as np
from eco_ray.train import session
lines, checkpoints, every_s = sys.argv[1:]
with session.open(checkpoint_dir=checkpoints) as run:
    state = run.restore() or dict(step=0, w=np.zeros(1_000_000))
    step, w = state["step"], state["w"]
    while step < 100_000:
        w += 1
        time.sleep(0.02)
        assert w[0] == step + 1
        with open(lines, "a") as file:
            file.write(f"{{os.getpid()}} {{step}} {{time.time()}}\\n")
        step += 1
        run.progress(step, 100_000)
        run.pause_point(lambda: dict(step=step, w=w), every_s=float(every_s))
"""
EVERY_S = 1.0
TIMEOUT_S = 60.0


class Steps:
    """What a script has done, as it wrote it down: (process, step, when [s since epoch])."""

    def __init__(self, folder: Path, name: str, imports: str = "") -> None:
        self._file, script = folder / f"{name}.txt", folder / f"{name}.py"
        script.write_text(SCRIPT.format(imports=imports))
        self.command = f"{sys.executable} {script} {self._file} {folder / name} {EVERY_S}"

    def all(self) -> list[tuple[int, int, float]]:
        try:
            rows = [line.split() for line in self._file.read_text().splitlines()]
        except FileNotFoundError:
            return []
        return [(int(row[0]), int(row[1]), float(row[2])) for row in rows if len(row) == 3]

    def first_of_another(self, pid: int | None, least: int = 1) -> tuple[int, int, float]:
        """The first step of a process that is not `pid`, once it has done so many."""

        def of_another() -> list[tuple[int, int, float]]:
            return [row for row in self.all() if row[0] == self.all()[-1][0] != pid]

        return wait_for(lambda: (found := of_another()) and len(found) >= least and found[0])

    def repeated(self) -> int:
        """Steps that were done more than once, as often as they were."""
        return sum(times - 1 for times in Counter(step for _, step, _ in self.all()).values())


def wait_for(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + TIMEOUT_S
    while not (found := what()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {TIMEOUT_S:g} s in vain")
        time.sleep(0.02)
    return found


class EcoJob:
    """A job of eco_ray."""

    def __init__(self, client: Client, steps: Steps) -> None:
        self._client = client
        flags = {"policy": "run-now", "name": "bench", "min_run": "0s", "resume_cost": "0s", "retries": "50"}
        self._id = client.submit(job_from_flags(steps.command, flags))

    def suspend(self) -> None:
        self._client.suspend(self._id)
        wait_for(lambda: self._client.job(self._id).state is JobState.SUSPENDED)

    def resume(self) -> None:
        self._client.resume(self._id)

    def end(self) -> None:
        self._client.cancel(self._id)
        self._client.wait(self._id, TIMEOUT_S)


class HandJob:
    """The same by hand, with Ray's own job client: stop, and submit again."""

    def __init__(self, client: Client, steps: Steps) -> None:
        from ray.job_submission import JobSubmissionClient

        self._api, self._command = JobSubmissionClient(client.record.dashboard_url), f"exec {steps.command}"
        self.resume()

    def suspend(self) -> None:
        self._api.stop_job(self._id)
        wait_for(lambda: self._api.get_job_status(self._id).value in ("STOPPED", "FAILED", "SUCCEEDED"))

    def resume(self) -> None:
        self._id = self._api.submit_job(entrypoint=self._command)

    end = suspend


class LocalJob:
    """Processes that are started by hand as a launcher would, without Ray: what the session itself takes."""

    def __init__(self, folder: Path, steps: Steps) -> None:
        self._folder, self._command, self._attempt = folder, steps.command.split(), 0
        self.resume()

    def resume(self) -> None:
        self._attempt += 1
        self._run_dir = self._folder / f"run-{self._attempt}"
        told = {"JOB_ID": "j", "ATTEMPT": self._attempt, "RUN_DIR": self._run_dir, "CHECKPOINT_DIR": self._folder / "c"}
        environment = {**os.environ, **{f"ECO_RAY_{name}": str(value) for name, value in told.items()}}
        self._process = subprocess.Popen(self._command, env=environment)

    def suspend(self) -> None:
        (self._run_dir / "pause").touch()
        self._process.wait(TIMEOUT_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.resume()

    end = suspend


def _suspensions(job: EcoJob | HandJob | LocalJob, steps: Steps, rounds: int) -> list[str]:
    """Cells of a row: medians of the parts, range of the whole, steps that were done again."""
    away, back, whole = [], [], []
    pid = steps.first_of_another(None, 20)[0]
    for _ in range(rounds):
        began_s = time.time()
        job.suspend()
        gone_s = time.time()
        job.resume()
        pid, _, again_s = steps.first_of_another(pid, 20)
        away.append(gone_s - began_s)
        back.append(again_s - gone_s)
        whole.append(again_s - began_s)
    job.end()
    return [*(f"{median(one):.2f}" for one in (away, back, whole)), _range(whole), str(steps.repeated())]


def _kills(kill: Callable[[int], None], steps: Steps, rounds: int) -> tuple[list[str], float]:
    """Cells of a row, and the most work that was lost [s]."""
    back, lost_s, lost = [], [], []
    pid = steps.first_of_another(None, 70)[0]
    for number in range(rounds):
        time.sleep(0.13 * number)  # at another moment between two checkpoints
        killed_s = time.time()
        kill(pid)
        pid_before, (pid, first, again_s) = pid, steps.first_of_another(pid, 70)
        again = [when for one, step, when in steps.all() if one == pid_before and step >= first]
        back.append(again_s - killed_s)
        lost.append(len(again))
        lost_s.append(killed_s - min(again) if again else 0.0)
    cells = [f"{median(back):.2f}", _range(back), f"{median(lost):.0f}", f"{median(lost_s):.2f}", _range(lost_s)]
    return cells, max(lost_s)


SUSPENDED = ["p50 in s", "to suspended", "to training again", "together", "from, to", "steps lost"]
KILLED = ["p50", "s to training again", "from, to", "steps again", "s of work again", "from, to"]


def alone(rounds: int) -> bool:
    """Processes with 8 MB of state and a checkpoint each second, without Ray: suspended, and killed (-9)"""
    with tempfile.TemporaryDirectory() as place:
        folder, rows, lost = Path(place), [], 0
        for name, imports in (("a script with numpy", ""), ("one that imports torch", "import torch")):
            steps = Steps(folder, f"suspended-{len(imports)}", imports)
            (folder / f"at-{len(imports)}").mkdir()
            rows.append([name, *_suspensions(LocalJob(folder / f"at-{len(imports)}", steps), steps, rounds)])
            lost += steps.repeated()
        table(SUSPENDED, rows)
        print()
        steps = Steps(folder, "killed")
        (folder / "killed-at").mkdir()
        job = LocalJob(folder / "killed-at", steps)
        cells, most_s = _kills(lambda _pid: job.kill(), steps, rounds)
        job.end()
    table(KILLED, [["killed (-9)", *cells]])
    print()
    holds = verdict(f"steps lost in {2 * rounds} clean suspensions", lost, 0)
    return verdict(f"most work lost in {rounds} kills", most_s, EVERY_S + 0.05, " s") and holds


def suspend(rounds: int) -> bool:
    """Jobs of 8 MB state on a real cluster, suspended while they run, and resumed at once"""
    client, folder = _cluster()
    ways: dict[str, tuple[type[EcoJob | HandJob], str]] = {
        "eco_ray": (EcoJob, ""),
        "eco_ray, script imports torch": (EcoJob, "import torch"),
        "by hand: ray job stop, submit": (HandJob, ""),
    }
    rows, lost = [], 0
    for number, (name, (kind, imports)) in enumerate(ways.items()):
        steps = Steps(folder, f"suspend-{number}", imports)
        rows.append([name, *_suspensions(kind(client, steps), steps, rounds)])
        lost += steps.repeated() if kind is EcoJob else 0
    table(SUSPENDED, rows)
    print()
    return verdict(f"steps lost in {2 * rounds} clean suspensions", lost, 0)


def kill(rounds: int) -> bool:
    """A job with a checkpoint each second and 50 retries, whose process is killed (-9) at any moment"""
    client, folder = _cluster()
    steps = Steps(folder, "kill")
    job = EcoJob(client, steps)
    cells, most_s = _kills(lambda pid: os.kill(pid, signal.SIGKILL), steps, rounds)
    job.end()
    table(KILLED, [["eco_ray", *cells]])
    print()
    return verdict(f"most work lost in {rounds} kills", most_s, EVERY_S + 0.05, " s")


_ended = contextlib.ExitStack()


@cache
def _cluster() -> tuple[Client, Path]:
    """One for all tables: a process keeps the token of the first cluster that it speaks to."""
    folder = _ended.enter_context(tempfile.TemporaryDirectory())
    return _ended.enter_context(cluster()), Path(folder)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description="How long a suspended training is away, and what a killed one repeats."
    )
    parser.add_argument("--only", help="of alone, suspend, kill; with commas")
    parser.add_argument("--rounds", type=int, default=8, help="suspensions and kills of each job")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    tables: dict[str, Callable[[], bool]] = {}
    for one in (alone, suspend, kill):
        tables[one.__name__] = partial(one, args.rounds)
        tables[one.__name__].__doc__ = one.__doc__
    title = "How long a suspended training is away, and what a killed one does again"
    with _ended:
        return run_tables("training_suspend", title, tables, args.only, save=not args.no_save)


if __name__ == "__main__":
    sys.exit(main())
