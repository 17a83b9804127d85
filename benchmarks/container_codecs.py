"""One codec on MiniLM's weights, in a process of its own: what it writes where it may not, hurts nobody else.

benchmarks/container.py asks `apart` for each codec and type.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from container_inputs import as_type, minilm

from eco_ray.models.container import Container
from eco_ray.models.container_writer import write_container
from eco_ray.models.plane_coding import Backend, Data
from eco_ray.models.sources import BytesSource

#: a container is larger than its file by its index at most
SPARE_BYTES = 1 << 20
#: bytes of an element of each type
WORD_BYTES = {"bf16": 2, "fp32": 4, "fp16": 2, "bf16 in fp32": 4}


@dataclass(frozen=True)
class Codec:
    """Somebody's way to code a file."""

    encode: Callable[[bytes], Data]
    decode: Callable[[Data], Data]


def ours(backend: Backend) -> Codec:
    """The container in one thread, from and into one buffer; SHA-256 and CRC-32 are made and compared."""

    def encode(file: bytes) -> Data:
        size = int.from_bytes(file[:8], "little")
        out, at = np.empty(len(file) + SPARE_BYTES, np.uint8).data, 0

        def write(part: Data) -> None:
            nonlocal at
            end = at + len(part)
            out[at:end] = part
            at = end

        write_container(write, file[8 : 8 + size], BytesSource(file), 8 + size, backend=backend)
        return out[:at]

    def decode(data: Data) -> Data:
        container = Container(BytesSource(data))
        header = container.index.header
        head = len(header).to_bytes(8, "little") + header
        file = np.empty(len(head) + sum(one.tensor.byte_count for one in container.index.stored), np.uint8)
        at = len(head)
        file[:at] = np.frombuffer(head, np.uint8)
        for words in container.parts(workers=1):
            file[at : at + words.nbytes] = words.view(np.uint8)
            at += words.nbytes
        return file.data

    return Codec(encode, decode)


def zstd(_kind: str) -> Codec:
    """Package zstandard on the whole file."""
    import zstandard

    return Codec(zstandard.ZstdCompressor(3).compress, zstandard.ZstdDecompressor().decompress)


def blosc2(kind: str) -> Codec:
    """Package blosc2: byte planes and zstd."""
    import blosc2

    def shuffled(file: bytes) -> bytes:
        word_bytes = WORD_BYTES[kind]
        whole = np.frombuffer(file, np.uint8, len(file) // word_bytes * word_bytes).view(f"<u{word_bytes}")
        coded = blosc2.compress2(whole, codec=blosc2.Codec.ZSTD, clevel=3, typesize=word_bytes, nthreads=1)
        return bytes(coded) + file[whole.nbytes :]

    return Codec(shuffled, lambda data: bytes(blosc2.decompress2(data, nthreads=1)))


def zipnn(kind: str) -> Codec:
    """Package zipnn; it works in the caller's buffer, so it gets one of its own."""
    from zipnn import ZipNN

    dtype = {"fp16": "float16", "bf16": "bfloat16"}.get(kind, "float32")

    def coder() -> ZipNN:
        return ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1)

    return Codec(
        lambda file: bytes(coder().compress(bytearray(file))),
        lambda data: bytes(coder().decompress(data)),
    )


def installed(package: str) -> str:
    """Its version; empty if it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


#: name, the package that it needs, how it is made for a type; as their users would call them: none of the others checks
#: what it decodes
CODECS: dict[str, tuple[str, Callable[[str], Codec]]] = {
    "eco_ray zlib": ("numpy", lambda _kind: ours("zlib")),
    "eco_ray openzl": ("openzl", lambda _kind: ours("openzl")),
    "zstd -3": ("zstandard", zstd),
    "blosc2 shuffle + zstd": ("blosc2", blosc2),
    "zipnn": ("zipnn", zipnn),
}


def measured(codec: Codec, file: bytes, rounds: int) -> tuple[float, float, float]:
    """Ratio, and medians of MB per CPU-second to encode and to decode; SystemExit if one bit is wrong."""
    encode_s, decode_s = [], []
    coded: Data = b""
    for _ in range(rounds):
        began = time.process_time()
        coded = codec.encode(file)
        encode_s.append(time.process_time() - began)
        began = time.process_time()
        back = codec.decode(coded)
        decode_s.append(time.process_time() - began)
        if file[: len(back)] != back or len(file) - len(back) >= 8:  # blosc2 leaves a rest of less than a word
            raise SystemExit("it did not give back what it got")
    mb = len(file) / 1e6
    return len(coded) / len(file), mb / float(np.median(encode_s)), mb / float(np.median(decode_s))


def apart(name: str, kind: str, rounds: int) -> tuple[float, float, float] | str:
    """`measured` in a fresh process; a word on its end if it did not live or gave something else back."""
    command = [sys.executable, "-c", "import container_codecs; container_codecs.tell()", name, kind, str(rounds)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"ended its process: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1][:60]}"
    ratio, encode, decode = json.loads(done.stdout.splitlines()[-1])
    return ratio, encode, decode


def tell() -> None:
    """What that process does: `measured` for the codec, type and rounds that its arguments name, as JSON."""
    name, kind, rounds = sys.argv[1:]
    print(json.dumps(measured(CODECS[name][1](kind), as_type(minilm().read_bytes(), kind), int(rounds))))
