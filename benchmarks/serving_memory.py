"""Whether memory stays flat while two models are asked in every way: well, badly, for streams, by who leaves midway.

    .venv/bin/python benchmarks/serving_memory.py [--minutes 30] [--no-save]

A classifier and a small language model are deployed on a cluster of this machine, behind its HAProxy. Requests come at
fixed rates, whatever became of those before: good ones, ones that must be refused, streams through the common `/v1` and
on the model's own route, and connections that are cut: before the request is whole, or in the middle of a stream. Every
ten seconds the resident memory of HAProxy, of the replicas and of the router is read. What is compared is the median of
the first five minutes, after a minute to warm up, and that of the last five.

Of the node agents the memory is shown and has no bar: they know each request of the last day (docs/serving.md).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common import ROOT, cluster, describe_run, median, processes, saved_output, table
from constant_load import ConstantLoad

from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment
from eco_ray.on_ray.client import Client

SAMPLE_S, WARM_S, WINDOW_S = 10.0, 60.0, 300.0
#: the last window may have so much more than the first one: a share of it, or so many bytes, whichever is more
GROWTH, GROWTH_BYTES = 0.05, 10_000_000
#: of each kind [1/s]
RATES_PER_S = {"good": 12.0, "bad": 8.0, "stream": 3.0, "cut": 6.0}
#: inputs that come again, and are in the cache of answers
INPUTS = 200
CLASSIFIER, CHAT = "digits", "parrot"
#: titles of processes, as Ray gives them; the last one has no bar
GROUPS = {
    f"replica of {CLASSIFIER}": f"ray::ServeReplica:model.{CLASSIFIER}:",
    f"replica of {CHAT}": f"ray::ServeReplica:model.{CHAT}:",
    "router": "ray::ServeReplica:router:",
    "node agents": "ray::AgentActor",
}
HAPROXY, UNBOUNDED = "HAProxy", "node agents"
PAGE_BYTES = resource.getpagesize()
BOMB = gzip.compress(b" " * (32 << 20))


class Load(ConstantLoad):
    """Requests of all kinds."""

    def __init__(self, base: str) -> None:
        super().__init__()
        #: kind, and status or what went wrong
        self.seen: Counter[tuple[str, str]] = Counter()
        self._base = base
        self._host, self._port = urlsplit(base).hostname, urlsplit(base).port
        self.begin()

    async def ask_all(self, http: Any) -> None:
        """All kinds."""
        kinds: Mapping[str, Callable[[int], Awaitable[str]]] = {
            "good": lambda number: self._good(http, number),
            "bad": lambda number: self._bad(http, number),
            "stream": lambda number: self._stream(http, number),
            "cut": self._cut,
        }
        await asyncio.gather(
            *(self.at_rate(RATES_PER_S[kind], partial(self._one, kind, ask)) for kind, ask in kinds.items())
        )

    async def _one(self, kind: str, ask: Callable[[int], Awaitable[str]], number: int) -> None:
        try:
            found = await ask(number)
        except Exception as error:  # whatever it was, nobody answered
            found = type(error).__name__
        self.seen[kind, found] += 1

    async def _good(self, http: object, number: int) -> str:
        """Half of them are new each time, and not kept."""
        new = number % 2 == 0
        headers = {"Cache-Control": "no-store"} if new else {}
        data = [(number if new else number % INPUTS) % 251] * 783 + [number % 256 if new else 0]
        return await self._post(http, f"/v2/models/{CLASSIFIER}/infer", _tensor(data), headers)

    async def _bad(self, http: object, number: int) -> str:
        """Each is to be refused, in its own way: `ok` where it was."""
        infer, chat = f"/v2/models/{CLASSIFIER}/infer", "/v1/chat/completions"
        image = _tensor([0] * 784)
        requests: list[tuple[str, bytes, Mapping[str, str], int]] = [
            (infer, image[:-1], {}, 400),
            (infer, _tensor([0] * 783), {}, 400),
            (infer, image.replace(b"UINT8", b"INT4"), {}, 400),
            (infer, b"\xff" * 1000, {}, 400),
            (infer, BOMB, {"Content-Encoding": "gzip"}, 413),
            (infer, image, {"Content-Encoding": f"x-{number}"}, 415),
            (f"/v2/models/nobody-{number}/infer", image, {}, 404),
            (infer, image, {"Eco-Tenant": f"../{number}"}, 400),
            (chat, b"{}", {}, 400),
            (chat, json.dumps({"model": f"nobody-{number}", "messages": []}).encode(), {}, 404),
            (chat, json.dumps({"model": CHAT, "messages": [], f"field-{number}": 1}).encode(), {}, 400),
            (f"/api/v1/usage/{number}", b"", {}, 405),
        ]
        path, body, headers, wanted = requests[number % len(requests)]
        status = await self._post(http, path, body, headers)
        return "ok" if status == str(wanted) else f"{status} and not {wanted}: {path.partition('-')[0]}"

    async def _post(self, http: object, path: str, body: bytes, headers: Mapping[str, str]) -> str:
        async with http.post(self._base + path, data=body, headers=dict(headers)) as answer:  # type: ignore[attr-defined]
            await answer.read()
            return str(answer.status)

    async def _stream(self, http: object, number: int) -> str:
        path = "/v1/chat/completions" if number % 2 else f"/models/{CHAT}/v1/chat/completions"
        async with http.post(self._base + path, data=_chat(f"number {number}")) as answer:  # type: ignore[attr-defined]
            whole = await answer.read()
            if answer.status == 200 and not whole.endswith(b"data: [DONE]\n\n"):
                return "cut off"
            return str(answer.status)

    async def _cut(self, number: int) -> str:
        """A connection that its client closes: idle, in the head, in the body, in a stream."""
        body = _chat(f"cut {number}")
        path = "/v1/chat/completions" if number % 2 else f"/models/{CHAT}/v1/chat/completions"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        sent = (b"", head[:30], head + body[:20], head + body)[number % 4]
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(sent)
        await writer.drain()
        if sent.endswith(body):
            await asyncio.wait_for(reader.read(100), 60.0)
        else:
            await asyncio.sleep(0.2)
        writer.transport.abort()
        return "ok"


def _tensor(data: list[int]) -> bytes:
    image = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28], "data": data}
    return json.dumps({"inputs": [image]}).encode()


def _chat(text: str) -> bytes:
    asked = {"model": CHAT, "messages": [{"role": "user", "content": text}], "max_tokens": 24, "stream": True}
    return json.dumps(asked).encode()


class Memory:
    """Resident memory, sampled in a thread."""

    def __init__(self, client: Client) -> None:
        #: group -> (seconds since the start, bytes of its processes)
        self.samples: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self.seen: dict[str, set[int]] = defaultdict(set)
        self._client = client
        self._stopped = threading.Event()
        self._began_s = time.monotonic()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            at_s = time.monotonic() - self._began_s
            for group, pids in self._groups().items():
                self.samples[group].append((at_s, sum(map(_rss_bytes, pids))))
                self.seen[group].update(pids)

    def _groups(self) -> dict[str, list[int]]:
        found = {group: processes(self._client, title) for group, title in GROUPS.items()}
        proxies = [pid for pid in processes(self._client, "") if _program(pid) == "haproxy"]
        return {HAPROXY: proxies, **found}


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:  # it ended meanwhile
        return 0


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def grown(samples: list[tuple[float, int]], minutes: float) -> tuple[float, float, float]:
    """Median of the first window and of the last [bytes], and the slope of all by least squares [bytes/h].

    A run that is shorter than two windows and the time to warm up is cut in three.
    """
    end_s = minutes * 60
    warm_s, window_s = min(WARM_S, end_s / 6), min(WINDOW_S, end_s / 3)
    warm = [(at_s, size) for at_s, size in samples if at_s >= warm_s]
    if len(warm) < 3:
        raise RuntimeError(f"{len(warm)} samples of a process group that has to be there; is it?")
    first = median([size for at_s, size in warm if at_s < warm_s + window_s] or [warm[0][1]])
    last = median([size for at_s, size in warm if at_s >= end_s - window_s] or [warm[-1][1]])
    mean_s, mean = (sum(column) / len(warm) for column in zip(*warm, strict=True))
    spread = sum((at_s - mean_s) ** 2 for at_s, _ in warm)
    slope = sum((at_s - mean_s) * (size - mean) for at_s, size in warm) / spread
    return first, last, slope * 3600


def run(client: Client, folder: Path, minutes: float) -> bool:
    """Do it all, and print what was seen; whether memory is flat and every answer as it should be."""
    from eco_ray.on_ray.serving_client import ServingClient

    serving = ServingClient(client.settings)
    for name, path in ((CLASSIFIER, classifier(folder)), (CHAT, chat(folder))):
        row = serving.deploy(Deployment(name, 1, path=str(path), demand=Resources(0.5)), None)
    base = row["url"].partition("/v2/")[0]
    load, memory = Load(base), Memory(client)
    try:
        time.sleep(minutes * 60)
    finally:
        load.stop()
        memory.stop()
    return all([_show_memory(memory, minutes), _show_answers(load)])


def _show_memory(memory: Memory, minutes: float) -> bool:
    rows, flat = [], True
    for group, samples in memory.samples.items():
        first, last, slope = grown(samples, minutes)
        bar = first + max(GROWTH * first, GROWTH_BYTES)
        holds = last <= bar or group == UNBOUNDED
        flat &= holds
        told = [f"{value / 1e6:.1f}" for value in (first, last, last - first, slope)]
        judged = ["", ""] if group == UNBOUNDED else [f"<= {bar / 1e6:.1f}", "ok" if holds else "MISSED"]
        rows.append([group, f"{len(memory.seen[group])}", *told, *judged])
    table(["", "processes", "first [MB]", "last [MB]", "more [MB]", "slope [MB/h]", "bar for the last", ""], rows)
    return flat


def _show_answers(load: Load) -> bool:
    right = {"good": "200", "bad": "ok", "stream": "200", "cut": "ok"}
    print()
    table(
        ["requests", "came to", "count", ""],
        [
            [kind, found, f"{count}", "ok" if found == right[kind] else "MISSED"]
            for (kind, found), count in sorted(load.seen.items())
        ],
    )
    return all(found == right[kind] for kind, found in load.seen)


def classifier(folder: Path) -> Path:
    """The MNIST CNN, untrained."""
    import torch

    from eco_ray.models.cnn import SmallCNN
    from eco_ray.models.weights import save_model

    torch.manual_seed(1)
    path = folder / "digits.safetensors"
    save_model(SmallCNN(), path, {})
    return path


def chat(folder: Path) -> Path:
    """A language model over bytes with random weights, as the tests make it."""
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    from text_cases import chat_folder

    path = folder / "parrot"
    path.mkdir()
    return chat_folder(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    with saved_output("serving_memory", save=not args.no_save), tempfile.TemporaryDirectory() as folder:
        describe_run("Resident memory of what serves two models, under mixed load")
        rates = ", ".join(f"{kind} {rate:g}" for kind, rate in RATES_PER_S.items())
        bar = f"{GROWTH:.0%} or {GROWTH_BYTES / 1e6:g} MB more"
        print(f"{args.minutes:g} min; requests a second: {rates}; flat: at most {bar}")
        print()
        with cluster() as client:
            holds = run(client, Path(folder), args.minutes)
        print(f"\nload average {os.getloadavg()[0]:.1f} at the end")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
