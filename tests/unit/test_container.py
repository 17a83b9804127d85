import hashlib
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from container_cases import BYTE_TYPES, safetensors, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eco_ray.errors import DamagedError, EcoRayError, NotFoundError, UsageError
from eco_ray.models import chunks
from eco_ray.models import container as container_module
from eco_ray.models.container import Container, decode, encode, pack, unpack
from eco_ray.models.container_index import PROLOGUE, read_index
from eco_ray.models.plane_coding import Method, coded_bits, entropy_bits
from eco_ray.models.planes import difference, join, kept_bytes, split, undo_difference
from eco_ray.models.sources import BytesSource

DOC = Path(__file__).parents[2] / "docs" / "container.md"
NUMPY_TYPES = ["?", "i1", "u1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<c8", "<i8", "<u8", "<f8"]


def same(array):
    back = decode(encode(array))
    array = np.asarray(array)
    little = array.astype(array.dtype.newbyteorder("<"))
    assert back.dtype == little.dtype
    assert back.shape == array.shape
    assert back.tobytes() == little.tobytes()  # NaNs and -0.0 too
    assert back.flags.writeable
    return back


def methods(array):
    """How the planes of a one-chunk array were written."""
    (stored,) = read_index(BytesSource(encode(array))).stored
    return stored.chunks[0], [plane.method for plane in stored.chunks[0].planes]


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(NUMPY_TYPES),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=20),
    )
)
def test_every_array_comes_back_bit_by_bit(array):
    same(array)


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(["<u1", "<u2", "<u4", "<u8"]),
    count=st.integers(1, 5000),
    zeros=st.sampled_from([0.0, 0.3, 0.9, 0.999]),
    low_bits=st.integers(0, 64),
    seed=st.integers(0, 99),
)
def test_words_of_every_form_come_back(dtype, count, zeros, low_bits, seed):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 62, count, dtype=np.uint64) << np.uint64(low_bits % 64)
    words = (words >> np.uint64(64 - 8 * int(dtype[2]))).astype(dtype)
    words[rng.random(count) < zeros] = 0
    base = words + rng.integers(0, 2, count).astype(dtype)
    for rotate in (False, True):
        for below in (None, base):
            chunk, data = chunks.encode_chunk(words, rotate, "zlib", below)
            body = memoryview(b"".join(data))
            assert np.array_equal(chunks.decode_chunk(chunk, body, count, words.itemsize, rotate, below), words)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_difference_can_be_undone(word, base):
    words, bases = np.array([word], "<u4"), np.array([base], "<u4")
    assert undo_difference(difference(words, bases), bases) == words


def test_the_sign_is_rotated_so_that_the_exponent_is_a_plane():
    words = np.array([1.0, -1.0, 0.75], "<f4").view("<u4")
    planes = split(words, 4, True)
    assert planes[0].tolist() == [127, 127, 126]
    assert planes[3].tolist() == [0, 1, 0]
    assert np.array_equal(join(planes, 4, True), words)


def test_bf16_held_in_fp32_takes_two_planes():
    words = np.frombuffer(weights("BF16", 20_000), "<u2").astype("<u4") << 16
    assert kept_bytes(words) == 2
    same(words.view("<f4"))
    assert len(encode(words.view("<f4"))) < 0.35 * words.nbytes


def test_what_does_not_pay_stays_raw_and_what_never_changes_takes_no_bytes():
    floats = np.random.default_rng(0).normal(0, 1, 20_000).astype("<f4")
    assert methods(floats)[1] == [Method.DEFLATE, Method.RAW, Method.RAW, Method.RAW]
    assert methods(np.full(1000, 1.5, "<f4"))[1] == [Method.CONSTANT] * 2
    assert methods(np.arange(100_000, dtype="<i8"))[1][:5] == [Method.CONSTANT] * 5
    assert methods(np.zeros(1000))[0].planes == ()


