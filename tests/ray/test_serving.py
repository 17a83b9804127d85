"""A model behind HTTP on the shared cluster: right answers, footprints, errors, and its energy in the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from live_cluster import SPEED, Cluster

from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.weights import save_model
from eco_ray.on_ray import at_once
from eco_ray.on_ray.local_cluster import free_port
from eco_ray.on_ray.serve_config import ServingConfig
from eco_ray.report import check_report, write_report

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def url(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    save_model(SmallCNN(), path, {"version": 3, "accuracy": 0.1})
    demand = Resources(0.25)
    served = Deployment("digits", 3, path=str(path), min_replicas=2, max_replicas=2, demand=demand, nodes=("cc-1",))
    settings = cluster.client.settings
    yield at_once.deploy(served, ServingConfig("127.0.0.1", free_port(), settings.state_dir, settings.store_url))
    at_once.shutdown()


def request(count: int = 1) -> dict:
    image = torch.rand(count, 28, 28).flatten().tolist()
    return {"id": "r1", "inputs": [{"name": "image", "datatype": "FP32", "shape": [count, 28, 28], "data": image}]}


def test_an_answer_carries_labels_and_its_footprint(url: str) -> None:
    httpx.post(url, json=request()).raise_for_status()
    time.sleep(1.5)  # the replica has asked for the intensity of its zone by now
    answer = httpx.post(url, json=request(3))
    assert answer.status_code == 200
    content = answer.json()
    assert (content["model_name"], content["model_version"], content["id"]) == ("digits", "3", "r1")
    assert len(content["outputs"][0]["data"]) == 3
    footprint = content["parameters"]["footprint"]
    assert footprint["energy_joules"] > 0
    assert footprint["grid_zone"] == "CC"
    assert footprint["intensity_gco2e_per_kwh"] == 200.0
    assert footprint["carbon_g_co2eq"] == pytest.approx(footprint["energy_kwh"] * 200.0, rel=0.02)
    assert (footprint["nature"], footprint["boundary"]) == ("modelled", "operational")
    header = answer.headers["Eco-Footprint"]
    assert 'grid-zone="CC", nature=modelled, boundary=operational' in header
    assert "intensity=200" in header


def test_errors_are_problems_with_value_and_cure(url: str) -> None:
    wrong = httpx.post(url, json={"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 5], "data": [0]}]})
    assert wrong.status_code == 400
    assert wrong.headers["content-type"] == "application/problem+json"
    assert "[1, 5]" in wrong.json()["detail"]
    assert httpx.post(url.replace("digits", "other"), json=request()).status_code == 404
    assert httpx.get(url.replace("infer", "ready")).json() == {"name": "digits", "ready": True}


def test_the_replicas_energy_is_charged_to_the_model(cluster: Cluster, url: str) -> None:
    with httpx.Client() as http:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            http.post(url, json=request(64)).raise_for_status()
    time.sleep(2.0)
    rows = cluster.client.store.owner_intervals("model", "digits:3")
    assert {row.node for row in rows} == {"cc-1"}
    assert sum(row.energy_mj for row in rows) > 50_000 * 0.5 * SPEED
    assert cluster.client.store.check_ledger().residual_mj == 0


def test_tenants_are_charged_for_their_requests_and_sum_to_the_model(
    cluster: Cluster, url: str, tmp_path: Path
) -> None:
    asked = {"vision": 30, "health": 10}
    with httpx.Client() as http:
        for tenant, count in asked.items():
            for _ in range(count):
                http.post(url, json=request(8), headers={"Eco-Tenant": tenant}).raise_for_status()
        assert http.post(url, json=request(), headers={"Eco-Tenant": "a b"}).status_code == 400
    store = cluster.client.store
    deadline = time.monotonic() + 15
    found: dict[str, int] = {}
    while time.monotonic() < deadline and not asked.items() <= found.items():
        time.sleep(0.5)
        rows = store.owner_intervals("model", "digits:3")
        found = {tenant: sum(row.requests or 0 for row in rows if row.tenant == tenant) for tenant in asked}
    assert found == asked
    by_replica = {row.part for row in rows if row.part}
    assert len(by_replica) == 2
    reserved = [row for row in rows if row.part and row.requests == 0]
    assert sum(row.energy_mj for row in reserved) > 0  # it waited, and holds a quarter of 50 W
    assert {row.items for row in rows if row.tenant == "health"} <= {8 * n for n in range(1, 11)}
    document = write_report(store, tmp_path, max(row.end_s for row in rows))
    assert check_report(document) == []
    (model,) = [row for row in document["models"] if row["id"] == "digits:3"]
    tenants = {row["tenant"]: row for row in model["tenants"]}
    assert {tenant: tenants[tenant]["requests"] for tenant in asked} == asked
    parts_j = [row["energy_j"] for row in model["tenants"]] + [model["waiting_j"], model["unreported_j"]]
    assert sum(round(part * 1000) for part in parts_j) == round(model["energy_j"] * 1000)
    assert tenants["vision"]["energy_j"] > tenants["health"]["energy_j"] > 0
    told = json.loads(cluster.cli("ledger", "query", "--by", "tenant", "-o", "json").stdout)
    assert {row["tenant"]: row["requests"] for row in told if row["tenant"] in asked} == asked
    assert store.verify_chain().ok
    assert store.check_ledger().residual_mj == 0


def test_the_port_is_open_on_loopback_only(url: str) -> None:
    port = httpx.URL(url).port
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening
    assert {address.rpartition(":")[0] for address in listening} <= {"0100007F"}
