"""Every damaged container is a typed error: no crash, no wrong tensor, no more memory than was declared and checked."""

import hashlib
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from container_cases import BYTE_TYPES, safetensors, weights

from eco_ray.cli.main import cli
from eco_ray.errors import DamagedError, EcoRayError
from eco_ray.models.container import Container, encode, pack, unpack
from eco_ray.models.container_index import FOOTER_BYTES, PROLOGUE, BaseRef, read_index, write_index
from eco_ray.models.container_writer import write_container
from eco_ray.models.plane_coding import Method
from eco_ray.models.sources import BytesSource
from eco_ray.models.tensor_header import DTYPES

MIB = 1 << 20


def packed(tensors, backend, below=None):
    """The bytes of a container, perhaps as a difference from another one."""
    file = safetensors(tensors)
    (size,) = struct.unpack("<Q", file[:8])
    parts, source = [], BytesSource(file)
    base, reference = None, None
    if below is not None:
        base = Container(BytesSource(below))
        reference = BaseRef(base.index.content_id, "old.ecoz", 1)
    write = lambda part: parts.append(bytes(part))  # noqa: E731
    write_container(write, file[8 : 8 + size], source, 8 + size, base, reference, backend)
    return b"".join(parts)


def container_of(dtype, backend="zlib", delta=False):
    """A small one with a coded, a sparse, a constant and an empty tensor.

    Its bytes, those of the version that it is a difference from, and the words of all tensors.
    """
    size = DTYPES[dtype].bits // 8
    plain = weights(dtype, 3000)
    sparse = np.frombuffer(weights(dtype, 2000, 1), f"<u{size}").copy()
    sparse[np.random.default_rng(0).random(sparse.size) < 0.9] = 0
    tensors = [
        ("plain", dtype, (30, 100), plain),
        ("sparse", dtype, (2000,), sparse.tobytes()),
        ("constant", dtype, (50,), plain[:size] * 50),
        ("empty", dtype, (0, 3), b""),
    ]
    below = None
    if delta:  # some words are other ones
        old = np.frombuffer(plain, f"<u{size}").copy()
        old[::9] += np.arange(old[::9].size, dtype=old.dtype) % 3
        below = packed([("plain", dtype, (30, 100), old.tobytes()), *tensors[1:]], backend)
    return packed(tensors, backend, below), below, b"".join(data for *_, data in tensors)


def read_all(data, below=None):
    container = Container(BytesSource(data), None if below is None else Container(BytesSource(below)))
    return b"".join(container.words(name, max_bytes=MIB).tobytes() for name in container.names)


def signed(data, index):
    """A container whose index was changed by somebody who knows how to write its checksum."""
    body = data[: len(data) - FOOTER_BYTES - struct.unpack("<Q", data[-FOOTER_BYTES:][:8])[0]]
    footer = struct.pack("<Q32s8s", len(index), hashlib.sha256(PROLOGUE + index).digest(), PROLOGUE)
    return body + bytes(index) + footer


def damaged(rng, data):
    """A name, and the container with one thing changed."""
    kind = rng.choice(["flip", "cut", "head", "tail", "insert", "swap", "zeros"])
    changed = bytearray(data)
    at = int(rng.integers(len(data)))
    if kind == "flip":
        changed[at] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del changed[at:]
    elif kind == "head":
        del changed[: at + 1]
    elif kind == "tail":
        changed += rng.bytes(int(rng.integers(1, 100)))
    elif kind == "insert":
        changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
    elif kind == "swap":
        other = (at + int(rng.integers(1, len(data)))) % len(data)
        changed[at], changed[other] = changed[other], changed[at]
    else:
        changed[at : at + 16] = bytes(len(changed[at : at + 16]))
    return str(kind), bytes(changed)


def lie(rng, data):
    """The container with one or more bytes of its index changed, and the index's checksum right again."""
    (size,) = struct.unpack("<Q", data[-FOOTER_BYTES:][:8])
    index = bytearray(data[-FOOTER_BYTES - size : -FOOTER_BYTES])
    at = int(rng.integers(len(index)))
    width = int(rng.choice([1, 2, 4]))
    index[at : at + width] = rng.choice([b"\0", b"\xff", b"\x7f", rng.bytes(1)]) * len(index[at : at + width])
    return signed(data, index)


