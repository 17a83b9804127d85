"""Replicas by requests and grams on a real cluster: to none and back without a loss, more under load, and why is told.

A cluster of its own, whose nodes sleep, by the command line alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from eco_ray.cli.serving_rows import serving_rows
from eco_ray.config import load_settings
from eco_ray.core.scaling_log import replay
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.weights import save_model
from eco_ray.on_ray.local_cluster import free_port
from eco_ray.on_ray.serving.books import read_records

pytestmark = pytest.mark.timeout(400)

CLUSTER = """
name: green
home_zone: AA
head: {{num_cpus: 0}}
nodes:
  - {{name: aa-1, zone: AA, num_cpus: 1, memory_gb: 2, sleeps: true, power: {power}}}
  - {{name: bb-1, zone: BB, num_cpus: 1, memory_gb: 2, sleeps: true, power: {power}}}
grid: {{source: trace, file: {trace}}}
serve: {{port: {port}}}
"""
IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28]}


class Live:
    """The cluster, and its model."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "ECO_RAY_"))}
        self.env |= {"ECO_RAY_STATE_DIR": str(folder / "state"), "ECO_RAY_SERVE_DOWN_HOLD": "3s"}
        self.env["ECO_RAY_RECORD_EVENTS"] = "true"
        self.url = f"http://127.0.0.1:{self.port}/v2/models/mnist/infer"

    def run(self, *words: str) -> Any:
        """A command of eco-ray; what it prints, from JSON where that was asked for."""
        done = subprocess.run(
            [sys.executable, "-m", "eco_ray.cli.main", *words],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout) if "json" in words else done.stdout

    def scaling(self) -> dict[str, Any]:
        """What is told of the replicas."""
        settings = load_settings({"state_dir": self.env["ECO_RAY_STATE_DIR"]})
        return next(iter(serving_rows(settings)), {"replicas": -1, "running": -1})

    def wait(self, what: Callable[[dict[str, Any]], bool], timeout_s: float = 60.0) -> dict[str, Any]:
        """Until it is told."""
        deadline = time.monotonic() + timeout_s
        while not what(found := self.scaling()):
            assert time.monotonic() < deadline, found
            time.sleep(0.3)
        return found

    def ask(self, value: int = 0) -> tuple[int, float]:
        """One request: its status, and how long it took [s]."""
        began_s = time.monotonic()
        try:
            data = [value % 251 / 250] * 784
            answer = httpx.post(self.url, json={"inputs": [{**IMAGE, "data": data}]}, timeout=60.0)
        except httpx.HTTPError:
            return 0, time.monotonic() - began_s
        return answer.status_code, time.monotonic() - began_s

    def burst(self, count: int) -> tuple[Counter[int], float]:
        """So many requests at the same time: their statuses, and how long the last one took [s]."""
        with ThreadPoolExecutor(count) as pool:
            seen = list(pool.map(self.ask, range(count)))
        return Counter(status for status, _ in seen), max(took_s for _, took_s in seen)

    def complaints(self) -> list[str]:
        """Of the policy, and of what is in place of Serve's choice of nodes, in the logs of Serve's controller."""
        temp_dir = json.loads((self.folder / "state" / "cluster.json").read_text())["temp_dir"]
        logs = Path(temp_dir, "session_latest", "logs").glob("worker-*.err")
        told = "without grams", "where Ray Serve puts", "that Ray Serve chose", "stay as they are"
        return [line for log in logs for line in log.read_text().splitlines() if any(word in line for word in told)]

    def places(self) -> set[str]:
        """Nodes with replicas of the model."""
        return {path.parent.name for path in (self.folder / "state" / "served").glob("*/*.replica.json")}

    def records(self) -> list[Any]:
        """The log of decisions."""
        return read_records(self.folder / "state" / "scaling" / "model.mnist.jsonl")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    found = Live(tmp_path_factory.mktemp("g"))
    trace = found.folder / "trace.csv"
    hours = [f"{day}T{hour:02}:00Z,400,50" for day in _days() for hour in range(24)]
    trace.write_text("\n".join(["time,AA,BB", *hours]))
    power = "{idle_w: 50, max_w: 100, source: test}"
    file = found.folder / "cluster.yaml"
    file.write_text(CLUSTER.format(trace=trace, port=found.port, power=power))
    torch.manual_seed(0)
    save_model(SmallCNN(), found.folder / "m.safetensors", {"version": 1})
    try:
        found.run("up", "--cluster", str(file))
        found.run("model", "push", str(found.folder / "m.safetensors"), "mnist")
        found.run("model", "deploy", "mnist:1", "--min", "0", "--max", "2", "--cpus", "0.6")
        yield found
    finally:
        subprocess.run(
            [sys.executable, "-m", "eco_ray.cli.main", "down"], env=found.env, capture_output=True, timeout=60
        )


