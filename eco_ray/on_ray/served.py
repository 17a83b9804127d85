"""What replicas answered: each counts in a file of its own, and the agent of its node takes the growth of the counts.

The counts only grow, like those of a meter, so that a file that is read twice, late, or after a restart is counted
once. A replica's file also says which process it is and what Ray holds for it.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eco_ray.core.ledger import Sample, Served, Usage
from eco_ray.core.requests import ServiceUse
from eco_ray.core.tenants import TENANT
from eco_ray.json_file import read_json
from eco_ray.on_ray.gpu_use import Holding
from eco_ray.on_ray.owners import Owner, is_name, served_by

#: tenants that one replica tells apart; requests of further ones have no tenant
MAX_TENANTS = 100
#: how often a busy replica writes its counts [s]
_WRITE_S = 0.1
#: a larger file was not written by a replica [bytes]
_LIMIT_BYTES = 65_536
#: of what was taken of all replicas of a node
_BASELINE_LIMIT_BYTES = 100 * _LIMIT_BYTES
_SUFFIX = ".replica.json"
#: flag of a sample in which a replica's counts went down: its requests are not known
COUNTS_FELL = "counts-fell"
_BASELINE = "taken.json"
_MAX_COUNT = 2**53
_MAX_DEVICES = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

#: by tenant: requests, items, service time [s]
Counts = dict[str, tuple[int, int, float]]


def served_dir(state_dir: Path, node: str) -> Path:
    """Where the replicas of a node keep their counts."""
    return state_dir / "served" / node


def process_start(pid: int) -> int | None:
    """When a process was started [clock ticks since boot]; None: it is gone. With its pid it names one process."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])  # nobody has asked yet how it ended
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

    @property
    def owner(self) -> Owner:
        """As the agent names it."""
        return Owner("model", served_by(self.app, self.model), 0, self.replica)

    @property
    def process(self) -> tuple[int, int]:
        """(pid, start)."""
        return self.pid, self.start_ticks