def forged(rng, data):
    """The container with a coded plane damaged, and every checksum but the tensor's right again: decoders see it."""
    index = read_index(BytesSource(data))
    coded = [
        (one, place, number)
        for one in index.stored
        for place, chunk in enumerate(one.chunks)
        for number, plane in enumerate(chunk.planes)
        if plane.method in (Method.DEFLATE, Method.OPENZL)
    ]
    if not coded:
        return data
    one, place, number = coded[int(rng.integers(len(coded)))]
    chunk = one.chunks[place]
    plane = chunk.planes[number]
    start = one.starts[place] + sum(each.size for each in chunk.planes[:number])
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        changed[start + int(rng.integers(plane.size))] = int(rng.integers(256))
    plane = replace(plane, check=zlib.crc32(changed[start : start + plane.size]))
    one.chunks[place] = replace(chunk, planes=(*chunk.planes[:number], plane, *chunk.planes[number + 1 :]))
    (size,) = struct.unpack("<Q", data[-FOOTER_BYTES:][:8])
    return bytes(changed[: -FOOTER_BYTES - size]) + write_index(index)


def attack(dtype, times, seed, backend="zlib", delta=False):
    data, below, right = container_of(dtype, backend, delta)
    assert read_all(data, below) == right
    rng = np.random.default_rng([seed, *dtype.encode()])
    undetected, unclear = [], []
    tracemalloc.start()
    try:
        for time in range(times):
            attacked = below if below is not None and rng.random() < 0.5 else data
            if time % 3 == 0:
                kind, changed = "lie", lie(rng, attacked)
            elif time % 3 == 1:
                kind, changed = "forgery", forged(rng, attacked)
            else:
                kind, changed = damaged(rng, attacked)
            if changed == attacked:
                continue
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            try:
                read = read_all(changed, below) if attacked is data else read_all(data, changed)
            except EcoRayError as error:
                unclear += [error] if "\n" in str(error) or len(str(error)) > 600 else []
            else:
                # only a lie that changes none of the bytes may pass, such as another name
                undetected += [kind] if kind not in ("lie", "forgery") or read != right else []
            assert tracemalloc.get_traced_memory()[1] - before < 4 * MIB, kind
    finally:
        tracemalloc.stop()
    assert (undetected, unclear) == ([], [])


def need(backend):
    if backend == "openzl":
        pytest.importorskip("openzl", reason="the extra openzl is not installed")


#: who codes, and whether it is a difference from another version
FORMS = [("zlib", False), ("zlib", True), ("openzl", False), ("openzl", True)]
forms = pytest.mark.parametrize(
    ("backend", "delta"), FORMS, ids=["zlib", "zlib difference", "openzl", "openzl difference"]
)


@forms
@pytest.mark.parametrize("dtype", BYTE_TYPES)
def test_damage_is_a_typed_error(dtype, backend, delta):
    need(backend)
    attack(dtype, 60, 1, backend, delta)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@forms
@pytest.mark.parametrize("dtype", BYTE_TYPES)
def test_damage_is_a_typed_error_ten_thousand_times(dtype, backend, delta):
    need(backend)
    attack(dtype, 10_000, 2, backend, delta)


@pytest.mark.parametrize("backend", ["zlib", "openzl"])
def test_what_is_attacked_is_coded_in_every_way(backend):
    need(backend)
    data, below, _ = container_of("BF16", backend, delta=True)
    planes = [
        p.method for d in (data, below) for t in read_index(BytesSource(d)).stored for c in t.chunks for p in c.planes
    ]
    assert {Method.RAW, Method.CONSTANT, Method.DEFLATE if backend == "zlib" else Method.OPENZL} <= {*planes}
    chunks = [c for t in read_index(BytesSource(data)).stored for c in t.chunks]
    assert any(chunk.against for chunk in chunks)
    assert any(c.nonzero for t in read_index(BytesSource(below)).stored for c in t.chunks)


def test_every_bit_of_a_small_container_matters():
    data = encode(np.frombuffer(weights("F32", 120), "<f4"))
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedError):
            read_all(changed)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 55, 56, 57])
def test_a_container_that_was_cut_is_none(cut):
    with pytest.raises(DamagedError):
        read_all(encode(np.zeros(5))[:cut])


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"[]", "no JSON object"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff", "no JSON"),
        (b'{"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]}}', "too short"),
        (b'{"a":{"dtype":"U8","shape":[1e3],"data_offsets":[0,1000]}}', "impossible shape"),
        (b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', "impossible shape"),
        (b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', "impossible shape"),
        (b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,5]}}', "needs 4 bytes"),
        (b'{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}', "needs 1.5 bytes"),
        (b'{"a":{"dtype":"Q9","shape":[4],"data_offsets":[0,4]}}', "unknown type"),
        (b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}}', "starts at byte 1"),
        (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":1}', "stands twice"),
        (b'{"__metadata__":{"a":1}}', "__metadata__"),
    ],
)
def test_headers_that_cannot_be(header, words, tmp_path):
    coder = zlib.compressobj(wbits=-15)
    coded = coder.compress(header) + coder.flush()
    index = struct.pack("<II", len(header), len(coded)) + coded + bytes(1 + 32 + 10)
    with pytest.raises(DamagedError, match=words):
        read_index(BytesSource(signed(encode(np.zeros(0)), index)))
    if words != "too short":
        (tmp_path / "bad").write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(DamagedError, match=words):
            pack(tmp_path / "bad", tmp_path / "out")


