"""A real Ray cluster of several nodes on this machine: start, find, stop. Every socket is bound to loopback.

`ray start` refuses a second node on a loopback address and `ray stop` ends every Ray on the machine, so this uses the
class that both are made of (`ray._private.node.Node`, Ray 2.60) and remembers the processes that it started.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eco_ray.core.cluster import Node
from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.on_ray.haproxy import write_launcher

#: file in the state directory that says how to reach the cluster
RECORD_NAME = "cluster.json"
#: Ray label that carries our node name
NODE_LABEL = "eco_node"
#: Ray label that carries the electricity grid zone
ZONE_LABEL = "grid_zone"
#: Ray's own label of the group that an autoscaler started a node for
GROUP_LABEL = "ray.io/node-group"
#: object store of one node [bytes]; jobs here pass little through it
_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_FREE_PORTS = range(20_000, 29_000)


#: Ray's own mark of the head node, of which any part will do. A wish for the head (soft affinity) is not always
#: granted, and whatever of ours is on a worker node keeps that from being released
ON_HEAD = {"node:__internal_head__": 0.001}
#: Serve fills a node before it begins another, and never empties one by itself: it knows no carbon, and would move
#: replicas while we do [s: as good as never]
_PACKED = {"RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1", "RAY_SERVE_NODE_COMPACTION_DELAY_S": "1000000000"}


@dataclass
class ClusterRecord:
    """How to reach a cluster, kept in the state directory (mode 0600)."""

    name: str
    #: host:port of Ray's control store
    address: str
    dashboard_url: str
    #: file with the token of the job API; None: the cluster has no token
    token_file: str | None
    serve_port: int
    #: environment that processes need to join
    env: dict[str, str] = field(default_factory=dict)
    #: Ray's temporary directory of a cluster that we started; None: we only attached
    temp_dir: str | None = None
    #: processes that we started: (pid, start time in clock ticks), so that a reused pid is never signalled
    processes: list[tuple[int, int]] = field(default_factory=list)

    def save(self, state_dir: Path) -> None:
        """Write it into the state directory, readable by its owner only."""
        path = state_dir / RECORD_NAME
        text = json.dumps(asdict(self), indent=1)
        part = path.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_text(text)
        part.replace(path)

    @classmethod
    def load(cls, state_dir: Path) -> ClusterRecord | None:
        """The record of the state directory, or None."""
        path = state_dir / RECORD_NAME
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise EcoRayError(
                f"{path} is damaged ({error}); `eco-ray down` sets it aside; end that cluster's processes yourself"
            ) from error

    def activate(self) -> None:
        """Set the environment that Ray needs in this process before it is imported."""
        os.environ.update(self.env)


def cluster_env(token_file: Path, state_dir: Path, temp_dir: str) -> dict[str, str]:
    """Environment of every process of a local cluster."""
    return {
        "ECO_RAY_STATE_DIR": str(state_dir),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        # makes Ray bind every socket to 127.0.0.1 instead of all interfaces, on Linux too
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # a worker that is started before it is needed carries no job id, and its energy would be nobody's
        "RAY_prestart_worker_first_driver": "0",
        # controller and agents are workers to Ray, which makes those nicer than the programs of jobs: where all CPUs
        # are busy, pauses would be asked for, and progress be told, many seconds late
        "RAY_worker_niceness": "0",
        # a lost node is noticed within about 5 s instead of 15 s
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "4",
        **_PACKED,
        # one that is not ready in 5 s is ended and begun again, on a slow machine until Serve gives up
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        **_haproxy_env(state_dir, Path(temp_dir) / "haproxy"),
        # jobs run `python` of this environment
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }


def _haproxy_env(state_dir: Path, folder: Path) -> dict[str, str]:
    """Serve behind HAProxy, which is twelve times as fast as its own proxy in Python with 64 clients."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_launcher(state_dir)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # of its own proxy, which HAProxy asks while no replica is ready: two clusters on a machine would share a port,
        # and answer each other's requests
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        # a request whose replica ended before it had answered goes to another one: an inference changes nothing
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        # several replicas are dead at once when a node is lost, and HAProxy takes each away after three errors: of
        # three tries, its default, all may meet dead ones, and the client gets 503 or is cut off
        "RAY_SERVE_HAPROXY_RETRIES": "10",
        # requests of so many bytes can be sent again
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "32768",
        # scaling to zero waits so long for requests that HAProxy may still send [s]
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    }


def write_token(state_dir: Path) -> Path:
    """A fresh secret for the job API, in a file that only its owner reads."""
    path = state_dir / "token"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return path


