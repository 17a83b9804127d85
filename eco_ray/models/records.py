"""The documents of a registry: which models and versions there are, and what is written of each.

What is damaged, or lies where it does not belong, is told apart from what is not there; what has no name that the
registry gives is somebody else's and passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from eco_ray.errors import DamagedError, EcoRayError, NotFoundError
from eco_ray.models.in_order import in_order
from eco_ray.models.manifest import MAX_BYTES, Document, Manifest, checked_name, is_name
from eco_ray.models.object_store import ObjectStore

#: documents that are read at once from a store far away, where each costs a round trip
_AT_ONCE = 8
#: as many digits as a reference may have
_NUMBER = re.compile(r"([1-9][0-9]{0,8})\.json", re.ASCII)

Kind = TypeVar("Kind", bound=Document)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Records:
    """The documents in a store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    @property
    def url(self) -> str:
        """Where they are."""
        return self.store.url

    def models(self) -> list[str]:
        """Names of all models."""
        return self.names("models")

    def names(self, path: str) -> list[str]:
        """Names of models or aliases below a path."""
        return [name for name in self.store.names(path) if is_name(name)]

    def numbers(self, path: str) -> list[int]:
        """Numbers of the documents right below a path, sorted."""
        return sorted(int(found[1]) for found in map(_NUMBER.fullmatch, self.store.names(path)) if found)

    def versions(self, name: str) -> list[int]:
        """Numbers of all versions of a model, the oldest first."""
        return self.numbers(f"models/{checked_name(name)}/versions")

    def manifest(self, name: str, version: int) -> Manifest:
        """The record of a version."""
        path = f"models/{name}/versions/{version}.json"
        try:
            return self.read(Manifest, path, name=name, version=version)
        except NotFoundError:
            raise NotFoundError(f"no version {name}:{version} in {self.url}{self.known(name)}") from None

    def manifests(self, name: str) -> Iterator[tuple[int, Manifest | DamagedError]]:
        """All versions of a model, the oldest first, with their records or what is wrong with those."""
        versions = self.versions(name)

        def one(version: int) -> Manifest | DamagedError:
            try:
                return self.manifest(name, version)
            except DamagedError as error:
                return error

        return zip(versions, self.each(one, versions), strict=True)

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """`map(work, items)`, several at once where the store is far away."""
        return in_order(work, items, _AT_ONCE if self.store.remote else 1)

    def read(self, kind: type[Kind], path: str, **place: str | int) -> Kind:
        """A document, which must speak of its own place. Raises NotFoundError and DamagedError."""
        where = f"{self.url}/{path}"
        found = kind.from_bytes(self.store.read(path, MAX_BYTES), where)
        if any(getattr(found, key) != value for key, value in place.items()):
            told = ", ".join(f"{key} {getattr(found, key)}" for key in place)
            raise DamagedError(f"{where} speaks of {told}; somebody moved it")
        return found

    def known(self, name: str) -> str:
        """What there is instead, for an error."""
        models = self.models()
        if name not in models:
            return f"; it has {', '.join(models[:10])}" if models else "; it is empty"
        return f"; {name} has versions {', '.join(map(str, self.versions(name)[-10:]))}"

    def next_number(self, path: str) -> int:
        """The number after the last one below a path."""
        last = max(self.numbers(path), default=0)
        if not _NUMBER.fullmatch(f"{last + 1}.json"):
            raise EcoRayError(f"{self.url}/{path}/{last}.json leaves no number; remove it if nobody made it")
        return last + 1
