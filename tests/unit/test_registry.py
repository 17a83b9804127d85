"""The registry of models: versions that never change, aliases that remember, and never a wrong byte."""

from __future__ import annotations

import json
import threading
import time
import uuid

import pytest
from registry_cases import GGUF, Clock, Deadly, Killed, empty_place, weights

from eco_ray.errors import DamagedError, NotAllowedError, NotFoundError, UsageError
from eco_ray.models import blobs as blobs_module
from eco_ray.models import parts as parts_module
from eco_ray.models.manifest import Training, parse_reference
from eco_ray.models.object_store import open_store
from eco_ray.models.registry import About, Registry
from eco_ray.models.signature import parse_signature


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """So that the blobs of these tests have several."""
    monkeypatch.setattr(parts_module, "PART_BYTES", 2048)


@pytest.fixture(params=["local", "memory", "s3"])
def where(request, tmp_path):
    return empty_place(request, tmp_path)


@pytest.fixture
def registry(where):
    return Registry(where, by="ann", clock=Clock())


@pytest.fixture
def push(registry, tmp_path):
    def pushed(content, name="m", suffix=".safetensors", to=registry, **about):
        source = tmp_path / f"{uuid.uuid4().hex}{suffix}"
        source.write_bytes(content)
        return to.push(source, name, About(**about))

    return pushed


def pulled(registry, reference, folder):
    target = folder / f"{uuid.uuid4().hex}"
    registry.pull(reference, target)
    return target.read_bytes()


# -- versions ----------------------------------------------------------------------------------------------------------


def test_versions_count_up_and_give_every_byte_back(registry, push, tmp_path):
    files = [weights(0), weights(0, changed=5), weights(1), weights(2, rows=3), GGUF + b"\0" * 99]
    made = [push(one) for one in files[:4]] + [push(files[4], suffix=".gguf")]
    assert [one.reference for one in made] == [f"m:{number}" for number in range(1, 6)]
    assert registry.versions("m") == [1, 2, 3, 4, 5]
    for one, content in zip(made, files, strict=True):
        assert pulled(registry, one.reference, tmp_path) == content
        assert registry.verify(one.reference) == one
    assert (made[0].blob.coding, made[4].blob.coding) == ("ecoz", "raw")
    assert made[1].blob.base == made[0].blob
    assert [len(one.blob.parts) > 1 for one in made[:3]] == [True, False, True]
    assert made[1].blob.size < made[0].blob.size / 2


def test_the_record_of_a_version_is_all_that_was_told(registry, push):
    training = Training(energy_j=5e6, operational_g=120.5, nature="modelled", source="ledger")
    told = {
        "framework": "torch 2.13",
        "signature": parse_signature(
            {
                "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 28, 28]}],
                "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 2]}],
                "labels": ["cat", "dog"],
                "kind": "image-classifier",
            },
            "s.json",
        ),
        "metrics": {"accuracy": 0.987, "epochs": 3, "note": "good"},
        "lineage": {"job": "train-1", "data": "mnist", "parent": "m:1"},
        "tags": ("nightly",),
    }
    made = push(weights(0), training=training, **told)
    found = registry.manifest("m:1")
    assert found == made
    assert (found.training, found.by, found.created) == (training, "ann", found.created)
    assert {key: getattr(found, key) for key in told} == told


