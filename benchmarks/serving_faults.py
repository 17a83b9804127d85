"""A model is asked 30 times a second while its version changes and while what serves it is killed; then all is counted.

    .venv/bin/python benchmarks/serving_faults.py [--minutes 5] [--no-save]

Three replicas of a registered model on a cluster of three nodes follow an alias. Requests come at a fixed rate,
whatever became of those before, each with an id of its own that its answer has to repeat. Meanwhile the alias is moved
and moved back, and SIGKILL goes to a replica, to eco_ray's controller again and again for ten seconds, to the deployer,
to Serve's controller, and to a node: its raylet and everything that this has started. The node comes back later.

A replica writes its counts 0.1 s after a request at the latest: when it is killed, as many answered requests as come in
that time may be missing in the ledger. What it had computed and not answered another replica computes again: of the
requests that were under way then, each may be counted twice.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from common import ROOT, cluster, describe_run, processes, quantile, saved_output, table
from constant_load import ConstantLoad

from eco_ray.cluster_file import load_cluster_file
from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment
from eco_ray.on_ray import local_cluster
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.local_cluster import NODE_LABEL, start_ticks
from eco_ray.on_ray.model_files import open_registry

MODEL, ALIAS = "digits", "prod"
RATE_PER_S = 30
#: old and new replicas of a rolling update fill the cluster: 3 nodes with 2 CPUs
REPLICAS, NODE_CPUS = 3, 2.0
TENANTS = ("vision", "health", "grid")
#: to read the request, and to answer it (docs/serving.md) [s]
TIMEOUT_S = 40.0
#: for how long a controller that Ray starts again is killed again [s]
DEAD_S = 10.0
#: what a replica that is killed may not have written down [s]
UNWRITTEN_S = 0.1
#: for a version to be served [s]
CHANGE_S = 90.0
#: between two deeds at least [s]
PAUSE_S = 5.0
Check = tuple[str, float, float | None]


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    sent_s: float
    tenant: str
    #: 0: no answer
    status: int
    #: version that answered, title of the problem, or what went wrong
    what: str
    waited_s: float
    #: an answer that is its own, or a problem document with its status
    proper: bool


class Load(ConstantLoad):
    """Requests of tenants in turn."""

    def __init__(self, url: str) -> None:
        super().__init__(TIMEOUT_S)
        self.outcomes: list[Outcome] = []
        #: sent and not answered
        self.under_way = 0
        self._url = url
        self.begin()

    async def ask_all(self, http: Any) -> None:
        """At one rate."""
        await self.at_rate(RATE_PER_S, partial(self._ask, http))

    async def _ask(self, http: Any, number: int) -> None:
        name, tenant, sent_s = f"request-{number}", TENANTS[number % len(TENANTS)], time.monotonic()
        image = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28], "data": [number % 256] * 784}
        headers = {"Eco-Tenant": tenant, "Cache-Control": "no-store", "x-request-id": name}
        self.under_way += 1
        try:
            async with http.post(self._url, json={"id": name, "inputs": [image]}, headers=headers) as answer:
                status, told = answer.status, json.loads(await answer.read())
                if status == 200:
                    proper = told["id"] == answer.headers["x-request-id"] == name and len(told["outputs"]) == 2
                    what = f"version {told['model_version']}"
                else:
                    proper = answer.content_type == "application/problem+json" and told["status"] == status
                    what = str(told.get("title"))
        except Exception as error:  # whatever it was, nobody answered
            status, what, proper = 0, repr(error)[:100], False
        self.under_way -= 1
        self.outcomes.append(Outcome(sent_s, tenant, status, what, time.monotonic() - sent_s, proper))


class Faults:
    """What is done to the cluster."""

    def __init__(self, client: Client, load: Load) -> None:
        self._client, self._load = client, load
        self._state_dir = client.settings.state_dir
        self._registry = open_registry(str(self._state_dir / "models"), self._state_dir)
        self._lost_node = ""
        self.replicas_killed = 0
        #: requests that had no answer when replicas were killed
        self.open_at_kills = 0
        #: seconds that each change took; None: it did not come
        self.changes: list[float | None] = []

    def promote(self) -> None:
        self._registry.promote(f"{MODEL}:2", ALIAS)
        self._wait_for("version 2")

    def rollback(self) -> None:
        self._registry.rollback(MODEL, ALIAS)
        self._wait_for("version 1")

    def kill_replica(self) -> None:
        self._kill_replicas([self._replicas()[0][1]])

    def kill_controller(self) -> None:
        self._keep_dead("ray::ControllerActor", DEAD_S)

    def kill_deployer(self) -> None:
        self._keep_dead("ray::DeployerActor")

    def kill_serve_controller(self) -> None:
        self._keep_dead("ray::ServeController")

    def kill_node(self) -> None:
        """The one with the most replicas."""
        found = self._replicas()
        self._lost_node = Counter(node for node, _ in found).most_common(1)[0][0]
        import ray

        (node_id,) = (
            one["NodeID"] for one in ray.nodes() if one["Alive"] and one["Labels"].get(NODE_LABEL) == self._lost_node
        )
        raylets = [pid for pid, _ in self._client.record.processes if f"--node_id={node_id}" in _words(pid)]
        family = local_cluster._with_descendants(raylets)
        self._kill_replicas([*raylets, *(pid for pid, _ in family if pid not in raylets)])
        self.replicas_killed += sum(node == self._lost_node for node, _ in found) - 1

    def return_node(self) -> None:
        described = load_cluster_file(ROOT / "cluster" / "laptop.yaml", self._client.settings)
        (node,) = (one for one in described.to_nodes() if one.name == self._lost_node)
        capacity = replace(node.capacity, cpus=NODE_CPUS)
        local_cluster.add_node(self._client.record, replace(node, capacity=capacity), self._state_dir)

    def _kill_replicas(self, pids: list[int]) -> None:
        """SIGKILL these processes, of which one replica at least is one."""
        self.open_at_kills += self._load.under_way
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.replicas_killed += 1

    def _keep_dead(self, title: str, seconds: float = 0.0) -> None:
        """SIGKILL a process, and for some time each that takes its place."""
        end, killed = time.monotonic() + seconds, 0
        while not killed or time.monotonic() < end:
            for pid in processes(self._client, title):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            time.sleep(0.05)
            if not killed and time.monotonic() > end + CHANGE_S:
                raise RuntimeError(f"no process of the cluster is called {title}")

    def _replicas(self) -> list[tuple[str, int]]:
        """Node and process of each replica that is there."""
        found = []
        for path in sorted((self._state_dir / "served").glob("*/*.replica.json")):
            told = json.loads(path.read_text())
            if told["app"] == f"model.{MODEL}" and start_ticks(told["pid"]) == told["start_ticks"]:
                found.append((path.parent.name, int(told["pid"])))
        return found

    def _wait_for(self, version: str) -> None:
        """Until the last twenty requests were answered by a version."""
        began_s = time.monotonic()
        while time.monotonic() < began_s + CHANGE_S:
            if {one.what for one in self._load.outcomes[-20:]} == {version}:
                self.changes.append(time.monotonic() - began_s)
                return
            time.sleep(0.2)
        self.changes.append(None)

    def deeds(self) -> list[tuple[float, str, Callable[[], None]]]:
        """When each of them is done, as a part of the whole time."""
        return [
            (0.06, "version 2 is promoted", self.promote),
            (0.24, "a replica is killed", self.kill_replica),
            (0.32, "rolled back to version 1", self.rollback),
            (0.48, f"eco_ray's controller is dead for {DEAD_S:g} s", self.kill_controller),
            (0.58, "the deployer is killed", self.kill_deployer),
            (0.65, "Serve's controller is killed", self.kill_serve_controller),
            (0.74, "a node is killed", self.kill_node),
            (0.90, "the node comes back", self.return_node),
        ]


def _words(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def push(client: Client, folder: Path) -> None:
    """Two versions of a model, the first one under the alias."""
    import torch

    from eco_ray.models.cnn import SmallCNN
    from eco_ray.models.weights import save_model

    registry = open_registry(str(client.settings.state_dir / "models"), client.settings.state_dir)
    for version in (1, 2):
        torch.manual_seed(version)
        file = folder / f"{version}.safetensors"
        save_model(SmallCNN(), file, {"version": version})
        registry.push(file, MODEL)
    registry.promote(f"{MODEL}:1", ALIAS)


def run(client: Client, folder: Path, minutes: float) -> bool:
    """Do it all, and print what was counted; whether all is well."""
    from eco_ray.on_ray.serving_client import ServingClient

    push(client, folder)
    registry = str(client.settings.state_dir / "models")
    told = ServingClient(client.settings).deploy(
        Deployment(MODEL, 1, ALIAS, registry, min_replicas=REPLICAS, max_replicas=REPLICAS, demand=Resources(1.0)),
        None,
    )
    load = Load(f"{told['url']}/infer")
    faults, done = Faults(client, load), [(0.0, "all is well")]
    try:
        for part, what, deed in faults.deeds():
            time.sleep(max(PAUSE_S, load.began_s + part * minutes * 60 - time.monotonic()))
            done.append((time.monotonic() - load.began_s, what))
            deed()
        time.sleep(max(PAUSE_S, load.began_s + minutes * 60 - time.monotonic()))
    finally:
        load.stop()
    time.sleep(5.0)  # agents take what replicas counted last
    _show_deeds(load, done)
    rows = [*request_checks(load, faults), *ledger_checks(client, load, faults)]
    print()
    table(["", "count", "bar", ""], [[what, f"{count:.4g}", *_judged(count, bar)] for what, count, bar in rows])
    return all(bar is None or count <= bar for _, count, bar in rows)


def _judged(count: float, bar: float | None) -> tuple[str, str]:
    return ("", "") if bar is None else (f"<= {bar:.4g}", "ok" if count <= bar else "MISSED")


def _show_deeds(load: Load, done: list[tuple[float, str]]) -> None:
    ends = [at for at, _ in done[1:]] + [float("inf")]
    shown = []
    for (at, what), end in zip(done, ends, strict=True):
        sent = [one for one in load.outcomes if at <= one.sent_s - load.began_s < end]
        waits = [one.waited_s * 1000 for one in sent] or [0.0]
        other = Counter(f"{one.status} {one.what}" for one in sent if one.status != 200)
        times = [f"{one:.0f}" for one in (quantile(waits, 0.5), quantile(waits, 0.95), max(waits))]
        words = "; ".join(f"{count} x {name}" for name, count in sorted(other.items()))
        shown.append([f"{at:5.0f} s  {what}", f"{len(sent)}", *times, words])
    table(["from then on", "requests", "p50 [ms]", "p95 [ms]", "slowest [ms]", "not 200"], shown)
    for one in (one for one in load.outcomes if one.status != 200):
        print(f"sent at {one.sent_s - load.began_s:.2f} s, {one.waited_s * 1000:.0f} ms later: {one.status} {one.what}")


def request_checks(load: Load, faults: Faults) -> Iterator[Check]:
    """(what, count, bar; None: it has none) of the requests."""
    by_status = Counter(one.status for one in load.outcomes)
    yield "requests sent", len(load.outcomes), None
    yield "answered with 200", by_status[200], None
    yield "answered with a failure status", len(load.outcomes) - by_status[200] - by_status[0], None
    yield "without an answer", by_status[0], 0
    yield "answers that are another request's, or no problem document", sum(not o.proper for o in load.outcomes), 0
    yield "the longest wait [s]", max(one.waited_s for one in load.outcomes), TIMEOUT_S
    yield "changes of version that did not come", faults.changes.count(None), 0
    yield "the slower one took [s]", max((took for took in faults.changes if took is not None), default=0.0), None
    yield "replicas killed", faults.replicas_killed, None


def ledger_checks(client: Client, load: Load, faults: Faults) -> Iterator[Check]:
    """The same of the ledger."""
    with closing(sqlite3.connect(f"file:{client.settings.state_dir / 'eco_ray.db'}?mode=ro", uri=True)) as database:
        found = Counter(
            dict(
                database.execute(
                    "select tenant, sum(requests) from shares where owner_kind = 'model' and requests > 0"
                    f" and owner_id like '{MODEL}:%' group by tenant"
                ).fetchall()
            )
        )
    answered = Counter(one.tenant for one in load.outcomes if one.status == 200)
    unwritten = faults.replicas_killed * RATE_PER_S * UNWRITTEN_S
    yield "requests in the ledger", sum(found.values()), None
    yield "answered and not in it, by tenant", sum((answered - found).values()), unwritten
    yield "in it and not answered, by tenant", sum((found - answered).values()), faults.open_at_kills
    check, chain = client.store.check_ledger(), client.store.verify_chain()
    yield "intervals in the ledger", check.rows, None
    yield "of them, parts that do not sum [mJ]", check.residual_mj, 0
    yield "problems of its chain", len(chain.problems), 0
    for problem in chain.problems[:5]:
        print(problem)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    with saved_output("serving_faults", save=not args.no_save), tempfile.TemporaryDirectory() as folder:
        describe_run(f"A model is asked {RATE_PER_S} times a second while what serves it is killed")
        print(f"{args.minutes:g} min")
        print()
        with cluster(num_cpus=NODE_CPUS) as client:
            holds = run(client, Path(folder), args.minutes)
        print(f"\nload average {os.getloadavg()[0]:.1f} at the end")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
