"""The processes of this machine, read from /proc at little cost."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
#: stat files kept open; beyond that they are opened for each reading, so that a busy machine does not run out of files
_MAX_OPEN = 256
#: a stat line is about 350 bytes
_STAT_BYTES = 4096
#: a stranger is read every so many snapshots
_STRANGERS_IN = 16

#: a process for its whole life: a pid is used again, (pid, start) is not
_Id = tuple[int, int]


class ProcessInfo(NamedTuple):
    """One process as /proc/<pid>/stat shows it."""

    pid: int
    ppid: int
    #: start of the process [clock ticks since boot]
    start_ticks: int
    #: name of the executable, or what the process calls itself
    comm: str
    #: user and system time of all its threads [clock ticks]
    own_ticks: int
    #: the same of children that ended and were waited for, with theirs [clock ticks]
    reaped_ticks: int

    @property
    def id(self) -> tuple[int, int]:
        """(pid, start): what stays the same for as long as the process lives."""
        return self.pid, self.start_ticks


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All processes that could be read at about one time, by pid."""

    processes: Mapping[int, ProcessInfo]

    def descendants(self, *root_pids: int) -> set[int]:
        """The roots (those that are there) and all processes below them."""
        children: dict[int, list[int]] = defaultdict(list)
        for process in self.processes.values():
            children[process.ppid].append(process.pid)
        found: set[int] = set()
        todo = [pid for pid in root_pids if pid in self.processes]
        while todo:
            pid = todo.pop()
            if pid not in found:
                found.add(pid)
                todo += children[pid]
        return found


class _Environ(NamedTuple):
    """Environment variables of a process as they were read."""

    values: dict[str, str]
    #: name of the process then
    comm: str
    #: number of the snapshot before it
    read_at: int
    #: whether it was read a second time, after any exec
    settled: bool


class ProcessTable:
    """Reads the processes of this machine; cheap enough to be asked every second. Threads may share it."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = str(proc)
        #: open stat file by pid, in order of process start: a parent is always read before its children
        self._files: dict[int, int | None] = {}
        self._open = 0
        self._environ: dict[tuple[_Id, tuple[str, ...]], _Environ] = {}
        self._snapshots = 0
        self._lock = threading.Lock()

    def snapshot(self, strangers: Collection[int] = ()) -> Snapshot:
        """Read all processes, parents before children.

        Of `strangers`, processes that are nobody's concern, only some are read in turn: a pid that was given to another
        process is then noticed some snapshots later.
        """
        with self._lock:
            return self._snapshot(strangers)

    def _snapshot(self, strangers: Collection[int]) -> Snapshot:
        self._snapshots += 1
        turn = self._snapshots % _STRANGERS_IN
        listed = {int(name) for name in os.listdir(self._proc) if name.isdecimal()}  # noqa: PTH208  hot path
        for pid in self._files.keys() - listed:
            self._forget(pid)
        first = not self._files
        fresh = listed - self._files.keys()
        for pid in sorted(fresh):
            self._files[pid] = None
        processes: dict[int, ProcessInfo] = {}
        for pid in list(self._files):
            if pid % _STRANGERS_IN != turn and pid in strangers and pid not in fresh:
                continue
            process = self._read(pid)
            if process is not None:
                processes[pid] = process
        if first:
            by_start = sorted(processes.values(), key=lambda process: (process.start_ticks, process.pid))
            self._files = {process.pid: self._files[process.pid] for process in by_start}
        if self._environ:
            alive = {process.id for process in processes.values()}
            self._environ = {key: value for key, value in self._environ.items() if key[0] in alive}
        return Snapshot(processes)

    @property
    def pids(self) -> Collection[int]:
        """The processes that were there at the last snapshot, read or not."""
        return self._files.keys()

    def environ_of(self, process: ProcessInfo, keys: Iterable[str]) -> dict[str, str]:
        """Those of the environment variables that the process was started with; {} if gone or not ours to read.

        Read when first asked and after the next snapshot, since between fork and exec it is still the parent's, and
        when the process changes its name. A title that was written over the environment does not undo what was read.
        """
        with self._lock:
            return self._environ_of(process, tuple(keys))

    def _environ_of(self, process: ProcessInfo, wanted: tuple[str, ...]) -> dict[str, str]:
        key = (process.id, wanted)
        known = self._environ.get(key)
        if known and known.comm == process.comm and (known.settled or known.read_at == self._snapshots):
            return known.values
        try:
            content = self._content(f"{self._proc}/{process.pid}/environ")
        except OSError:
            content = b""
        items = [item.decode(errors="replace").partition("=") for item in content.split(b"\0") if b"=" in item]
        values = {name: value for name, _, value in items if name in wanted}
        if known is not None and len(items) <= 1:
            values = known.values
        self._environ[key] = _Environ(values, process.comm, self._snapshots, settled=known is not None)
        return values

    def close(self) -> None:
        """Close all files."""
        for pid in list(self._files):
            self._forget(pid)

    def __del__(self) -> None:
        # plain descriptors outlive their object
        self.close()

    def _read(self, pid: int) -> ProcessInfo | None:
        file = self._files[pid]
        if file is not None:
            try:
                return _parse(pid, os.pread(file, _STAT_BYTES, 0))
            except OSError:
                # that process ended, and its pid is in use again
                self._forget(pid)
        try:
            file = os.open(f"{self._proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._files.pop(pid, None)
            return None
        try:
            process = _parse(pid, os.pread(file, _STAT_BYTES, 0))
        except OSError:
            process = None
        if process is not None and self._open < _MAX_OPEN:
            self._files[pid] = file
            self._open += 1
        else:
            self._files[pid] = None
            os.close(file)
        return process

    def _forget(self, pid: int) -> None:
        file = self._files.pop(pid, None)
        if file is not None:
            self._open -= 1
            os.close(file)

    @staticmethod
    def _content(path: str) -> bytes:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(file, 1 << 16):
                chunks.append(chunk)
        finally:
            os.close(file)
        return b"".join(chunks)


def _parse(pid: int, stat: bytes) -> ProcessInfo | None:
    """Fields by proc_pid_stat(5); the name is in parentheses and may hold spaces and parentheses itself."""
    name, _, rest = stat.rpartition(b")")
    fields = rest.split(None, 20)
    try:
        return ProcessInfo(
            pid=pid,
            ppid=int(fields[1]),
            start_ticks=int(fields[19]),
            comm=name.partition(b"(")[2].decode(errors="replace"),
            own_ticks=int(fields[11]) + int(fields[12]),
            reaped_ticks=int(fields[13]) + int(fields[14]),
        )
    except (IndexError, ValueError):
        # cut short: the process was ending
        return None
