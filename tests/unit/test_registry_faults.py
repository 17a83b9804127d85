"""Deaths by SIGKILL at any write, full and read-only disks, clocks that jump, and half-written documents."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import threading
import uuid

import pytest
from registry_cases import GGUF, Clock, Failing, empty_place, kill, objects

from eco_ray.errors import DamagedError, EcoRayError, NotAllowedError
from eco_ray.models import blobs as blobs_module
from eco_ray.models import object_store as object_store_module
from eco_ray.models import parts as parts_module
from eco_ray.models.object_store import LocalStore, open_store
from eco_ray.models.part_cache import PartCache
from eco_ray.models.registry import Registry

PART_BYTES = 2048
DAY_S = 24 * 3600.0
FILES = [GGUF + random.Random(seed).randbytes(2 * PART_BYTES + 92) for seed in range(3)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts_module, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(blobs_module, "DEAD_LOCK_S", 0.05)


@pytest.fixture
def file(tmp_path):
    def made(number):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(FILES[number])
        return path

    return made


@pytest.fixture(params=["local", "memory", "s3"])
def where(request, tmp_path):
    return empty_place(request, tmp_path)


def begun(root, file):
    """A registry with two versions, an alias, and a deleted version of another model."""
    registry = Registry(str(root))
    registry.push(file(0), "m")
    registry.push(file(1), "m")
    registry.promote("m:2", "canary")
    registry.push(file(2), "n")
    registry.delete("n:1")
    return registry


def check(registry, folder):
    """Every version that is not deleted comes back whole."""
    for version in registry.versions("m"):
        if version not in registry.deleted("m"):
            registry.pull(f"m:{version}", folder / "back")
            assert (folder / "back").read_bytes() == FILES[version - 1 if version < 3 else 2]
    assert registry.resolve("m@canary") == ("m", 2)


# -- deaths ------------------------------------------------------------------------------------------------------------

STEPS = {
    "push": lambda registry, file: registry.push(file(2), "m"),
    "promote": lambda registry, file: registry.promote("m:2", "prod"),
    "delete": lambda registry, file: registry.delete("m:1"),
    "gc": lambda registry, file: registry.gc(),
}


def die_everywhere(tmp_path, file, what, how):
    for at in range(40):
        root = tmp_path / str(at) / "registry"
        registry = begun(root, file)
        died = kill(root, what, "put,put_new,remove", at, file(2), how)
        check(registry, tmp_path)
        STEPS[what](registry, file)  # again, by somebody who lives
        check(registry, tmp_path)
        for one in (root / "pushes").iterdir():  # as if a week had gone by
            os.utime(one, (1, 1))
        for draft in root.rglob(".*"):
            os.utime(draft, (1, 1))
        registry.gc()
        check(registry, tmp_path)
        live = [version for version in registry.versions("m") if version not in registry.deleted("m")]
        needed = set().union(*(registry.manifest(f"m:{version}").blob.paths() for version in live))
        assert set(objects(LocalStore(root))) == needed
        assert [one for one in root.rglob("*") if one.name.startswith(".") or one.parent.name == "pushes"] == []
        if not died:
            assert at > 0
            return
    pytest.fail("it never came to an end")


@pytest.mark.parametrize("what", ["promote", "delete"])
def test_a_process_that_is_killed_leaves_a_sound_registry(tmp_path, file, what):
    die_everywhere(tmp_path, file, what, "half")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["before", "after", "half"])
@pytest.mark.parametrize("what", list(STEPS))
def test_a_process_that_is_killed_at_any_write_leaves_a_sound_registry(tmp_path, file, what, how):
    die_everywhere(tmp_path, file, what, how)


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("what", list(STEPS))
def test_a_disk_that_is_full_or_read_only_is_told_and_harms_nothing(tmp_path, file, monkeypatch, what, code):
    write = object_store_module._write
    for at in range(40):
        root = tmp_path / str(at)
        registry, left = begun(root, file), [at]

        def full(draft, data, left=left):
            left[0] -= 1
            if left[0] < 0:
                write(draft, data[: len(data) // 2])
                raise OSError(code, os.strerror(code))
            write(draft, data)

        with monkeypatch.context() as patch:
            patch.setattr(object_store_module, "_write", full)
            failed = True
            with contextlib.suppress(EcoRayError):
                STEPS[what](registry, file)
                failed = False
            if failed:
                with pytest.raises(EcoRayError, match=os.strerror(code)):
                    STEPS[what](registry, file)
        check(registry, tmp_path)
        STEPS[what](registry, file)
        check(registry, tmp_path)
        assert not list(root.rglob(".*"))
        if not failed:
            return
    pytest.fail("it never came to an end")


@contextlib.contextmanager
def no_file_beyond(size):
    """No file becomes larger, as on a disk that is full (setrlimit(2); Python ignores SIGXFSZ)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_pull_to_a_disk_that_is_full_is_told_and_leaves_what_was_there(tmp_path, file):
    store = open_store(f"memory://{uuid.uuid4().hex}")
    Registry(store).push(file(0), "m")
    target = tmp_path / "target"
    target.write_bytes(b"before")
    registry = Registry(store, cache=PartCache(tmp_path / "cache", 1 << 30))
    with no_file_beyond(PART_BYTES // 2), pytest.raises(EcoRayError, match="File too large"):
        registry.pull("m:1", target)
    assert target.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    registry.pull("m:1", target)
    assert target.read_bytes() == FILES[0]


def test_a_push_to_a_disk_that_is_full_is_told(tmp_path, file):
    registry, source = begun(tmp_path / "registry", file), tmp_path / "new.gguf"
    source.write_bytes(GGUF + FILES[2][::-1])
    with no_file_beyond(PART_BYTES // 2), pytest.raises(EcoRayError, match="File too large"):
        registry.push(source, "m")
    check(registry, tmp_path)


@pytest.mark.parametrize("what", list(STEPS))
def test_a_store_that_refuses_to_write_is_told(where, tmp_path, file, what):
    begun(where, file)
    store = Failing(open_store(where), NotAllowedError("read-only"))
    with pytest.raises(NotAllowedError, match="read-only"):
        STEPS[what](Registry(store), file)
    check(Registry(store), tmp_path)  # reading takes no writing
    Registry(store).verify("m:1")
    assert Registry(store).gc(dry_run=True).removed


# -- clocks ------------------------------------------------------------------------------------------------------------


def test_versions_and_aliases_are_in_their_order_whatever_the_clock_says(where, file):
    clock = Clock()
    registry = Registry(where, clock=clock)
    for number, days in enumerate((0, 9, -30)):
        clock.now_s += days * DAY_S
        registry.push(file(number), "m")
        registry.promote(f"m:{number + 1}", "prod")
    assert registry.versions("m") == [1, 2, 3]
    assert registry.resolve("m@prod") == ("m", 3)
    assert [one.version for one in registry.history("m", "prod")] == [1, 2, 3]
    clock.now_s -= 100 * DAY_S
    assert registry.rollback("m", "prod").version == 2
    assert registry.resolve("m@prod") == ("m", 2)


@pytest.mark.parametrize("days", [-30, 30])
def test_a_collection_whose_clock_is_wrong_takes_nothing_from_a_push(where, tmp_path, file, monkeypatch, days):
    clock, collected, one_at_a_time = Clock(), [], threading.Lock()
    clock.now_s += days * DAY_S
    monkeypatch.setattr(blobs_module, "DEAD_LOCK_S", 60.0)  # else a slow store's collection may count as dead

    def put_and_collect(self, *args, put=parts_module.Parts._put):
        put(self, *args)
        with one_at_a_time:  # parts are put by two threads
            collected.append(Registry(where, clock=clock).gc().removed)

    Registry(where).push(file(1), "n")
    monkeypatch.setattr(parts_module.Parts, "_put", put_and_collect)
    Registry(where).push(file(0), "m")
    assert set(collected) == {()}
    Registry(where).verify("m:1")


# -- documents ---------------------------------------------------------------------------------------------------------


def test_a_half_written_manifest_is_told_and_its_number_stays_taken(where, tmp_path, file):
    registry, store = begun(where, file), open_store(where)
    path = "models/m/versions/3.json"
    store.put(path, store.read("models/m/versions/2.json", 1 << 20)[:-200])
    with pytest.raises(DamagedError, match=r"versions/3\.json"):
        registry.manifest("m:3")
    with pytest.raises(DamagedError):
        registry.gc()
    assert store.size("gc.lock") is None
    assert registry.push(file(2), "m").version == 4
    registry.verify("m:4")


@pytest.mark.parametrize("harm", [b"", b"[", b"{}", b"[1]", b"[" * 5000, b"\xff"])
def test_a_push_that_says_nothing_readable_ends_a_collection(where, file, harm):
    registry, store = begun(where, file), open_store(where)
    store.put("pushes/x.json", harm)
    with pytest.raises(DamagedError, match=r"pushes/x\.json"):
        registry.gc()
    store.remove("pushes/x.json")
    assert registry.gc().removed
