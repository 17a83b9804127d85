"""Versions of models: immutable, checked on every read, with aliases that remember where they were.

    models/NAME/versions/N.json         one manifest per version, written once
    models/NAME/deleted/N.json          that version N was deleted; its manifest stays
    models/NAME/aliases/ALIAS/N.json    the N-th move of an alias; the last one counts
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
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eco_ray.core.ports import TransferLedger
from eco_ray.core.transfers import Direction, transferred
from eco_ray.errors import DamagedError, EcoRayError, NotAllowedError, NotFoundError, UsageError
from eco_ray.models.blobs import Blobs, Collected, sha256_of
from eco_ray.models.bundle import embedding_signature, files_of, format_of, state_of
from eco_ray.models.crypt import RegistryKey
from eco_ray.models.find_signature import find_signature
from eco_ray.models.manifest import (
    MAX_BYTES,
    AliasEvent,
    Deletion,
    Manifest,
    Training,
    checked_name,
    parse_reference,
)
from eco_ray.models.object_store import ObjectStore, open_store, without_credentials
from eco_ray.models.part_cache import PartCache
from eco_ray.models.parts import Moved, Parts, Progress
from eco_ray.models.signature import Signature
from eco_ray.whole_file import file_errors

#: a version stands alone at least so often, so that a pull needs one other version at most
_ALONE_EVERY = 10
#: how often a place is tried that somebody else took in the same moment
_TRIES = 100


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
        self._parts = Parts(self._store, key, cache, progress)
        self._blobs = Blobs(self._store, self._parts)

    @property
    def url(self) -> str:
        """Where it is."""
        return self._store.url

    @property
    def moved(self) -> Moved:
        """Bytes that went to and from the store until now."""
        return self._parts.moved

    # -- reading -----------------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Names of all models."""
        return self._store.names("models")

    def versions(self, name: str) -> list[int]:
        """Numbers of all versions of a model, the deleted ones too, the oldest first."""
        return _numbers(self._store.names(f"models/{checked_name(name)}/versions"))

    def deleted(self, name: str) -> set[int]:
        """Versions of a model that were deleted."""
        return set(_numbers(self._store.names(f"models/{checked_name(name)}/deleted")))

    def aliases(self, name: str) -> dict[str, int | None]:
        """What each alias of a model means now; None: it was removed."""
        names = self._store.names(f"models/{checked_name(name)}/aliases")
        return {alias: self._last_event(name, alias).version for alias in names}

    def manifest(self, reference: str) -> Manifest:
        """The record of name:VERSION or name@alias, of a deleted version too."""
        name, version = self.resolve(reference)
        where = f"models/{name}/versions/{version}.json"
        try:
            found = Manifest.from_bytes(self._store.read(where, MAX_BYTES), f"{self.url}/{where}")
        except NotFoundError:
            raise NotFoundError(f"no version {name}:{version} in {self.url}{self._known(name)}") from None
        if (found.name, found.version) != (name, version):
            raise DamagedError(f"{self.url}/{where} speaks of {found.reference}; somebody moved it")
        return found

    def resolve(self, reference: str) -> tuple[str, int]:
        """Name and version of a reference."""
        name, version = parse_reference(reference)
        if isinstance(version, int):
            return name, version
        now = self._last_event(name, version).version
        if now is None:
            raise NotFoundError(f"the alias {reference} was removed; `eco-ray model history {name}` says when")
        return name, now

    def history(self, name: str, alias: str | None = None) -> list[AliasEvent]:
        """Every move of the aliases of a model, or of one, the oldest first; of one alias whatever clocks said."""
        names = [checked_name(alias, "alias")] if alias else self._store.names(f"models/{checked_name(name)}/aliases")
        moves = [[self._event(name, one, number) for number in self._event_numbers(name, one)] for one in names]
        events = list(heapq.merge(*moves, key=lambda event: event.at))  # keeps the order of each alias
        if not events and name not in self.models():
            raise NotFoundError(f"no model {name} in {self.url}")
        return events

    # -- writing -----------------------------------------------------------------------------------------------------

    def push(
        self, source: str | Path, name: str, about: About | None = None, *, allow_pickle: bool = False
    ) -> Manifest:
        """Keep a file, or a folder with a model and what belongs to it (bundle.py), as the next version of a model.

        Safetensors files are kept in the lossless container, as a difference from an earlier version where that has the
        same tensors. Raises NotAllowedError for a pickle, unless it is allowed.
        """
        source, about = Path(source), about or About()
        checked_name(name)
        with (
            file_errors(source),
            self._booked("push", name) as name_it,
            tempfile.TemporaryDirectory(prefix="eco_ray-push-") as folder,
            self._blobs.announced() as announce,
        ):
            main, beside = files_of(source) if source.is_dir() else (source, {})
            kind = format_of(main, allow_pickle)
            before = [state_of(one) for one in (main, *beside.values())]
            digest, size = sha256_of(main)
            base = self._base_of(name, digest) if kind == "safetensors" else None
            blob = self._blobs.keep(main, kind, digest, base, announce, Path(folder))
            extras = self._blobs.keep_extras(beside, announce)
            if [state_of(one) for one in (main, *beside.values())] != before:
                raise EcoRayError(f"{source} was changed while it was pushed; push it again when it is whole")
            made = self._put_manifest(
                name,
                created=self._now(),
                format=kind,
                sha256=digest,
                size=size,
                blob=blob,
                main=main.name if source.is_dir() else "",
                extras=extras,
                framework=about.framework,
                signature=about.signature or embedding_signature(beside) or find_signature(main, kind).signature,
                metrics=dict(about.metrics),
                lineage=dict(about.lineage),
                training=about.training,
                tags=tuple(about.tags),
                by=self._by,
            )
            name_it(made.reference)
        return made

    def pull(self, reference: str, target: str | Path, *, allow_pickle: bool = False) -> Manifest:
        """Write the file of a version; it appears whole and with the bytes that were pushed, or not at all.

        Where a folder was pushed, `target` becomes one: it must not be there yet, or be empty.
        """
        found, target = self.manifest(reference), Path(target)
        if found.version in self.deleted(found.name):
            raise NotFoundError(f"{found.reference} was deleted; `eco-ray model show {found.reference}` has its record")
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
            self._blobs.make_all(found, Path(folder), fresh=False).replace(target)
        return found

    def verify(self, reference: str) -> Manifest:
        """Read every byte of a version again, and compare."""
        found = self.manifest(reference)
        with tempfile.TemporaryDirectory(prefix="eco_ray-verify-") as folder:
            self._blobs.make_all(found, Path(folder), fresh=True)
        return found

    def promote(self, reference: str, alias: str, why: str = "") -> AliasEvent:
        """Let an alias mean a version from now on."""
        found = self.manifest(reference)
        if found.version in self.deleted(found.name):
            raise NotFoundError(f"{found.reference} was deleted; an alias cannot mean it")
        return self._move(found.name, alias, lambda _events: (found.version, "promote"), why)

    def rollback(self, name: str, alias: str, why: str = "") -> AliasEvent:
        """Let an alias mean what it meant before; again: what it meant before that."""

        def before(events: Sequence[AliasEvent]) -> tuple[int | None, str]:
            stack: list[int | None] = []
            for event in events:
                if event.action == "rollback":
                    stack.pop()
                else:
                    stack.append(event.version)
            stack, gone = stack[:-1], self.deleted(name)
            if not stack or stack[-1] is None:
                raise NotFoundError(
                    f"{name}@{alias} meant nothing before; `eco-ray model history {name}` shows its moves"
                )
            if stack[-1] in gone:
                raise NotFoundError(
                    f"{name}@{alias} meant version {stack[-1]} before, which was deleted; promote another"
                )
            return stack[-1], "rollback"

        return self._move(name, alias, before, why)

    def delete(self, reference: str, why: str = "") -> Manifest:
        """Give the bytes of a version up; its record stays. Raises NotAllowedError while an alias means it."""
        found = self.manifest(reference)
        holds = [alias for alias, version in self.aliases(found.name).items() if version == found.version]
        if holds:
            raise NotAllowedError(
                f"{found.reference} is what {', '.join(f'{found.name}@{one}' for one in holds)} means; promote another "
                "version first"
            )
        gone = Deletion(version=found.version, at=self._now(), by=self._by, why=why)
        self._store.put_new(f"models/{found.name}/deleted/{found.version}.json", gone.to_bytes())
        return found

    def gc(self, *, dry_run: bool = False) -> Collected:
        """Remove parts that no version needs any more. Raises NotAllowedError where another collection gets ahead."""
        return self._blobs.collect(self._needed, dry_run=dry_run)

    def _needed(self, beat: Callable[[], None]) -> set[str]:
        """Where the parts of all versions are that were not deleted.

        A damaged manifest may need anything: it ends the collection.
        """
        needed: set[str] = set()
        for name in self.models():
            gone = self.deleted(name)
            for version in self.versions(name):
                beat()
                if version not in gone:
                    needed |= self.manifest(f"{name}:{version}").paths()
        return needed

    def _base_of(self, name: str, digest: str) -> Manifest | None:
        """The newest version that stands alone, or has the same bytes, unless it is time for another one of those.

        It is sealed as the new one will be: nothing that is sealed is told by what is not, nor takes a second key.
        """
        gone = self.deleted(name)
        for version in reversed(self.versions(name)[-_ALONE_EVERY + 1 :]):
            if version in gone:
                continue
            try:
                found = self.manifest(f"{name}:{version}")
            except DamagedError:
                continue
            blob = found.blob
            if (blob.coding, blob.sealed_with) == ("ecoz", self._parts.key_id) and (
                blob.base is None or found.sha256 == digest
            ):
                return found
        return None

    @contextlib.contextmanager
    def _booked(self, direction: Direction, owner: str) -> Iterator[Callable[[str], None]]:
        """Tell the ledger what moves, also before something breaks off. What it gives takes a better name of it."""
        before, owners, moved = dataclasses.replace(self.moved), [owner], self.moved
        try:
            yield owners.append
        finally:
            bytes_moved = moved.sent_bytes + moved.received_bytes - before.sent_bytes - before.received_bytes
            reused = moved.reused_bytes - before.reused_bytes
            if self._ledger is not None and (bytes_moved or reused):
                what = uuid.uuid4().hex, self._clock(), owners[-1], direction, without_credentials(self.url)
                self._ledger.add_transfers([transferred(*what, bytes_moved, reused, remote=moved.remote)])

    # -- manifests and aliases ---------------------------------------------------------------------------------------

    def _put_manifest(self, name: str, **values: Any) -> Manifest:
        """Write it under the next number that is free; who comes second in the same moment gets the one after."""
        for _ in range(_TRIES):
            version = max(self.versions(name), default=0) + 1
            made = Manifest(name=name, version=version, **values)
            if made.format == "pickle":
                self._on_pickle("push", made)
            if self._store.put_new(f"models/{name}/versions/{version}.json", made.to_bytes()):
                return made
        raise EcoRayError(f"{name}: {_TRIES} others pushed in the same moment; try again")

    def _move(
        self, name: str, alias: str, choose: Callable[[Sequence[AliasEvent]], tuple[int | None, Any]], why: str
    ) -> AliasEvent:
        checked_name(alias, "alias")
        for _ in range(_TRIES):
            events = [self._event(name, alias, number) for number in self._event_numbers(name, alias)]
            version, action = choose(events)
            number = events[-1].number + 1 if events else 1
            event = AliasEvent(
                alias=alias, number=number, version=version, at=self._now(), action=action, by=self._by, why=why
            )
            if self._store.put_new(f"models/{name}/aliases/{alias}/{number}.json", event.to_bytes()):
                return event
        raise EcoRayError(f"{name}@{alias}: {_TRIES} others moved it in the same moment; try again")

    def _event_numbers(self, name: str, alias: str) -> list[int]:
        return _numbers(self._store.names(f"models/{checked_name(name)}/aliases/{checked_name(alias, 'alias')}"))

    def _event(self, name: str, alias: str, number: int) -> AliasEvent:
        where = f"models/{name}/aliases/{alias}/{number}.json"
        return AliasEvent.from_bytes(self._store.read(where, MAX_BYTES), f"{self.url}/{where}")

    def _last_event(self, name: str, alias: str) -> AliasEvent:
        numbers = self._event_numbers(name, alias)
        if not numbers:
            raise NotFoundError(f"no alias {name}@{alias} in {self.url}{self._known(name)}")
        return self._event(name, alias, numbers[-1])

    def _known(self, name: str) -> str:
        """What there is instead, for an error."""
        models = self.models()
        if name not in models:
            return f"; it has {', '.join(models[:10])}" if models else "; it is empty"
        return f"; {name} has versions {', '.join(map(str, self.versions(name)[-10:]))}"

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _numbers(names: Sequence[str]) -> list[int]:
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())
