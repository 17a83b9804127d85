"""Joules and seconds of a training by power limit (GPU) or number of threads (CPU), and what the optimizer saves.

    python benchmarks/power_limits.py [--samples 10000] [--no-save]

The same training is done with each setting, and then from the beginning as a user runs it (no limit, torch's own number
of threads) beside the optimizer, whose search is in its figures. On a GPU it needs root.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from common import describe_run, saved_output, table
from torch import nn
from torch.nn.functional import cross_entropy

from eco_ray import training
from eco_ray.core.ports import Knob, WorkEnergy
from eco_ray.models.cnn import SmallCNN

BATCH = 64
ROUNDS = 3
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Ran:
    """One training."""

    seconds: float
    used: WorkEnergy
    loss: float
    setting: float | None = None


def train(samples: int, power: training.PowerLimitOptimizer | None = None) -> Ran:
    """The same training each time: a small CNN on random images."""
    torch.manual_seed(0)
    model: nn.Module = SmallCNN().to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, labels = torch.rand(8 * BATCH, 1, 28, 28, device=DEVICE), torch.randint(10, (8 * BATCH,), device=DEVICE)
    energy = training.energy()
    energy.lap()
    began, loss = time.perf_counter(), torch.tensor(0.0)
    steps = samples // BATCH
    for step in range(steps):
        rows = slice(step % 8 * BATCH, (step % 8 + 1) * BATCH)
        optimizer.zero_grad()
        loss = cross_entropy(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        if power is not None:
            power.step(BATCH, left=(steps - step - 1) * BATCH)
    last = float(loss.detach())  # waits for the device
    return Ran(time.perf_counter() - began, energy.lap(), last, power.setting if power else None)


def medians(rounds: list[Ran]) -> tuple[float, float, float]:
    """Seconds, joules, CPU seconds."""
    return (
        statistics.median(one.seconds for one in rounds),
        statistics.median(one.used.energy_j for one in rounds),
        statistics.median(one.used.cpu_s for one in rounds),
    )


def row(name: str, rounds: list[Ran], base: tuple[float, float, float], samples: int) -> list[str]:
    seconds, joules, cpu_s = medians(rounds)
    return [
        name,
        f"{seconds:.2f}",
        f"{cpu_s:.2f}",
        f"{joules:.1f}",
        f"{joules / seconds:.1f}",
        f"{1000 * joules / samples:.3f}",
        f"{seconds / base[0]:.2f}",
        f"{joules / base[1]:.2f}",
    ]


HEAD = ["", "s", "CPU s", "J", "W", "mJ/sample", "time", "energy"]


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000, help="of each training")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    with saved_output("power_limits", save=not args.no_save):
        describe_run(f"A training by {'power limit of the GPU' if DEVICE == 'cuda' else 'number of threads'}")
        train(2_000)  # warm
        knob: Knob = training.power_limits()._knob
        ways: dict[str, Callable[[], Ran]] = {"as it is": lambda: train(args.samples)}
        for setting in knob.settings():
            ways[f"{knob.name} {setting:g}"] = _with(knob, setting, args.samples)
        goals = {
            "eta 1": training.ZeusCost(1.0),
            "eta 0.5": training.ZeusCost(0.5),
            "eta 0": training.ZeusCost(0.0),
            "slowdown 1.1": training.MaxSlowdown(1.1),
        }
        for name, goal in goals.items():
            ways[name] = _searched(goal, args.samples)
        ran: dict[str, list[Ran]] = {name: [] for name in ways}
        for _ in range(ROUNDS):  # in turn, so that what else the machine does meets all alike
            for name, way in ways.items():
                ran[name].append(way())
        base = medians(ran["as it is"])
        used = ran["as it is"][0].used
        print(f"\n{args.samples} samples, median of {ROUNDS} rounds in turn; energy is {used.nature}: {used.source}\n")
        table(HEAD, [row(name, rounds, base, args.samples) for name, rounds in ran.items()])
        print()
        for name in goals:
            print(f"{name}: chose {', '.join(f'{one.setting:g}' for one in ran[name] if one.setting is not None)}")
    return 0


def _with(knob: Knob, setting: float, samples: int) -> Callable[[], Ran]:
    def way() -> Ran:
        with knob:
            knob.turn(setting)
            return train(samples)

    return way


def _searched(goal: training.ZeusCost | training.MaxSlowdown, samples: int) -> Callable[[], Ran]:
    def way() -> Ran:
        with training.power_limits(goal, say=lambda _message: None) as power:
            return train(samples, power)

    return way


if __name__ == "__main__":
    sys.exit(main())