def start(name: str, nodes: Iterable[Node], head_cpus: float, serve_port: int, state_dir: Path) -> ClusterRecord:
    """Start a head and one Ray node per given node, and write the record after each, so that `stop` finds them all."""
    token_file = write_token(state_dir)
    temp_dir = tempfile.mkdtemp(prefix="eco-", dir="/tmp")  # Ray's socket paths must be short
    env = cluster_env(token_file, state_dir, temp_dir)
    record = ClusterRecord(name, "", "", str(token_file), serve_port, env, temp_dir)
    record.activate()
    record.save(state_dir)  # before the first process, so that `stop` finds whatever was started
    dashboard_port = free_port()
    try:
        head = _start_node(
            record,
            state_dir,
            head=True,
            num_cpus=head_cpus,
            gcs_server_port=free_port(),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=dashboard_port,
            runtime_env_dir_name="env-head",
            labels={NODE_LABEL: "head"},
        )
        record.address = head.gcs_address
        _mark_current(record)
        record.dashboard_url = f"http://127.0.0.1:{dashboard_port}"
        for node in nodes:
            add_node(record, node, state_dir)
    except BaseException:
        stop(record, state_dir)
        raise
    return record


def add_node(record: ClusterRecord, node: Node, state_dir: Path) -> None:
    """Start one more Ray node on this machine."""
    _start_node(
        record,
        state_dir,
        head=False,
        gcs_address=record.address,
        num_cpus=node.capacity.cpus,
        num_gpus=int(node.capacity.gpus),
        # apart from the other nodes of this machine: Ray replaces a work directory when a node first needs it, and
        # would take it from under the jobs of the others (2.60)
        runtime_env_dir_name=f"env-{node.name}",
        labels={NODE_LABEL: node.name, ZONE_LABEL: node.zone},
    )


def _mark_current(record: ClusterRecord) -> None:
    """Write what `ray start` writes: jobs find this cluster by it where other Ray clusters run on the same machine."""
    from ray._private.utils import write_ray_address

    write_ray_address(record.address, record.temp_dir)


def _start_node(record: ClusterRecord, state_dir: Path, head: bool, **params: Any) -> Any:
    from ray._private.node import Node as RayNode
    from ray._private.parameter import RayParams

    ray_params = RayParams(
        node_ip_address="127.0.0.1",
        temp_dir=record.temp_dir,
        object_store_memory=_OBJECT_STORE_BYTES,
        include_log_monitor=False,
        dashboard_agent_listen_port=0,
        metrics_export_port=0,
        metrics_agent_port=0,
        **params,
    )
    node = RayNode(ray_params, head=head, shutdown_at_exit=False, spawn_reaper=False)
    for infos in node.all_processes.values():
        for info in infos:
            pid = info.process.pid
            record.processes.append((pid, start_ticks(pid)))
    record.save(state_dir)
    return node


def stop(record: ClusterRecord, state_dir: Path, grace_s: float = 3.0) -> None:
    """End the processes of a cluster that we started, with all their descendants, and remove its record."""
    roots = [pid for pid, ticks in record.processes if start_ticks(pid) == ticks]
    roots += [pid for pid in _using(record.temp_dir) if pid not in roots]  # of a start that was cut short
    family = _with_descendants(roots)
    for pid in roots:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(start_ticks(pid) == ticks for pid, ticks in family):
        time.sleep(0.1)
    for pid, ticks in family:
        if start_ticks(pid) == ticks:
            _signal(pid, signal.SIGKILL)
    for pid in roots:
        _reap(pid)
    if record.temp_dir:
        shutil.rmtree(record.temp_dir, ignore_errors=True)
    (state_dir / RECORD_NAME).unlink(missing_ok=True)
    (state_dir / "token").unlink(missing_ok=True)


def is_alive(record: ClusterRecord) -> bool:
    """Whether the control store answers on its port."""
    host, _, port = record.address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return True
    except (OSError, ValueError):
        return False


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now, and that nobody gets by chance before it is used.

    The system gives out 32768 and more, Ray its workers 10002 to 19999 and Serve its replicas 30000 and more: in the
    seconds until a cluster is up these give out hundreds.
    """
    ports = list(_FREE_PORTS)
    random.shuffle(ports)
    for port in ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise UnreachableError(f"no port from {_FREE_PORTS[0]} to {_FREE_PORTS[-1]} is free on 127.0.0.1; end something")


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks; 0 when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def _using(temp_dir: str | None) -> list[int]:
    """Processes with Ray's temporary directory of this cluster, which no other has, on their command line."""
    found = []
    for entry in Path("/proc").iterdir() if temp_dir else ():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if f"{temp_dir}/".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def _with_descendants(roots: list[int]) -> list[tuple[int, int]]:
    parent_of: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent_of[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    family = set(roots)
    grown = True
    while grown:
        more = {pid for pid, parent in parent_of.items() if parent in family and pid not in family}
        family |= more
        grown = bool(more)
    return [(pid, start_ticks(pid)) for pid in family]


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap(pid: int) -> None:
    """Collect the exit of a child of this very process, so that no zombie stays."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
