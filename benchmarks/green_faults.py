"""Wrong, flapping and lost grams and watts under load: no request is lost, and few plans change.

    .venv/bin/python benchmarks/green_faults.py [--quick] [--no-save]

Three zones of one node each serve three models, which are asked at constant rates: `digits` in each zone, with shares
between them; `deep`, of whose requests a smaller variant answers a part while the grid is dirty; `alone`, whose
replicas are scaled from none. Jobs wait for clean hours beside them. Then, one after the other:

- an agent and replicas report energy that cannot be true (no number, negative, none, ten times as much) for ten seconds
- the intensities of two zones change between 20 and 900 g/kWh every seven seconds, against each other
- the source has no more data of one of them, then of none

The third node's power is said to be ten times that of the others all along. Every decision is written down with what it
was made from, and is decided again at the end by the functions that the simulator calls.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import cluster, describe_run, quantile, saved_output, table, verdict
from constant_load import ConstantLoad

from eco_ray.core.book import MAX_REPLANS
from eco_ray.core.cluster import Resources
from eco_ray.core.consolidation import Consolidation
from eco_ray.core.decision_log import record_from_json
from eco_ray.core.deployments import Deployment
from eco_ray.core.ledger import Sample
from eco_ray.core.scaling_log import ScalingRecord
from eco_ray.core.serving import TrafficConfig
from eco_ray.core.units import Nature
from eco_ray.core.variant_pair import Spent
from eco_ray.core.variants import Mixing
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.model_files import open_registry
from eco_ray.sim.recorded import decide_again

ZONES = ("AA", "BB", "CC")
#: g/kWh of a dirty and a clean moment, and how long each is [s]
DIRTY, CLEAN, FLAP_S = 900.0, 20.0, 7
#: requests per second
RATES = {"digits": 16.0, "deep": 4.0, "alone": 4.0}
TIMEOUT_S = 60.0
#: how long wrong energies are reported [s]
WRONG_S = 10
MIXING = Mixing(max_share=0.3, accuracy_floor=0.9, above_g_per_kwh=400.0)
JOBS = 4
#: fewer replicas were enough for so long before one ends (the default) [s]
DOWN_HOLD_S = 60.0
Check = tuple[str, float, float | None]


@dataclass(frozen=True)
class Times:
    """How long each part takes [s]; `settle`: from the start of the cluster, with all that is deployed."""

    settle: int = 130
    flapping: int = 200
    one_lost: int = 25
    all_lost: int = 25

    @property
    def ends_s(self) -> list[tuple[str, float]]:
        """When each part ends, after the start of the cluster."""
        one = self.settle + self.flapping
        ends = [self.settle, one, one + self.one_lost, one + self.one_lost + self.all_lost]
        names = ["steady, wrong energies", "intensity flaps", "nothing is known of BB", "nothing is known of any"]
        return list(zip(names, map(float, ends), strict=True))


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    sent_s: float
    model: str
    #: 0: no answer
    status: int
    waited_s: float
    why: str = ""


class Load(ConstantLoad):
    """Each model at its rate."""

    def __init__(self, base: str) -> None:
        super().__init__(TIMEOUT_S)
        self.outcomes: list[Outcome] = []
        self._base = base
        self.begin()

    async def ask_all(self, http: Any) -> None:
        """All models."""
        await asyncio.gather(*(self.at_rate(rate, partial(self._one, http, model)) for model, rate in RATES.items()))

    async def _one(self, http: Any, model: str, number: int) -> None:
        told: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 256], "data": [number % 7 / 7] * 256}
        if model != "deep":
            told = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28], "data": [number % 7 / 7] * 784}
        headers = {"Cache-Control": "no-store", "Eco-Origin-Zone": ZONES[number % 2]}
        sent_s, began_s = time.time(), time.monotonic()
        try:
            url = f"{self._base}/v2/models/{model}/infer"
            async with http.post(url, json={"inputs": [told]}, headers=headers) as answer:
                why = "" if answer.status == 200 else (await answer.text())[:200]
                await answer.read()
                status = answer.status
        except Exception as error:  # whatever it was, nobody answered
            status, why = 0, repr(error)[:200]
        self.outcomes.append(Outcome(sent_s, model, status, time.monotonic() - began_s, why))


def cluster_file(folder: Path, times: Times, began_s: int) -> Path:
    """Three nodes, and intensities second by second from a day before the start on, as long as anything is known."""
    flaps_s, (_, bb_s), (_, one_s) = times.settle, times.ends_s[1], times.ends_s[2]
    lines = ["time,AA,BB,CC"]
    for second in range(-900, int(one_s)):
        aa, bb = 300.0, 100.0
        if second >= flaps_s:
            aa, bb = (DIRTY, CLEAN) if second // FLAP_S % 2 else (CLEAN, DIRTY)
        known = f"{bb}" if second < bb_s else ""
        lines.append(f"{datetime.fromtimestamp(began_s + second, UTC).isoformat()},{aa},{known},200")
    (folder / "intensity.csv").write_text("\n".join(lines))
    nodes = []
    for zone in ZONES:
        times_as_much = 10 if zone == "CC" else 1
        power = {"idle_w": 50 * times_as_much, "max_w": 100 * times_as_much, "source": "test"}
        node = {"name": f"{zone.lower()}-1", "zone": zone, "num_cpus": 4, "memory_gb": 4, "sleeps": True}
        nodes.append({**node, "power": power})
    told = {
        **{"name": "faults", "home_zone": "AA", "head": {"num_cpus": 0}, "nodes": nodes},
        "rtt_ms": {"AA": {"BB": 10, "CC": 20}, "BB": {"CC": 20}},
        "grid": {"source": "trace", "file": "intensity.csv"},
        "planner": {"slot": "10s", "horizon": "10m", "default_max_delay": "10m"},
    }
    path = folder / "cluster.yaml"
    path.write_text(json.dumps(told))  # which is YAML, too
    return path


def deploy(client: Client, folder: Path) -> str:
    """The three models; the URL before their paths."""
    import torch

    from eco_ray.models.cnn import SmallCNN
    from eco_ray.models.registry import About
    from eco_ray.models.weights import save_model
    from eco_ray.on_ray.serving_client import ServingClient

    class Deep(torch.nn.Module):
        """Looks at its picture in a size; in a small one it is a smaller variant."""

        def __init__(self, pixels: int) -> None:
            super().__init__()
            self.look, self.say, self.pixels = torch.nn.Conv2d(1, 32, 5), torch.nn.Linear(32, 10), pixels

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            size = (self.pixels, self.pixels)
            grown = torch.nn.functional.interpolate(x.reshape(1, 1, 16, 16), size=size)
            said: torch.Tensor = self.say(self.look(grown).mean(dim=(2, 3)))
            return said

    place = str(client.settings.state_dir / "models")
    registry = open_registry(place, client.settings.state_dir)
    save_model(SmallCNN(), folder / "cnn.safetensors", {"version": 1})
    for name in ("digits", "alone"):
        registry.push(folder / "cnn.safetensors", name)
    for pixels, accuracy in ((128, 0.98), (16, 0.94)):
        made = torch.export.export(Deep(pixels), (torch.zeros(1, 256),))
        made.example_inputs = None
        torch.export.save(made, folder / f"{pixels}.pt2")
        registry.push(folder / f"{pixels}.pt2", "deep", About(metrics={"accuracy": accuracy}))
    serving = ServingClient(client.settings)
    small = Deployment("", 1, registry=place, demand=Resources(0.3))
    serving.deploy(replace(small, model="digits", per_zone=True, zones=ZONES), None)
    serving.deploy(replace(small, model="deep", variant=2, mixing=MIXING, zones=("AA",)), None)
    told = serving.deploy(replace(small, model="alone", min_replicas=0, max_replicas=3), None)
    return str(told["url"]).partition("/v2/")[0]


def report_wrong_energy(seconds: int) -> None:
    """As a meter, an agent or a replica that has gone mad would: each second, for so long."""
    import ray

    from eco_ray.on_ray.connection import controller_handle
    from eco_ray.on_ray.ray_serve import deployer_handle
    from eco_ray.on_ray.serving.mixer import Report
    from eco_ray.on_ray.spool import to_json

    for second in range(seconds):
        now_s = time.time()
        good = Sample("aa-1", "mad", second, now_s - 1, now_s, 60_000, 50_000, Nature.MODELLED, "mad", 0.4)
        for energy_mj in (math.nan, math.inf, -60_000, 10**18, "much", None):
            sample = {**to_json(good), "energy_mj": energy_mj}
            with suppress(ray.exceptions.RayError):
                ray.get(controller_handle().agent_report.remote("aa-1", {"samples": [sample]}), timeout=30)
        for energy_j in (math.nan, math.inf, -100.0, 0.0, 10.0):
            for version in (1, 2):
                report = Report("deep", version, 2 if version == 1 else None, Spent(1, energy_j), Spent(1, energy_j))
                ray.get(deployer_handle().mix.remote(report), timeout=30)
        time.sleep(max(0.0, now_s + 1 - time.time()))


def submit_jobs(client: Client, folder: Path) -> list[str]:
    """Jobs that wait for clean power, and may pause."""
    (folder / "job.yaml").write_text(
        "name: waits\nrun: sleep 5\ncarbon: {expected_duration: 5s, max_delay: 8m, suspend: {min_run: 1s}}\n"
    )
    return [client.submit(folder / "job.yaml") for _ in range(JOBS)]


def replicas(client: Client) -> set[tuple[str, int]]:
    """Application and process of each replica that has told of itself so far."""
    found = set()
    for path in (client.settings.state_dir / "served").glob("*/*.replica.json"):
        told = json.loads(path.read_text())
        found.add((str(told["app"]), int(told["pid"])))
    return found


def run(client: Client, folder: Path, times: Times, began_s: int) -> bool:
    """Do it all, and print what was counted; whether all is well."""
    base = deploy(client, folder)
    load = Load(base)
    try:
        time.sleep(5.0)
        before, load_s, jobs = replicas(client), time.time(), submit_jobs(client, folder)
        report_wrong_energy(WRONG_S)
        if time.time() > began_s + times.settle:
            took = f"{time.time() - began_s:.0f} s after the start of the cluster, not {times.settle} s"
            raise RuntimeError(f"the models were there {took}: give --settle more")
        time.sleep(max(0.0, began_s + times.ends_s[-1][1] - time.time()))
        came = {(app, pid) for app, pid in replicas(client) - before if "alone" not in app}
        replans = [client.job(job_id).replans for job_id in jobs]
    finally:
        load.stop()
    show_parts(load.outcomes, times, began_s)
    rows = [
        *request_checks(load.outcomes),
        ("replicas that came, of those that are not scaled", len(came), 0),
        *plan_checks(client, load_s, began_s + times.ends_s[-1][1]),
        (f"new plans of {JOBS} waiting jobs", sum(replans), JOBS * MAX_REPLANS),
        *log_checks(client),
    ]
    print()
    holds = True
    for what, count, bar in rows:
        if bar is None:
            print(f"        {what}: {count:.4g}")
        else:
            holds &= verdict(what, count, bar)
    return holds


def show_parts(outcomes: Sequence[Outcome], times: Times, began_s: float) -> None:
    """Requests of each part."""
    shown, since_s = [], 0.0
    for what, until_s in times.ends_s:
        sent = [one for one in outcomes if since_s <= one.sent_s - began_s < until_s]
        waits = [one.waited_s * 1000 for one in sent] or [0.0]
        other = Counter(f"{one.status} {one.why}" for one in sent if one.status != 200)
        ms = [f"{one:.0f}" for one in (quantile(waits, 0.5), quantile(waits, 0.95), max(waits))]
        shown.append([what, f"{len(sent)}", *ms, "; ".join(f"{count} x {name}" for name, count in other.items())])
        since_s = until_s
    table(["", "requests", "p50 [ms]", "p95 [ms]", "slowest [ms]", "not 200"], shown)


def request_checks(outcomes: Sequence[Outcome]) -> Iterator[Check]:
    """(what, count, bar; None: it has none) of the requests."""
    yield "requests sent", len(outcomes), None
    yield "not answered with 200", sum(one.status != 200 for one in outcomes), 0
    yield "the longest wait [s]", max(one.waited_s for one in outcomes), TIMEOUT_S


def plan_checks(client: Client, since_s: float, until_s: float) -> Iterator[Check]:
    """The same of what was decided while requests came, by the logs of decisions."""
    state_dir, length_s = client.settings.state_dir, until_s - since_s

    def kept(kind: str) -> list[Any]:
        lines = (state_dir / "decisions" / f"{kind}.jsonl").read_text().splitlines()
        return [record_from_json(json.loads(line)) for line in lines]

    def changes(values: Sequence[object]) -> int:
        return sum(one != other for one, other in pairwise(values))

    shares = [one.decision.routes.shares for one in kept("traffic") if one.now.now_s >= since_s]
    yield "changes of shares between zones", changes(shares), 1 + length_s // TrafficConfig().hold_s
    mixes = [one.decision.small_share for one in kept("mix") if one.now_s >= since_s]
    # the grid, and which of the two takes less energy, each have a hold
    yield "changes of the variant's share", changes(mixes), 2 * (1 + length_s // MIXING.hold_s)
    log = (state_dir / "scaling" / "model.alone.jsonl").read_text().splitlines()
    scaled = [ScalingRecord.from_json(json.loads(line)) for line in log]
    counts = [one.decision.replicas for one in scaled if one.load.now_s >= since_s]
    downs = sum(after < before for before, after in pairwise(counts))
    yield "replicas of the scaled model that went", downs, length_s // DOWN_HOLD_S
    nodes = kept("drain")
    yield "nodes that were emptied", sum(one.decision.node is not None for one in nodes), 0
    asked = [one for one in client.store.audit() if one.action == "drain-node"]
    yield "drains that Ray was asked for", len(asked), 1 + length_s // Consolidation().gap_s


def log_checks(client: Client) -> Iterator[Check]:
    """The same of what was written down."""
    for log in decide_again(client.settings.state_dir):
        yield f"decisions in {log.file.name}", log.decisions, None
        yield "of them, other ones when they are decided again", len(log.different), 0
        for one in log.different[:3]:
            print(f"{log.file.name}: {one.about} was {one.decided}, is {one.again}"[:600])
    check, chain = client.store.check_ledger(), client.store.verify_chain()
    yield "intervals in the ledger", check.rows, None
    yield "of them, parts that do not sum [mJ]", check.residual_mj, 0
    yield "problems of its chain", len(chain.problems), 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter parts")
    parser.add_argument("--settle", type=int, help="until the models are there [s]")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    times = Times(flapping=40, one_lost=12, all_lost=12) if args.quick else Times()
    times = replace(times, settle=args.settle) if args.settle else times
    os.environ["ECO_RAY_RECORD_EVENTS"] = "true"
    with saved_output("green_faults", save=not args.no_save), tempfile.TemporaryDirectory() as folder:
        describe_run("Models are asked at constant rates while energies and intensities are wrong, flap and are lost")
        print()
        began_s = int(time.time())
        with cluster(file=cluster_file(Path(folder), times, began_s)) as client:
            holds = run(client, Path(folder), times, began_s)
        print(f"\nload average {os.getloadavg()[0]:.1f} at the end")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
