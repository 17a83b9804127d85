"""One per node: samples energy once a second, relays what attempts report, asks them to pause, cleans up after them.

A plain class; the controller runs it as a Ray actor pinned to its node. It keeps every sample on disk until the
controller has confirmed it, and repeats it until then; the ledger counts a (node, boot, sequence) once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eco_ray.core.clock import Clock
from eco_ray.core.ledger import Sample, Usage
from eco_ray.core.ports import CpuUse, EnergyMeter
from eco_ray.core.power import PowerCurve
from eco_ray.on_ray.owners import Owner, OwnerFinder
from eco_ray.on_ray.spool import Spool, to_json
from eco_ray.power.composite import open_meter
from eco_ray.power.procfs import NodeCpu, ProcessTable

#: samples in one message
_BATCH = 120
#: samples kept in memory when neither controller nor disk takes them
_MEMORY_LIMIT = 3600
#: reports of attempts larger than this are refused [bytes]
_PROGRESS_LIMIT_BYTES = 65_536
#: file in an attempt's directory with what Ray holds for it
_RESERVED = "reserved.json"
#: wall time beyond the period by which an interval is flagged [periods]
_LATE_PERIODS = 5.0


@dataclass(frozen=True)
class AgentConfig:
    """What an agent needs to know of its node; survives a restart of the actor as its constructor argument."""

    node: str
    #: CPUs by which utilisation and reservations are counted
    cpus: float
    curve: PowerCurve
    clock: Clock
    spool_dir: Path
    #: directories through which the node's attempts talk to it
    run_dir: Path
    #: where Ray writes the output of the node's drivers
    log_dir: Path = Path("/nonexistent")
    sample_period_s: float = 1.0
    #: other Ray nodes share the machine: only the processes below this node's raylet are its own
    shares_machine: bool = True


#: sends {"samples": [...], "progress": [...]} and returns when the controller has stored them; raises otherwise
Send = Callable[[str, dict[str, Any]], None]


class NodeAgent:
    """Meter, messenger and janitor of one node."""

    def __init__(
        self, config: AgentConfig, send: Send, meter: EnergyMeter | None = None, root_pid: int | None = None
    ) -> None:
        self.config = config
        self.boot_id = uuid.uuid4().hex[:12]
        self._send = send
        self._seq = 0
        self._table = ProcessTable()
        if root_pid is None and config.shares_machine:
            root_pid = os.getppid()  # an actor is a child of its raylet
        self._cpu: NodeCpu[Owner] = NodeCpu(root_pid, OwnerFinder(self._table), self._table)
        self._meter = meter or open_meter(config.curve, whole_machine=not config.shares_machine)
        self._last_wall_s, self._last_mono_s = time.time(), time.monotonic()
        self._spool = Spool(config.spool_dir)
        config.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._unsent = self._spool.load()
        #: CPUs that Ray holds for a job's attempt on this node
        self._reserved = self._load_reserved()
        self._reported: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to sample in the background."""
        threading.Thread(target=self._loop, name="agent", daemon=True).start()

    def stop(self) -> None:
        """End the background work; unsent samples stay on disk."""
        self._stopped.set()

    # -- what the controller calls -----------------------------------------------------------------------------------

    def expect(self, job_id: str, attempt: int, submission_id: str, reserved_cpus: float) -> None:
        """An attempt is about to run here and holds that many CPUs; written down for the agent's next life."""
        folder = self.config.run_dir / submission_id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / _RESERVED).write_text(json.dumps([job_id, attempt, reserved_cpus]))
        with self._lock:
            self._reserved[(job_id, attempt)] = reserved_cpus

    def ask_to_pause(self, submission_id: str) -> None:
        """Ask an attempt to write a checkpoint and leave."""
        folder = self.config.run_dir / submission_id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "pause").touch()

    def collect(self, submission_id: str) -> dict[str, Any] | None:
        """The last report of an attempt, read now."""
        return self._read_report(self.config.run_dir / submission_id)

    def read_log(self, submission_id: str, offset: int, limit: int) -> tuple[int, bytes]:
        """Up to `limit` bytes of an attempt's output: (their offset, bytes). A negative offset counts from the end."""
        path = self.config.log_dir / f"job-driver-{submission_id}.log"
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = min(size, offset if offset >= 0 else max(0, size + offset))
                file.seek(start)
                return start, file.read(limit)
        except OSError:
            return max(0, offset), b""

    def clean_up(self, job_id: str, attempt: int, submission_id: str) -> int:
        """End what an ended attempt left running here, and remove its directory; returns the number of processes."""
        left = self._processes_of(job_id, attempt)
        for pid in left:
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + 2.0
        while left and time.monotonic() < deadline and self._processes_of(job_id, attempt):
            time.sleep(0.1)
        for pid in self._processes_of(job_id, attempt):
            _signal(pid, signal.SIGKILL)
        shutil.rmtree(self.config.run_dir / submission_id, ignore_errors=True)
        with self._lock:
            self._reserved.pop((job_id, attempt), None)
            self._reported.pop(submission_id, None)
        return len(left)

    def ping(self) -> str:
        """Answer with the boot id."""
        return self.boot_id

    # -- sampling ----------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        due = time.monotonic() + self.config.sample_period_s
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due = max(due + self.config.sample_period_s, time.monotonic())
            self._keep(self.sample())
            self.ship()

    def sample(self) -> Sample:
        """Energy and use since the last call, in grid time."""
        config = self.config
        wall_s, mono_s = time.time(), time.monotonic()
        passed_s = mono_s - self._last_mono_s
        flags: list[str] = []
        start_wall_s = self._last_wall_s
        if abs((wall_s - start_wall_s) - passed_s) > 0.5:  # the wall clock was set; the monotonic one counts
            flags.append("clock-jump")
            start_wall_s = wall_s - passed_s
        if passed_s > _LATE_PERIODS * config.sample_period_s:
            flags.append("late-sample")
        self._last_wall_s, self._last_mono_s = wall_s, mono_s
        total_s, by_owner, system_s = self._cpu.read()
        reading = self._meter.read(CpuUse(total_s, passed_s, config.cpus))
        with self._lock:
            reserved = dict(self._reserved)
        live = {(owner.id, owner.attempt) for owner in by_owner}
        usages = [
            Usage(owner.kind, owner.id, owner.attempt, cpu_s, reserved.get((owner.id, owner.attempt), 0.0))
            for owner, cpu_s in by_owner.items()
        ]
        # an attempt that slept through the interval still holds its CPUs
        usages += [Usage("job", job, n, 0.0, cpus) for (job, n), cpus in reserved.items() if (job, n) not in live]
        energy_mj = round(reading.energy_mj * config.clock.speed)
        self._seq += 1
        return Sample(
            node=config.node,
            boot_id=self.boot_id,
            seq=self._seq,
            start_s=config.clock.grid_s(start_wall_s),
            end_s=config.clock.grid_s(wall_s),
            energy_mj=energy_mj,
            idle_mj=min(energy_mj, round(reading.idle_mj * config.clock.speed)),
            nature=reading.nature,
            source=reading.source,
            error_rel=reading.error_rel,
            usages=tuple(usages),
            system_cpu_s=system_s,
            flags=(*flags, *reading.flags),
        )

    def _keep(self, sample: Sample) -> None:
        self._spool.put(sample)
        self._unsent.append(sample)
        del self._unsent[:-_MEMORY_LIMIT]

    def ship(self) -> bool:
        """Send what is unconfirmed and newly reported; True when the controller has it."""
        batch = self._unsent[:_BATCH]
        progress = self._new_reports()
        if not batch and not progress:
            return True
        try:
            self._send(self.config.node, {"samples": [to_json(s) for s in batch], "progress": progress})
        except Exception:  # whatever keeps the controller away, the samples wait for the next second
            return False
        self._unsent = self._unsent[len(batch) :]
        for sample in batch:
            self._spool.drop(sample)
        self._reported.update({report["submission_id"]: report["stamp"] for report in progress})
        return True

    def _load_reserved(self) -> dict[tuple[str, int], float]:
        found = {}
        for path in self.config.run_dir.glob(f"*/{_RESERVED}"):
            try:
                job_id, attempt, cpus = json.loads(path.read_text())
                found[(str(job_id), int(attempt))] = float(cpus)
            except (OSError, ValueError, TypeError):
                continue  # cut short by a crash: its idle share stays unallocated
        return found

    # -- attempts ----------------------------------------------------------------------------------------------------

    def _new_reports(self) -> list[dict[str, Any]]:
        reports = []
        for folder in self.config.run_dir.iterdir() if self.config.run_dir.exists() else ():
            report = self._read_report(folder)
            if report is not None and report["stamp"] != self._reported.get(folder.name):
                reports.append(report)
        return reports

    def _read_report(self, folder: Path) -> dict[str, Any] | None:
        path = folder / "progress.json"
        try:
            status = path.stat()
            if status.st_size > _PROGRESS_LIMIT_BYTES:
                return None
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(content, Mapping):
            return None
        return {**content, "submission_id": folder.name, "stamp": status.st_mtime_ns}

    def _processes_of(self, job_id: str, attempt: int) -> list[int]:
        """Processes of this user that carry the attempt's environment, and are not Ray's own."""
        wanted = {f"ECO_RAY_JOB_ID={job_id}".encode(), f"ECO_RAY_ATTEMPT={attempt}".encode()}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                env = set((entry / "environ").read_bytes().split(b"\0"))
                title = (entry / "cmdline").read_bytes()
                alive = not (entry / "stat").read_text().rpartition(")")[2].split()[0].startswith("Z")
            except OSError:
                continue
            here = f"ECO_RAY_RUN_DIR={self.config.run_dir}/".encode()
            on_node = any(item.startswith(here) for item in env)
            if wanted <= env and on_node and alive and not title.startswith(b"ray::"):
                found.append(int(entry.name))
        return found


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
