import numpy as np
import pytest
from container_cases import safetensors, weights

from eco_ray.errors import DamagedError, NotFoundError, UsageError
from eco_ray.models.chunks import Against
from eco_ray.models.container import Container, pack, unpack
from eco_ray.models.container_index import MAX_CHAIN


def version(path, seed=0, extra=()):
    """bf16 weights; each seed above 0 changes another 1 % by one step of the mantissa."""
    words = np.frombuffer(weights("BF16", 600_000), "<u2").copy()
    for change in range(1, seed + 1):
        rng = np.random.default_rng(change)
        words[rng.random(words.size) < 0.01] += 1
    path.write_bytes(safetensors([("w", "BF16", (words.size,), words.tobytes()), *extra]))
    return path


@pytest.fixture
def base(tmp_path):
    pack(version(tmp_path / "v0.st"), tmp_path / "v0.ecoz")
    return tmp_path / "v0.ecoz"


def test_a_light_change_takes_few_bytes_and_comes_back(base, tmp_path):
    new = version(tmp_path / "v1.st", 1, [("new", "F32", (100,), weights("F32", 100))])
    report = pack(new, tmp_path / "v1.ecoz", base=base)
    assert report.container_bytes < 0.03 * report.safetensors_bytes
    assert report.depth == 1
    unpack(tmp_path / "v1.ecoz", tmp_path / "back.st")
    assert (tmp_path / "back.st").read_bytes() == new.read_bytes()
    with Container.open(tmp_path / "v1.ecoz") as container:
        assert container.words("w").tobytes() == new.read_bytes()[-600_000 * 2 - 400 : -400]
        assert container.index.stored[1].chunks[0].against is Against.NOTHING


def test_an_unrelated_version_is_not_made_larger_by_a_base(base, tmp_path):
    words = weights("BF16", 600_000, seed=9)
    (tmp_path / "other.st").write_bytes(safetensors([("w", "BF16", (600_000,), words)]))
    alone = pack(tmp_path / "other.st", tmp_path / "alone.ecoz").container_bytes
    assert pack(tmp_path / "other.st", tmp_path / "delta.ecoz", base=base).container_bytes < alone + 200


def test_a_missing_or_other_base_is_a_clear_error(base, tmp_path):
    pack(version(tmp_path / "v1.st", 1), tmp_path / "v1.ecoz", base=base)
    moved = tmp_path / "elsewhere" / "old.ecoz"
    moved.parent.mkdir()
    base.rename(moved)
    with pytest.raises(NotFoundError, match=r"difference from 'v0.ecoz', which is not there.*--base"):
        unpack(tmp_path / "v1.ecoz", tmp_path / "back.st")
    unpack(tmp_path / "v1.ecoz", tmp_path / "back.st", base=moved)
    assert (tmp_path / "back.st").read_bytes() == (tmp_path / "v1.st").read_bytes()
    pack(version(tmp_path / "v2.st", 2), base)
    with pytest.raises(NotFoundError, match="not the version"):
        unpack(tmp_path / "v1.ecoz", tmp_path / "other.st")
    assert not (tmp_path / "other.st").exists()


def test_the_same_version_coded_anew_is_still_the_base(base, tmp_path):
    pack(version(tmp_path / "v1.st", 1), tmp_path / "v1.ecoz", base=base)
    data = base.read_bytes()
    pack(tmp_path / "v0.st", base, workers=3)
    assert base.read_bytes() == data
    unpack(tmp_path / "v1.ecoz", tmp_path / "back.st")


def test_chains_are_bounded(base, tmp_path):
    last = base
    for depth in range(1, MAX_CHAIN + 1):
        new = tmp_path / f"v{depth}.ecoz"
        assert pack(version(tmp_path / "v.st", depth), new, base=last).depth == depth
        last = new
    with pytest.raises(UsageError, match="without --base"):
        pack(version(tmp_path / "w.st", 9), tmp_path / "v9.ecoz", base=last)
    unpack(last, tmp_path / "back.st")
    assert (tmp_path / "back.st").read_bytes() == (tmp_path / "v.st").read_bytes()


def test_damage_in_the_base_is_found_when_packing_and_when_unpacking(base, tmp_path):
    pack(version(tmp_path / "v1.st", 1), tmp_path / "v1.ecoz", base=base)
    damaged = bytearray(base.read_bytes())
    damaged[len(damaged) // 2] ^= 16
    base.write_bytes(damaged)
    for write in (
        lambda out: unpack(tmp_path / "v1.ecoz", out),
        lambda out: pack(tmp_path / "v1.st", out, base=base),
    ):
        with pytest.raises(DamagedError):
            write(tmp_path / "out")
        assert not (tmp_path / "out").exists()