def test_zeros_of_a_pruned_tensor_take_a_mask():
    rng = np.random.default_rng(1)
    pruned = rng.normal(0, 1, 50_000).astype("<f4")
    pruned[rng.random(50_000) < 0.8] = 0
    assert methods(pruned)[0].nonzero == np.count_nonzero(pruned)
    same(pruned)
    assert len(encode(pruned)) < 0.2 * pruned.nbytes
    assert len(encode(rng.random(80_000) < 0.5)) < 80_000 / 7.5  # bools are bits


@pytest.mark.parametrize("zeros", [0.0, 0.1, 0.3, 0.6, 0.7, 0.82, 0.9, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["i1", "<f2", "<f4"])
def test_the_mask_is_chosen_wherever_it_takes_clearly_fewer_bytes(zeros, kind, monkeypatch):
    rng = np.random.default_rng(2)
    array = rng.normal(0, 30, 100_000).astype(kind)
    array[rng.random(array.size) < zeros] = 0
    sizes = {}
    for sparse in (False, True):
        with monkeypatch.context() as forced:
            forced.setattr(chunks, "_sparse_pays", lambda *_, sparse=sparse: sparse)
            sizes[sparse] = len(encode(array))
    assert len(encode(array)) <= min(sizes.values()) + 0.015 * array.size  # bytes: 0.12 bits a value
    if kind == "i1" and zeros == 0.82:  # Huffman code takes a bit for every zero, whatever the entropy says
        assert methods(array)[0].nonzero is not None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=400), st.integers(0, 3000))
def test_the_bits_of_huffman_code_are_those_that_it_takes(values, zeros):
    plane = np.array(values + [0] * zeros, np.uint8)
    told = coded_bits(plane) * plane.size
    if np.all(plane == plane[0]):
        assert told == 0  # no code at all
        return
    assert told >= max(plane.size, entropy_bits(plane) * plane.size) - 1e-6
    coder = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    taken = 8 * len(coder.compress(plane.data) + coder.flush())
    assert taken <= told + 2500  # bits of the tree


@pytest.mark.parametrize(
    "array",
    [
        np.float32(2.5),
        np.array(True),
        np.zeros((0, 3)),
        np.arange(24.0).reshape(4, 6)[::2, ::-1],
        np.asfortranarray(np.arange(12, dtype=">i4").reshape(3, 4)),
        np.frombuffer(weights("F32", 700_000), "<f4"),  # three chunks
    ],
    ids=["scalar", "0-d", "empty", "strided", "big-endian Fortran", "several chunks"],
)
def test_shapes_and_layouts(array):
    same(array)


def test_ml_dtypes_if_it_is_there():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        same(np.random.default_rng(0).normal(0, 1, 500).astype(getattr(ml_dtypes, name)))


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([object()]), np.array([1j]), np.array(["2026"], "M8[D]")])
def test_a_type_without_a_name_is_refused_with_the_names(array):
    with pytest.raises(UsageError, match="float32"):
        encode(array)


def test_openzl_if_it_is_there():
    pytest.importorskip("openzl")
    array = np.frombuffer(weights("F32", 400_000), "<f4")
    data = encode(array, backend="openzl")
    assert decode(data).tobytes() == array.tobytes()
    (stored,) = read_index(BytesSource(data)).stored
    assert Method.OPENZL in [plane.method for plane in stored.chunks[0].planes]


def test_a_container_of_openzl_without_openzl_says_what_to_install(monkeypatch):
    from eco_ray.models import plane_coding

    plane_coding._openzl.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "openzl", None)
    with pytest.raises(UsageError, match=r"eco-ray\[openzl\]"):
        encode(np.frombuffer(weights("F32", 1000), "<f4"), backend="openzl")


@pytest.fixture
def model(tmp_path):
    """A file with every type, metadata, odd spaces, an empty tensor and a name that is no ASCII."""
    tensors = [(f"layer.{name}", name, (10, 50), weights(name, 500)) for name in BYTE_TYPES]
    tensors += [("leer \N{LATIN SMALL LETTER U WITH DIAERESIS}", "F32", (0, 7), b""), ("half", "F4", (3, 2), b"abc")]
    tensors += [("big", "F32", (3, 200_000), weights("F32", 600_000))]
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(tensors, {"format": "pt"}, spaces=5))
    return path


