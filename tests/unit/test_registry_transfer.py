"""What moves between a registry and this machine: only what is missing, also after a break."""

from __future__ import annotations

import errno
import mmap
import os
import random
import threading
import uuid

import pytest
from registry_cases import GGUF, Deadly, Failing, Far, Killed, kill, objects, weights

from eco_ray.errors import DamagedError, EcoRayError, UnreachableError
from eco_ray.models import blobs as blobs_module
from eco_ray.models import container as container_module
from eco_ray.models import parts as parts_module
from eco_ray.models import registry as registry_module
from eco_ray.models.crypt import RegistryKey
from eco_ray.models.object_store import open_store
from eco_ray.models.part_cache import PartCache
from eco_ray.models.registry import Registry
from eco_ray.storage_url import without_credentials
from eco_ray.store.memory import MemoryStore
from eco_ray.whole_file import file_errors

PART_BYTES = 2048
#: seven parts, none like another
LARGE = GGUF + random.Random(8).randbytes(6 * PART_BYTES + 92)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts_module, "PART_BYTES", PART_BYTES)


@pytest.fixture
def far():
    return open_store(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def cache(tmp_path):
    return PartCache(tmp_path / "cache", 1 << 30)


@pytest.fixture
def file(tmp_path):
    def made(content, suffix=".gguf"):
        path = tmp_path / f"{uuid.uuid4().hex}{suffix}"
        path.write_bytes(content)
        return path

    return made


def told(registry):
    return registry.moved.sent_bytes, registry.moved.received_bytes, registry.moved.reused_bytes


# -- pushes ------------------------------------------------------------------------------------------------------------


def test_a_push_sends_what_is_missing_and_no_more(far, file):
    first = Registry(far)
    first.push(file(LARGE), "m")
    assert told(first) == (len(LARGE), 0, 0)
    again, longer = Registry(far), LARGE[:-100] + b"x" * 3000
    again.push(file(longer), "n")
    assert told(again) == (3000, 6 * PART_BYTES, 6 * PART_BYTES)  # what is there was read, not only looked for


def test_the_same_safetensors_file_again_sends_nothing(far, file):
    made = Registry(far).push(file(weights(0), ".safetensors"), "m")
    again = Registry(far)
    again.push(file(weights(0), ".safetensors"), "m")
    assert told(again) == (0, made.blob.size, made.blob.size)


def test_a_new_version_sends_its_difference(far, file):
    whole = Registry(far).push(file(weights(0), ".safetensors"), "m")
    second = Registry(far)
    made = second.push(file(weights(0, changed=3), ".safetensors"), "m")
    assert made.blob.base == whole.blob
    assert told(second) == (made.blob.size, whole.blob.size, 0)
    assert made.blob.size < whole.blob.size / 2


@pytest.mark.parametrize("after", [False, True])
def test_a_push_that_broke_off_goes_on_after_its_last_part(far, file, monkeypatch, after):
    monkeypatch.setattr(parts_module, "_AT_ONCE", 1)
    source = file(LARGE)
    with pytest.raises(Killed):
        Registry(Deadly(far, 5, after, ("put",))).push(source, "m")  # a part is announced, then sent
    sent = 3 if after else 2
    assert len(objects(far)) == sent
    again = Registry(far)
    again.push(source, "m")
    assert told(again) == (len(LARGE) - sent * PART_BYTES, sent * PART_BYTES, sent * PART_BYTES)


def test_a_file_that_changes_while_it_is_pushed_becomes_no_version(far, file, monkeypatch):
    source = file(LARGE)

    def put(self, *args, put=parts_module.Parts.put):
        source.write_bytes(LARGE[:-1] + b"?")
        return put(self, *args)

    monkeypatch.setattr(parts_module.Parts, "put", put)
    with pytest.raises(EcoRayError, match="was changed while it was pushed"):
        Registry(far).push(source, "m")
    assert Registry(far).versions("m") == []


def test_a_file_that_changes_while_its_signature_is_looked_for_becomes_no_version(far, file, monkeypatch):
    source = file(LARGE)

    def find_signature(path, kind, known=registry_module.find_signature):
        source.write_bytes(LARGE[:-1] + b"?")
        return known(path, kind)

    monkeypatch.setattr(registry_module, "find_signature", find_signature)
    with pytest.raises(EcoRayError, match="was changed while it was pushed"):
        Registry(far).push(source, "m")
    assert Registry(far).versions("m") == []


@pytest.mark.parametrize(("suffix", "place"), [(".gguf", -2), (".safetensors", -2), (".safetensors", 20), ("/", -2)])
def test_a_file_that_changes_through_a_mapping_becomes_no_version(far, tmp_path, monkeypatch, suffix, place):
    """Neither its size nor its times tell."""
    source = mapped = tmp_path / f"m{suffix}"
    if suffix == "/":
        source.mkdir()
        mapped = source / "vocab.txt"
        (source / "m.safetensors").write_bytes(weights(0))
    mapped.write_bytes(weights(0) if suffix == ".safetensors" else LARGE)
    with mapped.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        pages[place] = pages[place]

        for module, read in ((blobs_module, "sha256_of"), (container_module, "write_container")):
            known = getattr(module, read)

            def first_reading(*args, known=known):
                found = known(*args)
                pages[place] ^= 1
                return found

            monkeypatch.setattr(module, read, first_reading)
        with pytest.raises(EcoRayError, match="was changed while it was p"):
            Registry(far).push(source, "m")
    assert Registry(far).versions("m") == []


def test_a_file_without_a_byte_has_no_parts(far, file, tmp_path):
    registry = Registry(far)
    assert registry.push(file(b"", ".pkl"), "m", allow_pickle=True).blob.parts == ()
    registry.pull("m:1", tmp_path / "back", allow_pickle=True)
    assert (tmp_path / "back").read_bytes() == b""


def test_progress_is_told_part_by_part(far, file, tmp_path):
    steps = []
    registry = Registry(far, progress=lambda done, total, what: steps.append((done, total, what)))
    registry.push(file(LARGE), "m")
    assert [done for done, _, _ in steps] == [*range(PART_BYTES, len(LARGE), PART_BYTES), len(LARGE)]
    assert {step[1:] for step in steps} == {(len(LARGE), "sending")}
    steps.clear()
    registry.pull("m:1", tmp_path / "back")
    assert (steps[-1], len(steps)) == ((len(LARGE), len(LARGE), "m:1"), 7)


# -- pulls and their cache ---------------------------------------------------------------------------------------------


def test_a_pull_of_a_new_version_moves_its_difference_where_the_base_is_there(far, file, cache, tmp_path):
    pusher = Registry(far)
    whole = pusher.push(file(weights(0), ".safetensors"), "m")
    changed = pusher.push(file(weights(0, changed=3), ".safetensors"), "m")
    first, second, third = (Registry(far, cache=cache) for _ in range(3))
    first.pull("m:1", tmp_path / "1")
    second.pull("m:2", tmp_path / "2")
    third.pull("m:2", tmp_path / "3")
    assert told(first) == (0, whole.blob.size, 0)
    assert told(second) == (0, changed.blob.size, whole.blob.size)
    assert told(third) == (0, 0, whole.blob.size + changed.blob.size)
    assert (tmp_path / "3").read_bytes() == weights(0, changed=3)


def test_a_pull_that_broke_off_goes_on_after_its_last_part(far, file, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(parts_module, "_AT_ONCE", 1)
    Registry(far).push(file(LARGE), "m")
    with pytest.raises(Killed):  # after the manifest, the look whether it was deleted, and three parts
        Registry(Deadly(far, 5, False, ("read",)), cache=cache).pull("m:1", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    again = Registry(far, cache=cache)
    again.pull("m:1", tmp_path / "back")
    assert told(again) == (0, len(LARGE) - 3 * PART_BYTES, 3 * PART_BYTES)
    assert (tmp_path / "back").read_bytes() == LARGE


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: b"\0" * len(data), lambda data: data + b"\0"])
def test_a_cached_part_that_is_damaged_is_fetched_again(far, file, cache, tmp_path, harm):
    Registry(far).push(file(LARGE), "m")
    Registry(far, cache=cache).pull("m:1", tmp_path / "back")
    for one in list((tmp_path / "cache").iterdir())[:2]:
        one.write_bytes(harm(one.read_bytes()))
    for received in (2, 0):  # and mended
        registry = Registry(far, cache=cache)
        registry.pull("m:1", tmp_path / "back")
        assert registry.moved.received_bytes in range(received and 1, received * PART_BYTES + 1)
        assert (tmp_path / "back").read_bytes() == LARGE


def test_nothing_but_a_pull_believes_the_cache(far, file, cache, tmp_path):
    source = file(weights(0), ".safetensors")
    made = Registry(far).push(source, "m")
    Registry(far, cache=cache).pull("m:1", tmp_path / "back")
    path = made.blob.path(made.blob.parts[0])
    far.put(path, b"damaged")
    with pytest.raises(DamagedError):
        Registry(far, cache=cache).verify("m:1")
    later = Registry(far, cache=cache).push(file(weights(0, changed=2), ".safetensors"), "m")
    assert later.blob.base is None  # nothing stands on what is damaged
    Registry(far).verify(later.reference)


def test_a_directory_needs_no_cache(file, cache, tmp_path):
    registry = Registry(str(tmp_path / "near"), cache=cache)
    registry.push(file(LARGE), "m")
    registry.pull("m:1", tmp_path / "back")
    assert not (tmp_path / "cache").exists()


def test_the_cache_keeps_what_was_used_last(tmp_path):
    cache = PartCache(tmp_path / "c", 3000)
    for number in range(3):
        cache.keep(f"blobs/aa/{number}", bytes(1000))
        os.utime(tmp_path / "c" / f"blobs-aa-{number}", (number, number))
    (tmp_path / "c" / ".left-by-a-crash.tmp").write_bytes(bytes(500))
    os.utime(tmp_path / "c" / ".left-by-a-crash.tmp", (0.5, 0.5))
    assert cache.read("blobs/aa/0", 1000) == bytes(1000)  # and now it is the newest
    cache.keep("blobs/aa/3", bytes(1000))
    assert sorted(one.name for one in (tmp_path / "c").iterdir()) == ["blobs-aa-0", "blobs-aa-2", "blobs-aa-3"]
    cache.keep("blobs/aa/4", bytes(3001))  # larger than all that is allowed
    assert cache.read("blobs/aa/4", 4000) is None
    assert cache.read("blobs/aa/3", 999) is None


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(far, file, tmp_path):
    (tmp_path / "file").write_text("no directory")
    Registry(far).push(file(LARGE), "m")
    Registry(far, cache=PartCache(tmp_path / "file" / "cache", 1 << 30)).pull("m:1", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == LARGE


def test_several_use_the_cache_at_once(far, file, tmp_path):
    Registry(far).push(file(LARGE), "m")
    problems = []

    def pull(number):
        try:
            cache = PartCache(tmp_path / "c", 3 * PART_BYTES)  # too small for all of it
            for _ in range(5):
                Registry(far, cache=cache).pull("m:1", tmp_path / f"back-{number}")
                assert (tmp_path / f"back-{number}").read_bytes() == LARGE
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=pull, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


# -- real deaths -------------------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_half_way_leaves_the_rest_to_the_next(file, tmp_path):
    root, source, back = tmp_path / "registry", file(LARGE), tmp_path / "back"
    assert kill(root, "push", "put", 7, source)  # a part is announced, then sent: three are there
    pusher = Registry(Far(root))
    assert pusher.versions("m") == []
    pusher.push(source, "m")
    assert told(pusher) == (len(LARGE) - 3 * PART_BYTES, 3 * PART_BYTES, 3 * PART_BYTES)
    # the dead push left three parts in the cache; then the manifest, whether it was deleted, and two parts more
    assert kill(root, "pull", "read", 4, back)
    assert not back.exists()
    puller = Registry(Far(root), cache=PartCache(tmp_path / "cache", 1 << 30))
    puller.pull("m:1", back)
    assert told(puller) == (0, len(LARGE) - 5 * PART_BYTES, 5 * PART_BYTES)
    assert back.read_bytes() == LARGE


# -- a store that tells what it has ------------------------------------------------------------------------------------


def test_s3_tells_what_it_has_so_that_a_push_reads_nothing_back(s3_url, file, monkeypatch):
    monkeypatch.setattr(parts_module, "_AT_ONCE", 1)
    source = file(LARGE)
    with pytest.raises(Killed):
        Registry(Deadly(open_store(s3_url), 7, True, ("put",), remote=True)).push(source, "m")
    again = Registry(s3_url)
    again.push(source, "m")
    assert told(again) == (len(LARGE) - 4 * PART_BYTES, 0, 4 * PART_BYTES)


def test_a_new_version_moves_its_difference_only_where_the_base_is_in_the_cache(s3_url, file, cache):
    whole = Registry(s3_url, cache=cache).push(file(weights(0), ".safetensors"), "m")
    again, second = Registry(s3_url, cache=cache), Registry(s3_url, cache=cache)
    again.push(file(weights(0), ".safetensors"), "m")
    assert told(again)[:2] == (0, 0)
    made = second.push(file(weights(0, changed=3), ".safetensors"), "m")
    assert made.blob.base == whole.blob
    assert told(second) == (made.blob.size, 0, whole.blob.size)


@pytest.mark.parametrize("key", [None, RegistryKey(bytes(32))])
def test_what_the_store_tells_is_of_its_own_bytes_whatever_the_cache_has(s3_url, file, cache, key):
    source, store = file(weights(0), ".safetensors"), open_store(s3_url)
    made = Registry(s3_url, cache=cache, key=key).push(source, "m")
    path = made.blob.path(made.blob.parts[0])
    assert store.md5(path) is not None
    store.put(path, b"x" * len(store.read(path, 1 << 20)))
    for _ in range(2):  # as a base, and as the same file again: nothing refers to what is damaged there
        Registry(s3_url, cache=cache, key=key).push(source, "m")
    Registry(s3_url, key=key).verify("m:3")
    store.remove(path)
    assert store.md5(path) is None
    with pytest.raises(DamagedError, match="missing"):
        Registry(s3_url, cache=cache, key=key).verify("m:3")


def test_a_directory_and_memory_tell_nothing(far, tmp_path):
    for store in (far, open_store(str(tmp_path / "r"))):
        store.put("x", b"1")
        assert store.md5("x") is None


# -- the ledger --------------------------------------------------------------------------------------------------------


def test_the_ledger_is_told_what_moved_also_by_what_breaks_off(far, file, tmp_path):
    ledger, clock = MemoryStore(), lambda: 1_783_252_800.0
    first = Registry(far, ledger=ledger, clock=clock)
    first.push(file(LARGE), "m")
    (sent,) = ledger.transfers()
    assert (sent.owner_id, sent.direction, sent.place) == ("m:1", "push", far.url)
    assert (sent.moved_bytes, sent.reused_bytes, sent.nature) == (len(LARGE), 0, "assumed")
    assert sent.energy_mj == round(len(LARGE) / 1e9 * 3.6e6)
    first.push(file(LARGE), "m")
    assert [one.moved_bytes for one in ledger.transfers()] == [len(LARGE)] * 2  # the second time it was read
    broken = Registry(Deadly(far, 4, True, ("put",), remote=True), ledger=ledger, clock=clock)
    with pytest.raises(Killed):
        broken.push(file(GGUF + LARGE[:7:-1]), "n")
    (part_of_it,) = [one for one in ledger.transfers() if one.owner_id == "n"]
    assert 0 < part_of_it.moved_bytes < len(LARGE)
    assert part_of_it.source == f"{sent.source}; it broke off: at most"
    Registry(far, ledger=ledger, clock=clock).pull("m:1", tmp_path / "back")
    assert [one.owner_id for one in ledger.transfers() if one.direction == "pull"] == ["m:1"]


@pytest.mark.parametrize(("call", "parts"), [("put", 3), ("read", 2)])
def test_a_part_that_breaks_off_counts_whole(far, file, tmp_path, monkeypatch, call, parts):
    """Three are announced and the third is on its way; a manifest and a deletion are read, one part, and another."""
    monkeypatch.setattr(parts_module, "_AT_ONCE", 1)
    ledger, source = MemoryStore(), file(LARGE)
    if call == "read":
        Registry(far).push(source, "m")
    broken = Registry(
        Failing(far, UnreachableError("the line is dead"), {"put": 5, "read": 3}[call], (call,)), ledger=ledger
    )
    with pytest.raises(UnreachableError):
        broken.push(source, "m") if call == "put" else broken.pull("m:1", tmp_path / "back")
    (row,) = ledger.transfers()
    assert (row.moved_bytes, row.energy_mj) == (parts * PART_BYTES, round(parts * PART_BYTES / 1e9 * 3.6e6))


def test_a_directory_takes_no_energy_of_a_network(file, tmp_path):
    ledger = MemoryStore()
    Registry(str(tmp_path / "r"), ledger=ledger).push(file(LARGE), "m")
    (sent,) = ledger.transfers()
    assert (sent.moved_bytes, sent.energy_mj) == (len(LARGE), 0)
    assert "directory" in sent.source


@pytest.mark.parametrize("name", ["x" * 300, "folder", "/proc/none"])
def test_a_place_that_is_no_file_is_told_in_a_sentence(far, file, tmp_path, name):
    registry = Registry(far)
    registry.push(file(LARGE), "m")
    (tmp_path / "folder").mkdir()
    with pytest.raises(EcoRayError, match="name another file"):
        registry.pull("m:1", tmp_path / name)
    with pytest.raises(EcoRayError):
        registry.push(tmp_path / (name + ".gguf"), "m")


def test_a_full_disk_is_not_cured_by_another_file(tmp_path):
    with pytest.raises(EcoRayError, match=r"tmp/draft'.*No space left.*; make room there"), file_errors(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/draft")


def test_a_ledger_that_fails_holds_no_transfer_up(far, file, caplog):
    class Full:
        def add_transfers(self, transfers):
            raise EcoRayError("the disk is full")

    assert Registry(far, ledger=Full()).push(file(LARGE), "m").version == 1
    assert "not in the ledger: the disk is full" in caplog.text


def test_no_credential_is_written_down():
    assert without_credentials("ftp://ann:secret@host/models") == "ftp://host/models"
    assert without_credentials("s3://bucket/a@b") == "s3://bucket/a@b"
    assert without_credentials("/var/a@b") == "/var/a@b"
