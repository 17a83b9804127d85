"""A Ray cluster on this machine whose worker nodes Ray's autoscaler v2 starts and ends, as in a cloud."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from eco_ray.core.cluster import Node
from eco_ray.on_ray import local_cluster
from eco_ray.on_ray.local_cluster import NODE_LABEL, ZONE_LABEL, ClusterRecord

#: the fake provider counts its nodes from the head's id on
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
#: what tells Ray's process on a machine which machine that is; of the head alone
_OF_HEAD = {
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "RAY_NODE_TYPE_NAME": "ray.head.default",
}
#: keys that Ray's file has to have
_NO_COMMANDS = [
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "initialization_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
]


class Holder:
    """Holds what Ray gives it."""

    def ping(self) -> None:
        """Is there."""


def start(nodes: Iterable[Node], state_dir: Path, idle_s: float) -> ClusterRecord:
    """A head, and an autoscaler that starts these nodes when they are needed, each in a group of its own."""
    token = local_cluster.write_token(state_dir)
    temp_dir = tempfile.mkdtemp(prefix="eco-", dir="/tmp")
    env = local_cluster.cluster_env(token, state_dir, temp_dir)
    env |= {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    record = ClusterRecord("autoscaled", "", "", str(token), 8000, env, temp_dir)
    record.activate()
    record.save(state_dir)
    port, dashboard_port = local_cluster.free_port(), local_cluster.free_port()
    config = state_dir / "autoscaler.json"
    config.write_text(json.dumps(_config(nodes, port, idle_s)))
    os.environ.update(_OF_HEAD)
    try:
        head = local_cluster._start_node(
            record,
            state_dir,
            head=True,
            num_cpus=0,
            gcs_server_port=port,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=dashboard_port,
            runtime_env_dir_name="env-head",
            labels={NODE_LABEL: "head"},
            autoscaling_config=str(config),
        )
    finally:
        for name in _OF_HEAD:
            del os.environ[name]
    record.address, record.dashboard_url = head.gcs_address, f"http://127.0.0.1:{dashboard_port}"
    record.save(state_dir)
    return record


def _config(nodes: Iterable[Node], gcs_port: int, idle_s: float) -> dict[str, object]:
    groups = {
        node.name: {
            "resources": {"CPU": int(node.capacity.cpus), "object_store_memory": 80 * 1024 * 1024},
            "labels": {NODE_LABEL: node.name, ZONE_LABEL: node.zone},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 1,
        }
        for node in nodes
    }
    return {
        "cluster_name": "autoscaled",
        "max_workers": 8,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": f"127.0.0.1:{gcs_port}",
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
        },
        **{key: [] for key in _NO_COMMANDS},
        "file_mounts": {},
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **groups,
        },
    }
