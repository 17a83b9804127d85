"""A registry with a key: nothing of a model is readable in the store, and no other key opens it."""

from __future__ import annotations

import uuid

import pytest
from registry_cases import GGUF, Deadly, Killed, empty_place, objects, weights

from eco_ray.errors import DamagedError, NotAllowedError
from eco_ray.models import blobs as blobs_module
from eco_ray.models import parts as parts_module
from eco_ray.models.crypt import RegistryKey
from eco_ray.models.object_store import open_store
from eco_ray.models.part_cache import PartCache
from eco_ray.models.registry import Registry

KEY, OTHER = RegistryKey(bytes(range(32))), RegistryKey(bytes(32))
PART_BYTES = 2048
TEXT = GGUF + b"".join(b"nobody reads line %d in the store. " % number for number in range(200))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts_module, "PART_BYTES", PART_BYTES)


@pytest.fixture(params=["local", "memory", "s3"])
def where(request, tmp_path):
    return empty_place(request, tmp_path)


@pytest.fixture
def push(where, tmp_path):
    def pushed(content, key=KEY, suffix=".safetensors"):
        source = tmp_path / f"{uuid.uuid4().hex}{suffix}"
        source.write_bytes(content)
        return Registry(where, key=key).push(source, "m")

    return pushed


def pulled(where, reference, folder, key=KEY, **how):
    target = folder / uuid.uuid4().hex
    Registry(where, key=key, **how).pull(reference, target)
    return target.read_bytes()


def test_a_sealed_version_comes_back_and_its_bytes_are_not_in_the_store(where, push, tmp_path):
    made, store = push(TEXT, suffix=".gguf"), open_store(where)
    assert made.blob.sealed_with == KEY.id
    assert pulled(where, "m:1", tmp_path) == TEXT
    assert Registry(where, key=KEY).verify("m:1") == made
    found = objects(store)
    assert set(found) == made.blob.paths()
    assert all(path.startswith(f"sealed/{KEY.id}/") for path in found)
    assert all(b"nobody" not in store.read(path, 1 << 20) for path in found)


def test_differences_of_sealed_versions_are_sealed(where, push, tmp_path):
    whole, changed = push(weights(0)), push(weights(0, changed=3))
    assert changed.blob.base == whole.blob
    assert all(path.startswith("sealed/") for path in changed.blob.paths())
    assert pulled(where, "m:2", tmp_path) == weights(0, changed=3)


def test_versions_of_several_keys_and_of_none_live_side_by_side(where, push, tmp_path):
    keys = (None, KEY, OTHER, KEY, None)
    made = [push(weights(0, changed=number // 3), key) for number, key in enumerate(keys)]
    assert [one.blob.sealed_with for one in made] == [key and key.id for key in keys]
    assert [one.blob.base for one in made] == [None, None, None, made[1].blob, made[0].blob]  # never across keys
    for one, key in zip(made, keys, strict=True):
        assert pulled(where, one.reference, tmp_path, key) == weights(0, changed=(one.version - 1) // 3)
    assert pulled(where, "m:1", tmp_path, KEY) == weights(0)
    for version in (1, 2, 4):
        Registry(where).delete(f"m:{version}")
    removed = set(Registry(where).gc().removed)  # which takes no key
    assert removed == made[3].blob.paths()
    for version in (3, 5):
        Registry(where, key=OTHER).verify(f"m:{version}")


def test_the_same_bytes_are_kept_once_under_one_key(where, push):
    push(TEXT, suffix=".gguf")
    before = [open_store(where).read(path, 1 << 20) for path in objects(open_store(where))]
    push(TEXT, suffix=".gguf")
    assert before == [open_store(where).read(path, 1 << 20) for path in objects(open_store(where))]


@pytest.mark.parametrize(("key", "said"), [(None, "no key was given"), (OTHER, f"the key given is {OTHER.id}")])
def test_a_missing_or_another_key_is_told_and_makes_no_file(where, push, tmp_path, key, said):
    push(weights(0))
    for call in (lambda: pulled(where, "m:1", tmp_path, key), lambda: Registry(where, key=key).verify("m:1")):
        with pytest.raises(NotAllowedError) as told:
            call()
        for words in ("m:1", f"sealed with key {KEY.id}", said, "ECO_RAY_REGISTRY_KEY", "registry_key_file"):
            assert words in str(told.value)
    assert Registry(where, key=key).manifest("m:1").version == 1  # what is no secret


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:8] + bytes.fromhex(OTHER.id) + data[16:],
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"",
    ],
)
def test_a_sealed_part_that_was_touched_is_damaged_and_the_next_push_mends_it(where, push, tmp_path, harm):
    made, store = push(TEXT[:-7], suffix=".gguf"), open_store(where)
    path = made.blob.path(made.blob.parts[1])
    store.put(path, harm(store.read(path, 1 << 20)))
    with pytest.raises(DamagedError, match=r"other bytes|larger than"):
        pulled(where, "m:1", tmp_path)
    push(TEXT[:-7], suffix=".gguf")
    assert pulled(where, "m:1", tmp_path) == TEXT[:-7]


def test_a_sealed_part_in_the_place_of_another_is_damaged(where, push, tmp_path):
    made, store = push(weights(0)), open_store(where)
    paths = [made.blob.path(part) for part in made.blob.parts if part.size == PART_BYTES]
    store.put(paths[0], store.read(paths[1], 1 << 20))
    with pytest.raises(DamagedError):
        pulled(where, "m:1", tmp_path)


def test_the_cache_keeps_sealed_parts_sealed(push, where, tmp_path):
    made, cache = push(TEXT, suffix=".gguf"), PartCache(tmp_path / "cache", 1 << 30)
    store = open_store(where)
    store.remote = True
    for _ in range(2):
        assert pulled(store, "m:1", tmp_path, cache=cache) == TEXT
    kept = [one.read_bytes() for one in (tmp_path / "cache").iterdir()]
    assert len(kept) == len(made.blob.paths())
    assert all(b"nobody" not in one for one in kept)
    with pytest.raises(NotAllowedError):
        pulled(store, "m:1", tmp_path, key=None, cache=cache)


@pytest.mark.parametrize("where", ["local", "memory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("after", [False, True])
def test_a_sealed_push_that_dies_leaves_a_sound_registry(where, tmp_path, monkeypatch, after):
    monkeypatch.setattr(blobs_module, "DEAD_LOCK_S", 0.05)
    source = tmp_path / "x.gguf"
    source.write_bytes(TEXT)
    for at in range(60):
        sound = Registry(f"{where}/{at}", key=KEY)
        try:
            Registry(Deadly(open_store(f"{where}/{at}"), at, after), key=KEY).push(source, "m")
            died = False
        except Killed:
            died = True
        made = sound.push(source, "m")
        sound.gc()
        for version in range(1, made.version + 1):
            assert pulled(f"{where}/{at}", f"m:{version}", tmp_path) == TEXT
        assert set(objects(open_store(f"{where}/{at}"))) == made.blob.paths()
        if not died:
            return
    pytest.fail("it never came to an end")
