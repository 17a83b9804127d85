"""`eco-ray up` and `down`: nodes, controller and agents, from a cluster file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eco_ray.cluster_file import ClusterFile
from eco_ray.config import Settings
from eco_ray.core.clock import Clock
from eco_ray.core.cluster import Node
from eco_ray.core.orchestrator import OrchestratorConfig
from eco_ray.core.situation import PlannerConfig
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.grid import keys
from eco_ray.on_ray import local_cluster
from eco_ray.on_ray.connection import attached, connect
from eco_ray.on_ray.last_seen import forget_all
from eco_ray.on_ray.local_cluster import ClusterRecord
from eco_ray.store import open_store
from eco_ray.train.storage import open_storage

#: jobs that need a closer look are planned again so many per tick, which is a second: each takes 2 to 10 ms
_REPLAN_LIMIT = 30


def up(cluster: ClusterFile, settings: Settings, clock: Callable[[], Clock]) -> ClusterRecord:
    """Start a cluster on this machine with its controller and agents; `clock` is asked when the nodes are up.

    Raises UsageError when a cluster is up already.
    """
    state_dir = settings.state_dir
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    old = ClusterRecord.load(state_dir)
    if old is not None:
        if local_cluster.is_alive(old):
            raise UsageError(
                f"cluster {old.name} is up already at {old.address} (state in {state_dir}); `eco-ray down` ends it"
            )
        local_cluster.stop(old, state_dir)
    if groups := cluster.to_groups():
        raise UsageError(
            f"{', '.join(groups)} of cluster {cluster.name} are groups of nodes, which their autoscaler starts; "
            "start Ray there first, then run `eco-ray up --address auto` on its head"
        )
    _take_keys(state_dir)
    nodes = cluster.to_nodes()
    record = local_cluster.start(cluster.name, nodes, cluster.head.num_cpus, cluster.serve.port, state_dir)
    try:
        connect(record)
        start_controller(cluster, settings, clock(), record)
    except BaseException:
        local_cluster.stop(record, state_dir)
        raise
    return record


def attach(cluster: ClusterFile, settings: Settings, clock: Clock, address: str) -> ClusterRecord:
    """Start only controller and agents on a cluster that runs already."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    _take_keys(settings.state_dir)
    record = attached(address)
    start_controller(cluster, settings, clock, record)
    record.save(settings.state_dir)
    return record


def _take_keys(state_dir: Path) -> None:
    """Hand keys of grid sources to the controller in files, and take them from what Ray's processes inherit."""
    for name in keys.hand_over(state_dir / keys.FOLDER):
        os.environ.pop(name, None)


def start_controller(cluster: ClusterFile, settings: Settings, clock: Clock, record: ClusterRecord) -> Any:
    """Start the controller as a detached actor on the head, and wait until it answers."""
    import ray

    from eco_ray.on_ray.controller_config import ControllerConfig
    from eco_ray.on_ray.fleet import CONTROLLER_NAME, NAMESPACE, FleetConfig

    if settings.checkpoint_url is not None:
        open_storage(settings.checkpoint_url)  # now, and not at the first job, it is told that it cannot be
    cluster.grid.check_clock(clock.speed, starts_now=cluster.clock.start_s is None)
    head = cluster.to_head()
    described: Mapping[str, Node] = {node.name: node for node in [*cluster.to_nodes(), *([head] if head else [])]}
    planner = PlannerConfig(cluster.planner.slot_s, cluster.planner.horizon_s)
    orchestrator = OrchestratorConfig(
        planner,
        pause_timeout_s=cluster.pause_timeout_s * clock.speed,
        retry_delay_s=2.0 * clock.speed,
        replan_limit=_REPLAN_LIMIT,
    )
    store = open_store(settings.store_url)
    kept_s = [float(row["updated_s"]) for row in store.signal_sources()]
    if clock.speed != 1.0 and kept_s and max(kept_s) > clock.grid_s(time.time()):
        # a fast clock was ahead when the cluster went down; time must not go back under a ledger that is kept
        clock = Clock(clock.speed, time.time(), max(kept_s))
    store.put_meta(
        "clock",
        {"speed": clock.speed, "wall_origin_s": clock.wall_origin_s, "grid_origin_s": clock.grid_origin_s},
    )
    store.put_meta("rtt_ms", cluster.to_ways())
    store.close()
    config = ControllerConfig(
        cluster.name,
        cluster.home_zone,
        clock,
        orchestrator,
        cluster.planner.default_max_delay_s,
        settings.state_dir,
        settings.store_url,
        cluster.planner.horizon_s,
        {zone: row.model_dump() for zone, row in cluster.market_g_per_kwh.items()},
        settings.record_events,
        settings.checkpoint_url,
    )
    run_root, groups = _run_root(settings, record), cluster.to_groups()
    fleet = FleetConfig(described, clock, settings.state_dir, run_root, cluster.sample_period_s, groups)
    actor = ray.remote(
        num_cpus=0,
        name=CONTROLLER_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=32,
        resources=local_cluster.ON_HEAD,
    )(_controller_actor())
    handle = actor.remote(config, fleet, cluster.grid, record.dashboard_url)
    ray.get(handle.status.remote(), timeout=60.0)
    return handle


def down(settings: Settings) -> ClusterRecord | None:
    """End the cluster of the state directory; of one that we only attached to, end controller and agents."""
    try:
        record = ClusterRecord.load(settings.state_dir)
    except EcoRayError:
        damaged = settings.state_dir / local_cluster.RECORD_NAME
        damaged.rename(damaged.with_suffix(".damaged"))
        raise
    if record is None:
        return None
    if record.temp_dir is None:
        import ray

        from eco_ray.on_ray.connection import controller_handle

        connect(record)
        handle = controller_handle()
        with contextlib.suppress(Exception):
            ray.get(handle.stop.remote(), timeout=10.0)
        ray.kill(handle, no_restart=True)
    local_cluster.stop(record, settings.state_dir)
    forget_all(settings.state_dir / "spool")
    shutil.rmtree(_run_root(settings, record), ignore_errors=True)
    return record


def _run_root(settings: Settings, record: ClusterRecord) -> Path:
    """Node-local directory of attempts, apart from other clusters and from earlier lives of this one."""
    mark = hashlib.sha256(f"{settings.state_dir.resolve()} {record.address}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"eco_ray-{os.getuid()}" / mark


def _controller_actor() -> type:
    """The controller with its parts wired, as the class of a Ray actor."""
    from eco_ray.on_ray.wiring import ControllerActor

    return ControllerActor
