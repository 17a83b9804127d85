"""What is kept of files, shared by all versions of all models; and the removal of what nobody needs.

A collection of garbage must not meet a push that is about to refer to an old part. So a push first writes down what it
will refer to, then looks for a lock; a collection first takes the lock, then reads what pushes wrote. One of the two
always sees the other: the push waits, or its parts stay. No clock of another machine is trusted: a lock is dead once
its beat has not changed for a minute, and how old a push is the store itself tells, by what it wrote later.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from eco_ray.errors import DamagedError, EcoRayError, NotAllowedError, NotFoundError, UsageError
from eco_ray.models import container
from eco_ray.models.container import Report
from eco_ray.models.manifest import MAX_BYTES, Blob, Extra, Format, Manifest
from eco_ray.models.object_store import ObjectStore
from eco_ray.models.parts import Look, Parts

#: called with where parts are, before it is looked what is there
Announce = Callable[[set[str]], None]

_LOCK = "gc.lock"
#: names of what is kept: id of a key, beginning of a digest, digest
_KEY, _BEGIN, _DIGEST = (re.compile(rf"[0-9a-f]{{{digits}}}", re.ASCII) for digits in (16, 2, 64))
_READ_BYTES = 1 << 20
#: a difference, which ties two versions together, is kept if it packs to less than so much of what its base packs to
_WORTH = 0.9
#: how often the lock of a collection changes, and how long it may stay the same [s]
_BEAT_S, DEAD_LOCK_S = 5.0, 60.0
#: what a push wrote down last, or left half-written, is forgotten after so long, by the clock of the store [s]
DEAD_PUSH_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Collected:
    """Where the parts were that a collection removed, or would remove; and how many stay."""

    removed: tuple[str, ...]
    freed_bytes: int
    kept: int


class Blobs:
    """The blobs of a registry."""

    def __init__(self, store: ObjectStore, parts: Parts) -> None:
        self._store = store
        self._parts = parts

    def keep(
        self,
        source: Path,
        kind: Format,
        base: Manifest | None,
        is_same: Callable[[Manifest], bool],
        announce: Announce,
        folder: Path,
    ) -> tuple[Blob, str, int]:
        """Keep a file; safetensors ones are packed, as a difference from `base` where that is worth it.

        `is_same`: whether a version has the bytes of the file. `folder`: for what takes room on the way. With the blob
        come SHA-256 and size of the file, which is read twice, so that a change in between is noticed.
        """
        if kind != "safetensors":
            digest, size = sha256_of(source)
            return self._parts.put(source, "raw", None, announce, digest), digest, size
        if base is not None:
            announce(base.blob.paths())
            if is_same(base) and self._is_sound(base, folder):
                self._parts.moved.reused_bytes += base.blob.size
                return base.blob, base.sha256, base.size  # the same bytes again: nothing to keep
        packed = folder / "new.ecoz"
        below, made = self._pack(source, packed, base, folder)
        return self._parts.put(packed, "ecoz", below, announce), made.sha256, made.safetensors_bytes

    def keep_extras(self, files: Mapping[str, Path], announce: Announce) -> tuple[Extra, ...]:
        """Keep the files beside a model, by their paths."""
        kept = []
        for path, file in files.items():
            digest, size = sha256_of(file)
            kept.append(
                Extra(path=path, sha256=digest, size=size, blob=self._parts.put(file, "raw", None, announce, digest))
            )
        return tuple(kept)

    def _pack(self, source: Path, packed: Path, base: Manifest | None, folder: Path) -> tuple[Blob | None, Report]:
        """Put a safetensors file into the container; and the blob that it is a difference from, where that is worth it.

        The base is read from the store itself: nothing may refer to what is damaged there.
        """
        if base is not None and base.blob.base is None:
            below = folder / "base.ecoz"
            with contextlib.suppress(UsageError, DamagedError):  # then it stands alone
                self._parts.get(base.blob, below, base.reference, Look.TOLD)
                made = container.pack(source, packed, base=below, durable=False)
                if made.ratio < _WORTH * base.blob.size / base.size:
                    return base.blob, made
        return None, container.pack(source, packed, durable=False)

    def _is_sound(self, found: Manifest, folder: Path) -> bool:
        """Whether what is kept still makes the file of a version; every byte is read."""
        try:
            self.make(found, folder, Look.TOLD).unlink()
        except DamagedError:
            return False
        return True

    def make(self, found: Manifest, folder: Path, look: Look) -> Path:
        """The file of a version, compared with what was pushed.

        Raises DamagedError; NotAllowedError where it is sealed and its key was not given.
        """
        kept, made = folder / "kept", folder / "made"
        self._parts.get(found.blob, kept, found.reference, look)
        if found.blob.coding == "raw":
            made = kept
        else:
            base = None
            if found.blob.base is not None:
                base = folder / "base"
                self._parts.get(found.blob.base, base, f"base of {found.reference}", look)
            container.unpack(kept, made, base=base)
        if sha256_of(made) != (found.sha256, found.size):
            raise DamagedError(f"{found.reference} does not make the bytes that were pushed")
        return made

    def make_all(self, found: Manifest, folder: Path, look: Look) -> Path:
        """The file of a version, or a folder with all its files; as `make`."""
        made = self.make(found, folder, look)
        if not found.main:
            return made
        files = folder / "files"
        files.mkdir()
        made.replace(files / found.main)
        for extra in found.extras:
            file = files / extra.path
            file.parent.mkdir(parents=True, exist_ok=True)
            self._parts.get(extra.blob, file, f"{extra.path} of {found.reference}", look)
            if sha256_of(file) != (extra.sha256, extra.size):
                raise DamagedError(f"{extra.path} of {found.reference} is not what was pushed")
        return files

    # -- garbage -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def announced(self) -> Iterator[Announce]:
        """What it gives is told which paths will be referred to, before it is looked what is there.

        Each time it waits for a collection that may not have read that.
        """
        path, told, one_at_a_time = f"pushes/{uuid.uuid4().hex}.json", set[str](), threading.Lock()

        def announce(paths: set[str]) -> None:
            with one_at_a_time:
                if not paths <= told:
                    told.update(paths)
                    self._store.put(path, json.dumps(sorted(told)).encode())
                    self._wait_for_lock()

        try:
            yield announce
        finally:
            with contextlib.suppress(EcoRayError):  # it is forgotten after a week; what was pushed is pushed
                self._store.remove(path)

    def collect(self, needed: Callable[[Callable[[], None]], set[str]], *, dry_run: bool) -> Collected:
        """Remove all but the needed parts; `needed` is asked under the lock, and calls what it gets now and then."""
        if dry_run:
            return self._collect(needed(lambda: None), lambda: None, dry_run=True)
        with self._locked() as beat:
            dead_s = (self._store.written_s(_LOCK) or 0.0) - DEAD_PUSH_S
            self._store.sweep(dead_s)
            # before manifests are read: a push ends after its manifest is there
            announced = self._announced_ones(dead_s)
            return self._collect(needed(beat) | announced, beat, dry_run=False)

    def _collect(self, needed: set[str], beat: Callable[[], None], *, dry_run: bool) -> Collected:
        found = self._all(beat)
        unused, freed = [path for path in found if path not in needed], 0
        for path in unused:
            freed += self._store.size(path) or 0
            if not dry_run:
                beat()
                self._store.remove(path)
        return Collected(tuple(unused), freed, len(found) - len(unused))

    def _all(self, beat: Callable[[], None]) -> list[str]:
        """Where there are parts, open and sealed ones: what has another name, or is a link, is somebody else's."""

        def names(path: str, like: re.Pattern[str]) -> list[str]:
            return [name for name in self._store.names(path, links=False) if like.fullmatch(name)]

        found = list[str]()
        for root in ["blobs", *(f"sealed/{key}" for key in names("sealed", _KEY))]:
            for begin in names(root, _BEGIN):
                beat()
                found += [f"{root}/{begin}/{one}" for one in names(f"{root}/{begin}", _DIGEST) if one.startswith(begin)]
        return found

    def is_empty(self) -> bool:
        """Whether no part is there."""
        return not self._all(lambda: None)

    def _announced_ones(self, dead_s: float) -> set[str]:
        """What pushes that are under way will refer to; those that said nothing since `dead_s` are dead."""
        found: set[str] = set()
        for one in self._store.names("pushes"):
            path = f"pushes/{one}"
            written_s = self._store.written_s(path)
            if written_s is not None and written_s < dead_s:
                self._store.remove(path)
                continue
            with contextlib.suppress(NotFoundError):  # it ended since it was listed
                found.update(_paths(self._store.read(path, MAX_BYTES), f"{self._store.url}/{path}"))
        return found

    def _lock(self) -> bytes | None:
        try:
            return self._store.read(_LOCK, MAX_BYTES)
        except NotFoundError:
            return None

    def _wait_for_lock(self) -> None:
        """Until no collection is under way. One that stood still for a while loses the lock, and ends if it lives."""
        seen, since = self._lock(), time.monotonic()
        while seen is not None:
            if time.monotonic() - since > DEAD_LOCK_S:
                self._store.remove(_LOCK)
                return
            time.sleep(0.2)
            now = self._lock()
            if now != seen:
                seen, since = now, time.monotonic()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Callable[[], None]]:
        """Hold the lock; what it gives has to be called all the time, and raises once somebody else has taken over."""
        mine, beats, beaten = uuid.uuid4().hex, 0, time.monotonic()
        held = f"{mine} 0".encode()
        if not self._store.put_new(_LOCK, held):
            self._wait_for_lock()
            if not self._store.put_new(_LOCK, held):
                raise NotAllowedError(f"another collection has just begun in {self._store.url}; wait for its end")

        def beat() -> None:
            nonlocal beats, beaten, held
            if self._lock() != held:
                raise NotAllowedError(f"another collection has taken over in {self._store.url}; this one ends")
            if time.monotonic() - beaten > _BEAT_S:
                beats, beaten = beats + 1, time.monotonic()
                held = f"{mine} {beats}".encode()
                self._store.put(_LOCK, held)

        try:
            yield beat
        finally:
            if self._lock() == held:
                self._store.remove(_LOCK)


def _paths(data: bytes, where: str) -> list[str]:
    """What an announcement tells."""
    try:
        told = json.loads(data)
        if isinstance(told, list) and all(isinstance(one, str) for one in told):
            return told
    except (ValueError, RecursionError):
        pass
    raise DamagedError(f"{where} is damaged: it may tell of anything; remove it once no push is under way")


def same_as(source: Path) -> Callable[[Manifest], bool]:
    """Whether a version has the bytes of a file; that is hashed once, and only where one has its size."""
    digest = functools.cache(lambda: sha256_of(source)[0])
    return lambda found: found.size == source.stat().st_size and found.sha256 == digest()


def sha256_of(path: Path) -> tuple[str, int]:
    """Digest and size of a file."""
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            sha.update(data)
            size += len(data)
    return sha.hexdigest(), size
