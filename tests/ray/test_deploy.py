"""Models deployed by the command line on the shared cluster: versions change under load, and fail, without a loss."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from live_cluster import Cluster
from torch import nn

from eco_ray.models.cnn import SmallCNN
from eco_ray.models.weights import save_model
from eco_ray.sim.recorded import decide_again

pytestmark = pytest.mark.timeout(300)

BASE = "http://127.0.0.1:8000"
INFER = f"{BASE}/v2/models/mnist/infer"
IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28]}


class Breaks(nn.Module):
    """As the CNN looks, and cannot answer zeros."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.log(image.sum(dim=(1, 2)) - 1)[:, None].repeat(1, 10)


class Deep(nn.Module):
    """Looks at its picture in a size; in a small one it is a smaller variant."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.look, self.say, self.pixels = nn.Conv2d(1, 32, 5), nn.Linear(32, 10), pixels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grown = nn.functional.interpolate(x.reshape(1, 1, 16, 16), size=(self.pixels, self.pixels))
        return self.say(self.look(grown).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def served(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A registry with three versions of `mnist`, and a model that fails its smoke request."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        save_model(SmallCNN(), folder / f"{seed}.safetensors", {"version": seed})
        cluster.cli("model", "push", str(folder / f"{seed}.safetensors"), "mnist")
    broken = torch.export.export(Breaks(), (torch.zeros(1, 28, 28),))
    broken.example_inputs = None
    torch.export.save(broken, folder / "broken.pt2")
    cluster.cli("model", "push", str(folder / "broken.pt2"), "broken")
    cluster.cli("model", "promote", "mnist:1", "prod")
    yield cluster
    _end_serving()


def _end_serving() -> None:
    import ray
    from ray import serve

    from eco_ray.on_ray.fleet import NAMESPACE
    from eco_ray.on_ray.ray_serve import DEPLOYER_NAME

    ray.kill(ray.get_actor(DEPLOYER_NAME, namespace=NAMESPACE), no_restart=True)
    serve.shutdown()


class Load:
    """Requests at a rate while something else is done; what each came to."""

    def __init__(self, per_s: float = 20.0) -> None:
        self.seen: Counter[tuple[int, str]] = Counter()
        self._period_s, self._stop = 1 / per_s, asyncio.Event()

    async def _ask(self, http: httpx.AsyncClient, number: int) -> None:
        data = [(number % 251) / 250] * 784
        try:
            answer = await http.post(INFER, json={"inputs": [{**IMAGE, "data": data}]})
            told = answer.json()
            self.seen[answer.status_code, told.get("model_version") or told.get("title", "")] += 1
        except httpx.HTTPError as error:
            self.seen[0, repr(error)] += 1

    async def _run(self) -> None:
        tasks = []
        async with httpx.AsyncClient(timeout=60.0) as http:
            while not self._stop.is_set():
                tasks.append(asyncio.create_task(self._ask(http, len(tasks))))
                await asyncio.sleep(self._period_s)
            await asyncio.gather(*tasks)

    async def while_doing(self, work) -> None:
        running = asyncio.create_task(self._run())
        await asyncio.to_thread(work)
        self._stop.set()
        await running


def load_while(work) -> Counter[tuple[int, str]]:
    load = Load()
    asyncio.run(load.while_doing(work))
    return load.seen


def wait_for_version(version: str, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if httpx.get(f"{BASE}/v2/models/mnist", timeout=timeout_s).json()["versions"] == [version]:
            return
        time.sleep(0.2)
    raise AssertionError(f"version {version} did not come")


def replicas(cluster: Cluster) -> list[dict]:
    """What the replicas of all nodes tell of themselves, those that have ended too until an agent has seen it."""
    files = (cluster.settings.state_dir / "served").glob("*/*.replica.json")
    return [json.loads(path.read_text()) for path in files]


def deployments(cluster: Cluster) -> list[dict]:
    return json.loads(cluster.cli("model", "deployments", "-o", "json").stdout)


def test_one_command_serves_a_model_where_it_is_cleanest(served: Cluster) -> None:
    told = served.cli("model", "deploy", "mnist@prod", "--cpus", "0.2", "--routing", "round-robin", "-o", "json")
    row = json.loads(told.stdout)
    assert (row["model"], row["version"], row["follows"], row["state"]) == ("mnist", 1, "prod", "running")
    answer = httpx.post(INFER, json={"inputs": [{**IMAGE, "data": [0.5] * 784}]})
    assert answer.status_code == 200
    assert answer.json()["model_version"] == "1"
    assert "Eco-Footprint" in answer.headers
    replicas = [path.parent.name for path in (served.settings.state_dir / "served").glob("*/*.replica.json")]
    assert row["nodes"][0] in replicas
    assert httpx.get(f"{BASE}/models/mnist/v1/models").json()["data"][0]["id"] == "mnist"


def test_a_version_that_fails_its_smoke_request_gets_no_traffic(served: Cluster) -> None:
    done = served.cli("model", "deploy", "broken:1", check=None)
    assert done.returncode == 1
    assert "failed its smoke request" in done.stderr
    assert httpx.get(f"{BASE}/v2/models/broken").status_code in (404, 503)
    assert [row["model"] for row in deployments(served)] == ["mnist"]


def test_tritons_client_runs_against_it(served: Cluster) -> None:
    import numpy as np
    from tritonclient import http as triton

    client = triton.InferenceServerClient("127.0.0.1:8000")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mnist")
    assert client.get_server_metadata()["name"] == "eco_ray"
    image = triton.InferInput("image", [2, 28, 28], "FP32")
    image.set_data_from_numpy(np.full((2, 28, 28), 0.5, np.float32), binary_data=True)
    answer = client.infer("mnist", [image], outputs=[triton.InferRequestedOutput("probabilities", binary_data=True)])
    assert answer.as_numpy("probabilities").shape == (2, 10)
    assert "eco_energy_joules_total" in httpx.get(f"{BASE}/v2/models/mnist/metrics").text


def test_one_address_knows_all_models(served: Cluster) -> None:
    assert [one["id"] for one in httpx.get(f"{BASE}/v1/models").json()["data"]] == ["mnist"]
    assert httpx.get(f"{BASE}/readyz").status_code == 200
    asked = httpx.post(f"{BASE}/v1/embeddings", json={"model": "mnist", "input": "x"})
    assert asked.status_code == 404  # the CNN has no embeddings, and says so itself
    assert "Eco-Footprint" in asked.headers
    unknown = httpx.post(f"{BASE}/v1/embeddings", json={"model": "none", "input": "x"})
    assert unknown.status_code == 404
    for of_the_router in (unknown, httpx.get(f"{BASE}/v1/models"), httpx.get(f"{BASE}/api/v1/usage/none")):
        assert of_the_router.headers["Eco-Footprint"].startswith("energy-j=")


def test_what_a_request_cost_is_settled_by_the_ledger_and_told_to_its_tenant(served: Cluster) -> None:
    headers = {"Eco-Tenant": "sight", "Cache-Control": "no-store"}
    body = {"inputs": [{**IMAGE, "data": [0.5] * 784}]}
    ids = [httpx.post(INFER, json=body, headers=headers).headers.get_list("x-request-id") for _ in range(5)]
    assert [len(told) for told in ids] == [1] * 5
    url = f"{BASE}/api/v1/usage/{ids[0][0]}"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        told = httpx.get(url, headers={"Eco-Tenant": "sight"})
        if told.status_code == 200 and told.json()["state"] == "settled":
            break
        time.sleep(0.5)
    usage = told.json()
    assert (usage["state"], usage["model"], usage["grid_zone"]) == ("settled", "mnist:1", row_zone(served))
    assert usage["energy_joules"] > 0
    assert httpx.get(url, headers={"Eco-Tenant": "health"}).status_code == 404
    assert httpx.get(url).status_code == 404
    kept = [httpx.post(INFER, json=body, headers={"Eco-Tenant": "sound"}) for _ in range(3)]
    assert [answer.headers["eco-cache"] for answer in kept] == ["miss", "hit", "hit"]  # avoided: in the last test


def row_zone(cluster: Cluster) -> str:
    node = deployments(cluster)[0]["places"][0]["node"]
    return node.partition("-")[0].upper()


def raw(request: bytes, timeout_s: float = 20.0) -> bytes:
    """What comes back on a connection until it is closed, or nothing comes for a second after something has."""
    with socket.create_connection(("127.0.0.1", 8000), timeout=timeout_s) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
                connection.settimeout(1.0)
        except TimeoutError:
            pass
        return answer


POST = b"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\n"
HOSTILE = [
    b"GET /v2/models/mnist/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v2/models/%2e%2e%2fmnist HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /models/mnist%0d%0aX-A:1/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /models/" + b"m" * 9000 + b"/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"X-Bad\x00: 1\r\nContent-Length: 2\r\n\r\n{}",
    POST + b"Content-Length: 2\r\n\r\n\xff\xfe",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
]


@pytest.mark.parametrize("request_", HOSTILE)
def test_hostile_requests_are_refused_and_hurt_nobody(served: Cluster, request_: bytes) -> None:
    answer = raw(request_)
    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
    assert status == 0 or 400 <= status < 500, answer[:300]
    assert b"Traceback" not in answer
    assert httpx.get(f"{BASE}/v2/models/mnist/ready").status_code == 200


def test_a_head_and_a_body_that_do_not_end_are_cut_off(served: Cluster) -> None:
    began = time.monotonic()
    halves = POST + b"X-Slow: ", POST + b"Content-Length: 100\r\n\r\n{"
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(raw, halves))
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers), answers
    assert time.monotonic() - began < 18


def test_a_canary_gets_its_share_and_its_end_is_no_loss(served: Cluster) -> None:
    row = json.loads(served.cli("model", "deploy", "mnist:2", "--canary", "30", "-o", "json").stdout)
    assert (row["version"], row["canary"], row["canary_percent"]) == (1, 2, 30)
    seen = load_while(lambda: time.sleep(5.0))
    assert set(seen) == {(200, "1"), (200, "2")}, seen
    assert 0.1 < seen[200, "2"] / sum(seen.values()) < 0.5

    def kill() -> None:
        canaries = [told["pid"] for told in replicas(served) if told["app"].startswith("canary")]
        for pid in canaries:
            os.kill(pid, signal.SIGKILL)
        assert canaries
        time.sleep(2.0)

    seen = load_while(kill)
    assert set(seen) >= {(200, "1")}, seen
    assert {status for status, _ in seen} == {200}, seen


def test_versions_change_under_load_and_no_request_is_lost(served: Cluster) -> None:
    def change() -> None:
        served.cli("model", "promote", "mnist:2", "prod")  # ends the canary
        wait_for_version("2")
        time.sleep(2.0)
        served.cli("model", "rollback", "mnist@prod")
        wait_for_version("1")
        time.sleep(1.0)

    seen = load_while(change)
    assert set(seen) == {(200, "1"), (200, "2")}, seen
    assert min(seen.values()) > 10
    assert deployments(served)[0]["canary"] is None
    rows = served.client.store.owner_intervals("model", "mnist:2")
    assert sum(row.requests or 0 for row in rows) > 10


class DeepClient:
    """Asks `deep` with one connection."""

    def __init__(self) -> None:
        self.http = httpx.Client(timeout=60.0, headers={"Cache-Control": "no-store"})

    def ask(self, path: str = "infer", **headers: str) -> httpx.Response:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 256], "data": [0.5] * 256}]}
        answer = self.http.post(f"{BASE}/v2/models/deep/{path}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["eco-model-version"] == answer.json()["model_version"]
        return answer

    def asked_by(self, count: int) -> list[str]:
        """Who answers so many requests."""
        return [self.ask().headers["eco-variant"] for _ in range(count)]

    def wait_for(self, wanted: bool) -> None:
        """Until a request is answered by the small one, or twelve in a row are not."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            small = "small" in self.asked_by(12)
            if small == wanted:
                return
        raise AssertionError(f"the small one did {'not ' if wanted else ''}answer")


