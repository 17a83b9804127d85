"""Bytes under their SHA-256, shared by all versions of all models; and the removal of those that nobody needs.

A collection of garbage must not meet a push that is about to refer to an old blob. So a push first writes down what it
will refer to, then looks for a lock; a collection first takes the lock, then reads what pushes wrote. One of the two
always sees the other: the push waits, or its blobs stay. No clock of another machine is trusted: a lock is dead once
its beat has not changed for a minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eco_ray.errors import DamagedError, EcoRayError, NotAllowedError, NotFoundError, UsageError
from eco_ray.models import container
from eco_ray.models.manifest import MAX_BYTES, Blob, Manifest
from eco_ray.models.object_store import CHUNK_BYTES, ObjectStore

_LOCK = "gc.lock"
#: a difference, which ties two versions together, is kept if it packs to less than so much of what its base packs to
_WORTH = 0.9
#: how often the lock of a collection changes, and how long it may stay the same [s]
_BEAT_S, DEAD_LOCK_S = 5.0, 60.0
#: what a push wrote down is forgotten after so long, by the clocks of two machines: days apart they are not [s]
DEAD_PUSH_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed, or would remove."""

    removed: tuple[str, ...]
    freed_bytes: int
    kept: int


class Blobs:
    """The blobs of a registry."""

    def __init__(self, store: ObjectStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    def pack(self, source: Path, base: Manifest | None, folder: Path) -> tuple[Path, str | None]:
        """A safetensors file in the container, and the blob that this is a difference from, where that is worth it."""
        packed = folder / "new.ecoz"
        if base is not None and base.blob.base is None and self.has(base.blob):
            below = folder / "base.ecoz"
            with contextlib.suppress(UsageError, DamagedError):  # then it stands alone
                self.get(base.blob, below)
                if container.pack(source, packed, base=below).ratio < _WORTH * base.blob.size / base.size:
                    return packed, base.blob.sha256
        container.pack(source, packed)
        return packed, None

    def has(self, blob: Blob) -> bool:
        """Whether it is there, by its size."""
        return self._store.size(_path(blob.sha256)) == blob.size

    def is_sound(self, found: Manifest, folder: Path) -> bool:
        """Whether what is kept still makes the file of a version; every byte is read."""
        try:
            self.make(found, folder).unlink()
        except DamagedError:
            return False
        return True

    def put(self, blob: Blob, source: Path, *, move: bool) -> None:
        """Keep a blob; one that is there is read, and replaced if it is damaged. `move`: the file may go."""
        if not self._is_kept(blob):
            self._store.put_file(_path(blob.sha256), source, move=move)
        if not self.has(blob):
            raise EcoRayError(f"{self._store.url} did not keep {blob.size} bytes of blob {blob.sha256[:12]}; try again")

    def _is_kept(self, blob: Blob) -> bool:
        if not self.has(blob):
            return False
        with tempfile.TemporaryDirectory(prefix="eco_ray-push-") as folder:
            try:
                self.get(blob, Path(folder) / "kept")
            except DamagedError:
                return False
        return True

    def get(self, blob: Blob, target: Path) -> None:
        """Fetch a blob, and compare it with its digest. Raises DamagedError."""
        try:
            self._store.get_file(_path(blob.sha256), target)
        except NotFoundError:
            raise DamagedError(
                f"blob {blob.sha256[:12]} is missing in {self._store.url}; restore it from a copy"
            ) from None
        digest, size = sha256_of(target)
        if digest != blob.sha256:
            raise DamagedError(
                f"blob {blob.sha256[:12]} in {self._store.url} has other bytes ({size}) than were written"
            )

    def make(self, found: Manifest, folder: Path) -> Path:
        """The file of a version, compared with what was pushed. Raises DamagedError."""
        kept, made = folder / "kept", folder / "made"
        self.get(found.blob, kept)
        if found.blob.coding == "raw":
            made = kept
        else:
            base = None
            if found.blob.base is not None:
                base = folder / "base"
                self.get(Blob(sha256=found.blob.base, size=0, coding="ecoz"), base)
            container.unpack(kept, made, base=base)
        if sha256_of(made) != (found.sha256, found.size):
            raise DamagedError(f"{found.reference} does not make the bytes that were pushed")
        return made

    # -- garbage -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def announced(self, digests: set[str]) -> Iterator[None]:
        """Say what will be referred to, and wait for a collection that may not have read it."""
        path = f"pushes/{uuid.uuid4().hex}.json"
        self._store.put_new(path, json.dumps(sorted(digests)).encode())
        try:
            self._wait_for_lock()
            yield
        finally:
            self._store.remove(path)

    def collect(self, needed: Callable[[Callable[[], None]], set[str]], *, dry_run: bool) -> Collected:
        """Remove all but the needed blobs; `needed` is asked under the lock, and calls what it gets now and then."""
        if dry_run:
            return self._collect(needed(lambda: None), lambda: None, dry_run=True)
        with self._locked() as beat:
            announced = self._announced_ones()  # before manifests are read: a push ends after its manifest is there
            return self._collect(needed(beat) | announced, beat, dry_run=False)

    def _collect(self, needed: set[str], beat: Callable[[], None], *, dry_run: bool) -> Collected:
        store = self._store
        blobs = [f"blobs/{part}/{one}" for part in store.names("blobs") for one in store.names(f"blobs/{part}")]
        unused, freed = [path for path in blobs if path.rpartition("/")[2] not in needed], 0
        for path in unused:
            freed += store.size(path) or 0
            if not dry_run:
                beat()
                store.remove(path)
        return Collected(tuple(path.rpartition("/")[2] for path in unused), freed, len(blobs) - len(unused))

    def _announced_ones(self) -> set[str]:
        """What pushes that are under way will refer to."""
        found: set[str] = set()
        for one in self._store.names("pushes"):
            path = f"pushes/{one}"
            if self._store.age_s(path, self._clock()) > DEAD_PUSH_S:
                self._store.remove(path)
                continue
            with contextlib.suppress(NotFoundError):  # it ended since it was listed
                found.update(json.loads(self._store.read(path, MAX_BYTES)))
        return found

    def _lock(self) -> bytes | None:
        try:
            return self._store.read(_LOCK, MAX_BYTES)
        except NotFoundError:
            return None

    def _wait_for_lock(self) -> None:
        """Until no collection is under way, or the one that is has been dead for a while."""
        seen, since = self._lock(), time.monotonic()
        while seen is not None and time.monotonic() - since < DEAD_LOCK_S:
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
            self._store.remove(_LOCK)
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


def _path(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def sha256_of(path: Path) -> tuple[str, int]:
    """Digest and size of a file."""
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            sha.update(data)
            size += len(data)
    return sha.hexdigest(), size
