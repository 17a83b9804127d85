"""What `pack` and `unpack` refuse to read, and what is at the place that they were to write, whatever goes wrong."""

import json
import resource
import struct
import subprocess
import sys

import pytest
from container_cases import safetensors, weights

from eco_ray.errors import DamagedError, EcoRayError, NotFoundError, UsageError
from eco_ray.models import tensor_header
from eco_ray.models.container import pack, unpack

LONG = "n" * 300


def model(path, seed=0):
    path.write_bytes(safetensors([("w", "F32", (5000,), weights("F32", 5000, seed))]))
    return path


def spoil(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


@pytest.fixture
def source(tmp_path):
    return model(tmp_path / "m.safetensors")


@pytest.fixture
def packed(source, tmp_path):
    pack(source, tmp_path / "m.ecoz")
    return tmp_path / "m.ecoz"


# --- legal files that are beyond what the container holds ------------------------------------------------------------


def beyond(kind):
    """A file that safetensors reads, and what is above the limit."""
    if kind == "header":
        return safetensors([("w", "U8", (1,), b"x")], spaces=tensor_header.MAX_HEADER_BYTES), "32 MiB|33554432"
    if kind == "parts":
        return safetensors([("w", "U8", (1,), b"x")], {"a": "," * tensor_header.MAX_HEADER_PARTS}), "2000000"
    return safetensors([("w", "U8", (1,) * 33, b"x")]), "limit of 32"


@pytest.mark.parametrize("kind", ["header", "parts", "rank"])
def test_a_sound_file_that_is_beyond_the_limits_is_no_damage(kind, tmp_path):
    from safetensors import safe_open

    data, limit = beyond(kind)
    (tmp_path / "in").write_bytes(data)
    with safe_open(tmp_path / "in", "np") as file:
        assert list(file.keys()) == ["w"]
    with pytest.raises(UsageError, match=limit) as told:
        pack(tmp_path / "in", tmp_path / "out")
    assert repr(str(tmp_path / "in")) in str(told.value)
    assert "; " in str(told.value)  # the cure
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["header", "parts", "rank"])
def test_what_only_looks_beyond_the_limits_is_damage(kind, tmp_path):
    data, _ = beyond(kind)
    header = data[8 : 8 + struct.unpack("<Q", data[:8])[0]].replace(b'"dtype"', b'"dtipe"')
    (tmp_path / "in").write_bytes(struct.pack("<Q", len(header)) + header + b"x")
    with pytest.raises(DamagedError, match="no sound safetensors file"):
        pack(tmp_path / "in", tmp_path / "out")


def test_in_a_container_what_is_beyond_the_limits_is_damage():
    entry = {"dtype": "U8", "shape": [1] * 33, "data_offsets": [0, 1]}
    with pytest.raises(DamagedError, match="33 dimensions"):
        tensor_header.parse_header(json.dumps({"w": entry}).encode())


# --- the place that is written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", [LONG, f"{LONG}/x", "m.safetensors/x", ".", "none/x", "/proc/x", "/dev/full"], ids=lambda place: place[:9]
)
def test_a_place_that_cannot_be_written_is_one_line(source, packed, tmp_path, place):
    before = sorted(tmp_path.iterdir())
    for write, read in ((pack, source), (unpack, packed)):
        with pytest.raises(EcoRayError) as told:
            write(read, tmp_path / place)
        assert "\n" not in str(told.value)
        assert repr(str(tmp_path / place)[:20])[:-1] in str(told.value) or place == "none/x"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", [LONG, "directory"])
