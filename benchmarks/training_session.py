"""What a session and metering cost a training: each step, each checkpoint, each second.

    python benchmarks/training_session.py [--only calls,overhead] [--rounds 120] [--no-save]

overhead: a training loop bare, with session and metering, and with what one writes first (torch.save, CodeCarbon), in
one process, in turns of half a second, in an order that is reversed every round. Time stands still for what is not at
its turn: a way has its checkpoints each 5 s and its meter a look each second of its own turns. Meters are processes of
their own that wait until they are told to look. No Ray: training_suspend.py shows jobs on a cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common import median, quantile, run_tables, table, verdict

from eco_ray.train.session import Session

#: cost of session and metering, from the issue [share of a step]
BAR_OVERHEAD = 0.01
#: of asking whether to pause, from the issue [us]
BAR_ASK_US = 1.0
TURN_S, ROUNDS = 0.5, 120
#: between two checkpoints, and between two looks of a meter [s of the way's own turns]
CHECKPOINT_S, METER_S = 5.0, 1.0
#: what docs/training.md shows [s]
USUAL_CHECKPOINT_S = 60.0
#: more wall time than CPU time than this, and others use the machine
BUSY = 1.1
BARE, OURS, USUAL = "bare loop", "session + metering", "torch.save + CodeCarbon"

# --- the loop ---------------------------------------------------------------------------------------------------------


class Training:
    """Real steps of a model on the CPU, with Adam, one thread."""

    def __init__(self, cnn: bool, batch: int) -> None:
        import torch
        from torch.nn import functional

        from eco_ray.models.cnn import SmallCNN
        from eco_ray.train.batch_order import BatchOrder
        from eco_ray.train.state import TrainState

        torch.set_num_threads(1)
        torch.manual_seed(0)
        shape: tuple[int, ...]
        if cnn:
            self.model, shape = SmallCNN(), (1, 28, 28)
        else:
            layers = torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
            self.model, shape = torch.nn.Sequential(*layers), (784,)
        self.x, self.y = torch.rand(4000, *shape), torch.randint(0, 10, (4000,))
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.batches = BatchOrder(4000, batch)
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
    """A process that measures the node when it is told to."""

    def __init__(self, way: str, folder: Path) -> None:
        command = [sys.executable, __file__, "--meter", way, "--parent", str(os.getpid()), "--folder", str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answers()

    def ask(self) -> None:
        """Look once, beside the training."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self) -> float:
        """CPU time of what was asked for [s], when it is done."""
        before_s = self._cpu_s
        return self._answers() - before_s

    def _answers(self) -> float:
        assert self._process.stdout is not None
        self._cpu_s = float(self._process.stdout.readline())
        return self._cpu_s

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def measure_node(way: str, parent: int, folder: Path) -> None:
    """In a process of its own: look for each line that comes, answer with the CPU time so far."""
    second = agent(parent, folder) if way == OURS else codecarbon()
    for _ in range(3):  # everything is read for the first time
        second()
    print(time.process_time(), flush=True)
    for _ in sys.stdin:
        second()
        print(time.process_time(), flush=True)


def agent(root_pid: int, folder: Path) -> Callable[[], object]:
    """All that a node's agent does in a second, but the call to the controller."""
    from eco_ray.core.clock import Clock
    from eco_ray.on_ray.node_agent import AgentConfig, NodeAgent
    from eco_ray.power.modelled import curve_from_cpu

    clock = Clock(1.0, time.time(), 0.0)
    config = AgentConfig("node", 2.0, curve_from_cpu("epyc-gen3", 2), clock, folder / "spool", folder / "run")
    return NodeAgent(config, lambda _node, _batch: None, root_pid=root_pid).round