@pytest.mark.parametrize("where", ["local", "memory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_version_needs_one_other_at_most(registry, push, tmp_path):
    made = [push(weights(0, changed=number)) for number in range(1, 25)]
    alone = [one.version for one in made if one.blob.base is None]
    assert alone == [1, 11, 21]
    assert all(one.blob.base.base is None for one in made if one.blob.base)
    assert pulled(registry, "m:20", tmp_path) == weights(0, changed=20)


def test_the_same_file_is_kept_once(registry, push):
    first, again, other = push(weights(0)), push(weights(0)), push(weights(0), name="n")
    assert first.blob == again.blob == other.blob
    changed, back = push(weights(0, changed=2)), push(weights(0, changed=2))
    assert changed.blob == back.blob
    assert registry.gc(dry_run=True).kept == len(first.blob.paths() | changed.blob.paths())


def test_writers_at_once_get_versions_of_their_own(where, push, tmp_path):
    def write(number):
        push(weights(number), to=Registry(where))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registry = Registry(where)
    assert registry.versions("m") == [1, 2, 3, 4, 5, 6]
    back = {pulled(registry, f"m:{version}", tmp_path) for version in range(1, 7)}
    assert back == {weights(number) for number in range(6)}


@pytest.mark.parametrize("suffix", [".pt", ".pkl", ".bin"])
def test_a_pickle_is_refused_unless_it_is_allowed(registry, push, tmp_path, suffix):
    with pytest.raises(NotAllowedError, match="runs code"):
        push(b"x", suffix=suffix)
    source = tmp_path / f"x{suffix}"
    source.write_bytes(b"x")
    made = registry.push(source, "m", allow_pickle=True)
    with pytest.raises(NotAllowedError, match="--allow-pickle"):
        registry.pull(made.reference, tmp_path / "y")
    registry.pull(made.reference, tmp_path / "y", allow_pickle=True)
    assert (tmp_path / "y").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".a", "a:1", "a@b", "x" * 101, "ü", "a\n"])
def test_hostile_names_are_refused(registry, push, name):
    with pytest.raises(UsageError):
        push(weights(0), name=name)
    with pytest.raises(UsageError):
        registry.versions(name)
    push(weights(0))
    with pytest.raises(UsageError):
        registry.promote("m:1", name)


@pytest.mark.parametrize(
    "reference", ["m", "m:", "m:0", "m:-1", "m:1.5", "m:٣", "m:1234567890", ":1", "@x", "m@", "m@a/b", "m:1@x"]
)
def test_references_that_name_no_version_are_refused(reference):
    with pytest.raises(UsageError):
        parse_reference(reference)


def test_what_is_not_there_is_told_with_what_is(registry, push, tmp_path):
    with pytest.raises(NotFoundError, match="it is empty"):
        registry.manifest("m:1")
    push(weights(0))
    with pytest.raises(NotFoundError, match="m has versions 1"):
        registry.manifest("m:2")
    with pytest.raises(NotFoundError, match="it has m"):
        registry.manifest("n:1")
    with pytest.raises(NotFoundError, match="no alias m@prod"):
        registry.resolve("m@prod")
    with pytest.raises(NotFoundError, match="no model file"):
        registry.push(tmp_path / "none.safetensors", "m")


# -- aliases -----------------------------------------------------------------------------------------------------------


def test_an_alias_remembers_where_it_was(registry, push):
    for number in range(3):
        push(weights(number))
    registry.promote("m:1", "prod", why="first")
    registry.promote("m:3", "prod")
    registry.promote("m@prod", "canary")
    assert registry.aliases("m") == {"canary": 3, "prod": 3}
    assert registry.rollback("m", "prod", why="slow").version == 1
    assert registry.resolve("m@prod") == ("m", 1)
    moves = [(one.alias, one.action, one.version, one.by, one.why) for one in registry.history("m")]
    assert moves == [
        ("prod", "promote", 1, "ann", "first"),
        ("prod", "promote", 3, "ann", ""),
        ("canary", "promote", 3, "ann", ""),
        ("prod", "rollback", 1, "ann", "slow"),
    ]
    assert [one.number for one in registry.history("m", "prod")] == [1, 2, 3]


def test_rollbacks_go_back_one_after_the_other(registry, push):
    for number in range(4):
        push(weights(number))
        registry.promote(f"m:{number + 1}", "prod")
    assert [registry.rollback("m", "prod").version for _ in range(2)] == [3, 2]
    registry.promote("m:4", "prod")
    assert [registry.rollback("m", "prod").version for _ in range(2)] == [2, 1]
    with pytest.raises(NotFoundError, match="meant nothing before"):
        registry.rollback("m", "prod")
    assert registry.resolve("m@prod") == ("m", 1)


