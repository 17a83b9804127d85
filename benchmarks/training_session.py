"""What a session costs a training, and how long a suspended one is away.

    python benchmarks/training_session.py [--only calls,overhead,alone,suspend,kill] [--no-save]

overhead: a training loop bare, with session and metering, and with what one writes first (torch.save each 5 s, and
CodeCarbon's tracker), in one process, in turns of a second, in an order that is reversed every round; the meter is
a process of its own that is stopped while it is not its turn. suspend and kill: jobs on a real Ray cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common import cluster, median, quantile, run_tables, table, verdict

from eco_ray.core.jobs import JobState
from eco_ray.job_file import job_from_flags
from eco_ray.on_ray.client import Client
from eco_ray.train.session import Session

#: cost of session and metering, from the issue [share of a step]
BAR_OVERHEAD = 0.01
#: of asking whether to pause, from the issue [us]
BAR_ASK_US = 1.0
TURN_S, ROUNDS = 1.0, 40
CHECKPOINT_S = 5.0
BARE, OURS, USUAL = "bare loop", "session + metering", "torch.save + CodeCarbon"

# --- the loop ---------------------------------------------------------------------------------------------------------


class Training:
    """Real steps of a model on the CPU, with Adam, one thread."""

    def __init__(self, cnn: bool) -> None:
        import torch
        from torch.nn import functional

        from eco_ray.models.cnn import SmallCNN
        from eco_ray.train.batch_order import BatchOrder
        from eco_ray.train.state import TrainState

        torch.set_num_threads(1)
        torch.manual_seed(0)
        if cnn:
            self.model, shape, rows = SmallCNN(), (1, 28, 28), 64
        else:
            layers = torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
            self.model, shape, rows = torch.nn.Sequential(*layers), (784,), 64
        self.x, self.y = torch.rand(4000, *shape), torch.randint(0, 10, (4000,))
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.batches = BatchOrder(4000, rows)
        self.state = TrainState(model=self.model, optimizer=self.optimizer, batches=self.batches)
        self._loss_of, self._from_numpy, self.save = functional.cross_entropy, torch.from_numpy, torch.save

    def step(self) -> Any:
        rows = self._from_numpy(self.batches.rows())
        self.optimizer.zero_grad()
        loss = self._loss_of(self.model(self.x[rows]), self.y[rows])
        loss.backward()
        self.optimizer.step()
        self.batches.advance()
        return loss


class Meter:
    """A process that measures the node, and is stopped while it is not its turn."""

    def __init__(self, way: str, folder: Path) -> None:
        command = [sys.executable, __file__, "--meter", way, "--parent", str(os.getpid()), "--folder", str(folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._process.send_signal(signal.SIGSTOP)

    def cpu_s(self) -> float:
        """CPU time that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGCONT)
        yield
        self._process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def measure_node(way: str, parent: int, folder: Path) -> None:
    """In a process of its own: once a second, until it is killed."""
    import agent as ways

    if way == OURS:
        from eco_ray.core.clock import Clock
        from eco_ray.on_ray.node_agent import AgentConfig, NodeAgent
        from eco_ray.power.modelled import curve_from_cpu

        config = AgentConfig(
            "node", 2.0, curve_from_cpu("epyc-gen3", 2), Clock(1.0, time.time(), 0.0), folder / "spool", folder / "run"
        )
        second: Callable[[], object] = NodeAgent(config, lambda _node, _batch: None, root_pid=parent).round
    else:
        second = ways.codecarbon(folder)
    second()
    print("ready", flush=True)
    while os.getppid() == parent:
        time.sleep(1.0)
        second()


def overhead() -> bool:
    """A step in turns of 1 s, 40 rounds; ratio to the bare loop of the same round"""
    holds = True
    for cnn, name in ((True, "CNN of jobs/train_mnist.py, batch 64"), (False, "784-256-10 perceptron, batch 64")):
        with tempfile.TemporaryDirectory() as folder:
            found, counted = _in_turns(Training(cnn), Path(folder))
        rows = []
        for way, turns in found.items():
            walls = [wall for wall, _ in turns]
            cells = [f"{1000 * median(walls):.3f}", f"{1000 * median([cpu for _, cpu in turns]):.3f}"]
            for number in (0, 1):
                shares = _shares(found, way, number)
                low, high = quantile(shares, 0.25), quantile(shares, 0.75)
                cells += [f"{100 * median(shares):+.2f} %", f"{100 * low:+.2f} to {100 * high:+.2f}"]
            rows.append([way, *cells])
        table([name, "wall ms", "CPU ms", "wall", "quartiles", "CPU", "quartiles"], rows)
        print()
        holds &= verdict(f"counted cost of a step, {name}", 100 * counted, 100 * BAR_OVERHEAD, " %")
        print()
    print("CPU: of the training with all its threads, and of the meter. Quartiles: of the rounds; wider than")
    print("the bar, they say nothing. Counted: wall time in the session's calls, CPU time of its thread and the meter.")
    return holds


