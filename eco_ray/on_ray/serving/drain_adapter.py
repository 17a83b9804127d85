"""The only place that knows Ray's private calls for draining nodes (Ray 2.60): what `ray drain-node` uses.

A drained node takes nothing new, Serve moves its replicas make-before-break, and Ray's process on it ends as soon as
nothing of it is in use, be it an actor without CPUs; an autoscaler v2 then ends the machine. There is no way back: a
node without an autoscaler is gone. Ray kills nothing at the deadline (a task that was longer ran to its end); Serve,
however, stops replicas their grace time before it, whether others have come or not: so a deadline has to be far away.
"""

from __future__ import annotations

from typing import Any

import ray

from eco_ray.errors import UnreachableError
from eco_ray.on_ray.serving.drain_record import DrainAnswer

#: for Ray's control store [s]
_TIMEOUT_S = 10.0


class RayDrains:
    """Drains nodes of the connected cluster."""

    def drain(self, ray_node_id: str, why: str, deadline_wall_s: float) -> DrainAnswer:
        """Ask Ray to drain a node; asked again, the last deadline holds. Raises UnreachableError.

        A node that is gone is refused here: Ray (2.60) says yes to any id, and does nothing.
        """
        if not any(info["Alive"] and info["NodeID"] == ray_node_id for info in ray.nodes()):
            return DrainAnswer(accepted=False, why=f"node {ray_node_id[:12]} is not alive")
        try:
            from ray.core.generated.autoscaler_pb2 import DrainNodeReason

            reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
            deadline_ms = int(deadline_wall_s * 1000)
            accepted, told = _gcs().drain_node(ray_node_id, reason, why[:500], deadline_ms, timeout=_TIMEOUT_S)
        except Exception as error:
            raise UnreachableError(f"Ray did not answer whether it drains {ray_node_id[:12]}: {error}"[:500]) from error
        return DrainAnswer(bool(accepted), "" if accepted else str(told) or "Ray gave no reason")

    def draining(self) -> dict[str, float]:
        """Ray's ids of the nodes that are being drained, by whomever, and until when [wall s]; 0: no deadline."""
        from ray._private.state import state

        try:
            return {name: deadline_ms / 1000 for name, deadline_ms in state.get_draining_nodes().items()}
        except Exception as error:
            raise UnreachableError(f"Ray does not say which nodes it drains: {error}"[:500]) from error

    def owned(self) -> frozenset[str]:
        """Ray's ids of the nodes that an autoscaler v2 started, ends when they are empty, and can bring back.

        One that is told the machine behind a node (`RAY_CLOUD_INSTANCE_ID`, as KubeRay and Ray's providers do) and its
        group, while an autoscaler reports; never the head. Raises UnreachableError.
        """
        told = _cluster_status()
        if not told.HasField("autoscaling_state"):
            return frozenset()
        heads = {info["NodeID"] for info in ray.nodes() if "node:__internal_head__" in info["Resources"]}
        machines = {
            one.node_id.hex()
            for one in told.cluster_resource_state.node_states
            if one.instance_id and one.ray_node_type_name
        }
        return frozenset(machines - heads)

    def autoscales(self) -> bool:
        """Whether an autoscaler v2 reports, which starts nodes when something needs them. Raises UnreachableError."""
        return bool(_cluster_status().HasField("autoscaling_state"))


def _cluster_status() -> Any:
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    told = GetClusterStatusReply()
    try:
        told.ParseFromString(_gcs().get_cluster_status(timeout_s=_TIMEOUT_S))
    except Exception as error:
        raise UnreachableError(f"Ray does not say what its autoscaler does: {error}"[:500]) from error
    return told


def _gcs() -> Any:
    from ray import _raylet  # compiled: nobody knows its types

    raylet: Any = _raylet
    return raylet.GcsClient(address=ray.get_runtime_context().gcs_address)
