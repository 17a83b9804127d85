"""What somebody can change who knows how to write the checksums, and what still finds it."""

import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from container_cases import safetensors, weights

from eco_ray.errors import DamagedError
from eco_ray.models.container import Container, pack, unpack
from eco_ray.models.container_index import PROLOGUE, Index, read_index, write_index
from eco_ray.models.container_writer import write_container
from eco_ray.models.plane_coding import Method
from eco_ray.models.sources import BytesSource
from eco_ray.models.tensor_header import parse_header


def container_of(backend="zlib"):
    """Two tensors of one shape, each in one chunk."""
    file = safetensors([(name, "F32", (5000,), weights("F32", 5000, seed)) for seed, name in enumerate("ab")])
    (size,) = struct.unpack("<Q", file[:8])
    parts = []
    write_container(
        lambda part: parts.append(bytes(part)), file[8 : 8 + size], BytesSource(file), 8 + size, backend=backend
    )
    return b"".join(parts)


def with_header(data, change):
    """The container with another header, and every checksum right."""
    index = read_index(BytesSource(data))
    header = json.dumps(change(json.loads(index.header))).encode()
    end = index.stored[-1].starts[-1] + index.stored[-1].chunks[-1].size
    return data[:end] + write_index(Index(header, None, index.stored))


@pytest.mark.parametrize(
    "change",
    [
        lambda header: {"other": header["a"], "b": header["b"]},
        lambda header: {"b": header["a"], "a": header["b"]},
        lambda header: {"a": header["a"] | {"shape": [50, 100]}, "b": header["b"]},
        lambda header: {"a": header["a"] | {"dtype": "C64", "shape": [2500]}, "b": header["b"]},
    ],
    ids=["renamed", "names swapped", "another shape", "another type"],
)
def test_a_forged_header_is_another_content(change):
    data = container_of()
    true, forged = Container(BytesSource(data)), Container(BytesSource(with_header(data, change)))
    for name in forged.names:
        forged.words(name)  # the bytes are right, and the checksums do not say whose name it is
    assert len(true.content_id) == 64
    assert forged.content_id != true.content_id
    assert Container(BytesSource(with_header(data, lambda header: header))).names == true.names


@pytest.mark.parametrize("backend", ["zlib", "openzl"])
def test_forged_planes_with_right_checksums_are_found_by_the_digest_of_the_tensor(backend):
    if backend == "openzl":
        pytest.importorskip("openzl")
    data = container_of(backend)
    index = read_index(BytesSource(data))
    first = index.stored[0]
    chunk, start = first.chunks[0], first.starts[0]
    coded = chunk.planes[0]
    assert coded.method in (Method.DEFLATE, Method.OPENZL)
    rest = data[start + coded.size : index.stored[1].starts[0] + index.stored[1].chunks[0].size]
    rng = np.random.default_rng(3)
    for _ in range(300):
        plane = bytearray(data[start : start + coded.size])
        for _ in range(int(rng.integers(1, 4))):
            plane[int(rng.integers(len(plane)))] ^= 1 << int(rng.integers(8))
        if rng.random() < 0.3:
            del plane[int(rng.integers(1, len(plane))) :]
        if plane == data[start : start + coded.size]:
            continue
        planes = (replace(coded, size=len(plane), check=zlib.crc32(plane)), *chunk.planes[1:])
        stored = [replace(first, chunks=[replace(chunk, planes=planes)]), index.stored[1]]
        forged = PROLOGUE + plane + rest + write_index(Index(index.header, None, stored))
        container = Container(BytesSource(forged))
        with pytest.raises(DamagedError, match="'a'"):
            container.words("a")
        assert container.words("b").tobytes() == weights("F32", 5000, 1)


@pytest.mark.parametrize("backend", ["zlib", "openzl"])
def test_damage_of_a_difference_is_found(backend, tmp_path):
    if backend == "openzl":
        pytest.importorskip("openzl")
    words = np.frombuffer(weights("BF16", 20_000), "<u2").copy()
    for version in ("old", "new"):
        (tmp_path / version).write_bytes(safetensors([("w", "BF16", (words.size,), words.tobytes())]))
        words[::7] += np.arange(words[::7].size, dtype="<u2") % 3
    old, new = tmp_path / "old.ecoz", tmp_path / "new.ecoz"
    pack(tmp_path / "old", old, backend=backend)
    assert pack(tmp_path / "new", new, base=old, backend=backend).depth == 1
    rng = np.random.default_rng(4)
    for path in (old, new):
        data = path.read_bytes()
        for _ in range(40):
            changed = bytearray(data)
            changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            with pytest.raises(DamagedError):
                unpack(new, tmp_path / "back")
            assert not (tmp_path / "back").exists()
        path.write_bytes(data)
    unpack(new, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "new").read_bytes()


def test_a_header_that_would_become_very_many_objects_is_refused_unread():
    """32 MB of it deflate to 32 kB, and took 840 MB before they were refused."""
    with pytest.raises(DamagedError, match="parts is above the limit"):
        parse_header(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}")
