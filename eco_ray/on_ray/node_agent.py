"""One per node: samples energy once a second, relays what attempts report, asks them to pause, cleans up after them.

A plain class; the controller runs it as a Ray actor pinned to its node. It keeps every sample on disk until the
controller has confirmed it, and repeats it until then; the ledger counts a (node, boot, sequence) once.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eco_ray.core.clock import Clock
from eco_ray.core.ledger import MAX_LENGTH_S, GpuSample, Sample
from eco_ray.core.ports import CpuUse, EnergyMeter, Reading
from eco_ray.core.power import PowerCurve
from eco_ray.core.standing import Standing
from eco_ray.core.units import MJ_PER_J, Nature
from eco_ray.core.usage import Found
from eco_ray.on_ray.attempt_files import read_report, read_reports, read_reserved, write_reserved
from eco_ray.on_ray.examine import examine_node
from eco_ray.on_ray.gpu_use import Holding, gpu_samples
from eco_ray.on_ray.last_seen import LastSeen
from eco_ray.on_ray.owners import Owner, OwnerFinder
from eco_ray.on_ray.request_log import LOG_NAME, RequestLog
from eco_ray.on_ray.served import ServedReader, holdings, usages
from eco_ray.on_ray.spool import Spool
from eco_ray.power.composite import open_meter
from eco_ray.power.probe import Finding
from eco_ray.power.processes import ProcessTable
from eco_ray.power.procfs import NodeCpu
from eco_ray.train.standing import write_standing

log = logging.getLogger("eco_ray.agent")

#: samples in one message
_BATCH = 120
#: samples kept in memory when neither controller nor disk takes them
_MEMORY_LIMIT = 3600
#: wall time beyond the period by which an interval is flagged [periods]
_LATE_PERIODS = 5.0
#: flag of a sample that stands for time without an agent
AGENT_AWAY = "agent-away"
#: flag of a sample without the energy of the node's GPUs
GPUS_MISSING = "gpus-missing"
#: flag of the first sample after a round of sampling that ended with an error
ROUND_FAILED = "round-failed"
#: half-width of the error band where a node that is idle by its curve draws nothing
_UNKNOWN_REL = 100.0


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
    #: where the node's replicas count what they answer; None: beside the samples
    counts_dir: Path | None = None
    sample_period_s: float = 1.0
    #: GPUs that Ray counts
    gpus: float = 0.0
    #: other Ray nodes share the machine: only the processes below this node's raylet are its own
    shares_machine: bool = True

    @property
    def served_dir(self) -> Path:
        """Where the node's replicas count what they answer."""
        return self.counts_dir or self.spool_dir / "served"


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
        self._spool = Spool(config.spool_dir)
        self._unsent = self._spool.load()
        self._served = ServedReader(config.served_dir, self._unsent, config.cpus, config.gpus)
        self._requests = RequestLog(config.served_dir / LOG_NAME)
        if root_pid is None and config.shares_machine:
            root_pid = os.getppid()  # an actor is a child of its raylet
        self._owners = OwnerFinder(self._table, replica_of=self._served.replica_of)
        self._cpu: NodeCpu[Owner] = NodeCpu(root_pid, self._owners, self._table)
        self._meter = meter or open_meter(config.curve, whole_machine=not config.shares_machine)
        self._last_wall_s, self._last_mono_s = time.time(), time.monotonic()
        self._last_seen = LastSeen(config.spool_dir)
        config.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        #: there may be samples on disk that are not in memory
        self._more_on_disk = False
        #: (CPUs, GPUs) that Ray holds for a job's attempt on this node
        self._reserved = read_reserved(config.run_dir)
        away_since_s = self._last_seen.since(self._last_wall_s)
        if away_since_s is not None:
            # it may have ended between a sample and the note of it
            kept_s = max((config.clock.wall_s(sample.end_s) for sample in self._unsent), default=away_since_s)
            away_since_s = max(away_since_s, kept_s)
            # on a fast clock a week can be longer than the ledger takes in one row
            if 0 < (self._last_wall_s - away_since_s) * config.clock.speed <= MAX_LENGTH_S:
                self._keep(self._away(away_since_s))
        self._reported: dict[str, float] = {}
        #: rounds of sampling that ended with an error
        self.failed_rounds = 0
        self._last_failure = ""
        self._new_failure = False
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to sample in the background."""
        threading.Thread(target=self._loop, name="agent", daemon=True).start()

    def stop(self) -> None:
        """End the background work; unsent samples stay on disk."""
        self._stopped.set()

    # -- what the controller calls -----------------------------------------------------------------------------------

    def expect(self, job_id: str, attempt: int, submission_id: str, cpus: float, gpus: float = 0.0) -> None:
        """An attempt is about to run here and holds so much; written down for the agent's next life."""
        folder = self.config.run_dir / submission_id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_reserved(folder, job_id, attempt, cpus, gpus)
        with self._lock:
            self._reserved[(job_id, attempt)] = cpus, gpus

    def ask_to_pause(self, submission_id: str) -> None:
        """Ask an attempt to write a checkpoint and leave."""
        folder = self.config.run_dir / submission_id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "pause").touch()

    def tell(self, standings: Mapping[str, Standing]) -> None:
        """Tell attempts, by submission id, how their jobs stand; one whose directory is gone has ended."""
        for submission_id, standing in standings.items():
            with suppress(OSError):
                write_standing(self.config.run_dir / submission_id, standing)

    def collect(self, submission_id: str) -> dict[str, Any] | None:
        """The last report of an attempt, read now."""
        return read_report(self.config.run_dir / submission_id)

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
        self._owners.devices.pop(Owner("job", job_id, attempt), None)
        return len(left)

    def examine(self) -> dict[str, Any]:
        """How the node's energy is known, and which ports of its machine are open."""
        config = self.config
        facts = examine_node(config.curve, whole_machine=not config.shares_machine, gpus=config.gpus)
        return {**facts, "findings": [*facts["findings"], *self._failures()]}

    def _failures(self) -> list[dict[str, Any]]:
        if not self.failed_rounds:
            return []
        source = f"{self.failed_rounds} rounds of the agent failed, the last one by {self._last_failure}"
        return [asdict(Finding("agent", "missing", source, better="see the agent's log in Ray's logs"))]

    def request_row(self, tenant: str, request_id: str) -> Found | None:
        """What is known here of a tenant's request; None: nothing. Raises EcoRayError where the log cannot be read."""
        return self._requests.find(tenant, request_id)

    def ping(self) -> str:
        """Answer with the boot id."""
        return self.boot_id

    # -- sampling ----------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        due = time.monotonic() + self.config.sample_period_s
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due = max(due + self.config.sample_period_s, time.monotonic())
            self.round()

    def round(self) -> None:
        """Sample, keep, send. One that fails is logged, counted, and shown in the next sample and by `examine`."""
        try:
            self._keep(self.sample())
            self.ship()
        except Exception as error:  # the next one may do better; without a loop the node's energy would be lost
            self.failed_rounds += 1
            self._last_failure = f"{type(error).__name__}: {error!s:.200}"
            self._new_failure = True
            log.exception("round %d that failed of the agent of %s", self.failed_rounds, self.config.node)

    def sample(self) -> Sample:
        """Energy and use since the last one, in grid time."""
        try:
            return self._sample()
        except Exception:
            self._served.put_back()
            raise

    def _sample(self) -> Sample:
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
        if self._new_failure:
            flags.append(ROUND_FAILED)
        served = self._served.take()  # before CPU time: a replica is then known by its name in its first interval
        total_s, by_owner, system_s = self._cpu.read()
        reading = self._meter.read(CpuUse(total_s, passed_s, config.cpus))
        # only now: what fails before leaves its time to the next sample
        self._last_wall_s, self._last_mono_s = wall_s, mono_s
        with self._lock:
            reserved = dict(self._reserved)
        gpus = self._gpus(reading, reserved)
        host_mj = reading.energy_mj - sum(gpu.energy_mj for gpu in reading.gpus)
        energy_mj = max(0, round(host_mj * config.clock.speed)) + sum(gpu.energy_mj for gpu in gpus)
        self._seq += 1
        self._new_failure = False
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
            usages=usages(by_owner, reserved, self._served.replicas.values()),
            system_cpu_s=system_s,
            flags=(*flags, *reading.flags, *self._served.flags),
            gpus=gpus,
            served=served,
        )

    def _gpus(self, reading: Reading, reserved: Mapping[tuple[str, int], tuple[float, float]]) -> tuple[GpuSample, ...]:
        if not reading.gpus:
            return ()
        held = holdings(self._served.replicas.values())
        for (job, attempt), (_, gpus) in reserved.items():
            owner = Owner("job", job, attempt)
            if gpus > 0:
                held[owner] = Holding(gpus, self._owners.devices.get(owner, ()))
        return gpu_samples(reading.gpus, self._cpu.owner_of_pid, held, self.config.clock.speed)

    def _away(self, since_wall_s: float) -> Sample:
        """The time without an agent: the machine was on, as it has not been started since, and drew idle power or more.

        What its processes used above that is not known: the error band reaches up to full load. What attempts hold of
        the node is theirs as ever. The energy of its GPUs is missing.
        """
        config, curve = self.config, self.config.curve
        most = curve.watts[-1] / curve.idle_w - 1 if curve.idle_w else _UNKNOWN_REL
        until_s = self._last_wall_s
        idle_mj = round(curve.idle_w * MJ_PER_J * (until_s - since_wall_s) * config.clock.speed)
        served = self._served.take()
        self._seq += 1
        return Sample(
            node=config.node,
            boot_id=self.boot_id,
            seq=self._seq,
            start_s=config.clock.grid_s(since_wall_s),
            end_s=config.clock.grid_s(until_s),
            energy_mj=idle_mj,
            idle_mj=idle_mj,
            nature=Nature.ASSUMED,
            source=f"idle power while no agent ran: {curve.source}",
            error_rel=min(_UNKNOWN_REL, most),
            usages=usages({}, self._reserved, self._served.replicas.values()),
            served=served,
            flags=(*((AGENT_AWAY, GPUS_MISSING) if config.gpus else (AGENT_AWAY,)), *self._served.flags),
        )

    def _keep(self, sample: Sample) -> None:
        # before the sample: one that is lost then leaves a take that no row of the ledger confirms
        self._requests.note(self._served.takes(sample))
        self._requests.flush()
        self._unsent.append(sample)
        if len(self._unsent) > _MEMORY_LIMIT:
            del self._unsent[:-_MEMORY_LIMIT]
            self._more_on_disk = True
        if self._spool.put(sample):
            self._last_seen.keep(self._last_wall_s)
            self._served.note(self.boot_id, self._seq)
        else:
            self._served.forget()

    def ship(self) -> bool:
        """Send what is unconfirmed and newly reported; True when the controller has it."""
        batch = self._unsent[:_BATCH]
        progress = self._new_reports()
        if not batch and not progress:
            return True
        try:
            self._send(self.config.node, {"samples": [self._spool.json_of(s) for s in batch], "progress": progress})
        except Exception:  # whatever keeps the controller away, the samples wait for the next second
            return False
        self._unsent = self._unsent[len(batch) :]
        for sample in batch:
            self._spool.drop(sample)
        if not self._unsent:
            self._last_seen.keep(self._last_wall_s)
            if self._more_on_disk:
                self._more_on_disk, self._unsent = False, self._spool.load()
        self._reported.update({report["submission_id"]: report["stamp"] for report in progress})
        return True

    # -- attempts ----------------------------------------------------------------------------------------------------

    def _new_reports(self) -> list[dict[str, Any]]:
        reports = read_reports(self.config.run_dir)
        return [report for report in reports if report["stamp"] != self._reported.get(report["submission_id"])]

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
