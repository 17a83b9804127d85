"""What of Ray's private calls the draining of nodes rests on: when Ray changes, this says what broke, and where."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

#: (what has to be there, what rests on it)
_NEEDED = [
    ("ray._raylet:InnerGcsClient.drain_node", "RayDrains.drain"),
    ("ray._raylet:InnerGcsClient.get_cluster_status", "RayDrains.owned and autoscales"),
    ("ray._private.state:GlobalState.get_draining_nodes", "RayDrains.draining"),
    ("ray.core.generated.autoscaler_pb2:DrainNodeReason", "RayDrains.drain"),
    ("ray.core.generated.autoscaler_pb2:GetClusterStatusReply", "RayDrains.owned"),
    ("ray.serve.context:_get_global_client", "RayCluster.view"),
    ("ray.serve._private.controller:ServeController.get_serve_instance_details", "RayCluster.view"),
]
_NEEDED += [
    ("ray.dashboard.modules.job.common:JOB_ACTOR_NAME_TEMPLATE", "Launcher.take_back"),
    ("ray.dashboard.modules.job.common:SUPERVISOR_ACTOR_RAY_NAMESPACE", "Launcher.take_back"),
]
_FIELDS = [
    ("ray.core.generated.autoscaler_pb2:GetClusterStatusReply", "autoscaling_state", "RayDrains.owned"),
    ("ray.core.generated.autoscaler_pb2:GetClusterStatusReply", "cluster_resource_state", "RayDrains.owned"),
    ("ray.core.generated.autoscaler_pb2:ClusterResourceState", "node_states", "RayDrains.owned"),
    ("ray.core.generated.autoscaler_pb2:NodeState", "node_id", "RayDrains.owned"),
    ("ray.core.generated.autoscaler_pb2:NodeState", "instance_id", "RayDrains.owned"),
    ("ray.core.generated.autoscaler_pb2:NodeState", "ray_node_type_name", "RayDrains.owned"),
]


def found(path):
    module, _, names = path.partition(":")
    one = import_module(module)
    for name in names.split("."):
        one = (getattr(one, "__ray_metadata__", None) and one.__ray_metadata__.modified_class) or one
        one = getattr(one, name)
    return one


@pytest.mark.parametrize(("path", "user"), _NEEDED)
def test_ray_has_what_is_called(path, user):
    try:
        found(path)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"Ray has no {path} any more ({error}): mend {user} in on_ray/")


@pytest.mark.parametrize(("path", "field", "user"), _FIELDS)
def test_ray_tells_what_is_read(path, field, user):
    fields = found(path).DESCRIPTOR.fields_by_name
    assert field in fields, f"{path} has no field {field} any more: mend {user} in on_ray/serving/drain_adapter.py"


def test_ray_knows_the_reason():
    reason = found("ray.core.generated.autoscaler_pb2:DrainNodeReason")
    assert "DRAIN_NODE_REASON_PREEMPTION" in dict(reason.items()), "RayDrains.drain gives a reason that Ray has no more"


def test_rays_own_command_asks_as_the_adapter_does():
    """`ray drain-node` is the nearest to a documented use of the call that there is."""
    from ray.scripts import scripts

    source = inspect.getsource(scripts.drain_node.callback)
    call = "gcs_client.drain_node(\n        node_id,\n        autoscaler_pb2.DrainNodeReason.Value(reason),\n"
    assert call in source, "`ray drain-node` asks otherwise now: compare it with RayDrains.drain"
    assert "reason_message,\n        deadline_timestamp_ms,\n" in source


@pytest.mark.parametrize("name", ["RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY", "RAY_SERVE_NODE_COMPACTION_DELAY_S"])
def test_serve_is_told_to_pack_and_not_to_empty_nodes(name):
    from ray.serve._private import constants

    assert hasattr(constants, name), f"Serve has no {name} any more: local_cluster._PACKED sets nothing"
    from eco_ray.on_ray.local_cluster import _PACKED

    assert name in _PACKED
    assert float(_PACKED["RAY_SERVE_NODE_COMPACTION_DELAY_S"]) > 365 * 86_400


def test_serve_tells_where_a_replica_is():
    from ray.serve.schema import ApplicationDetails, ApplicationStatus, DeploymentDetails, ReplicaDetails

    assert "status" in ApplicationDetails.model_fields, "mend not_all_up in serving/replica_guests.py"
    assert ApplicationStatus.DEPLOYING.value == "DEPLOYING", "mend not_all_up in serving/replica_guests.py"
    assert {"node_id", "replica_id", "state"} <= ReplicaDetails.model_fields.keys(), "mend serving/replica_guests.py"
    needed = {"replicas", "target_num_replicas", "required_resources", "deployment_config"}
    assert needed <= DeploymentDetails.model_fields.keys(), "mend serving/replica_guests.py"