@pytest.mark.parametrize("workers", [1, 3])
def test_a_file_comes_back_byte_by_byte(model, tmp_path, workers):
    packed, back = tmp_path / "m.ecoz", tmp_path / "back.safetensors"
    report = pack(model, packed, workers=workers)
    assert report.container_bytes == packed.stat().st_size < model.stat().st_size == report.safetensors_bytes
    unpack(packed, back, workers=workers)
    assert back.read_bytes() == model.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.safetensors", "m.ecoz", "model.safetensors"]


def test_a_disk_that_keeps_other_bytes_is_found_out(tmp_path, monkeypatch):
    """Of a plane that is kept as it is, and has no checksum of its own."""
    source, target, noise = tmp_path / "m.st", tmp_path / "m.ecoz", np.random.default_rng(1).bytes(3000)
    source.write_bytes(safetensors([("noise", "U8", (3000,), noise)]))
    assert pack(source, target).sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    target.unlink()

    def write_container(write, *args, known=container_module.write_container):
        return known(lambda data: write(bytes(3000) if len(data) == 3000 else data), *args)

    monkeypatch.setattr(container_module, "write_container", write_container)
    with pytest.raises(EcoRayError, match="disk or memory of this machine"):
        pack(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["m.st"]


def test_packing_is_deterministic(model, tmp_path):
    pack(model, tmp_path / "a", workers=1)
    pack(model, tmp_path / "b", workers=4)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_one_tensor_is_read_without_the_others(model, tmp_path):
    packed = tmp_path / "m.ecoz"
    pack(model, packed)
    with Container.open(packed) as container:
        assert container.tensor("layer.F32").tobytes() == weights("F32", 500)
        assert container.tensor("big").shape == (3, 200_000)
        assert container.words("layer.BF16").tobytes() == weights("BF16", 500)
        first_big = container._by_name["big"].starts[0]
        with pytest.raises(NotFoundError, match="no tensor 'nope'"):
            container.tensor("nope")
        with pytest.raises(UsageError, match="words"):
            container.tensor("half")
        with pytest.raises(DamagedError, match="limit of 100;"):
            container.tensor("big", max_bytes=100)
    damaged = bytearray(packed.read_bytes())
    damaged[first_big + 1000] ^= 1
    packed.write_bytes(damaged)
    with Container.open(packed) as container:
        assert container.tensor("layer.F32").tobytes() == weights("F32", 500)
        with pytest.raises(DamagedError, match="'big'"):
            container.tensor("big")


def test_what_cannot_be_packed_or_written_says_so(model, tmp_path):
    with pytest.raises(NotFoundError):
        pack(tmp_path / "none", tmp_path / "m.ecoz")
    with pytest.raises(UsageError, match="no regular file"):
        pack(tmp_path, tmp_path / "m.ecoz")
    with pytest.raises(UsageError, match="is read"):
        pack(model, model)
    with pytest.raises(UsageError, match="no directory"):
        pack(model, tmp_path / "no" / "m.ecoz")
    with pytest.raises(DamagedError, match="ECOZ"):
        unpack(model, tmp_path / "m.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


def test_a_full_disk_leaves_nothing(model, tmp_path, monkeypatch):
    from eco_ray.models import container

    packed = tmp_path / "m.ecoz"
    pack(model, packed)
    monkeypatch.setattr(container.shutil, "disk_usage", lambda _path: type("", (), {"free": 100}))
    with pytest.raises(EcoRayError, match="100 are free"):
        unpack(packed, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def vector(name):
    found = re.search(rf"<!-- {name} -->\s*```\n(.*?)```", DOC.read_text(), re.S)
    return bytes.fromhex("".join(re.sub(r"#.*", "", found[1]).split()))


def test_the_vector_of_the_documentation_is_read():
    array = decode(vector("vector"))
    assert array.dtype == np.dtype("<f4")
    assert array.tolist() == [[1.0, -2.0], [0.5, 0.0]]
    assert vector("vector").startswith(PROLOGUE)


def test_a_newer_format_says_which():
    data = bytearray(encode(np.zeros(3)))
    data[4] = 2
    with pytest.raises(DamagedError, match=r"format \(2, 0\)"):
        decode(data)