def test_a_smaller_variant_answers_its_share_while_the_grid_is_dirty(served: Cluster, tmp_path: Path) -> None:
    for version, pixels, accuracy in ((1, 224, 0.98), (2, 16, 0.94)):
        made = torch.export.export(Deep(pixels), (torch.zeros(1, 256),))
        made.example_inputs = None
        torch.export.save(made, tmp_path / f"{version}.pt2")
        served.cli("model", "push", str(tmp_path / f"{version}.pt2"), "deep", "--metric", f"accuracy={accuracy}")
    told = "--variant", "2", "--variant-share", "30", "--accuracy-floor", "0.97", "--dirty-above", "250"
    served.cli("model", "deploy", "deep:1", "--zone", "AA", "--cpus", "0.2", *told)  # 300 g/kWh, always
    client = DeepClient()
    client.wait_for(True)
    by = client.asked_by(40)
    for asked in range(1, len(by) + 1):  # (0.98 - 0.97) / (0.98 - 0.94); it counts since before the first
        assert by[:asked].count("small") <= 0.25 * asked + 1
    assert 9 <= by.count("small") <= 10
    assert {client.ask(**{"Eco-Variant": "none"}).json()["model_version"] for _ in range(8)} == {"1"}
    assert client.ask("versions/2/infer").json()["model_version"] == "2"
    (row,) = (row for row in deployments(served) if row["model"] == "deep")
    variant = row["variant"]
    assert (variant["version"], variant["percent"], variant["allowed_percent"]) == (2, pytest.approx(25), 30)
    assert variant["accuracy"] == pytest.approx(0.97)
    assert "300 g/kWh (dirty" in variant["why"]
    small = [told["pid"] for told in replicas(served) if told["app"] == "variant.deep"]
    assert small
    for pid in small:
        os.kill(pid, signal.SIGKILL)
    assert "large" in client.asked_by(40)  # what the small one does not answer, the large one does
    mixes = [one for one in decide_again(served.settings.state_dir) if one.kind == "mix"]
    assert [(one.decisions > 0, one.different) for one in mixes] == [(True, ())]
    served.cli("model", "deploy", "deep:1", "--dirty-above", "350")
    client.wait_for(False)
    assert set(client.asked_by(20)) == {"large"}
    rows = served.client.store.owner_intervals("model", "deep:2")
    assert sum(row.requests or 0 for row in rows) >= 10  # charged to the version that answered
    served.cli("model", "undeploy", "deep")


