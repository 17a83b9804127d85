"""The facts of `eco-ray doctor`: from the agent of each node, or from this machine alone."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import Any

from eco_ray.config import Settings
from eco_ray.core.cluster import Node
from eco_ray.core.power import PowerCurve
from eco_ray.on_ray.exposure import exposure
from eco_ray.power.modelled import curve_from_cpu
from eco_ray.power.probe import probe

_OPEN = (
    "Ports with auth `none` answer anybody who can reach this machine. Bind them to 127.0.0.1 (`eco-ray up` does), "
    "start Ray with RAY_AUTH_MODE=token and a token file, or close them in the firewall."
)
_HIDDEN = (
    "{} processes of Ray or Serve could not be examined on the machine of {}, and any of {} ports may be theirs: run "
    "`eco-ray doctor` there as their user or as root."
)
#: how long all agents together may take; a call to the controller waits longer than that [s]
EXAMINE_S = 30.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def examine_node(curve: PowerCurve, *, whole_machine: bool, gpus: float) -> dict[str, Any]:
    """What an agent says of its node: how its energy is known, and the open ports of its machine."""
    findings = probe(curve, whole_machine=whole_machine, gpus=gpus)
    found = exposure()
    return {
        "findings": [asdict(finding) for finding in findings],
        "open_ports": [asdict(port) for port in found.ports],
        "unread": [asdict(one) for one in found.unread],
        "unknown_owner": list(found.unknown_owner),
        "machine": _machine(),
    }


def ask_all(
    known: Sequence[Node], there: Container[str], ask: Callable[[Node], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What each node says; all that are there are asked at once: one that hangs takes no time from the others."""
    nodes = [node for node in known if node.name in there]
    gone = {"there": False, "error": "the node is not there"}
    answers: dict[str, dict[str, Any]] = {node.name: _no_answer(f"within {EXAMINE_S:g} s") for node in nodes}

    def note(node: Node) -> None:
        try:
            answer = {"there": True, "error": "", **ask(node)}
        except Exception as error:  # Ray has many ways to say that an actor does not answer
            answer = _no_answer(f"({type(error).__name__}: {error})")
        answers[node.name] = answer

    # daemons: one that hangs for ever keeps nobody from ending
    threads = [Thread(target=note, args=(node,), name="examine", daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + EXAMINE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    told = dict(answers)
    return [{"node": node.name, "zone": node.zone, **told.get(node.name, gone)} for node in known]


def _no_answer(why: str) -> dict[str, Any]:
    return {"there": True, "error": f"no answer {why}; see its agent in Ray's logs"}


def examine_cluster(settings: Settings) -> dict[str, Any]:
    """Every node of the cluster by its agent. Raises UnreachableError where no cluster is up."""
    from eco_ray.on_ray.client import Client

    client = Client(settings)
    nodes = client.examine()
    signals = [{"zone": zone, **(client.signal(zone) or {})} for zone in dict.fromkeys(node["zone"] for node in nodes)]
    return _document(nodes, signals)


def examine_this_machine(unanswered: str = "") -> dict[str, Any]:
    """The machine that it runs on, without a cluster; CPUs modelled as `eco-ray power sample` does by default.

    `unanswered`: why a cluster that should be there was not examined, which is a problem.
    """
    curve = curve_from_cpu("cascade-lake", os.cpu_count() or 1)
    facts = examine_node(curve, whole_machine=True, gpus=0)
    return _document([{"node": "this machine", "zone": "unknown", "there": True, "error": "", **facts}], [], unanswered)


def _document(
    nodes: Sequence[Mapping[str, Any]], signals: Iterable[Mapping[str, Any]], unanswered: str = ""
) -> dict[str, Any]:
    # nodes that share a machine see the same of it
    by_machine: dict[str, Mapping[str, Any]] = {}
    for node in nodes:
        if "machine" in node:
            by_machine.setdefault(node["machine"], node)
    machines = by_machine.values()
    ports = [{"node": one["node"], **port} for one in machines for port in one["open_ports"]]
    not_examined = [node["node"] for node in nodes if node["error"] and node["there"]]
    hidden = [
        {"node": one["node"], "processes": one["unread"], "ports_of_unknown_owner": one["unknown_owner"]}
        for one in machines
        if one["unread"] or one["unknown_owner"]
    ]
    problems = [f"The cluster was not examined: {unanswered}"] if unanswered else []
    if any(port["auth"] == "none" for port in ports):
        problems.append(_OPEN)
    if not_examined:
        problems.append(f"Not examined, though there: {', '.join(not_examined)}. See its agent in Ray's logs.")
    # a process of Ray that nobody looked into is harmless where every port has another owner
    for one in hidden:
        if one["processes"] and one["ports_of_unknown_owner"]:
            problems.append(_HIDDEN.format(len(one["processes"]), one["node"], len(one["ports_of_unknown_owner"])))
    return {
        "ok": not problems,
        "problems": problems,
        "nodes": [
            {key: node[key] for key in ("node", "zone", "there", "error")} | {"findings": node.get("findings", [])}
            for node in nodes
        ],
        "open_ports": ports,
        "not_seen": hidden,
        "signals": list(signals),
    }


def _machine() -> str:
    """Tells machines apart."""
    try:
        return f"{platform.node()} {_BOOT_ID.read_text().strip()}"
    except OSError:
        return platform.node()
