"""What replicas answered: each counts in a file of its own, and the agent of its node takes the growth of the counts.

The counts only grow, like those of a meter, so that a file that is read twice, late, or after a restart is counted
once. A replica's file also says which process it is and what Ray holds for it.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from eco_ray.core.footprint import Footprint
from eco_ray.core.ledger import Sample, Served, Usage
from eco_ray.core.requests import ServiceUse
from eco_ray.core.tenants import counted_as, model_and_tenant
from eco_ray.core.usage import Counted, Take
from eco_ray.json_file import read_json
from eco_ray.on_ray.gpu_use import Holding
from eco_ray.on_ray.owners import Owner, app_and_model, served_by
from eco_ray.on_ray.replica_file import (
    LIMIT_BYTES,
    MAX_COUNTS,
    MAX_TENANTS,
    SUFFIX,
    Count,
    Counts,
    Replica,
    ReplicaFiles,
    process_start,
    read_counts,
)
from eco_ray.on_ray.request_log import LOG_NAME, RequestLog

#: how often a busy replica writes its counts [s]
_WRITE_S = 0.1
#: of what was taken of all replicas of a node
_BASELINE_LIMIT_BYTES = 100 * LIMIT_BYTES
#: flag of a sample in which a replica's counts went down: its requests are not known
COUNTS_FELL = "counts-fell"
_BASELINE = "taken.json"
#: whom a replica of many models counts for is told apart for so long at least [s]
_KEPT_S = 3600.0
_NONE: Count = (0, 0, 0.0)


def served_dir(state_dir: Path, node: str) -> Path:
    """Where the replicas of a node keep their counts."""
    return state_dir / "served" / node


class Tally:
    """The counts of one replica, kept in the replica. Threads may share it.

    One of many models counts for each of them; what it has not counted for of late gives room to what is new.
    """

    def __init__(
        self, app: str, replica: str, cpus: float, gpus: float = 0.0, devices: Iterable[str] = (), model: str = ""
    ) -> None:
        """`model`: `name:version` that the replica runs; by the time of booking, its app may have another one.

        Of a replica of many models what its waiting is charged to.
        """
        pid = os.getpid()
        self._model, self._replica = model, replica
        self._told = {
            **{"app": app, "model": model, "replica": replica, "pid": pid, "start_ticks": process_start(pid)},
            **{"cpus": cpus, "gpus": gpus, "devices": list(devices)},
        }
        self._path: Path | None = None
        self._log: RequestLog | None = None
        self._counts: Counts = {}
        #: of what was counted for other models than its own, when it was last [s]
        self._last_s: dict[str, float] = {}
        self._changed = threading.Event()
        self._lock, self._writing = threading.Lock(), threading.Lock()

    def add(self, use: ServiceUse, items: int, model: str = "") -> None:
        """Count one request that was answered. `model`: `name:version` that did; empty: the replica's own."""
        with self._lock:
            name = self._name(model, use.tenant)
            requests, all_items, service_s = self._counts.get(name, _NONE)
            after_s = service_s + use.weight
            self._counts[name] = requests + 1, all_items + items, after_s
        if self._log is not None and use.estimate is not None:
            place = self._replica, name, requests + 1, service_s, after_s
            self._log.add(_counted(use, use.estimate, model or self._model, place))
        if not self._changed.is_set():
            self._changed.set()

    def worked(self, model: str, cpu_s: float) -> None:
        """Count work for a model of many that no request asked for, such as loading it [s]."""
        with self._lock:
            name = self._name(model, "")
            requests, items, service_s = self._counts.get(name, _NONE)
            self._counts[name] = requests, items, service_s + cpu_s
        self._changed.set()

    @property
    def service_s(self) -> float:
        """All that was counted so far [s]."""
        with self._lock:
            return sum(count[2] for count in self._counts.values())

    def _name(self, model: str, tenant: str) -> str:
        """Whom it counts for, within what it tells apart."""
        name = counted_as(model, tenant)
        if name not in self._counts:
            nobody = counted_as(model, "")
            if len(self._counts) >= MAX_COUNTS:
                self._forget(time.monotonic() - _KEPT_S)
            tenants = sum(model_and_tenant(one)[0] == model for one in self._counts if one != nobody)
            name = name if tenants < MAX_TENANTS else nobody
            if name not in self._counts and len(self._counts) >= MAX_COUNTS:
                name = ""
        if model and name:
            self._last_s[name] = time.monotonic()
        return name

    def _forget(self, before_s: float) -> None:
        """Let go of what was not counted for since: agents have taken it long ago."""
        for name in [name for name, last_s in self._last_s.items() if last_s < before_s]:
            self._counts.pop(name, None)
            del self._last_s[name]

    def keep_in(self, folder: Path) -> None:
        """Write the counts to this folder from now on, at once when they change and not more often than need be.

        The requests go to the folder's log.

        A process that ends in order writes the last ones then.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / f"{self._replica}{SUFFIX}"
        self._log = RequestLog(folder / LOG_NAME)
        self.write()
        atexit.register(self.write)
        threading.Thread(target=self._keep_on, name="tally", daemon=True).start()

    def write(self) -> None:
        """Write counts and log now. A disk that is full keeps the old ones, which is what will be made up for later."""
        if self._path is None:
            return
        with self._writing, suppress(OSError):
            with self._lock:  # who answers waits for it, and not for the disk
                counts = dict(self._counts)
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps({**self._told, "counts": counts}))
            part.replace(self._path)
        if self._log is not None and not self._log.flush():
            self._changed.set()

    def _keep_on(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            self.write()
            time.sleep(_WRITE_S)


def _counted(use: ServiceUse, estimate: Footprint, model: str, place: tuple[str, str, int, float, float]) -> Counted:
    signal = estimate.signal
    return Counted(
        *(use.tenant, use.request, model, *place),
        *(estimate.energy_j, estimate.carbon_g, signal.zone, signal.intensity_g_per_kwh, estimate.nature.value),
        estimate.method,
        time.time(),
    )


class ServedReader:
    """Reads the replicas' files of one node. What a sample has is taken off the next one, also after a restart."""

    def __init__(
        self, folder: Path, unsent: Iterable[Sample] = (), cpus: float = math.inf, gpus: float = math.inf
    ) -> None:
        """`unsent`: samples of the agent's life before; one may have been kept and its counts not noted.

        `cpus`, `gpus`: of the node; a replica that says it holds more is not taken for one.
        """
        self._folder = folder
        self._files = ReplicaFiles(folder, cpus, gpus)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.replicas: dict[str, Replica] = {}
        self._by_process: dict[tuple[int, int], Replica] = {}
        self._taken: dict[str, Counts] = {}
        self._alive: set[str] = set()
        self._before: tuple[dict[str, Counts], set[str]] = {}, set()
        #: what was odd in the counts at the last call of `take`
        self.flags: tuple[str, ...] = ()
        #: by replica and whom it counts for, the counts before and after the last call of `take`, where requests came
        self._growth: list[tuple[str, str, Count, Count]] = []
        self._noted: Any = None
        self._ended: set[str] = set()
        if not self._load(unsent):  # nobody knows what was counted: from now on
            self._taken = {name: counts for name, (_, counts) in self._files.read().items()}

    def replica_of(self, process_id: tuple[int, int]) -> Replica | None:
        """The replica that a process (pid, start) is; None: none, or more than one says so."""
        return self._by_process.get(process_id)

    def take(self) -> tuple[Served, ...]:
        """What was answered since the last call, for each replica one row or more; then `note` or `forget` is due.

        `replicas` are those that hold something in this interval, or answered: one that ended within it still holds
        what it held, one that had ended before holds nothing.
        """
        gone = {name for name, replica in self.replicas.items() if not _is_alive(replica)}
        found = self._files.read()  # after the look at who is gone: the last counts of these are all
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
        self._growth = []
        served: list[Served] = []
        for name, (replica, counts) in found.items():
            before = self._taken.get(name, {})
            grown = _grown(counts, before)
            self._taken[name] = counts
            if grown is None:
                self.flags = (COUNTS_FELL,)
                continue  # without a row its requests are not known
            rows = [_served(replica, whom, grown[whom]) for whom in sorted(grown)]
            served += rows or [Served(replica.owner.id, name, "", 0, 0, 0.0)]
            self._growth += [(name, whom, before.get(whom, _NONE), counts[whom]) for whom in grown if grown[whom][0]]
        # of a file that cannot be read now, what was taken is remembered
        there = self._files.names
        self._taken = {name: counts for name, counts in self._taken.items() if name in there}
        return tuple(served)

    def takes(self, sample: Sample) -> list[Take]:
        """What the last call of `take` found grown, as it is in the sample."""
        return [
            Take(name, whom, old[0], new[0], old[2], new[2], sample.start_s, sample.end_s)
            for name, whom, old, new in self._growth
        ]

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
            self._files.remove(name)
        self._ended = set()

    def forget(self) -> None:
        """The sample is in memory only: the agent's next life must rather lose its counts than take them twice."""
        self._noted = None
        with suppress(OSError):
            (self._folder / _BASELINE).unlink(missing_ok=True)

    def _runs(self, name: str, replica: Replica, gone: set[str]) -> bool:
        known = self.replicas.get(name) == replica  # asked for above
        return name not in gone if known else _is_alive(replica)

    def _load(self, unsent: Iterable[Sample]) -> bool:
        try:
            noted = read_json(self._folder / _BASELINE, _BASELINE_LIMIT_BYTES)
            self._taken = {name: read_counts(counts) for name, counts in noted["taken"].items()}
            boot_id, seq = str(noted["boot_id"]), int(noted["seq"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return False
        for sample in unsent:
            for one in sample.served if sample.boot_id == boot_id and sample.seq > seq else ():
                counts = self._taken.setdefault(one.part, {})
                whom = counted_as(app_and_model(one.owner_id)[1] if one.process else "", one.tenant)
                requests, items, service_s = counts.get(whom, _NONE)
                counts[whom] = requests + one.requests, items + one.items, service_s + one.service_s
        return True


def _served(replica: Replica, whom: str, growth: Count) -> Served:
    model, tenant = model_and_tenant(whom)
    if not model:
        return Served(replica.owner.id, replica.replica, tenant, *growth)
    return Served(served_by(replica.app, model), replica.replica, tenant, *growth, process=replica.owner.id)


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
    """The growth of the counts; None: they went down, and nothing is known. One of many models may let go of some."""
    if now is before:
        return {}
    if any(any(before[name]) for name in before.keys() - now.keys() if not model_and_tenant(name)[0]):
        return None
    grown = {}
    for name, count in now.items():
        old = before.get(name, _NONE)
        if count is old:
            continue
        requests, items, service_s = count[0] - old[0], count[1] - old[1], count[2] - old[2]
        if requests < 0 or items < 0 or service_s < 0:
            return None
        if requests or service_s:
            grown[name] = requests, items, service_s
    return grown