def test_a_header_that_inflates_beyond_what_it_says_is_stopped():
    coder = zlib.compressobj(9, wbits=-15)
    bomb = coder.compress(bytes(64 * MIB)) + coder.flush()
    for told in (1000, 1 << 31):
        data = signed(encode(np.zeros(0)), struct.pack("<II", told, len(bomb)) + bomb)
        tracemalloc.start()
        with pytest.raises(DamagedError, match=r"exactly 1000|above the limit"):
            read_index(BytesSource(data))
        assert tracemalloc.get_traced_memory()[1] < MIB
        tracemalloc.stop()


@pytest.mark.parametrize(
    "file",
    [b"", b"1234567", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"{}x", b"\x02" + bytes(7) + b"{"],
)
def test_a_broken_safetensors_file_is_not_packed(file, tmp_path):
    (tmp_path / "bad").write_bytes(file)
    with pytest.raises(DamagedError, match="no sound safetensors file"):
        pack(tmp_path / "bad", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_packs_unpacks_and_ends_with_one_line_on_damage(tmp_path):
    source, packed, back = (tmp_path / name for name in ("in.safetensors", "m.ecoz", "back.safetensors"))
    source.write_bytes(safetensors([("w", "BF16", (100_000,), weights("BF16", 100_000))]))
    run = [sys.executable, "-m", "eco_ray.cli.main"]
    done = subprocess.run([*run, "-o", "json", "model", "pack", source, "-o", packed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"container_bytes"' in done.stdout
    assert CliRunner().invoke(cli, ["model", "unpack", str(packed), "-o", str(back)]).exit_code == 0
    assert back.read_bytes() == source.read_bytes()  # it stays there, and is gone at the end
    data = bytearray(packed.read_bytes())
    data[len(data) // 3] ^= 4
    packed.write_bytes(data)
    done = subprocess.run([*run, "model", "unpack", packed, "-o", back], capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert done.stdout == ""
    assert not back.exists()


def test_neither_torch_nor_ray_is_imported():
    code = "import sys, eco_ray.models.container; print('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


LIMITED = """
import sys
from pathlib import Path
import numpy
from eco_ray.models.container import pack, unpack

def peak():  # getrusage would begin with the peak of the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

before = peak()
pack(sys.argv[1], sys.argv[2], workers=2)
unpack(sys.argv[2], sys.argv[3], workers=2)
print(peak() - before)
"""


def streamed(tmp_path, mib, limit_mib):
    """Pack and unpack a tensor of zeros with noise here and there, in a process of its own with little memory."""
    source = tmp_path / "big.safetensors"
    header = safetensors([("big", "F32", (mib, MIB // 4), b"")]).replace(b"[0, 0]", f"[0, {mib * MIB}]".encode())
    header = struct.pack("<Q", len(header) - 8) + header[8:]
    with source.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + mib * MIB)
        for place in range(0, mib, 64):
            file.seek(len(header) + place * MIB)
            file.write(weights("F32", MIB // 4))
    paths = [str(tmp_path / name) for name in ("big.safetensors", "big.ecoz", "back.safetensors")]
    done = subprocess.run([sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert MIB < int(done.stdout) < limit_mib * MIB  # less than a chunk would not have been measured
    assert subprocess.run(["cmp", paths[0], paths[2]]).returncode == 0


def test_a_tensor_larger_than_the_memory_it_takes(tmp_path):
    streamed(tmp_path, 256, 100)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_gigabytes_take_no_more_memory_than_a_quarter(tmp_path):
    streamed(tmp_path, 2048, 100)


def test_nothing_is_left_of_a_file_that_could_not_be_unpacked(tmp_path):
    source, packed = tmp_path / "s", tmp_path / "p"
    source.write_bytes(safetensors([("w", "F32", (600_000,), weights("F32", 600_000))]))
    pack(source, packed)
    data = bytearray(packed.read_bytes())
    data[-3 * FOOTER_BYTES - 200_000] ^= 1
    packed.write_bytes(data)
    with pytest.raises(DamagedError):
        unpack(packed, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "s"]
