"""Versions of models: immutable, checked on every read, with aliases that remember where they were.

    models/NAME/versions/N.json         one manifest per version, written once
    models/NAME/...                     moves of its aliases, and deletions (moves.py)
    blobs/AA/SHA256                     parts of what is kept, shared by all versions (parts.py)
    sealed/KEY/AA/SHA256                the same, sealed with a key (crypt.py)
    pushes/ID.json                      a push that is under way: what it will refer to
    gc.lock                             a collection of garbage that is under way

A version exists from the moment in which its manifest does, and a manifest is written only when its parts are there.
Whatever dies on the way leaves parts that nobody refers to, which `gc` takes away (blobs.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eco_ray.core.store_port import TransferLedger
from eco_ray.core.transfers import Direction, transferred
from eco_ray.errors import DamagedError, EcoRayError, NotAllowedError, NotFoundError, UsageError
from eco_ray.models.blobs import Blobs, Collected, same_as
from eco_ray.models.bundle import files_of, folder_signature, format_of, state_of
from eco_ray.models.crypt import RegistryKey
from eco_ray.models.find_signature import find_signature
from eco_ray.models.manifest import (
    AliasEvent,
    Blob,
    Deletion,
    Manifest,
    Training,
    check_lineage,
    checked_name,
    parse_reference,
    written,
)
from eco_ray.models.moves import TRIES, Moves
from eco_ray.models.object_store import ObjectStore, open_store
from eco_ray.models.part_cache import PartCache
from eco_ray.models.parts import Look, Moved, Parts, Progress, changed
from eco_ray.models.records import Records
from eco_ray.models.signature import Signature
from eco_ray.whole_file import file_errors

_LOG = logging.getLogger(__name__)
#: a version stands alone at least so often, so that a pull needs one other version at most
_ALONE_EVERY = 10


@dataclass(frozen=True, slots=True)
class About:
    """What is told of a version when it is pushed."""

    framework: str = ""
    #: None: what the file tells by itself
    signature: Signature | None = None
    metrics: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    training: Training | None = None
    tags: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LostEvent:
    """A move of an alias whose record is damaged."""

    model: str
    alias: str
    number: int
    problem: str


class Registry:
    """All methods raise NotFoundError for what is not there and DamagedError for what is not what was written."""

    def __init__(
        self,
        store: ObjectStore | str,
        by: str = "",
        clock: Callable[[], float] = time.time,
        *,
        key: RegistryKey | None = None,
        cache: PartCache | None = None,
        progress: Progress = lambda _done, _total, _what: None,
        ledger: TransferLedger | None = None,
        on_pickle: Callable[[str, Manifest], None] = lambda _direction, _version: None,
    ) -> None:
        """`by`: who writes, for the record. `key`: seals what is pushed. `cache`: of pulls, for a store far away.

        `ledger`: is told what each push and pull moved. `on_pickle`: called before a pickle that is allowed becomes a
        version (`push`) or a file (`pull`); what it raises keeps it from that.
        """
        self._store = open_store(store) if isinstance(store, str) else store
        self._by = by
        self._on_pickle = on_pickle
        self._clock = clock
        self._ledger = ledger
        self._records = Records(self._store)
        self._moves = Moves(self._records, by, self._now)
        self._parts = Parts(self._store, key, cache, progress)
        self._blobs = Blobs(self._store, self._parts)

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        return self._store.url

    @property
    def seals(self) -> bool:
        """Whether what is pushed is sealed."""
        return self._parts.key_id is not None

    @property
    def moved(self) -> Moved:
        """Bytes that went to and from the store until now."""
        return self._parts.moved

    # -- reading -----------------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Names of all models."""
        return self._records.models()

    def versions(self, name: str) -> list[int]:
        """Numbers of all versions of a model, the deleted ones too, the oldest first."""
        return self._records.versions(name)

    def deleted(self, name: str) -> dict[int, Deletion]:
        """Versions of a model that were deleted."""
        return self._moves.deletions(name)

    def aliases(self, name: str) -> dict[str, int | None]:
        """What each alias of a model means now, as far as that is known; None: it was removed."""
        return self.all_aliases(name)[0]

    def all_aliases(self, name: str) -> tuple[dict[str, int | None], dict[str, str]]:
        """What each alias of a model means now; and of which the last move is damaged, and how."""
        return self._moves.aliases(name)

    def newest(self, name: str) -> Manifest | None:
        """The newest version of a model whose record is sound."""
        for version in reversed(self.versions(name)):
            with contextlib.suppress(DamagedError):
                return self._records.manifest(name, version)
        return None

    def manifest(self, reference: str) -> Manifest:
        """The record of name:VERSION or name@alias, of a deleted version too."""
        return self._records.manifest(*self.resolve(reference))

    def manifests(self, name: str) -> Iterator[tuple[int, Manifest | DamagedError]]:
        """All versions of a model, the oldest first, with their records or what is wrong with those."""
        found = self._records.manifests(name)
        if name not in self.models():
            raise NotFoundError(f"no model {name} in {self.url}{self._records.known(name)}")
        return found

    def resolve(self, reference: str) -> tuple[str, int]:
        """Name and version of a reference."""
        name, version = parse_reference(reference)
        return name, version if isinstance(version, int) else self._moves.resolve(name, version)

    def history(self, name: str, alias: str | None = None) -> list[AliasEvent | LostEvent]:
        """Every move of the aliases of a model, or of one, the oldest first; of one alias whatever clocks said."""
        names = [checked_name(alias, "alias")] if alias else self._records.names(f"models/{checked_name(name)}/aliases")
        moves = [list(self._history(name, one)) for one in names]
        events = [event for _, event in heapq.merge(*moves, key=lambda move: move[0])]  # keeps the order of each alias
        if not events and name not in self.models():
            raise NotFoundError(f"no model {name} in {self.url}")
        return events

    def _history(self, name: str, alias: str) -> Iterator[tuple[str, AliasEvent | LostEvent]]:
        """Moves with their times; a damaged one has that of the one before it."""
        at = ""
        for number, found in self._moves.history(name, alias):
            if isinstance(found, DamagedError):
                yield at, LostEvent(name, alias, number, str(found))
            else:
                at = found.at
                yield at, found

    def problems(self, name: str) -> list[tuple[str, str]]:
        """Which records of moves and deletions of a model are not what was written, and what is wrong with them."""
        return list(self._moves.problems(name))

    # -- writing -----------------------------------------------------------------------------------------------------

    def push(
        self, source: str | Path, name: str, about: About | None = None, *, allow_pickle: bool = False
    ) -> Manifest:
        """Keep a file, or a folder with a model and what belongs to it (bundle.py), as the next version of a model.

        Safetensors files are kept in the lossless container, as a difference from an earlier version where that has the
        same tensors. Raises NotAllowedError for a pickle, unless it is allowed.
        """
        source, about = Path(source), about or About()
        draft = self._draft(checked_name(name), about)
        with (
            file_errors(source),
            self._booked("push", name) as name_it,
            tempfile.TemporaryDirectory(prefix="eco_ray-push-") as folder,
            self._blobs.announced() as announce,
        ):
            main, beside = files_of(source) if source.is_dir() else (source, {})
            kind = format_of(main, allow_pickle)
            before = [state_of(one) for one in (main, *beside.values())]
            is_same = same_as(main)
            base = self._base_of(name, is_same) if kind == "safetensors" else None
            blob, digest, size = self._blobs.keep(main, kind, base, is_same, announce, Path(folder))
            extras = self._blobs.keep_extras(beside, announce)
            signature = about.signature or folder_signature(beside) or find_signature(main, kind).signature
            if [state_of(one) for one in (main, *beside.values())] != before:
                raise changed(source)
            made = self._put_manifest(
                draft.model_copy(
                    update={
                        "format": kind,
                        "sha256": digest,
                        "size": size,
                        "blob": blob,
                        "main": main.name if source.is_dir() else "",
                        "extras": extras,
                        "signature": signature,
                    }
                )
            )
            name_it(made.reference)
        return made

    def _draft(self, name: str, about: About) -> Manifest:
        """A manifest of no bytes yet. Raises UsageError for what cannot be told, before anything is sent."""
        told = {key: getattr(about, key) for key in ("framework", "metrics", "lineage", "training", "tags")}
        check_lineage(about.lineage)
        draft = written(
            Manifest,
            name=name,
            version=1,
            created=self._now(),
            format="safetensors",
            sha256="0" * 64,
            size=0,
            blob=Blob(coding="raw"),
            by=self._by,
            **told,
        )
        draft.to_bytes()
        return draft

    def pull(self, reference: str, target: str | Path, *, allow_pickle: bool = False) -> Manifest:
        """Write the file of a version; it appears whole and with the bytes that were pushed, or not at all.

        Where a folder was pushed, `target` becomes one: it must not be there yet, or be empty.
        """
        found, target = self.manifest(reference), Path(target)
        self._refuse_deleted(found)
        if found.format == "pickle" and not allow_pickle:
            raise NotAllowedError(f"{found.reference} is a pickle, which runs code when it is loaded; --allow-pickle")
        with file_errors(target):
            if not target.parent.is_dir():
                raise UsageError(f"there is no directory {str(target.parent)!r}; make it, or name another one")
        if found.format == "pickle":
            self._on_pickle("pull", found)
        with (
            file_errors(target),
            self._booked("pull", found.reference),
            tempfile.TemporaryDirectory(prefix=".eco_ray-pull-", dir=target.parent) as folder,
        ):
            try:
                made = self._blobs.make_all(found, Path(folder), Look.CACHED)
            except DamagedError:
                self._refuse_deleted(found)  # in the meantime, and `gc` was there
                raise
            made.replace(target)
        return found

    def _refuse_deleted(self, found: Manifest) -> None:
        if gone := self._moves.deletion(found.name, found.version):
            raise NotFoundError(
                f"{found.reference} was deleted at {gone.at}; `eco-ray model show {found.reference}` has its record"
            )

    def verify(self, reference: str) -> Manifest:
        """Read every byte of a version again, and compare."""
        found = self.manifest(reference)
        with tempfile.TemporaryDirectory(prefix="eco_ray-verify-") as folder:
            self._blobs.make_all(found, Path(folder), Look.READ)
        return found

    def promote(self, reference: str, alias: str, why: str = "") -> AliasEvent:
        """Let an alias mean a version from now on. Raises NotAllowedError while somebody deletes that."""
        found = self.manifest(reference)
        return self._moves.promote(found.name, found.version, alias, why)

    def rollback(self, name: str, alias: str, why: str = "") -> AliasEvent:
        """Let an alias mean what it meant before; again: what it meant before that."""
        return self._moves.rollback(name, alias, why)

    def unalias(self, name: str, alias: str, why: str = "") -> AliasEvent:
        """Let an alias mean nothing from now on."""
        return self._moves.unalias(name, alias, why)

    def delete(self, reference: str, why: str = "") -> Deletion:
        """Give the bytes of a version up; its record stays. Raises NotAllowedError while an alias means it.

        Gives what was written of it, before if it was deleted already. A version whose record is damaged can go, too.
        """
        name, version = self.resolve(reference)
        if version not in self.versions(name):
            raise NotFoundError(f"no version {name}:{version} in {self.url}{self._records.known(name)}")
        return self._moves.delete(name, version, why)

    def gc(self, *, dry_run: bool = False) -> Collected:
        """Remove parts that no version needs any more.

        Raises NotAllowedError where another collection gets ahead, NotFoundError where there are blobs and no models.
        """
        if not self.models():  # a wrong place, or `models` was moved away: nothing there is known to be garbage
            if self._blobs.is_empty():
                return Collected((), 0, 0)
            raise NotFoundError(f"{self.url} has blobs and no models: put `models` back; nothing was removed")
        return self._blobs.collect(self._needed, dry_run=dry_run)

    def _needed(self, beat: Callable[[], None]) -> set[str]:
        """Where the parts of all versions are that were not deleted, or that an alias means or might mean.

        A damaged manifest may need anything: it ends the collection.
        """
        needed: set[str] = set()
        for name in self.models():
            gone = set(self.deleted(name))
            means, damaged = self._moves.aliases(name)
            gone = set() if damaged else gone - set(means.values())
            for version in self.versions(name):
                beat()
                if version not in gone:
                    needed |= self.manifest(f"{name}:{version}").paths()
        return needed

    def _base_of(self, name: str, is_same: Callable[[Manifest], bool]) -> Manifest | None:
        """The newest version that stands alone, or has the same bytes, unless it is time for another one of those.

        It is sealed as the new one will be: nothing that is sealed is told by what is not, nor takes a second key.
        """
        for version in reversed(self.versions(name)[-_ALONE_EVERY + 1 :]):
            if self._moves.deletion(name, version):
                continue
            try:
                found = self.manifest(f"{name}:{version}")
            except DamagedError:
                continue
            blob = found.blob
            if (blob.coding, blob.sealed_with) == ("ecoz", self._parts.key_id) and (
                blob.base is None or is_same(found)
            ):
                return found
        return None

    @contextlib.contextmanager
    def _booked(self, direction: Direction, owner: str) -> Iterator[Callable[[str], None]]:
        """Tell the ledger what moves, also before something breaks off. What it gives takes a better name of it."""
        before, owners, moved, whole = dataclasses.replace(self.moved), [owner], self.moved, False
        try:
            yield owners.append
            whole = True
        finally:
            bytes_moved = moved.sent_bytes + moved.received_bytes - before.sent_bytes - before.received_bytes
            reused = moved.reused_bytes - before.reused_bytes
            if self._ledger is not None and (bytes_moved or reused):
                what = uuid.uuid4().hex, self._clock(), owners[-1], direction, self.url
                try:
                    row = transferred(*what, bytes_moved, reused, remote=moved.remote, whole=whole)
                    self._ledger.add_transfers([row])
                except EcoRayError as error:  # it has moved all the same
                    _LOG.warning("what was moved is not in the ledger: %s", error)

    def _put_manifest(self, draft: Manifest) -> Manifest:
        """Write it under the next number that is free; who comes second in the same moment gets the one after."""
        path = f"models/{draft.name}/versions"
        for _ in range(TRIES):
            made = draft.model_copy(update={"version": self._records.next_number(path)})
            if made.format == "pickle":
                self._on_pickle("push", made)
            if self._store.put_new(f"{path}/{made.version}.json", made.to_bytes()):
                return made
        raise EcoRayError(f"{draft.name}: {TRIES} others pushed in the same moment; try again")

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