def test_serving_goes_on_with_deployer_and_controller_dead(served: Cluster) -> None:
    import ray

    from eco_ray.on_ray.fleet import CONTROLLER_NAME, NAMESPACE
    from eco_ray.on_ray.ray_serve import DEPLOYER_NAME

    def kill() -> None:
        for name in (CONTROLLER_NAME, DEPLOYER_NAME):
            pid = ray.get(ray.get_actor(name, namespace=NAMESPACE).__ray_call__.remote(lambda self: os.getpid()))
            os.kill(pid, signal.SIGKILL)
        time.sleep(4.0)

    seen = load_while(kill)
    assert set(seen) == {(200, "1")}, seen
    assert deployments(served)[0]["version"] == 1  # they are back


def test_a_replica_that_is_killed_loses_no_request_that_it_had_not_answered(served: Cluster) -> None:
    served.cli("model", "deploy", "mnist@prod", "--min", "2", "--batch-wait", "2ms")

    def both() -> list[dict]:
        found = [told for told in replicas(served) if Path(f"/proc/{told['pid']}").exists()]
        return sorted(found, key=lambda told: told["start_ticks"])[-2:]

    def answered() -> list[int]:
        time.sleep(1.0)  # they write their counts ten times a second
        return [sum(requests for requests, *_ in told["counts"].values()) for told in both()]

    before = answered()
    body = {"inputs": [{**IMAGE, "data": [0.25] * 784}]}
    with httpx.Client() as http:
        for _ in range(20):
            assert http.post(INFER, json=body, headers={"Cache-Control": "no-store"}).status_code == 200
    in_turn = [after - old for after, old in zip(answered(), before, strict=True)]
    assert in_turn == [10, 10]  # --routing round-robin

    def kill() -> None:
        time.sleep(1.0)
        os.kill(both()[-1]["pid"], signal.SIGKILL)
        time.sleep(5.0)

    seen = load_while(kill)
    assert sum(seen.values()) > 100
    assert set(seen) == {(200, "1")}, seen  # what was under way went to the other one


