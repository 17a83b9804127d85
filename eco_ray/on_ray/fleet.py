"""The Ray nodes behind our nodes, and the agent on each."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from eco_ray.core.clock import Clock
from eco_ray.core.cluster import UNKNOWN_ZONE, Node, Resources
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.on_ray.accounts import metered_cpus
from eco_ray.on_ray.local_cluster import GROUP_LABEL, NODE_LABEL, ZONE_LABEL
from eco_ray.on_ray.node_agent import AgentConfig, NodeAgent
from eco_ray.on_ray.served import served_dir
from eco_ray.on_ray.serving.drain_adapter import RayDrains
from eco_ray.power.capping import open_control

log = logging.getLogger("eco_ray.agent")

NAMESPACE = "eco_ray"
CONTROLLER_NAME = "eco_controller"
#: of the names of agents
AGENT_PREFIX = "eco_agent:"
#: as many as Ray's state API tells at most
_ACTORS = 10_000
#: watts of a node that nothing is known of (Cloud Carbon Footprint's averages over CPU families are of this order)
_UNKNOWN_IDLE_W_PER_CPU, _UNKNOWN_MAX_W_PER_CPU = 0.74, 3.5


@dataclass(frozen=True)
class FleetConfig:
    """What the fleet needs to know."""

    #: nodes that the cluster file describes, by name
    described: Mapping[str, Node]
    clock: Clock
    state_dir: Path
    run_root: Path
    sample_period_s: float
    #: what each node of a group is like, by the name of Ray's node group
    groups: Mapping[str, Node] = field(default_factory=dict)


class Fleet:
    """Looks at Ray's nodes and keeps one agent actor on each."""

    def __init__(self, config: FleetConfig) -> None:
        self._config = config
        #: nodes of the cluster file, whether they are there or not
        self.described = config.described
        self._agents: dict[str, Any] = {}
        self.job_id = ray.get_runtime_context().get_job_id()

    def nodes(self) -> dict[str, Node]:
        """Our nodes that Ray has alive now, by name."""
        found: dict[str, Node] = {}
        for info in ray.nodes():
            if info["Alive"]:
                node = node_of(info, self._config.described, self._config.groups)
                found[node.name] = node
        return found

    def asleep(self, there: Collection[str]) -> list[Node]:
        """Nodes of the cluster file that sleep now, and that Ray's autoscaler starts when something needs them."""
        away = [node for name, node in self.described.items() if node.sleeps and name not in there]
        return away if away and RayDrains().autoscales() else []

    def held(self, nodes: Mapping[str, Node]) -> dict[str, Resources]:
        """What Ray has given away of each node, by whomever."""
        from ray._private.state import available_resources_per_node  # no public call gives it per node (Ray 2.60)

        available, infos = available_resources_per_node(), {info["NodeID"]: info for info in ray.nodes()}
        held = {}
        for node in nodes.values():
            free = available.get(node.ray_node_id or "")
            if free is not None:
                held[node.name] = given_of(node, infos.get(node.ray_node_id or "", {}), free)
        return held

    def gpu_users(self, nodes: Mapping[str, Node]) -> dict[str, list[tuple[str, Resources]]]:
        """By node, the class of each actor that holds GPUs, and what Ray has given it. Takes tens of milliseconds."""
        from ray.util.state import list_actors

        by_id = {node.ray_node_id: name for name, node in nodes.items()}
        here, alive = ray.get_runtime_context().gcs_address, [("state", "=", "ALIVE")]
        found: dict[str, list[tuple[str, Resources]]] = {}
        for actor in list_actors(here, filters=alive, detail=True, limit=_ACTORS):
            asked = actor.required_resources or {}
            if actor.node_id in by_id and asked.get("GPU"):
                amounts = Resources(asked.get("CPU", 0.0), asked["GPU"], asked.get("memory", 0.0) / 1e9)
                found.setdefault(by_id[actor.node_id], []).append((actor.class_name, amounts))
        return found

    def draining(self, nodes: Mapping[str, Node]) -> list[str]:
        """Those that are being emptied, by whomever."""
        ids = RayDrains().draining()
        return [name for name, node in nodes.items() if node.ray_node_id in ids]

    def agent(self, node: Node) -> Any:
        """The agent of a node, started if it is not there."""
        key = f"{node.name}/{node.ray_node_id}"
        if key not in self._agents:
            name = f"{AGENT_PREFIX}{node.name}:{(node.ray_node_id or '')[:12]}"
            config = self._config
            agent_config = AgentConfig(
                node=node.name,
                cpus=metered_cpus(node),
                curve=node.power,
                gpus=node.capacity.gpus,
                clock=config.clock,
                spool_dir=self.spool_dir(node.name),
                run_dir=config.run_root / node.name,
                counts_dir=served_dir(config.state_dir, node.name),
                sample_period_s=config.sample_period_s,
                shares_machine=self._shares_machine(node),
            )
            actor = ray.remote(
                num_cpus=0,
                name=name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_concurrency=8,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.ray_node_id, soft=False),
            )(AgentActor)
            self._agents[key] = actor.remote(agent_config)
        return self._agents[key]

    def call(self, node: Node, method: Callable[[Any], Any], timeout_s: float = 10.0) -> Any:
        """Call the agent of a node and wait; raises Ray's errors when it is gone or slow."""
        return ray.get(method(self.agent(node)), timeout=timeout_s)

    def spool_dir(self, node: str) -> Path:
        """Where the agent of a node keeps unconfirmed samples."""
        return self._config.state_dir / "spool" / node

    def end_agent(self, node: Node) -> None:
        """End the agent of a node that goes away; what it has not sent is on its disk."""
        agent = self._agents.get(f"{node.name}/{node.ray_node_id}")
        if agent is not None:
            with contextlib.suppress(Exception):
                ray.kill(agent, no_restart=True)

    def stop_agents(self) -> None:
        """End all agents."""
        for actor in self._agents.values():
            with contextlib.suppress(Exception):
                ray.kill(actor, no_restart=True)

    def _shares_machine(self, node: Node) -> bool:
        hosts = [info["NodeManagerAddress"] for info in ray.nodes() if info["Alive"]]
        mine = [info["NodeManagerAddress"] for info in ray.nodes() if info["NodeID"] == node.ray_node_id]
        return hosts.count(mine[0]) > 1 if mine else True