def _days() -> list[str]:
    now_s = time.time()
    return [time.strftime("%Y-%m-%d", time.gmtime(now_s + day * 86_400)) for day in range(-1, 4)]


def test_none_after_a_while_and_a_burst_wakes_it_without_a_loss(live: Live) -> None:
    assert live.ask()[0] == 200
    live.wait(lambda _: any(one.load.requests and not one.decision.replicas for one in live.records()))
    none = live.wait(lambda told: told["replicas"] == 0)
    assert "none (a cold start takes" in none["why"]
    # it has drained: until then the greener node may be full
    live.wait(lambda told: len(told["alternatives"]) == 3 and not live.places())
    (row,) = live.run("model", "deployments", "-o", "json")
    none = row["scaling"]
    assert none["cold_start"]["start_j"] > 0
    assert [one["replicas"] for one in none["alternatives"]] == [0, 1, 2]
    assert none["alternatives"][0]["grams_per_h"] == 0.0 < none["alternatives"][1]["grams_per_h"]
    seen, _ = live.burst(12)
    assert seen == {200: 12}
    assert live.places() == {"bb-1"}  # it adds fewer grams there


def test_requests_while_the_last_replica_drains_are_answered(live: Live) -> None:
    seen: Counter[int] = Counter()
    live.wait(lambda told: told["replicas"] == 0)  # decided; the replica drains now
    for number in range(40):
        seen[live.ask(number)[0]] += 1
        time.sleep(0.05)
    assert seen == {200: 40}


def test_more_under_load_also_without_the_deployer_and_why_is_told(live: Live) -> None:
    live.ask()
    stop, seen = threading.Event(), Counter[int]()

    def ask() -> None:
        with httpx.Client(timeout=60.0) as http:
            number = 0
            while not stop.is_set():
                number += 1
                data = [number % 251 / 250] * 784
                body = {"inputs": [{**IMAGE, "data": data}]}
                try:
                    seen[http.post(live.url, json=body, headers={"cache-control": "no-store"}).status_code] += 1
                except httpx.HTTPError:
                    seen[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(8)]
    os.kill(_pid_of_deployer(live), signal.SIGKILL)
    for thread in threads:
        thread.start()
    try:
        two = live.wait(lambda told: told["running"] == 2 and len(told["nodes"]) == 2)
        assert two["replicas"] == 2
        assert "requests" in two["why"]
        assert live.run("model", "show", "mnist:1", "-o", "json")["serving"]["replicas"] >= 1
        assert "replicas would add 0: 0 g/h" in live.run("model", "show", "mnist:1")
        (told,) = live.run("status", "-o", "json")["models"]
        assert told["model"] == "mnist"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(seen) == {200}, seen
    live.wait(lambda told: told["replicas"] == 0, 90.0)
    records = live.records()
    assert {one.decision.replicas for one in records} >= {0, 1, 2}
    assert replay(records) == [one.decision for one in records]
    assert not live.complaints()
    again = live.run("simulate", "--replay", str(live.folder / "state"), "-o", "json")
    assert {one["kind"] for one in again["logs"]} == {"drain", "jobs", "scaling"}
    assert again["differences"] == []


def _pid_of_deployer(live: Live) -> int:
    ours = f"ECO_RAY_STATE_DIR={live.folder / 'state'}".encode()
    lines = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    for pid, title in (line.split(maxsplit=1) for line in lines[1:]):
        if title.startswith("ray::DeployerActor") and ours in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError("no deployer")