def codecarbon() -> Callable[[], object]:
    """Both of what CodeCarbon's tracker does each second, in its mode for a whole machine."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="DEU", measure_power_secs=1, tracking_mode="machine", save_to_file=False, log_level="error"
    )
    tracker.start()
    for timer in (tracker._scheduler, tracker._scheduler_monitor_power):
        timer.stop()  # our clock is that of the turns

    def second() -> None:
        tracker._monitor_power()
        tracker._measure_power_and_energy()

    return second


# --- the ways ---------------------------------------------------------------------------------------------------------


@dataclass
class Turn:
    """What a way took in one turn [s]."""

    wall_s: float
    #: of the training's process with all its threads, and of the meter
    cpu_s: float
    steps: int
    #: CPU time of the training's own thread, and of those beside it
    own_s: float
    beside_s: float
    meter_s: float


class Way:
    """A way to train: what it does each step, and when it is due."""

    def __init__(self, training: Training, meter: Meter | None = None) -> None:
        self.training, self.meter = training, meter
        self.turns: list[Turn] = []
        #: of its own turns, and when the next checkpoint and look are due [s]
        self.passed_s = 0.0
        self.checkpoint_due_s, self.meter_due_s = CHECKPOINT_S, METER_S

    def step(self) -> None:
        self.training.step()

    def step_with_checkpoint(self) -> None:
        self.step()

    def turn(self) -> Turn:
        """As many steps as fit; what is due comes at the begin, so that it is over at the end."""
        asked = self.meter is not None and self.passed_s >= self.meter_due_s
        due = self.passed_s >= self.checkpoint_due_s
        steps, began_s, cpu_s, own_s = 0, time.perf_counter(), time.process_time(), time.thread_time()
        if asked:
            self.meter_due_s += METER_S
            self.meter.ask()  # type: ignore[union-attr]
        if due:
            self.checkpoint_due_s += CHECKPOINT_S
            self.step_with_checkpoint()
            steps += 1
        while (passed_s := time.perf_counter() - began_s) < TURN_S:
            self.step()
            steps += 1
        used_s, own_s = time.process_time() - cpu_s, time.thread_time() - own_s
        meter_s = self.meter.answer() if asked else 0.0  # type: ignore[union-attr]
        self.passed_s += passed_s
        return Turn(passed_s, used_s + meter_s, steps, own_s, used_s - own_s, meter_s)


@dataclass
class Counted:
    """Time in calls of the session: of the wall, and of the thread's CPU [s]."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    count: int = 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        began_s, cpu_s = time.perf_counter(), time.thread_time()
        yield
        self.cpu_s += time.thread_time() - cpu_s
        self.wall_s += time.perf_counter() - began_s
        self.count += 1


class Ours(Way):
    """Progress and a pause point at each step, as docs/training.md shows."""

    def __init__(self, training: Training, meter: Meter, folder: Path) -> None:
        super().__init__(training, meter)
        self.run = Session(folder / "run" / "j-a1", folder / "checkpoints", job_id="j", attempt=1)
        self.forget()

    def forget(self) -> None:
        """Count anew."""
        self.calls, self.checkpoints = Counted(), Counted()

    @property
    def written_s(self) -> float:
        """CPU time of the threads that write checkpoints and reports [s]."""
        return sum(turn.beside_s for turn in self.turns)

    def step(self) -> None:
        loss = self.training.step()
        # written out: a block of `counting` would be in the figures of a short step
        began_s, cpu_s = time.perf_counter(), time.thread_time()
        self.run.progress(self.training.batches.step % 1000, 1000, loss=loss)
        self.run.pause_point(self.training.state.capture, every_s=1e9)
        self.calls.cpu_s += time.thread_time() - cpu_s
        self.calls.wall_s += time.perf_counter() - began_s
        self.calls.count += 1

    def step_with_checkpoint(self) -> None:
        self.step()
        with self.checkpoints.counting():
            self.run.pause_point(self.training.state.capture, every_s=0)


class Usual(Way):
    """What one writes first."""

    def __init__(self, training: Training, meter: Meter, folder: Path) -> None:
        super().__init__(training, meter)
        self._file = folder / "usual"

    def step_with_checkpoint(self) -> None:
        self.step()
        one = self.training
        one.save({"model": one.model.state_dict(), "optimizer": one.optimizer.state_dict()}, self._file)


# --- tables -----------------------------------------------------------------------------------------------------------