def test_all_moves_at_once_are_in_the_history(where, push):
    for number in range(3):
        push(weights(number))
    threads = [
        threading.Thread(target=lambda version=version: Registry(where).promote(f"m:{version}", "prod"))
        for version in (1, 2, 3, 1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = Registry(where).history("m", "prod")
    assert sorted(one.version for one in events) == [1, 1, 2, 2, 3, 3]
    assert sorted(one.number for one in events) == [1, 2, 3, 4, 5, 6]


# -- deletion and garbage ----------------------------------------------------------------------------------------------


def test_a_deleted_version_leaves_its_record_and_gives_its_bytes_up(registry, push, tmp_path):
    made = push(weights(0)), push(weights(1, rows=5))
    registry.promote("m:1", "prod")
    with pytest.raises(NotAllowedError, match="m@prod"):
        registry.delete("m:1")
    registry.promote("m:2", "prod")
    registry.delete("m:1", why="old")
    assert registry.manifest("m:1").version == 1
    with pytest.raises(NotFoundError, match="was deleted"):
        registry.pull("m:1", tmp_path / "x")
    with pytest.raises(NotFoundError, match="was deleted"):
        registry.promote("m:1", "prod")
    with pytest.raises(NotFoundError, match="which was deleted"):
        registry.rollback("m", "prod")
    planned = registry.gc(dry_run=True)
    done = registry.gc()
    assert planned == done
    assert (set(done.removed), done.freed_bytes) == (made[0].blob.paths(), made[0].blob.size)
    assert done.kept == len(made[1].blob.parts)
    assert registry.gc().removed == ()
    assert pulled(registry, "m:2", tmp_path) == weights(1, rows=5)
    assert push(weights(2)).version == 3  # numbers are never used again


def test_a_base_stays_as_long_as_a_difference_needs_it(registry, push, tmp_path):
    push(weights(0))
    push(weights(0, changed=3))
    registry.delete("m:1")
    assert registry.gc().removed == ()
    assert pulled(registry, "m:2", tmp_path) == weights(0, changed=3)


def test_a_push_under_way_keeps_what_it_will_refer_to(registry, where, push, tmp_path, monkeypatch):
    push(weights(0))
    registry.delete("m:1")
    collected, one_by_one = [], threading.Lock()

    def put_and_collect(self, *args, put=parts_module.Parts._put):
        put(self, *args)
        with one_by_one:  # of three at once that wait for each other's end, one can be told to come back
            collected.append(Registry(where).gc().removed)

    first = registry.manifest("m:1").blob
    monkeypatch.setattr(parts_module.Parts, "_put", put_and_collect)
    push(weights(0))
    assert len(collected) == len(first.parts)
    assert {
        path for removed in collected for path in removed
    } < first.paths()  # before it was known that they are needed
    assert pulled(registry, "m:2", tmp_path) == weights(0)


def test_a_push_waits_for_a_collection_and_keeps_what_that_took(registry, where, push, tmp_path):
    push(weights(0))
    registry.delete("m:1")
    store, begun = open_store(where), threading.Event()
    pushing = threading.Thread(target=lambda: push(weights(0), to=Registry(where)))

    def needed(beat):
        pushing.start()
        begun.set()
        pushing.join(1.0)
        assert pushing.is_alive()  # it waits for the lock
        return set()

    blobs = blobs_module.Blobs(store, parts_module.Parts(store))
    removed = blobs.collect(needed, dry_run=False).removed
    pushing.join(20.0)
    assert begun.is_set()
    assert set(removed) <= registry.manifest("m:1").blob.paths()
    assert pulled(registry, "m:2", tmp_path) == weights(0)


def test_a_collection_that_was_killed_holds_nobody_up_for_long(registry, where, push, monkeypatch):
    monkeypatch.setattr(blobs_module, "DEAD_LOCK_S", 0.5)
    store = open_store(where)
    push(weights(0))
    store.put("gc.lock", b"dead 3")
    push(weights(1))
    parts = [registry.manifest(f"m:{version}").blob.paths() for version in (1, 2)]
    assert Registry(where).gc().kept == len(parts[0] | parts[1])
    assert store.size("gc.lock") is None


def test_a_collection_that_stood_still_while_a_push_went_on_ends_and_removes_nothing(
    registry, where, push, monkeypatch
):
    monkeypatch.setattr(blobs_module, "DEAD_LOCK_S", 1.5)
    store = open_store(where)

    def needed(_beat):
        began = time.monotonic()
        assert len(push(weights(0)).blob.parts) > 2
        assert time.monotonic() - began < 2 * blobs_module.DEAD_LOCK_S  # waited once, not for each part
        return set()

    with pytest.raises(NotAllowedError, match="taken over"):
        blobs_module.Blobs(store, parts_module.Parts(store)).collect(needed, dry_run=False)
    registry.verify("m:1")


# -- damage ------------------------------------------------------------------------------------------------------------


def part_path(made, number=1):
    return made.blob.path(made.blob.parts[number])


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-1], lambda data: data[:50] + b"\x01" + data[51:], lambda _data: b""]
)
def test_a_damaged_part_is_told_and_gives_nothing(registry, where, push, tmp_path, harm):
    made, store = push(weights(0)), open_store(where)
    store.put(part_path(made), harm(store.read(part_path(made), 1 << 20)))
    target = tmp_path / "out"
    target.write_bytes(b"before")
    with pytest.raises(DamagedError, match="other bytes"):
        registry.pull("m:1", target)
    with pytest.raises(DamagedError):
        registry.verify("m:1")
    assert target.read_bytes() == b"before"
    store.remove(part_path(made))
    with pytest.raises(DamagedError, match="missing"):
        registry.pull("m:1", target)


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_who_pushes_the_bytes_of_a_damaged_version_again_keeps_sound_ones(registry, where, push, tmp_path, suffix):
    content = weights(0) if suffix == ".safetensors" else GGUF + weights(0)
    made, store = push(content, suffix=suffix), open_store(where)
    kept = store.read(part_path(made), 1 << 20)
    store.put(part_path(made), kept[:100] + b"\0" * 100 + kept[200:])  # of the same size
    again = push(content, suffix=suffix)
    assert pulled(registry, again.reference, tmp_path) == content
    assert registry.verify("m:1") == made  # both are of the same parts


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"version": 1', '"version": 7'),
        lambda text: text.replace("0.9", "1.0"),
        lambda _text: "",
        lambda _text: "[" * 5000,
        lambda _text: "null",
        lambda text: json.dumps({**json.loads(text), "more": 1}),
        lambda text: text + " ",
    ],
)
def test_a_manifest_that_is_not_what_was_written_is_told_and_the_others_stay(registry, where, push, tmp_path, harm):
    push(weights(0), metrics={"accuracy": 0.9})
    push(weights(1))
    store, path = open_store(where), "models/m/versions/1.json"
    store.put(path, harm(store.read(path, 1 << 20).decode()).encode())
    with pytest.raises(DamagedError):
        registry.manifest("m:1")
    with pytest.raises(DamagedError):
        registry.gc()  # it may need anything
    assert pulled(registry, "m:2", tmp_path) == weights(1)
    assert push(weights(2)).version == 3


