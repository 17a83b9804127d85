"""The files in which replicas count: what one may hold, and reading all of a node's at little cost."""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eco_ray.core.tenants import TENANT, model_and_tenant
from eco_ray.json_file import read_json
from eco_ray.on_ray.owners import Owner, is_name, served_by

SUFFIX = ".replica.json"
#: tenants of a model that one replica tells apart; requests of further ones have no tenant
MAX_TENANTS = 100
#: models and tenants that one of many models tells apart; requests of further ones are counted for no model
MAX_COUNTS = 1_000
#: a larger file was not written by a replica [bytes]
LIMIT_BYTES = 262_144
_MAX_COUNT = 2**53
_MAX_DEVICES = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: a file that was changed so shortly before it was read may change again without another time stamp [ns]
_RACY_NS = 50_000_000

#: requests, items, service time [s]
Count = tuple[int, int, float]
#: by tenant, and model where that is not the replica's own (`tenants.counted_as`)
Counts = dict[str, Count]


def process_start(pid: int) -> int | None:
    """When a process was started [clock ticks since boot]; None: it is gone. With its pid it names one process."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            state, *fields = os.read(file, 4096).rpartition(b")")[2].split()
        finally:
            os.close(file)
        return None if state in b"ZX" else int(fields[18])  # nobody has asked yet how it ended
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class Replica:
    """A replica as its file tells of it."""

    app: str
    replica: str
    pid: int
    start_ticks: int
    #: what Ray holds for it
    cpus: float
    gpus: float
    #: its GPUs, as in CUDA_VISIBLE_DEVICES
    devices: tuple[str, ...]
    #: `name:version` that it runs; empty: it does not say, as those of older versions
    model: str = ""

    @cached_property
    def owner(self) -> Owner:
        """As the agent names it."""
        return Owner("model", served_by(self.app, self.model), 0, self.replica)

    @property
    def process(self) -> tuple[int, int]:
        """(pid, start)."""
        return self.pid, self.start_ticks


#: what identifies the content of a file: inode, when content and inode were changed [ns], size
_Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Read:
    """A file as it was read; None of a replica: no replica can have written it."""

    stamp: _Stamp | None
    replica: Replica | None
    counts: Counts
    #: all but its counts
    told: Any = None


class ReplicaFiles:
    """The files of one node's replicas; one that has not changed is not read again."""

    def __init__(self, folder: Path, cpus: float = math.inf, gpus: float = math.inf) -> None:
        """`cpus`, `gpus`: of the node; a replica that says it holds more is not taken for one."""
        self._folder = folder
        self._most = cpus, gpus
        self._files: dict[str, _Read] = {}

    @property
    def names(self) -> set[str]:
        """Of the replicas whose files were there at the last reading, sound or not."""
        return set(self._files)

    def read(self) -> dict[str, tuple[Replica, Counts]]:
        """What the files say now, by replica. The counts of a file that has not changed are the same object."""
        now_ns = time.time_ns()
        files = {}
        for name, stamp in self._stamps():
            known = self._files.get(name)
            same = known is not None and known.stamp == stamp
            files[name] = known if known is not None and same else self._parsed(name, stamp, now_ns, known)
        self._files = files
        return {name: (one.replica, one.counts) for name, one in files.items() if one.replica is not None}

    def remove(self, name: str) -> None:
        """Let go of a replica."""
        (self._folder / f"{name}{SUFFIX}").unlink(missing_ok=True)

    def _stamps(self) -> Iterator[tuple[str, _Stamp]]:
        try:
            found = sorted(os.scandir(self._folder), key=lambda entry: entry.name)
        except OSError:
            return
        for entry in found:
            if entry.name.endswith(SUFFIX):
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                stamp = status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
                yield entry.name.removesuffix(SUFFIX), stamp

    def _parsed(self, name: str, stamp: _Stamp, now_ns: int, known: _Read | None) -> _Read:
        lasting = stamp if max(stamp[1:3]) < now_ns - _RACY_NS else None
        try:
            told = read_json(f"{self._folder}/{name}{SUFFIX}", LIMIT_BYTES)
            counts = read_counts(told.pop("counts"), known.counts if known else {})
            if known is not None and known.replica is not None and known.told == told:
                return _Read(lasting, known.replica, counts, told)
            replica = _replica(told, *self._most)
            if name == replica.replica:
                return _Read(lasting, replica, counts, told)
        except OSError:
            lasting = None  # it may be read the next time
        except (ValueError, TypeError, KeyError, AttributeError):
            pass  # not of a replica: what it is about stays with its model, as not known
        return _Read(lasting, None, {})


def read_counts(told: Any, known: Counts | None = None) -> Counts:
    """Counts by tenant from JSON. Raises ValueError, TypeError or AttributeError for anything else.

    `known`: of before; what has not changed since is not looked at again.
    """
    if len(told) > MAX_TENANTS + 1:
        tenants = Counter(model_and_tenant(name)[0] for name in told)
        if len(told) > MAX_COUNTS + 1 or max(tenants.values()) > MAX_TENANTS + 1:
            raise ValueError("no counts by tenant")
    before = known or {}
    return {name: _count(name, count, before.get(name)) for name, count in told.items()}


def _count(name: str, told: Any, known: Count | None) -> Count:
    if known is None:
        model, tenant = model_and_tenant(name)
        if (model and not is_name(model)) or (tenant and not TENANT.fullmatch(tenant)):
            raise ValueError("no model and tenant of a request")
    requests, items, service_s = told
    if known == (requests, items, service_s):
        return known
    return _number(requests, int), _number(items, int), float(_number(service_s, int, float))


def _replica(told: Any, most_cpus: float, most_gpus: float) -> Replica:
    app, replica, devices, model = told["app"], told["replica"], told["devices"], told.get("model")
    said = model not in (None, "")
    if not (
        is_name(app)
        and (is_name(model) or not said)
        and _NAME.fullmatch(replica)
        and all(is_name(one) for one in devices)
    ):
        raise ValueError("no names of a replica")
    counts = [_number(told[key], int) for key in ("pid", "start_ticks")]
    held = [float(_number(told[key], int, float)) for key in ("cpus", "gpus")]
    if held[0] > most_cpus or held[1] > most_gpus or len(devices) > _MAX_DEVICES:
        raise ValueError(f"holds {held} CPUs and GPUs of a node of {most_cpus:g} and {most_gpus:g}")
    return Replica(app, replica, counts[0], counts[1], held[0], held[1], tuple(devices), model if said else "")


def _number(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds or not 0 <= value <= _MAX_COUNT:
        raise ValueError(f"{value!r:.80} is no count")
    return value