class Tally:
    """The counts of one replica, kept in the replica. Threads may share it."""

    def __init__(
        self, app: str, replica: str, cpus: float, gpus: float = 0.0, devices: Iterable[str] = (), model: str = ""
    ) -> None:
        """`model`: `name:version` that the replica runs; by the time of booking, its app may have another one."""
        pid = os.getpid()
        self._told = {
            **{"app": app, "model": model, "replica": replica, "pid": pid, "start_ticks": process_start(pid)},
            **{"cpus": cpus, "gpus": gpus, "devices": list(devices)},
        }
        self._path: Path | None = None
        self._counts: Counts = {}
        self._changed = threading.Event()
        self._lock = threading.Lock()

    def add(self, use: ServiceUse, items: int) -> None:
        """Count one request that was answered."""
        with self._lock:
            known = use.tenant in self._counts or len(self._counts.keys() - {""}) < MAX_TENANTS
            tenant = use.tenant if known else ""
            requests, all_items, service_s = self._counts.get(tenant, (0, 0, 0.0))
            self._counts[tenant] = requests + 1, all_items + items, service_s + use.weight
        self._changed.set()

    def keep_in(self, folder: Path) -> None:
        """Write the counts to this folder from now on, at once when they change and not more often than need be.

        A process that ends in order writes the last ones then.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / f"{self._told['replica']}{_SUFFIX}"
        self.write()
        atexit.register(self.write)
        threading.Thread(target=self._keep_on, name="tally", daemon=True).start()

    def write(self) -> None:
        """Write the counts now. A disk that is full keeps the old ones, which is what will be made up for later."""
        if self._path is None:
            return
        with self._lock, suppress(OSError):
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps({**self._told, "counts": self._counts}))
            part.replace(self._path)

    def _keep_on(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            self.write()
            time.sleep(_WRITE_S)


class ServedReader:
    """Reads the replicas' files of one node. What a sample has is taken off the next one, also after a restart."""

    def __init__(
        self, folder: Path, unsent: Iterable[Sample] = (), cpus: float = math.inf, gpus: float = math.inf
    ) -> None:
        """`unsent`: samples of the agent's life before; one may have been kept and its counts not noted.

        `cpus`, `gpus`: of the node; a replica that says it holds more is not taken for one.
        """
        self._folder = folder
        self._most = cpus, gpus
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.replicas: dict[str, Replica] = {}
        self._by_process: dict[tuple[int, int], Replica] = {}
        self._taken: dict[str, Counts] = {}
        self._alive: set[str] = set()
        self._before: tuple[dict[str, Counts], set[str]] = {}, set()
        #: what was odd in the counts at the last call of `take`
        self.flags: tuple[str, ...] = ()
        self._noted: Any = None
        self._ended: set[str] = set()
        if not self._load(unsent):  # nobody knows what was counted: from now on
            self._taken = {name: counts for name, (_, counts) in self._read().items()}

    def replica_of(self, process_id: tuple[int, int]) -> Replica | None:
        """The replica that a process (pid, start) is; None: none, or more than one says so."""
        return self._by_process.get(process_id)

    def take(self) -> tuple[Served, ...]:
        """What was answered since the last call, for each replica one row or more; then `note` or `forget` is due.

        `replicas` are those that hold something in this interval, or answered: one that ended within it still holds
        what it held, one that had ended before holds nothing.
        """
        gone = {name for name, replica in self.replicas.items() if not _is_alive(replica)}
        found = self._read()  # after the look at who is gone: the last counts of these are all
        self._ended = gone & found.keys()
        self._before = dict(self._taken), self._alive
        held = self._alive  # at the last call
        self._alive = {name for name, (one, _) in found.items() if self._runs(name, one, gone)}
        self.replicas = {
            name: one if name in self._alive | held else replace(one, cpus=0.0, gpus=0.0)
            for name, (one, _) in found.items()
        }
        self._by_process = _by_process(self.replicas.values())
        self.flags = ()
        served: list[Served] = []
        for name, (replica, counts) in found.items():
            grown = _grown(counts, self._taken.get(name, {}))
            self._taken[name] = counts
            if grown is None:
                self.flags = (COUNTS_FELL,)
                continue  # without a row its requests are not known
            rows = [Served(replica.owner.id, name, tenant, *grown[tenant]) for tenant in sorted(grown)]
            served += rows or [Served(replica.owner.id, name, "", 0, 0, 0.0)]
        # of a file that cannot be read now, what was taken is remembered
        self._taken = {name: counts for name, counts in self._taken.items() if self._path(name).exists()}
        return tuple(served)

    def put_back(self) -> None:
        """There will be no sample with what was taken: it comes with the next one."""
        self._taken, self._alive = self._before

    def note(self, boot_id: str, seq: int) -> None:
        """The sample with what was taken is on disk: remember it, and let go of the replicas that have ended."""
        if self._noted != self._taken:
            part = self._folder / f"{_BASELINE}.part"
            try:
                part.unlink(missing_ok=True)  # a pipe of its name would block
                part.write_text(json.dumps({"boot_id": boot_id, "seq": seq, "taken": self._taken}))
                part.replace(self._folder / _BASELINE)
            except OSError:
                self.forget()
                return
            self._noted = dict(self._taken)
        for name in self._ended:
            self.replicas.pop(name, None)
            self._path(name).unlink(missing_ok=True)
        self._ended = set()

    def forget(self) -> None:
        """The sample is in memory only: the agent's next life must rather lose its counts than take them twice."""
        self._noted = None
        with suppress(OSError):
            (self._folder / _BASELINE).unlink(missing_ok=True)

    def _runs(self, name: str, replica: Replica, gone: set[str]) -> bool:
        known = self.replicas.get(name) == replica  # asked for above
        return name not in gone if known else _is_alive(replica)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"

    def _load(self, unsent: Iterable[Sample]) -> bool:
        try:
            noted = read_json(self._folder / _BASELINE, _BASELINE_LIMIT_BYTES)
            self._taken = {name: _counts(counts) for name, counts in noted["taken"].items()}
            boot_id, seq = str(noted["boot_id"]), int(noted["seq"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return False
        for sample in unsent:
            for one in sample.served if sample.boot_id == boot_id and sample.seq > seq else ():
                counts = self._taken.setdefault(one.part, {})
                requests, items, service_s = counts.get(one.tenant, (0, 0, 0.0))
                counts[one.tenant] = requests + one.requests, items + one.items, service_s + one.service_s
        return True

    def _read(self) -> dict[str, tuple[Replica, Counts]]:
        found = {}
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                told = read_json(path, _LIMIT_BYTES)
                replica, counts = _replica(told, *self._most), _counts(told["counts"])
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                continue  # not of a replica: what it is about stays with its model, as not known
            if path.name == f"{replica.replica}{_SUFFIX}":
                found[replica.replica] = replica, counts
        return found


def _by_process(replicas: Iterable[Replica]) -> dict[tuple[int, int], Replica]:
    """Whose a process is, where one file alone claims it."""
    claims: dict[tuple[int, int], list[Replica]] = {}
    for replica in replicas:
        claims.setdefault(replica.process, []).append(replica)
    return {process: claimants[0] for process, claimants in claims.items() if len(claimants) == 1}


def _is_alive(replica: Replica) -> bool:
    return process_start(replica.pid) == replica.start_ticks


def usages(
    cpu_s: Mapping[Owner, float], jobs: Mapping[tuple[str, int], tuple[float, float]], replicas: Iterable[Replica]
) -> tuple[Usage, ...]:
    """What owners used and hold; one that slept through the interval still holds its CPUs. `jobs`: (CPUs, GPUs)."""
    held = {Owner("job", job, attempt): cpus for (job, attempt), (cpus, _) in jobs.items()}
    held |= {replica.owner: replica.cpus for replica in replicas}
    owners = dict.fromkeys([*cpu_s, *held])
    return tuple(Usage(*o[:3], cpu_s.get(o, 0.0), held.get(o, 0.0), o.part) for o in owners)


def holdings(replicas: Iterable[Replica]) -> dict[Owner, Holding]:
    """The GPUs that Ray holds for replicas."""
    return {replica.owner: Holding(replica.gpus, replica.devices) for replica in replicas if replica.gpus > 0}


def _grown(now: Counts, before: Counts) -> Counts | None:
    """The growth of the counts by tenant; None: they went down, and nothing is known."""
    if any(
        count < old
        for tenant, counts in before.items()
        for count, old in zip(now.get(tenant, (0, 0, 0.0)), counts, strict=True)
    ):
        return None
    grown = {}
    for tenant, (requests, items, service_s) in now.items():
        old = before.get(tenant, (0, 0, 0.0))
        if requests > old[0]:
            grown[tenant] = requests - old[0], items - old[1], service_s - old[2]
    return grown


def _counts(told: Any) -> Counts:
    if len(told) > MAX_TENANTS + 1 or not all(not tenant or TENANT.fullmatch(tenant) for tenant in told):
        raise ValueError("no counts by tenant")
    return {
        str(tenant): (_number(requests, int), _number(items, int), float(_number(service_s, int | float)))
        for tenant, (requests, items, service_s) in told.items()
    }


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
    held = [float(_number(told[key], int | float)) for key in ("cpus", "gpus")]
    if held[0] > most_cpus or held[1] > most_gpus or len(devices) > _MAX_DEVICES:
        raise ValueError(f"holds {held} CPUs and GPUs of a node of {most_cpus:g} and {most_gpus:g}")
    return Replica(app, replica, counts[0], counts[1], held[0], held[1], tuple(devices), model if said else "")


def _number(value: Any, kind: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value <= _MAX_COUNT:
        raise ValueError(f"{value!r:.80} is no count")
    return value
