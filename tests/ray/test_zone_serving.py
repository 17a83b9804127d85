"""A model with replicas in three zones: requests follow the intensities, and a zone, then the deployer, are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
import torch
from live_cluster import Cluster

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.deployments import Deployment
from eco_ray.core.power import PowerCurve
from eco_ray.core.zone_routes import Routes
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.registry import Registry
from eco_ray.models.weights import save_model
from eco_ray.on_ray import local_cluster
from eco_ray.on_ray.serving_client import ServingClient
from eco_ray.sim.recorded import decide_again

pytestmark = pytest.mark.timeout(400)

INFER = "http://127.0.0.1:8000/v2/models/digits/infer"
READY = "http://127.0.0.1:8000/v2/models/digits/ready"
IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28]}


@pytest.fixture(scope="module")
def spare(cluster: Cluster) -> Iterator[list[int]]:
    """A node in EE, the cleanest zone; its processes."""
    record = cluster.client.record
    before = len(record.processes)
    node = Node("ee-1", "EE", Resources(1.0, 0.0, 2.0), PowerCurve((0, 1), (50, 100), "test"))
    local_cluster.add_node(record, node, cluster.settings.state_dir)
    pids = [pid for pid, _ in record.processes[before:]]
    yield pids
    kill(pids)


@pytest.fixture(scope="module")
def served(cluster: Cluster, spare: list[int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    file = tmp_path_factory.mktemp("zones") / "digits.safetensors"
    registry = Registry(str(cluster.settings.state_dir / "models"), by="test")
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_model(SmallCNN(), file, {"version": seed})
        registry.push(file, "digits")
    registry.promote("digits:1", "prod")
    deadline = time.monotonic() + 20
    while not any(node["name"] == "ee-1" and node["there"] for node in cluster.client.status()["nodes"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client = ServingClient(cluster.settings)
    wanted = Deployment(
        "digits", 1, "prod", registry.url, demand=Resources(0.2), per_zone=True, zones=("BB", "CC", "EE")
    )
    told = client.deploy(wanted, None)
    assert told["state"] == "running"
    assert [zone["nodes"] for zone in told["zones"]] == [["bb-1"], ["cc-1"], ["ee-1"]]
    yield cluster
    ServingClient(cluster.settings).undeploy("digits")
    _end_serving()


def _end_serving() -> None:
    import ray
    from ray import serve

    from eco_ray.on_ray.fleet import NAMESPACE
    from eco_ray.on_ray.ray_serve import DEPLOYER_NAME

    ray.kill(ray.get_actor(DEPLOYER_NAME, namespace=NAMESPACE), no_restart=True)
    serve.shutdown()


def kill(pids: list[int]) -> None:
    for pid in pids:
        if local_cluster.start_ticks(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def replica_pids(cluster: Cluster, node: str) -> list[int]:
    files = (cluster.settings.state_dir / "served" / node).glob("*.replica.json")
    return [json.loads(file.read_text())["pid"] for file in files]


def ask(http: httpx.Client) -> tuple[str, str]:
    """The zone that answered, by its header and by the footprint."""
    got = http.post(INFER, json={"inputs": [{**IMAGE, "data": [0.5] * 784}]})
    assert got.status_code == 200, got.text
    return got.headers["eco-zone"], got.headers["eco-footprint"].partition('grid-zone="')[2][:2]


def row(cluster: Cluster) -> dict:
    (told,) = ServingClient(cluster.settings).rows()
    return told


def test_requests_go_to_the_cleanest_zone_and_deployments_say_so(served: Cluster) -> None:
    with httpx.Client(timeout=120.0) as http:
        deadline = time.monotonic() + 60
        while ask(http) != ("EE", "EE"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert {ask(http) for _ in range(20)} == {("EE", "EE")}
        for path in ("/v2/models/digits/ready", "/models/digits/v1/models", "/zones/CC/v2/models/digits"):
            assert http.get(f"http://127.0.0.1:8000{path}").status_code == 200
    time.sleep(2)
    (told,) = json.loads(served.cli("model", "deployments", "-o", "json").stdout)
    assert {zone["zone"]: zone["state"] for zone in told["zones"]} == dict.fromkeys(("BB", "CC", "EE"), "running")
    assert next(one for one in told["traffic"]["origins"] if one["origin"] == "AA")["shares"]["EE"] == 1
    assert told["traffic"]["home"] == "AA"


async def load(seen: list[tuple[float, int, str]], until: asyncio.Event) -> None:
    """Ten requests a second; when each was answered, its status, and the zone."""

    async def one(http: httpx.AsyncClient) -> None:
        try:
            got = await http.post(INFER, json={"inputs": [{**IMAGE, "data": [0.5] * 784}]})
            seen.append((time.monotonic(), got.status_code, got.headers.get("eco-zone", "")))
        except httpx.HTTPError as error:
            seen.append((time.monotonic(), 0, repr(error)))

    tasks = []
    async with httpx.AsyncClient(timeout=120.0) as http:
        while not until.is_set():
            tasks.append(asyncio.create_task(one(http)))
            await asyncio.sleep(0.1)
        await asyncio.gather(*tasks)


def test_a_zone_that_dies_under_load_costs_no_request_and_shares_follow_what_is_clean(
    served: Cluster, spare: list[int]
) -> None:
    """BB is cleaner than CC for twelve seconds, and dirtier for the next twelve."""
    seen: list[tuple[float, int, str]] = []

    async def outage() -> None:
        until = asyncio.Event()
        running = asyncio.create_task(load(seen, until))
        await asyncio.sleep(2)
        kill([*spare, *replica_pids(served, "ee-1")])
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not {"BB", "CC"} <= {zone for at, _, zone in seen if at > killed_s + 8}:
            await asyncio.sleep(0.5)
        until.set()
        await running

    killed_s = time.monotonic() + 2
    asyncio.run(outage())
    assert {status for _, status, _ in seen} == {200}, [one for one in seen if one[1] != 200][:5]
    assert {zone for at, _, zone in seen if at < killed_s} == {"EE"}
    assert {zone for at, _, zone in seen if at > killed_s + 8} == {"BB", "CC"}
    zones = [zone for at, _, zone in seen if at > killed_s + 8]
    assert sum(after != before for before, after in pairwise(zones)) < 20


def router_pids(cluster: Cluster) -> list[int]:
    ours = f"ECO_RAY_STATE_DIR={cluster.settings.state_dir}".encode()
    lines = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    named = [int(line.split()[0]) for line in lines if "ray::ServeReplica:zones.digits" in line]
    return [pid for pid in named if ours in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]


def test_with_the_deployer_dead_requests_go_on_also_by_a_router_that_starts_then(served: Cluster) -> None:
    import ray

    from eco_ray.on_ray.fleet import NAMESPACE
    from eco_ray.on_ray.ray_serve import DEPLOYER_NAME

    ray.kill(ray.get_actor(DEPLOYER_NAME, namespace=NAMESPACE), no_restart=True)
    with httpx.Client(timeout=120.0) as http:
        assert {ask(http)[0] for _ in range(20)} <= {"BB", "CC"}
        (router,) = router_pids(served)
        kill([router])
        deadline = time.monotonic() + 60
        while router_pids(served) in ([], [router]) or http.get(READY).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        routes = Routes.from_json(served.client.store.get_meta("zone_traffic")["digits"]["routes"])
        shares = dict(zip(routes.zones, routes.shares[routes.origins.index("AA")], strict=True))
        assert {ask(http)[0] for _ in range(20)} == {zone for zone, share in shares.items() if share}
    again = row(served)  # by a deployer that has just begun
    assert again["traffic"]["home"] == "AA"
    assert [zone["zone"] for zone in again["zones"]] == ["BB", "CC", "EE"]


def test_all_shares_are_decided_alike_again(served: Cluster) -> None:
    logs = [one for one in decide_again(served.settings.state_dir) if one.kind == "traffic"]
    assert sum(one.decisions for one in logs) > 5
    assert [one.different for one in logs] == [()] * len(logs)
