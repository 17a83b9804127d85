"""What the service costs on the way of a request, without Ray: its application beside a bare ASGI function.

Both run under uvicorn in a process of their own, with the same model (SmallCNN), the same parsing of the request and
the same type of answer. The bare one has no gate, no limits of time, no footprint, no metrics, no cache.

    .venv/bin/python benchmarks/serving_app.py            # about 3 min; --no-save prints only
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from common import describe_run, median, saved_output, table

PATH = "/v2/models/digits/infer"
CLIENTS = (1, 16, 64)
#: bars: requests/s and p95 against the bare function
MIN_RATE, MAX_P95 = 0.90, 1.15
VARIANTS = ("bare", "service", "service, cache misses", "service, cache hits")
DIFFERENT = 20_000


def serve(variant: str, model: str) -> None:
    """The server's process: prints its port, and runs until it is ended."""
    import socket

    import uvicorn

    from eco_ray.core.footprint import Footprint, Signal
    from eco_ray.core.units import Nature
    from eco_ray.models.digits import Digits
    from eco_ray.service.app import ModelApp
    from eco_ray.service.limits import Limits
    from eco_ray.service.v2 import parse_request, write_answer

    runtime = Digits(model, "digits", 1)
    limits = Limits() if "cache" in variant else Limits(cache_bytes=0)
    signal = Signal("DE", 300.0, "benchmark")

    def footprint(cpu_s: float, duration_s: float, batch_share: float) -> Footprint:
        joules = cpu_s * 10 * batch_share
        return Footprint(joules, joules / 100, duration_s, 10.0, signal, Nature.MODELLED)

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = parse_request(body, None, runtime, limits)
        answer = write_answer(runtime, request, runtime.infer(request.inputs), {}).body
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    app = bare if variant == "bare" else ModelApp(runtime, footprint, limits=limits)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))  # type: ignore[arg-type]
    server.run([listening])


@contextmanager
def server(variant: str, model: Path) -> Iterator[tuple[int, int]]:
    """A server's port and process."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", variant, "--model", str(model)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
    finally:
        process.terminate()
        process.wait(10)


def requests(count: int) -> list[bytes]:
    """Requests of one image each, all different, as they go over the wire."""
    images = np.random.default_rng(0).random((count, 784)).round(4)
    made = []
    for image in images:
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28], "data": image.tolist()}
        body = json.dumps({"inputs": [tensor]}).encode()
        made.append(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return made


async def load(port: int, clients: int, seconds: float, raw: Iterator[bytes]) -> tuple[int, float, float]:
    """Requests, requests/s, and the 95th percentile of latency [ms] of clients that each wait before the next."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            writer.write(next(raw))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            times.append(time.perf_counter() - began)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return len(times), len(times) / (time.perf_counter() - began), float(np.percentile(times, 95)) * 1000


def cpu_ms(pid: int) -> float:
    """CPU time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * 1000 / os.sysconf("SC_CLK_TCK")


def measure(servers: dict[str, tuple[int, int]], rounds: int, seconds: float) -> bool:
    """The table; whether the bars hold."""
    different, same = cycle(requests(DIFFERENT)), cycle(requests(1))
    holds = True
    rows = []
    for clients in CLIENTS:
        found: dict[str, list[tuple[float, ...]]] = {variant: [] for variant in VARIANTS}
        for number in range(-1, rounds):  # the first one warms up
            for variant in VARIANTS if number % 2 else reversed(VARIANTS):
                port, pid = servers[variant]
                before_ms = cpu_ms(pid)
                count, rate, p95 = asyncio.run(load(port, clients, seconds, same if "hits" in variant else different))
                if number >= 0:
                    found[variant].append((rate, p95, (cpu_ms(pid) - before_ms) / count))
        for variant in VARIANTS:
            rate, p95, cpu = (median(column) for column in zip(*found[variant], strict=True))
            # of a round each, as other work on the machine comes and goes
            pairs = [
                [a / b for a, b in zip(*two, strict=True)] for two in zip(found[variant], found["bare"], strict=True)
            ]
            ratios = [median(column) for column in zip(*pairs, strict=True)]
            judged = variant in ("service", "service, cache misses")
            ok = not judged or (ratios[0] >= MIN_RATE and ratios[1] <= MAX_P95)
            holds &= ok
            words = ("ok" if ok else "MISSED") if judged else ""
            cells = [f"{rate:.0f}", f"{p95:.2f}", f"{cpu:.2f}", *(f"{ratio:.2f}" for ratio in ratios), words]
            rows.append([f"{clients:<3}{variant}", *cells])
    print()
    table(["clients, what", "requests/s", "p95 [ms]", "CPU [ms]", "rate/bare", "p95/bare", "CPU/bare", "bar"], rows)
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.model)
        return 0
    from eco_ray.models.cnn import SmallCNN
    from eco_ray.models.weights import save_model

    with (
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as stack,
        saved_output("serving_app", save=not args.no_save),
    ):
        describe_run("The service's application beside a bare ASGI function, under uvicorn")
        model = Path(folder) / "m.safetensors"
        save_model(SmallCNN(), model, {})
        servers = {variant: stack.enter_context(server(variant, model)) for variant in VARIANTS}
        holds = measure(servers, args.rounds, args.seconds)
        print(f"\nbars: at least {MIN_RATE} of the bare function's requests/s, p95 at most {MAX_P95} times its p95")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