def _shares(found: dict[str, list[tuple[float, float]]], way: str, number: int) -> list[float]:
    return [one[number] / bare[number] - 1 for one, bare in zip(found[way], found[BARE], strict=True)]


def _in_turns(training: Training, folder: Path) -> tuple[dict[str, list[tuple[float, float]]], float]:
    """(wall, CPU) seconds of a step by way, one of each round; and the share of ours that was counted as its cost."""
    meters = {way: Meter(way, folder) for way in (OURS, USUAL)}
    run = Session(folder / "run" / "j-a1", folder / "checkpoints", job_id="j", attempt=1)
    saved_s, called_s = time.monotonic(), 0.0
    counted: list[float] = []

    def ours() -> None:
        nonlocal called_s
        loss = training.step()
        began_s = time.perf_counter()
        run.progress(training.batches.step % 1000, 1000, loss=loss)
        run.pause_point(training.state.capture, every_s=CHECKPOINT_S)
        called_s += time.perf_counter() - began_s

    def usual() -> None:
        nonlocal saved_s
        training.step()
        if time.monotonic() - saved_s >= CHECKPOINT_S:
            saved_s = time.monotonic()
            training.save(
                {"model": training.model.state_dict(), "o": training.optimizer.state_dict()}, folder / "usual"
            )

    steps: dict[str, Callable[[], object]] = {BARE: training.step, OURS: ours, USUAL: usual}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in steps}
    try:
        for number in range(-1, ROUNDS):
            for way in list(steps)[:: 1 if number % 2 else -1]:
                before_s = called_s
                wall_s, cpu_s, beside_s, count = _turn(steps[way], meters.get(way))
                if number >= 0:  # the first round warms up
                    found[way].append((wall_s, cpu_s))
                    if way == OURS:
                        counted.append((called_s - before_s + beside_s) / (wall_s * count))
        run.finish()
    finally:
        for meter in meters.values():
            meter.end()
    return found, statistics.mean(counted)


def _turn(step: Callable[[], object], meter: Meter | None) -> tuple[float, float, float, int]:
    """Of a step: wall and CPU time [s]; of the turn: CPU time beside the main thread [s], number of steps."""
    with meter.on() if meter else contextlib.nullcontext():
        meter_s = meter.cpu_s() if meter else 0.0
        count, began_s, cpu_s, own_s = 0, time.monotonic(), time.process_time(), time.thread_time()
        while (passed_s := time.monotonic() - began_s) < TURN_S:
            step()
            count += 1
        used_s = time.process_time() - cpu_s + (meter.cpu_s() - meter_s if meter else 0.0)
        beside_s = used_s - (time.thread_time() - own_s)
    return passed_s / count, used_s / count, beside_s, count


def calls() -> bool:
    """One call, the quickest of 7 series"""
    with tempfile.TemporaryDirectory() as folder:
        run = Session(f"{folder}/run", f"{folder}/checkpoints", job_id="j", attempt=1)
        ways = {
            "should_pause()": ("run.should_pause()", 200_000),
            "pause_point(state, every_s=60)": ("run.pause_point(dict, every_s=60)", 100_000),
            "progress(done, total, loss=0.5)": ("run.progress(3, 12, loss=0.5)", 50_000),
        }
        us = {}
        for name, (code, count) in ways.items():
            us[name] = 1e6 * min(timeit.repeat(code, globals={"run": run}, number=count, repeat=7)) / count
    table(["", "us"], [[name, f"{took:.2f}"] for name, took in us.items()])
    print()
    return verdict("asking whether to pause", us["should_pause()"], BAR_ASK_US, " us")


# --- on a cluster -----------------------------------------------------------------------------------------------------

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


def alone(rounds: int = 8) -> bool:
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


def suspend(rounds: int = 8) -> bool:
    """Jobs of 8 MB state on a real cluster, suspended while they run, and resumed at once"""
    with _cluster() as (client, folder):
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


def kill(rounds: int = 8) -> bool:
    """A job with a checkpoint each second and 50 retries, whose process is killed (-9) at any moment"""
    with _cluster() as (client, folder):
        steps = Steps(folder, "kill")
        job = EcoJob(client, steps)
        cells, most_s = _kills(lambda pid: os.kill(pid, signal.SIGKILL), steps, rounds)
        job.end()
    table(KILLED, [["eco_ray", *cells]])
    print()
    return verdict(f"most work lost in {rounds} kills", most_s, EVERY_S + 0.05, " s")


@contextlib.contextmanager
def _cluster() -> Iterator[tuple[Client, Path]]:
    with tempfile.TemporaryDirectory() as folder, cluster() as client:
        yield client, Path(folder)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    tables = {one.__name__: one for one in (calls, overhead, alone, suspend, kill)}
    parser.add_argument("--only", help=f"of {', '.join(tables)}; with commas")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--meter", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.meter:
        measure_node(args.meter, args.parent, args.folder)
        return 0
    title = "What a session costs a training, and how long a suspended one is away"
    return run_tables("training_session", title, tables, args.only, save=not args.no_save)


if __name__ == "__main__":
    sys.exit(main())
