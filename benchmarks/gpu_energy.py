"""A real GPU's energy counter beside its integrated power, and one GPU's energy split over two processes.

    python benchmarks/gpu_energy.py [--seconds 10] [--no-save]

Needs an NVIDIA GPU and a torch that can use it, nothing else of eco_ray's dependencies but pynvml; without it, it says
so and ends with 0. tests/gpu holds the same measurements to their bars.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

# found without being installed, so that this runs where only torch and pynvml are
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eco_ray.core.attribution import largest_remainder
from eco_ray.core.ports import CpuUse
from eco_ray.errors import EcoRayError
from eco_ray.power.nvml import NvmlMeter

RESULTS = Path(__file__).resolve().parent / "results"
#: the issue's bar
AGREES_REL = 0.05
#: the counter moves every 100 ms or so
_SAMPLE_S = 0.05


def why_not() -> str | None:
    """Why nothing can be measured here; None if it can."""
    try:
        NvmlMeter().close()
    except EcoRayError as error:
        return str(error)
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no GPU: install a build with CUDA"


@dataclass(frozen=True)
class Agreement:
    """The same seconds by the energy counter and by integrated power, of all GPUs of the machine."""

    seconds: float
    counter_j: float
    integrated_j: float
    samples: int
    source: str
    flags: tuple[str, ...]

    @property
    def difference_rel(self) -> float:
        """Counter against integrated power."""
        return self.counter_j / self.integrated_j - 1


def counter_against_power(seconds: float) -> Agreement:
    """Both, while one process multiplies matrices."""
    import pynvml

    meter = NvmlMeter()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]

    def power_w() -> float:
        return sum(pynvml.nvmlDeviceGetPowerUsage(handle) for handle in handles) / 1000

    with loads(1, seconds):
        meter.read(CpuUse(0, 0, 1))
        began = last = time.monotonic()
        integrated_j, before_w, samples = 0.0, power_w(), 0
        while last - began < seconds:
            time.sleep(_SAMPLE_S)
            now, now_w = time.monotonic(), power_w()
            integrated_j += (before_w + now_w) / 2 * (now - last)
            last, before_w, samples = now, now_w, samples + 1
        reading = meter.read(CpuUse(0, last - began, 1))
    meter.close()
    return Agreement(last - began, reading.energy_mj / 1000, integrated_j, samples, reading.source, reading.flags)


@dataclass(frozen=True)
class Split:
    """The energy of one GPU over some seconds [mJ], and who had which part of it."""

    gpu: str
    energy_mj: int
    by_pid_mj: dict[int, int]
    unallocated_mj: int
    #: the processes that were started
    started: tuple[int, ...]
    source: str
    flags: tuple[str, ...]


def split_over_two(seconds: float) -> Split:
    """One GPU used by two equal processes, read once a second."""
    meter = NvmlMeter()
    by_pid: dict[int, int] = {}
    energy_mj = unallocated_mj = 0
    flags: set[str] = set()
    source = gpu = ""
    with loads(2, seconds) as pids:
        meter.read(CpuUse(0, 0, 1))
        began = last = time.monotonic()
        while last - began < seconds:
            time.sleep(1.0)
            now = time.monotonic()
            reading = meter.read(CpuUse(0, now - last, 1))
            busiest = max(reading.gpus, key=lambda part: sum(part.busy_s.values()))
            whole_mj = round(busiest.energy_mj)
            idle_s = max(0.0, now - last - sum(busiest.busy_s.values()))
            *parts, rest = largest_remainder(whole_mj, [*busiest.busy_s.values(), idle_s])
            for pid, part in zip(busiest.busy_s, parts, strict=True):
                by_pid[pid] = by_pid.get(pid, 0) + part
            energy_mj, unallocated_mj = energy_mj + whole_mj, unallocated_mj + rest
            flags |= set(reading.flags)
            last, source, gpu = now, reading.source, busiest.gpu
    meter.close()
    return Split(gpu, energy_mj, by_pid, unallocated_mj, tuple(pids), source, tuple(sorted(flags)))


@contextlib.contextmanager
def loads(number: int, seconds: float) -> Iterator[list[int]]:
    """So many processes that multiply matrices on the first GPU; all are warm when this is entered. Their ids."""
    command = [sys.executable, __file__, "--load", str(seconds + 60)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    try:
        for process in processes:
            if process.stdout is None or process.stdout.readline() != "warm\n":
                raise RuntimeError(f"the load ended at its start with {process.wait()}")
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def load(seconds: float) -> None:
    """Multiply matrices; say `warm` after 3 s, when clocks and one-second means of power have settled."""
    import torch

    matrix = torch.rand(4096, 4096, device="cuda")
    began, warm = time.monotonic(), False
    while time.monotonic() - began < seconds:
        for _ in range(20):
            matrix @ matrix
        torch.cuda.synchronize()
        if not warm and time.monotonic() - began > 3:
            warm = True
            print("warm", flush=True)


def show(seconds: float) -> bool:
    """Measure, print, and say whether both bars hold."""
    import pynvml
    import torch

    meter = NvmlMeter()
    device = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    driver = pynvml.nvmlSystemGetDriverVersion()
    meter.close()
    print("GPU energy: counter against integrated power, and one GPU split over two processes")
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {device}, driver {driver}, torch {torch.__version__}\n")
    both = counter_against_power(seconds)
    agrees = math.isfinite(both.difference_rel) and abs(both.difference_rel) <= AGREES_REL and not both.flags
    print(f"{both.source}; over {both.seconds:.1f} s; flags: {', '.join(both.flags) or 'none'}")
    print(f"energy counter        {both.counter_j:10.1f} J")
    print(f"integrated power      {both.integrated_j:10.1f} J from {both.samples} samples")
    print(f"{'ok' if agrees else 'MISSED'}: they differ by {both.difference_rel:+.2%} (bar: {AGREES_REL:.0%})\n")
    split = split_over_two(seconds)
    sums = sum(split.by_pid_mj.values()) + split.unallocated_mj == split.energy_mj
    print(f"{split.gpu}: {split.energy_mj} mJ ({split.source}; flags: {', '.join(split.flags) or 'none'})")
    for pid, part in split.by_pid_mj.items():
        print(f"  process {pid}{'' if pid in split.started else ' (not ours by its id)'}: {part} mJ")
    print(f"  unallocated: {split.unallocated_mj} mJ")
    print(f"{'ok' if sums and len(split.by_pid_mj) == 2 else 'MISSED'}: two parts and the rest are the whole, exactly")
    return agrees and sums and len(split.by_pid_mj) == 2


def main() -> int:
    """Parse, measure, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--load", type=float, metavar="SECONDS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load is not None:
        load(arguments.load)
        return 0
    reason = why_not()
    if reason is not None:
        print(f"skipped: {reason}")
        return 0
    kept = io.StringIO()
    with contextlib.redirect_stdout(kept):
        holds = show(arguments.seconds)
    print(kept.getvalue())
    if not arguments.no_save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"gpu_energy-{datetime.now(UTC):%Y-%m-%d}.txt"
        path.write_text(kept.getvalue())
        print(f"saved in benchmarks/results/{path.name}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
