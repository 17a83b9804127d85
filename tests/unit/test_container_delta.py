import threading

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


@pytest.fixture
def chain(base, tmp_path):
    """v0, v1 on it, v2 on that."""
    pack(version(tmp_path / "v1.st", 1), tmp_path / "v1.ecoz", base=base)
    pack(version(tmp_path / "v2.st", 2), tmp_path / "v2.ecoz", base=tmp_path / "v1.ecoz")
    return [tmp_path / f"v{number}.ecoz" for number in range(3)]


@pytest.mark.parametrize("below", [0, 1])
def test_no_version_of_the_chain_is_written_over(chain, tmp_path, below):
    before = [path.read_bytes() for path in chain]
    with pytest.raises(UsageError, match="is a container; name another one"):
        unpack(chain[2], chain[below])
    with pytest.raises(UsageError, match="is read and would be written"):
        pack(version(tmp_path / "v3.st", 3), chain[below], base=chain[2])
    assert [path.read_bytes() for path in chain] == before


def test_a_chain_is_rescued_by_a_version_that_is_packed_alone(chain, tmp_path):
    pack(tmp_path / "v1.st", chain[1])
    chain[0].unlink()
    unpack(chain[2], tmp_path / "back.st")
    assert (tmp_path / "back.st").read_bytes() == (tmp_path / "v2.st").read_bytes()


def test_a_container_in_the_place_of_its_own_base_is_told(chain, tmp_path):
    chain[1].replace(chain[0])
    with pytest.raises(NotFoundError, match="not the version"):
        unpack(chain[0], tmp_path / "back.st")


def test_a_missing_base_is_told_where_something_is_at_the_target(chain, tmp_path):
    with pytest.raises(NotFoundError, match="no file"):
        pack(tmp_path / "v1.st", chain[1], base=tmp_path / "none.ecoz")
    with pytest.raises(NotFoundError, match="no file"):
        unpack(chain[1], tmp_path / "v1.st", base=tmp_path / "none.ecoz")


def test_a_base_whose_name_is_no_text_is_refused(base, tmp_path):
    odd = base.rename(tmp_path / "v\udcff.ecoz")
    with pytest.raises(UsageError, match="not UTF-8"):
        pack(version(tmp_path / "v1.st", 1), tmp_path / "v1.ecoz", base=odd)


def test_what_a_link_led_to_is_replaced_by_a_difference_that_finds_its_base(base, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "old").write_text("")
    (tmp_path / "link.ecoz").symlink_to(tmp_path / "deep" / "er" / "old")
    pack(version(tmp_path / "v1.st", 1), tmp_path / "link.ecoz", base=base)
    unpack(tmp_path / "link.ecoz", tmp_path / "back.st")


def test_two_who_write_one_file_at_once_leave_a_whole_one(base, tmp_path):
    sources = [version(tmp_path / f"s{seed}.st", seed) for seed in (1, 2)]
    target, began = tmp_path / "one.ecoz", threading.Barrier(2)

    def write(source):
        began.wait()
        for _ in range(3):
            pack(source, target)

    threads = [threading.Thread(target=write, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    unpack(target, tmp_path / "back.st")
    assert (tmp_path / "back.st").read_bytes() in [source.read_bytes() for source in sources]
    assert not list(tmp_path.glob(".*.tmp"))
