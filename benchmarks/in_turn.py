"""Runs benchmarks one after the other, each alone on the machine; what they print is kept as it comes.

A part is a process of its own that writes straight into results/PART-DATE.txt, below a line with its command, the
machine and the time. The last line says how it ended, so that what is there tells what is still to do. Files only grow.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psutil
from printed import RESULTS, ROOT, Bar, bars, describe_run, table

#: load average of a minute that other work may make; our own of before has gone after some minutes
LOAD = 0.7
#: for a machine to be idle [s]
WAIT_S = 3600.0
#: for a part that is told to end: it may have a cluster to take down [s]
GRACE_S = 90.0
#: for processes that a part has left behind [s]
LEFT_S = 10.0
_LOOK_S = 0.2
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, linux/prctl.h
_BEGIN, _END = "$ python ", "-- "
_NOT_RUN = "not run"
_TRACEBACK = "\nTraceback (most recent call last):\n"
_SKIPPED = re.compile(r"^skipped: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Part:
    """What one process shows."""

    #: of its results
    name: str
    #: to Python, in the root of the project
    command: tuple[str, ...]
    #: it is ended after
    limit_min: float


@dataclass
class Asked:
    """Whether a signal has asked to stop."""

    signal: signal.Signals | None = None


@dataclass(frozen=True)
class Result:
    """What a results file has of a part."""

    bars: tuple[Bar, ...] = ()
    #: "": it has shown all that it shows here
    missing: str = _NOT_RUN

    @classmethod
    def of(cls, path: Path) -> Result:
        """Of the last run in a file; of none where it is not there."""
        if not path.exists():
            return cls()
        _, begin, told = path.read_text(errors="replace").rpartition(f"\n{_BEGIN}")
        if not begin:  # a benchmark has written it by itself
            return cls()
        found, last = tuple(bars(told)), told.rstrip().rpartition("\n")[2]
        end = last.removeprefix(_END) if last.startswith(_END) else "it was interrupted"
        missed = not all(bar.holds for bar in found) and _TRACEBACK not in told  # Python's own exit code is 1, too
        if skipped := _SKIPPED.search(told):
            end = f"{_NOT_RUN}: {skipped[1]}"
        elif end.startswith("exit code 0 ") or (end.startswith("exit code 1 ") and missed):
            end = ""
        return cls(found, end)


def run_all(
    parts: Sequence[Part],
    folder: Path = RESULTS,
    *,
    again: bool = False,
    load: float = LOAD,
    wait_s: float = WAIT_S,
    load_now: Callable[[], float] = lambda: os.getloadavg()[0],
) -> int:
    """Run what has no result of today (with `again`: all), print the bars of all; 0 if each is met, else 1.

    A part begins when the load average is below `load`; it is left out where that takes more than `wait_s`. At SIGTERM,
    SIGINT and SIGHUP the part ends, and so does this, with 128 + the signal's number.
    """
    folder.mkdir(exist_ok=True)
    files = {part.name: folder / f"{part.name}-{datetime.now(UTC):%Y-%m-%d}.txt" for part in parts}
    why: dict[str, str] = {}
    with _signals() as asked:
        for part in parts:
            file = files[part.name]
            if not again and not Result.of(file).missing:
                print(f"{part.name}: has a result of today, {file.name}", flush=True)
                continue
            busy = _busy(load, wait_s, load_now, asked)
            if asked.signal:
                break
            if busy:
                why[part.name] = f"{_NOT_RUN}: {busy}"
                print(f"{part.name}: {why[part.name]}", flush=True)
                continue
            print(f"{part.name}: {datetime.now(UTC):%H:%M} UTC, {part.limit_min:g} min at most", flush=True)
            print(f"{part.name}: {_run(part, file, asked)}", flush=True)
    results = {name: Result.of(file) for name, file in files.items()}
    print()
    show(results, why)
    if asked.signal:
        return 128 + asked.signal
    good = all(not one.missing and all(bar.holds for bar in one.bars) for one in results.values()) and not why
    return 0 if good else 1


def show(results: dict[str, Result], why: dict[str, str]) -> None:
    """A row for each bar, and for each part that has none or is not complete. `why`: instead of what its file says."""
    rows = []
    for name, one in results.items():
        for bar in one.bars:
            rows.append([f"{name}: {bar.what}", bar.value, bar.limit, "met" if bar.holds else "MISSED"])
        if missing := why.get(name, one.missing):
            rows.append([f"{name}: {missing}", "", "", "not run" if missing.startswith(_NOT_RUN) else "not complete"])
        elif not one.bars:
            rows.append([name, "", "", "no bar"])
    table(["bar", "figure", "limit", ""], rows)


def _busy(load: float, wait_s: float, load_now: Callable[[], float], asked: Asked) -> str:
    """Wait until the machine is idle; "" then, and where this is asked to stop; else why not."""
    until_s, told = time.monotonic() + wait_s, False
    while (now := load_now()) >= load and not asked.signal:
        if time.monotonic() >= until_s:
            return f"load average {now:.1f}, not below {load:g} within {wait_s / 60:g} min"
        if not told:
            print(f"waits for a load average below {load:g}; it is {now:.1f}", flush=True)
            told = True
        time.sleep(_LOOK_S)
    return ""


def _run(part: Part, file: Path, asked: Asked) -> str:
    """Run a part until it ends, or has to; how it ended."""
    began_s = time.monotonic()
    with file.open("a") as out, contextlib.redirect_stdout(out):
        print(f"\n{_BEGIN[:-1]}", end=" ")
        describe_run(" ".join(part.command))
        print(flush=True)
        with _children_of_ours():
            process = subprocess.Popen(
                [sys.executable, *part.command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
            while process.poll() is None and not asked.signal and time.monotonic() < began_s + part.limit_min * 60:
                time.sleep(_LOOK_S)
            code = process.returncode
            if code is not None:
                end = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
            else:
                limit = f"ended at its limit of {part.limit_min:g} min"
                end = f"stopped by {asked.signal.name}" if asked.signal else limit
                _end(process)
            end += f" after {time.monotonic() - began_s:.0f} s"
            if left := _end_what_is_left():
                end += f"; it left {', '.join(left)}, killed"
            print(f"\n{_END}{end}", flush=True)
    return end


def _end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does, so that it takes down what it has started; then with force."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)


@contextlib.contextmanager
def _children_of_ours() -> Iterator[None]:
    """Whatever a part starts stays below this process when the part has ended, and so is found."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_SUBREAPER, 0, 0, 0, 0)


def _end_what_is_left() -> list[str]:
    """Kill what the part has left behind after a while: it would be load of the next one. What it was."""
    _, left = psutil.wait_procs(psutil.Process().children(recursive=True), LEFT_S)
    names = []
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(f"{one.name()} ({one.pid})")
            one.kill()
    psutil.wait_procs(left, LEFT_S)
    return names


@contextlib.contextmanager
def _signals() -> Iterator[Asked]:
    """What asks to stop is noted, and looked for."""
    asked = Asked()

    def note(number: int, _frame: FrameType | None) -> None:
        asked.signal = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