def test_a_manifest_that_was_moved_to_another_place_is_told(registry, where, push):
    push(weights(0))
    store = open_store(where)
    store.put("models/n/versions/4.json", store.read("models/m/versions/1.json", 1 << 20))
    with pytest.raises(DamagedError, match="speaks of name m, version 1"):
        registry.manifest("n:4")


@pytest.mark.parametrize("where", ["local", "memory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("what", ["push", "promote", "delete", "gc"])
def test_whatever_dies_at_any_write_leaves_a_sound_registry(where, tmp_path, monkeypatch, what, after):
    monkeypatch.setattr(blobs_module, "DEAD_LOCK_S", 0.05)
    files = []
    for number in range(3):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(weights(number))
        files.append(path)
    steps = {
        "push": lambda registry: registry.push(files[2], "m"),
        "promote": lambda registry: registry.promote("m:2", "prod"),
        "delete": lambda registry: registry.delete("m:1"),
        "gc": lambda registry: registry.gc(),
    }
    for at in range(60):
        root = f"{where}/{at}"
        sound = Registry(root)
        sound.push(files[0], "m")
        sound.push(files[1], "m")
        sound.promote("m:2", "canary")
        if what == "gc":
            sound.push(files[2], "n")
            sound.delete("n:1")
        store = Deadly(open_store(root), at, after)
        try:
            steps[what](Registry(store))
            died = False
        except Killed:
            died = True
        known = sound.versions("m")
        for version in known:
            if version not in sound.deleted("m"):
                assert pulled(sound, f"m:{version}", tmp_path) == weights(version - 1)
        assert sound.resolve("m@canary") == ("m", 2)
        assert len(sound.history("m", "canary")) == 1
        steps[what](sound)  # again, by somebody who lives
        sound.gc()
        assert pulled(sound, "m:2", tmp_path) == weights(1)
        if not died:
            return
    pytest.fail("it never came to an end")
