"""One suite for every place that the registry may be kept in."""

from __future__ import annotations

import os
import threading
import time
import uuid

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from registry_cases import empty_place

from eco_ray.errors import DamagedError, NotAllowedError, NotFoundError, UnreachableError, UsageError
from eco_ray.models import object_store as object_store_module
from eco_ray.models.object_store import FsspecStore, open_store


@pytest.fixture(params=["local", "file", "memory", "s3"])
def store(request, tmp_path):
    return open_store(empty_place(request, tmp_path))


def test_what_is_put_is_read(store):
    assert store.put_new("a/b/one", b"1")
    store.put("a/b/two", b"22")
    store.put("a/c", b"333")
    assert (store.read("a/b/one", 10), store.read("a/b/two", 2), store.read("a/c", 3)) == (b"1", b"22", b"333")
    assert (store.names("a"), store.names("a/b"), store.names("a/none")) == (["b", "c"], ["one", "two"], [])
    assert (store.size("a/c"), store.size("a/none")) == (3, None)
    assert abs(store.written_s("a/c") - time.time()) < 60
    assert store.written_s("a/none") is None
    store.remove("a/c")
    store.remove("a/c")
    assert store.size("a/c") is None


def test_what_is_there_is_never_replaced_by_put_new(store):
    assert store.put_new("x", b"first")
    assert not store.put_new("x", b"second")
    assert store.read("x", 10) == b"first"
    store.put("x", b"third")
    assert store.read("x", 10) == b"third"


def test_a_store_without_conditional_puts_is_refused_before_it_replaces_anything():
    class Heedless(MemoryFileSystem):
        def pipe_file(self, path, value, mode="overwrite", **how):
            super().pipe_file(path, value, **how)

    store = FsspecStore("heedless://", Heedless(), f"/{uuid.uuid4().hex}")
    store.put("x", b"first")
    for _ in range(2):
        with pytest.raises(UsageError, match="no conditional puts"):
            store.put_new("x", b"second")
    assert store.read("x", 10) == b"first"


def test_new_directories_outlive_a_power_cut_as_what_is_in_them_does(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(object_store_module, "sync", lambda path: synced.append(path.relative_to(tmp_path).as_posix()))
    store = open_store(str(tmp_path / "r"))
    store.put_new("a/b/one", b"1")
    assert synced == [".", "r", "r/a", "r/a/b"]
    store.put("a/b/two", b"2")
    assert synced[4:] == ["r/a/b"]


def test_of_many_writers_at_once_one_gets_the_place(store):
    begin, got = threading.Barrier(8), []

    def write(number):
        begin.wait()
        if store.put_new("models/m/versions/1.json", b"%d" % number * 1000):
            got.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = got
    assert store.read("models/m/versions/1.json", 10_000) == b"%d" % winner * 1000


def test_what_is_missing_or_too_large_is_told(store):
    with pytest.raises(NotFoundError):
        store.read("none", 10)
    store.put("x", b"12345")
    with pytest.raises(DamagedError, match="larger than 4 bytes"):
        store.read("x", 4)


@pytest.mark.parametrize(
    "path", ["../x", "a/../b", "/etc/passwd", "a//b", ".a", "a/.b", "a\0b", "a b", "", "a" * 600, "a\n"]
)
def test_no_path_leaves_the_root(store, path):
    for call in (lambda: store.put(path, b""), lambda: store.read(path, 1), lambda: store.names(path)):
        with pytest.raises(UsageError):
            call()


def test_a_protocol_that_nobody_speaks_is_told():
    with pytest.raises(UsageError, match="nonsense"):
        open_store("nonsense://bucket/x")


def test_drafts_of_a_crash_are_not_seen_and_swept_once_they_are_old(tmp_path):
    store = open_store(str(tmp_path))
    store.put("models/x", b"1")
    folder = tmp_path / "models"
    old, new = (folder / f".{digit * 32}.tmp" for digit in "ab")
    for draft in (old, new):
        draft.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    assert store.names("models") == ["x"]
    store.sweep(new.stat().st_mtime)
    assert (old.exists(), new.exists(), store.names("models")) == (False, True, ["x"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_is_read_only_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(NotAllowedError):
        open_store(str(tmp_path)).put("x", b"")


def test_no_link_is_followed_and_nothing_of_others_is_swept(tmp_path):
    store, others = open_store(str(tmp_path / "r")), tmp_path / "others"
    store.put("models/m/x", b"1")
    others.mkdir()
    drafts = [others / f".{'a' * 32}.tmp", tmp_path / "r/models/m/.vimrc.tmp", tmp_path / "r" / f".{'b' * 32}.tmp.txt"]
    for draft in drafts:
        draft.write_bytes(b"precious")
        os.utime(draft, (1000, 1000))
    (tmp_path / "r/models/link").symlink_to(others)
    (tmp_path / "r/blobs").symlink_to(others)
    store.sweep(2000)
    assert all(draft.exists() for draft in drafts)
    assert (store.names("models"), store.names("models", links=False)) == (["link", "m"], ["m"])
    assert (store.names("blobs"), store.names("blobs", links=False)) == ([], [])
    (others / "seen").touch()
    assert (store.names("blobs"), store.names("blobs", links=False)) == (["seen"], [])


def test_a_pipe_or_a_device_holds_nobody_up(tmp_path):
    store = open_store(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "zero", "folder"):
        with pytest.raises(DamagedError, match="no regular file"):
            store.read(name, 10)


def test_names_that_no_path_has_are_passed_over(tmp_path):
    for name in ("a b", "ok", "-x", "\u00fc", ".hidden"):
        (tmp_path / "models" / name).mkdir(parents=True)
    assert open_store(str(tmp_path)).names("models") == ["ok"]
    assert open_store(f"local://{tmp_path}").names("models") == ["ok"]


def test_no_error_tells_credentials(monkeypatch):
    with pytest.raises(UsageError) as told:
        open_store("nonsense://ann:hunter2@bucket/x?token=hunter3")
    assert "hunter" not in str(told.value)
    store = open_store("memory://ann:hunter2@bucket/x")
    assert "hunter2" not in store.url

    def refuse(*_, **__):
        raise ValueError("bad bucket name ann:hunter2@bucket, or hunter2")

    monkeypatch.setattr(store._fs, "cat_file", refuse)
    with pytest.raises(UnreachableError, match=r"bad bucket name \*\*\*@bucket, or \*\*\*") as told:
        store.read("x", 1)


def test_a_bucket_that_is_missing_is_told(s3_url):
    with pytest.raises(NotFoundError, match="there is no bucket for s3://no-such-bucket/x"):
        open_store("s3://no-such-bucket/x").names("models")