def overhead(rounds: int) -> bool:
    """a step, in turns; against the bare loop of the same round"""
    parts: dict[str, float] = {}
    counted, holds = [], True
    for cnn, batch, name in ((True, 128, "CNN, batch 128"), (False, 64, "perceptron, batch 64")):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            ways = _in_turns(Training(cnn, batch), folder, rounds)
        bare, ours = ways[BARE].turns, ways[OURS]
        rows = []
        for way, one in ways.items():
            cells = []
            for unit in ("wall_s", "cpu_s"):
                per_step = [getattr(turn, unit) / turn.steps for turn in one.turns]
                ratios = [own / (getattr(b, unit) / b.steps) - 1 for own, b in zip(per_step, bare, strict=True)]
                cells += [f"{1000 * median(per_step):.3f}", *([""] * 2 if way == BARE else _spread(ratios))]
            rows.append([way, *cells])
        head = ["wall ms", "to bare", "95 % interval", "CPU ms", "to bare", "95 % interval"]
        table([name, *head], rows)
        print()
        assert isinstance(ours, Ours)
        parts = _counted(ours)
        counted.append([name, *(f"{100 * share:.3f}" for share in parts.values()), f"{100 * sum(parts.values()):.3f}"])
        one, megabytes = ours.checkpoints, (ours.run._checkpoint_bytes or 0) / 1e6
        wait_ms = 1000 * one.wall_s / one.count
        print(f"{one.count} checkpoints of {megabytes:.1f} MB; the training waits {wait_ms:.1f} ms for each")
        print(f"progress and pause_point of a step: {1e6 * ours.calls.cpu_s / ours.calls.count:.0f} us of CPU time\n")
        holds &= verdict(f"CPU time of session and agent, {name}", 100 * sum(parts.values()), 100 * BAR_OVERHEAD, " %")
        inside = (ours.calls.wall_s + one.wall_s) / sum(turn.wall_s for turn in ours.turns)
        holds &= verdict(f"wall time in its calls, {name}", 100 * inside, 100 * BAR_OVERHEAD, " %")
        busy = median([turn.wall_s / turn.own_s for turn in bare])
        if busy > BUSY:
            print(f"        others use the machine, {busy:.1f} s of wall for 1 s of the bare loop: this says little")
        print()
    table(["CPU time, % of that of the steps", *parts, "together"], counted)
    print(
        f"\nA checkpoint each {CHECKPOINT_S:g} s, which is often; each {USUAL_CHECKPOINT_S:g} s its part is a twelfth."
    )
    print("To bare: median of the ratios of paired turns; its 95 % interval, of order statistics. CPU: of the training")
    print("with all its threads, and of the meter.")
    return holds


def _counted(ours: Ours) -> dict[str, float]:
    """Parts of the cost [share of the CPU time of its steps]."""
    own_s = sum(turn.own_s for turn in ours.turns) - ours.calls.cpu_s - ours.checkpoints.cpu_s
    parts_s = {
        "progress, pause point": ours.calls.cpu_s,
        f"checkpoint in {CHECKPOINT_S:g} s": ours.checkpoints.cpu_s,
        "writing them and reports": ours.written_s,
        "agent": sum(turn.meter_s for turn in ours.turns),
    }
    return {name: part_s / own_s for name, part_s in parts_s.items()}


def _spread(ratios: Sequence[float]) -> list[str]:
    """Median, and the interval in which it lies with 95 %, as cells."""
    half = 0.98 / len(ratios) ** 0.5
    low, high = quantile(ratios, max(0.0, 0.5 - half)), quantile(ratios, min(1.0, 0.5 + half))
    return [f"{100 * median(ratios):+.2f} %", f"{100 * low:+.2f} to {100 * high:+.2f}"]


def _in_turns(training: Training, folder: Path, rounds: int) -> dict[str, Way]:
    """All ways, each with as many turns."""
    meters = {way: Meter(way, folder) for way in (OURS, USUAL)}
    ours = Ours(training, meters[OURS], folder)
    ways = {BARE: Way(training), OURS: ours, USUAL: Usual(training, meters[USUAL], folder)}
    try:
        for number in range(rounds + 2):
            for way in list(ways.values())[:: 1 if number % 2 else -1]:
                turn = way.turn()
                if number >= 2:  # the first ones warm up
                    way.turns.append(turn)
                else:
                    ours.forget()
        ours.run.finish()
    finally:
        for meter in meters.values():
            meter.end()
    return ways


def calls() -> bool:
    """one call, the quickest of 7 series"""
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


def main() -> int:
    parser = argparse.ArgumentParser(description="What a session and metering cost a training.")
    parser.add_argument("--only", help="of calls, overhead; with commas")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of turns of {TURN_S:g} s of each way")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--meter", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.meter:
        measure_node(args.meter, args.parent, args.folder)
        return 0
    turns = partial(overhead, args.rounds)
    turns.__doc__ = overhead.__doc__
    tables = {"calls": calls, "overhead": turns}
    title = "What a session and metering cost a training"
    return run_tables("training_session", title, tables, args.only, save=not args.no_save)


if __name__ == "__main__":
    sys.exit(main())
