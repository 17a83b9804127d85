"""Joining a cluster: from its record or an address to a connected process and the controller's handle."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Any

from eco_ray.errors import NoClusterError, UnreachableError
from eco_ray.on_ray.local_cluster import ClusterRecord, is_alive

log = logging.getLogger("eco_ray.ray")


def cluster_of(state_dir: Path, address: str | None = None) -> ClusterRecord:
    """The cluster of a state directory, the one at an address, or the one whose job this process is.

    Raises UnreachableError.
    """
    record = ClusterRecord.load(state_dir)
    if record is not None and address in (None, "auto", record.address):
        if not is_alive(record):
            raise UnreachableError(
                f"the cluster {record.name} of {state_dir} does not answer at {record.address}; "
                "run `eco-ray down` and `eco-ray up`"
            )
        return record
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        raise NoClusterError(
            f"no cluster is up ({state_dir} has no record of one); run `eco-ray up --cluster cluster/laptop.yaml`, "
            "or give --address"
        )
    return attached(address)


def attached(address: str) -> ClusterRecord:
    """A record of a running cluster that somebody else started."""
    host, _, port = address.rpartition(":")
    env = {}
    if port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=5.0).close()
        except OSError as error:
            raise UnreachableError(f"nothing answers at {address}: {error}; check --address") from error
        if host in ("127.0.0.1", "localhost"):
            env = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else Ray looks for it at the machine's outer address
    record = ClusterRecord("attached", address, "", os.environ.get("RAY_AUTH_TOKEN_PATH"), 8000, env)
    connect(record)
    import ray

    record.address = ray.get_runtime_context().gcs_address
    record.dashboard_url = dashboard_url()
    return record


def dashboard_url() -> str:
    """Where the connected cluster has its dashboard and job API now; empty: nowhere. Another head has another one."""
    from ray._private.services import get_webui_url_from_internal_kv  # no public call tells it to an actor (Ray 2.60)

    url = get_webui_url_from_internal_kv() or ""
    return f"http://{url}" if url and "://" not in url else url


def connect(record: ClusterRecord) -> None:
    """Connect this process to the cluster as a driver; harmless when it is connected already."""
    record.activate()
    import ray

    from eco_ray.on_ray.fleet import NAMESPACE

    if ray.is_initialized():
        return
    _keep_stdout_clean()
    try:
        ray.init(address=record.address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UnreachableError(
            f"no Ray cluster answers at {record.address}: {error}; check --address and `eco-ray status`"
        ) from error


def _keep_stdout_clean() -> None:
    """Ray's news of dying workers go to the log: it prints them on stdout, amid `-o json`, and has no switch (2.60)."""
    from ray._private import worker

    def to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
        for line in data.get("lines", ()):
            log.info("%s: %s", data.get("pid"), line)

    worker.print_to_stdstream = to_log


def controller_handle() -> Any:
    """The controller of the connected cluster. Raises UnreachableError."""
    import ray

    from eco_ray.on_ray.fleet import CONTROLLER_NAME, NAMESPACE

    try:
        return ray.get_actor(CONTROLLER_NAME, namespace=NAMESPACE)
    except ValueError as error:
        raise UnreachableError(
            "the cluster runs, but no eco_ray controller does; `eco-ray up --address auto` starts one"
        ) from error
