"""Memory of processes that share some of it: each page is counted once.

What a process has for itself, and its part of what it shares with others (PSS), is as the kernel counts it in
/proc/PID/smaps_rollup. Resident sizes (RSS), summed, have each shared library once per process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: how the files of Ray's object store are called; they are deleted as soon as the raylet has opened them (Ray 2.60)
_STORE = "plasma"
#: of `os.stat` [bytes]
_BLOCK = 512


@dataclass(frozen=True)
class Memory:
    """In RAM [bytes], with the process' part of what it shares."""

    #: its own, and files such as libraries
    own: int = 0
    #: memory that is meant to be shared (shmem), where it has mapped it
    shared: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.own + other.own, self.shared + other.shared)


def memory(pid: int) -> Memory:
    """Of a process now; none where it has ended. Raises RuntimeError where the kernel does not tell."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except ProcessLookupError:  # it ends
        return Memory()
    except FileNotFoundError:
        if Path(f"/proc/{pid}/status").exists():
            raise RuntimeError("there is no /proc/PID/smaps_rollup: this needs Linux 5.4 or newer") from None
        return Memory()
    kb = {name: int(value) for name, value in re.findall(r"^(Pss\w*):\s+(\d+) kB", text, re.MULTILINE)}
    if kb and "Pss_Shmem" not in kb:
        raise RuntimeError("/proc/PID/smaps_rollup has no Pss_Shmem: this needs Linux 5.4 or newer")
    shared = kb.get("Pss_Shmem", 0)
    return Memory((kb.get("Pss", 0) - shared) * 1024, shared * 1024)


def of_all(pids: Iterable[int]) -> Memory:
    """Of processes together."""
    return sum((memory(pid) for pid in pids), Memory())


def peak_rss(pid: int) -> int:
    """The most that a process has had in RAM so far, with all of what it shares [bytes]; 0 where it has ended."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def object_store(pids: Iterable[int]) -> int:
    """What is in RAM of Ray's object stores that these processes hold open [bytes].

    By the files: what a process wrote that has ended since, nobody may have mapped, and no process' figure has it.
    """
    files: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            links = list(Path(f"/proc/{pid}/fd").iterdir())
        except OSError:  # it has ended
            continue
        for link in links:
            try:
                if link.readlink().name.startswith(_STORE):
                    about = link.stat()  # of the file, deleted or not
                    files[about.st_dev, about.st_ino] = about.st_blocks * _BLOCK
            except OSError:  # closed meanwhile
                continue
    return sum(files.values())