def given_of(node: Node, info: Mapping[str, Any], free: Mapping[str, float]) -> Resources:
    """What Ray has given away of a node. `info`: of Ray's list of nodes; `free`: what is left, in Ray's units.

    Of memory Ray may have less than the node: what it never had to give is nobody's.
    """
    memory_b = (info.get("Resources") or {}).get("memory", 0.0) - free.get("memory", 0.0)
    cpus, gpus = node.capacity.cpus - free.get("CPU", 0.0), node.capacity.gpus - free.get("GPU", 0.0)
    return Resources(max(0.0, cpus), max(0.0, gpus), max(0.0, memory_b / 1e9))


def node_of(info: Mapping[str, Any], described: Mapping[str, Node], groups: Mapping[str, Node]) -> Node:
    """Our node behind a node of Ray's list: as the file describes it or its group, else what Ray knows of it."""
    labels, resources = info.get("Labels") or {}, info.get("Resources") or {}
    name = labels.get(NODE_LABEL) or info["NodeID"][:12]
    if name in described:
        return replace(described[name], ray_node_id=info["NodeID"])
    if (group := labels.get(GROUP_LABEL, "")) in groups:
        return replace(groups[group], name=name, ray_node_id=info["NodeID"])
    # Ray knows neither the memory nor the power of a GPU: only jobs that ask for no GPU memory fit, and no watts count
    capacity = Resources(
        float(resources.get("CPU", 0.0)),
        float(resources.get("GPU", 0.0)),
        float(resources.get("memory", 0.0)) / 1e9,
    )
    cpus = max(1.0, capacity.cpus)
    curve = PowerCurve(
        (0.0, 1.0),
        (cpus * _UNKNOWN_IDLE_W_PER_CPU, cpus * _UNKNOWN_MAX_W_PER_CPU),
        source="no power profile: average server CPUs assumed",
        nature=Nature.ASSUMED,
        error_rel=0.5,
    )
    return Node(name, labels.get(ZONE_LABEL, UNKNOWN_ZONE), capacity, curve, ray_node_id=info["NodeID"])


class AgentActor(NodeAgent):
    """The agent as a Ray actor: it talks to the controller by its name."""

    def __init__(self, config: AgentConfig) -> None:
        logs = Path(ray._private.worker._global_node.get_logs_dir_path())  # no public call gives it (Ray 2.60)
        super().__init__(replace(config, log_dir=logs), self._to_controller)
        if config.gpus and not config.shares_machine:
            _give_power_back()
        self.start()

    @staticmethod
    def _to_controller(node: str, batch: dict[str, Any]) -> None:
        controller = ray.get_actor(CONTROLLER_NAME, namespace=NAMESPACE)
        ray.get(controller.agent_report.remote(node, batch), timeout=10.0)


def _give_power_back() -> None:
    """Undo the power limits and locked clocks that a killed process left on this node's GPUs."""
    try:
        with open_control():
            pass
    except Exception as error:  # whatever lies where the journal is to be, the node is metered
        log.warning("power limits that a killed process may have left are not undone: %s", error)