def test_keys_are_asked_for_where_they_are_required(served: Cluster) -> None:
    import ray

    from eco_ray.on_ray.fleet import NAMESPACE
    from eco_ray.on_ray.ray_serve import DEPLOYER_NAME

    made = json.loads(served.cli("key", "create", "--tenant", "sight", "--scope", "infer", "-o", "json").stdout)
    ray.kill(ray.get_actor(DEPLOYER_NAME, namespace=NAMESPACE), no_restart=True)
    served.cli("model", "deploy", "mnist@prod", "--min", "0", "--max", "2", ECO_RAY_SERVE_KEYS="required")
    body = {"inputs": [{**IMAGE, "data": [0.5] * 784}]}
    refused = httpx.post(INFER, json=body)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="eco_ray"')
    assert httpx.get(f"{BASE}/v1/models").status_code == 401
    key = {"Authorization": f"Bearer {made['key']}"}
    assert httpx.post(INFER, json=body, headers=key).status_code == 200
    assert httpx.get(f"{BASE}/v1/models", headers=key).status_code == 200
    assert httpx.post(INFER, json=body, headers={**key, "Eco-Tenant": "health"}).status_code == 403
    served.cli("key", "revoke", made["id"])
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and httpx.post(INFER, json=body, headers=key).status_code == 200:
        time.sleep(0.2)
    assert httpx.post(INFER, json=body, headers=key).status_code == 401
    audit = json.loads(served.cli("key", "audit", "-o", "json").stdout)
    assert {"deploy-model", "refuse-key"} <= {row["action"] for row in audit}
    assert made["key"].split("_")[2] not in json.dumps(audit)


def test_what_is_undeployed_is_not_there(served: Cluster) -> None:
    served.cli("model", "undeploy", "mnist")
    assert deployments(served) == []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and httpx.get(f"{BASE}/v2/models/mnist").status_code == 200:
        time.sleep(0.2)
    assert httpx.get(f"{BASE}/v2/models/mnist").status_code in (404, 503)
    rows = served.client.store.owner_intervals("model", "mnist:1")
    assert sum(row.requests or 0 for row in rows) > 100
    avoided = {row["tenant"]: row for row in json.loads(served.cli("ledger", "avoided", "-o", "json").stdout)}
    assert avoided["sound"]["hits"] == 2
    assert avoided["sound"]["energy_j"] > 0
    assert served.client.store.check_ledger().residual_mj == 0
