"""Parts of blobs: what moves between this machine and the store, each an object under its own SHA-256.

    blobs/AA/SHA256             a part as it is
    sealed/KEY/AA/SHA256        one that is sealed with the key of that id (crypt.py), under the SHA-256 of the open one

What is there is not sent again, and what lies in the cache is not fetched again; so a transfer that was broken off goes
on after its last whole part, on every kind of store. A part is compared with its SHA-256 wherever it comes from.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from eco_ray.errors import DamagedError, EcoRayError, NotAllowedError, NotFoundError, UsageError
from eco_ray.models.crypt import CURE, RegistryKey, sealed_size
from eco_ray.models.in_order import in_order
from eco_ray.models.manifest import MAX_PART_BYTES, MAX_PARTS, Blob, Coding, Part
from eco_ray.models.object_store import Data, ObjectStore
from eco_ray.models.part_cache import PartCache
from eco_ray.models.sources import FileSource

#: what files are cut into [bytes]
PART_BYTES = MAX_PART_BYTES
#: parts that are under way together: one moves while another is hashed or sealed
_AT_ONCE = 2

#: called after each part: bytes that are done, of how many, and what is done
Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class Moved:
    """Bytes of parts, as they are kept, since a registry was opened; a part that breaks off counts whole."""

    #: whether they went over a network
    remote: bool
    #: that were written to the store
    sent_bytes: int = 0
    #: that were read from the store, also to compare what is there
    received_bytes: int = 0
    #: that did not have to be sent or fetched: the store or the cache had them
    reused_bytes: int = 0


class Look(Enum):
    """What is believed of a part that is wanted."""

    #: what the cache has: for pulls
    CACHED = "cached"
    #: what the cache has, if the store tells that it has the same: for pushes, which refer to what is in the store
    TOLD = "told"
    #: nothing but the bytes in the store
    READ = "read"


class Parts:
    """The parts in a store."""

    def __init__(
        self,
        store: ObjectStore,
        key: RegistryKey | None = None,
        cache: PartCache | None = None,
        progress: Progress = lambda _done, _total, _what: None,
    ) -> None:
        """`key`: seals what is put. `cache`: used where the store is far away."""
        self.moved = Moved(store.remote)
        self._store = store
        self._key = key
        self._cache = cache if store.remote else None
        self._progress = progress
        self._counting = threading.Lock()

    @property
    def key_id(self) -> str | None:
        """What new parts are sealed with; None: they are not."""
        return self._key.id if self._key is not None else None

    def put(
        self,
        source: Path,
        coding: Coding,
        base: Blob | None,
        announce: Callable[[set[str]], None],
        digest: str | None = None,
    ) -> Blob:
        """Keep a file. A part that is there and damaged is replaced; each is announced before.

        Raises EcoRayError where what was read has another SHA-256 than `digest`: a write through a mapping into memory
        changes a file and no time of it.
        """
        with FileSource(source) as file:
            if file.size > MAX_PARTS * PART_BYTES:
                most = MAX_PARTS * PART_BYTES
                raise UsageError(f"{source} has {file.size} bytes; a registry keeps files of {most} at most")
            blob = Blob(coding=coding, sealed_with=self.key_id, base=base)

            sha = hashlib.sha256()

            def pieces() -> Iterator[memoryview]:
                for start in range(0, file.size, PART_BYTES):
                    data = file.read(start, min(PART_BYTES, file.size - start))
                    if digest is not None:
                        sha.update(data)
                    yield data

            def put(data: memoryview) -> Part:
                part = Part(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
                announce({blob.path(part)})
                self._put(blob.path(part), part, data)
                return part

            parts: list[Part] = []
            for part in in_order(put, pieces(), _AT_ONCE):
                parts.append(part)
                self._progress(sum(one.size for one in parts), file.size, "sending")
            if digest not in {None, sha.hexdigest()}:
                raise changed(source)
        return blob.model_copy(update={"parts": tuple(parts)})

    def get(self, blob: Blob, target: Path, what: str, look: Look) -> None:
        """Write a blob to a file.

        Raises DamagedError; NotAllowedError where it is sealed and its key was not given.
        """
        if blob.sealed_with not in {None, self.key_id}:
            have = "no key was given" if self._key is None else f"the key given is {self._key.id}"
            raise NotAllowedError(f"{what} in {self._store.url} is sealed with key {blob.sealed_with}; {have}: {CURE}")
        sealed, done = blob.sealed_with is not None, 0
        parts = in_order(lambda part: self._get(blob.path(part), part, sealed, look), blob.parts, _AT_ONCE)
        try:
            with target.open("wb") as file:
                for data in parts:
                    file.write(data)
                    done += len(data)
                    self._progress(done, blob.size, what)
        except OSError as error:
            raise EcoRayError(f"{what} cannot be written to {target.parent}: {error.strerror}; make room") from None

    def _put(self, path: str, part: Part, data: Data) -> None:
        if self._is_there(path, part, data):
            self._count(reused=_size(part, self._key is not None))
            return
        kept = data if self._key is None else self._key.seal(data, part.sha256)
        self._count(sent=len(kept))  # before it goes: nobody knows how much of it has gone when it breaks off
        self._store.put(path, kept)
        if self._store.size(path) != len(kept):
            raise EcoRayError(f"{self._store.url} did not keep the {len(kept)} bytes of {path}; try again")
        if self._cache is not None:
            self._cache.keep(path, bytes(kept))

    def _is_there(self, path: str, part: Part, data: Data) -> bool:
        """Whether the store has a part, sound: by what it tells itself, or else by reading it."""
        sealed = self._key is not None
        if not sealed and self._tells(path, data):
            return True
        if self._known(path, part, sealed, Look.TOLD) is not None:
            return True
        try:
            self._fetched(path, part, sealed)
        except DamagedError:
            return False
        return True

    def _get(self, path: str, part: Part, sealed: bool, look: Look) -> bytes:
        known = self._known(path, part, sealed, look)
        if known is not None:
            self._count(reused=_size(part, sealed))
            return known
        kept, data = self._fetched(path, part, sealed)
        if self._cache is not None and look is not Look.READ:
            self._cache.keep(path, kept)
        return data

    def _known(self, path: str, part: Part, sealed: bool, look: Look) -> bytes | None:
        """A part as the cache has it, where that is believed and sound."""
        if self._cache is None or look is Look.READ:
            return None
        kept = self._cache.read(path, _size(part, sealed))
        if kept is None or (look is Look.TOLD and not self._tells(path, kept)):
            return None
        try:
            return self._opened(kept, part, sealed)
        except DamagedError:
            return None

    def _tells(self, path: str, kept: Data) -> bool:
        """Whether the store itself says that it has these bytes."""
        told = self._store.md5(path)
        return told is not None and told == hashlib.md5(kept, usedforsecurity=False).hexdigest()

    def _fetched(self, path: str, part: Part, sealed: bool) -> tuple[bytes, bytes]:
        """A part as it is in the store, and open. Raises DamagedError."""
        url, size = self._store.url, _size(part, sealed)
        try:
            kept = self._store.read(path, size)
        except NotFoundError:
            raise DamagedError(f"{path} is missing in {url}; restore it from a copy") from None
        except BaseException:
            self._count(received=size)
            raise
        self._count(received=len(kept))
        try:
            return kept, self._opened(kept, part, sealed)
        except DamagedError as error:
            raise DamagedError(f"{path} in {url} has other bytes ({len(kept)}) than were written: {error}") from None

    def _count(self, sent: int = 0, received: int = 0, reused: int = 0) -> None:
        with self._counting:
            self.moved.sent_bytes += sent
            self.moved.received_bytes += received
            self.moved.reused_bytes += reused

    def _opened(self, kept: bytes, part: Part, sealed: bool) -> bytes:
        if sealed and self._key is not None:
            return self._key.open(kept, part.sha256, part.size)
        if hashlib.sha256(kept).hexdigest() != part.sha256:
            raise DamagedError("its SHA-256 is another")
        return kept


def changed(source: Path) -> EcoRayError:
    """Of a file that is not what it was when a push of it began."""
    return EcoRayError(f"{source} was changed while it was pushed; push it again when it is whole")


def _size(part: Part, sealed: bool) -> int:
    return sealed_size(part.size) if sealed else part.size
