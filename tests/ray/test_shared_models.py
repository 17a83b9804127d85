"""Three small models in one replica: each at its own address, one changed under requests, each charged by itself."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
import torch
from live_cluster import Cluster
from torch import nn

from eco_ray.core.deployments import Deployment
from eco_ray.models.registry import Registry
from eco_ray.on_ray.serving_client import ServingClient

pytestmark = pytest.mark.timeout(300)

BASE = "http://127.0.0.1:8000"
NAMES = ("ones", "twos", "threes")


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


@pytest.fixture(scope="module")
def served(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A registry with three models, `@prod` of each is served by shared replicas."""
    folder = tmp_path_factory.mktemp("shared")
    registry = Registry(str(cluster.settings.state_dir / "models"), by="test")
    for name, factor in zip((*NAMES, "twos"), (1.0, 2.0, 3.0, 20.0), strict=True):
        program = torch.export.export(Times(factor), (torch.zeros(1, 2),))
        program.example_inputs = None
        torch.export.save(program, folder / "model.pt2")
        registry.push(folder / "model.pt2", name)
    for name in NAMES:
        registry.promote(f"{name}:1", "prod")

    told = cluster.cli("model", "deploy", "ones@prod", "--shared", "-o", "json")
    client = ServingClient(cluster.settings)
    one = Deployment("ones", 1, "prod", registry=registry.url, shared=True)
    rows = [client.deploy(replace(one, model=name), None) for name in NAMES[1:]]  # as the command line does
    for row in [json.loads(told.stdout), *rows]:
        assert (row["state"], row["shared"], row["version"]) == ("running", True, 1)
    yield cluster
    for row in client.rows():
        client.undeploy(row["model"])
    _end_serving()


def _end_serving() -> None:
    import ray
    from ray import serve

    from eco_ray.on_ray.fleet import NAMESPACE
    from eco_ray.on_ray.ray_serve import DEPLOYER_NAME

    ray.kill(ray.get_actor(DEPLOYER_NAME, namespace=NAMESPACE), no_restart=True)
    serve.shutdown()


def ask(http: httpx.Client, name: str, tenant: str) -> httpx.Response:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 0.5]}]}
    headers = {"Eco-Tenant": tenant, "Cache-Control": "no-store"}
    return http.post(f"{BASE}/v2/models/{name}/infer", json=body, headers=headers)


def replicas(cluster: Cluster) -> list[dict]:
    files = (cluster.settings.state_dir / "served").glob("*/*.replica.json")
    return [told for told in map(json.loads, (file.read_text() for file in files)) if told["app"] == "shared"]


def test_one_replica_answers_all_follows_an_alias_and_is_charged_by_model(served: Cluster) -> None:
    with httpx.Client(timeout=60.0) as http:
        for name, first in zip(NAMES, (1.0, 2.0, 3.0), strict=True):
            answer = ask(http, name, "shapes")
            assert answer.status_code == 200, answer.text
            assert answer.json()["outputs"][0]["data"] == [first, first / 2]
            assert "Eco-Footprint" in answer.headers
        (before,) = replicas(served)

        seen: Counter[tuple[int, str, str]] = Counter()
        stop = threading.Event()

        def load() -> None:
            with httpx.Client(timeout=60.0) as mine:
                while not stop.is_set():
                    answer = ask(mine, "twos", "text")
                    told = answer.json()
                    seen[answer.status_code, told.get("model_version", ""), str(told.get("outputs", told))[-12:]] += 1

        asking = threading.Thread(target=load)
        asking.start()
        try:
            registry = Registry(str(served.settings.state_dir / "models"), by="test")
            registry.promote("twos:2", "prod")
            deadline = time.monotonic() + 60
            while not any(version == "2" for _, version, _ in seen) and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1.0)
        finally:
            stop.set()
            asking.join()
        assert {(status, version) for status, version, _ in seen} == {(200, "1"), (200, "2")}, seen
        (after,) = replicas(served)
        assert (after["replica"], after["pid"]) == (before["replica"], before["pid"])
        client = ServingClient(served.settings)
        assert {row["model"]: row["version"] for row in client.rows()} == {"ones": 1, "twos": 2, "threes": 1}

        # a model that nobody deployed is what it was without shared ones
        unknown = http.post(f"{BASE}/v2/models/fours/infer", json={})
        assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/problem+json")

        wanted = {("ones:1", "shapes"): 1, ("twos:1", "shapes"): 1, ("threes:1", "shapes"): 1}
        wanted |= {(f"twos:{version}", "text"): times for (_, version, _), times in seen.items()}
        request_id = ask(http, "threes", "late").headers["x-request-id"]
        wanted["threes:1", "late"] = 1
        deadline, settled = time.monotonic() + 30, {}
        while time.monotonic() < deadline and settled.get("state") != "settled":
            headers = {"Eco-Tenant": "late"}
            settled = http.get(f"{BASE}/api/v1/usage/{request_id}", headers=headers).json()
            time.sleep(0.2)
        assert (settled["state"], settled["model"]) == ("settled", "threes:1")
        assert settled["energy_joules"] > 0

        client.undeploy("ones")
        deadline = time.monotonic() + 30
        while ask(http, "ones", "last").status_code != 404:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ask(http, "twos", "text").status_code == 200

    rows = [row for row in served.client.store.owner_intervals("model") if row.part == before["replica"]]
    counted: Counter[tuple[str, str]] = Counter()
    for row in rows:
        counted[row.owner_id, row.tenant] += row.requests or 0
    assert counted["shared", ""] == 0
    assert {key: counted[key] for key in wanted} == wanted | {("twos:2", "text"): counted["twos:2", "text"]}
    energy = Counter[str]()
    for row in rows:
        energy[row.owner_id] += row.energy_mj
    assert min(energy[name] for name in ("ones:1", "twos:1", "twos:2", "threes:1", "shared")) > 0
    assert served.client.store.check_ledger().residual_mj == 0