def test_the_command_line_says_so_in_one_line(source, tmp_path, name):
    (tmp_path / "directory").mkdir()
    run = [sys.executable, "-m", "eco_ray.cli.main", "model", "pack", source, "-o", tmp_path / name]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_name_as_long_as_they_may_be_is_written(source, tmp_path):
    for name in ("n" * 255, "\N{HIRAGANA LETTER A}" * 85):
        pack(source, tmp_path / name)
        unpack(tmp_path / name, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_a_disk_that_becomes_full_leaves_the_old_file(source, packed, tmp_path):
    out = tmp_path / "out"
    out.write_bytes(b"old")
    code = "import sys; from eco_ray.models.container import *; globals()[sys.argv[1]](*sys.argv[2:])"
    for what, read in (("pack", source), ("unpack", packed)):
        done = subprocess.run(
            [sys.executable, "-c", code, what, read, out],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        )
        assert done.stderr.splitlines()[-1].endswith("cannot be written: File too large")
        assert out.read_bytes() == b"old"
        assert not list(tmp_path.glob(".*"))


# --- what is left of an older file -----------------------------------------------------------------------------------


def test_after_damage_no_older_file_is_at_the_target(source, packed, tmp_path):
    out = tmp_path / "out"
    for write, read, at in ((unpack, packed, 40), (unpack, packed, 0), (unpack, packed, -20), (pack, source, 30)):
        good = read.read_bytes()
        spoil(read, at)
        out.write_bytes(b"older")
        with pytest.raises(DamagedError):
            write(read, out)
        assert not out.exists()
        read.write_bytes(good)


def test_a_link_at_the_target_goes_and_what_it_leads_to_stays(packed, tmp_path):
    (tmp_path / "kept").write_bytes(b"kept")
    (tmp_path / "out").symlink_to("kept")
    spoil(packed, 40)
    with pytest.raises(DamagedError):
        unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "kept").read_bytes() == b"kept"


def test_what_is_no_damage_leaves_the_older_file(packed, tmp_path):
    (tmp_path / "out").write_bytes(b"older")
    with pytest.raises(NotFoundError):
        unpack(tmp_path / "none.ecoz", tmp_path / "out")
    with pytest.raises(UsageError):
        unpack(packed, tmp_path / "out", base=tmp_path / "none.ecoz")
    assert (tmp_path / "out").read_bytes() == b"older"


@pytest.mark.parametrize("write", [pack, unpack])
def test_nothing_that_is_read_is_removed(write, source, packed, tmp_path):
    spoil(packed, 0)
    data = packed.read_bytes()
    (tmp_path / "link").symlink_to(packed)
    for out in (packed, tmp_path / "link"):
        with pytest.raises(UsageError, match="is read and would be written"):
            write(packed, out)
    with pytest.raises(UsageError, match="is read and would be written"):
        unpack(source, packed, base=packed)
    assert packed.read_bytes() == data


def test_names_that_were_swapped_cost_no_file(source, packed, tmp_path):
    before = source.read_bytes(), packed.read_bytes()
    with pytest.raises(UsageError, match="is a container; name another one"):
        unpack(source, packed)
    with pytest.raises(UsageError, match=r"is a container already.*unpack"):
        pack(packed, source)
    assert (source.read_bytes(), packed.read_bytes()) == before


def test_no_version_that_the_base_stands_on_is_removed(packed, tmp_path):
    """v2 on v1 on m; whichever is damaged, and also where what is packed is."""
    v1, v2, new = (tmp_path / name for name in ("v1.ecoz", "v2.ecoz", "new.safetensors"))
    pack(model(new, 1), v1, base=packed)
    pack(model(new, 2), v2, base=v1)
    model(new, 3)
    for damaged, at in ((v2, 9), (v2, -20), (v1, 9), (v1, -20), (packed, -20), (new, 30)):
        good = damaged.read_bytes()
        spoil(damaged, at)
        before = [path.read_bytes() for path in (packed, v1, v2)]
        for out in (packed, v1, v2):
            with pytest.raises(EcoRayError):
                pack(new, out, base=v2)
            with pytest.raises(UsageError, match=r"is a container|is read"):
                unpack(v2, out)
        assert [path.read_bytes() for path in (packed, v1, v2)] == before
        damaged.write_bytes(good)


def test_damage_of_what_is_packed_on_a_base_leaves_no_older_container(source, packed, tmp_path):
    new, out = model(tmp_path / "new.safetensors", 1), tmp_path / "new.ecoz"
    pack(new, out, base=packed)
    spoil(new, 30)
    with pytest.raises(DamagedError):
        pack(new, out, base=packed)
    assert not out.exists()


# --- a base that is not needed ---------------------------------------------------------------------------------------


def test_a_base_of_a_container_that_stands_alone_is_refused(packed, tmp_path):
    for base in (tmp_path / "none.ecoz", packed):
        with pytest.raises(UsageError, match=r"stands alone.*leave --base out"):
            unpack(packed, tmp_path / "back", base=base)
    assert not (tmp_path / "back").exists()
