"""Moves of aliases, and deletions: what changes about versions, which never change.

    models/NAME/aliases/ALIAS/N.json    the N-th move of an alias; the last one counts
    models/NAME/deleting/N/ID.json      somebody is about to delete version N
    models/NAME/deleted/N.json          version N was deleted

An alias must never end on a deleted version, on any store, and there are no locks. So who deletes first says so, then
looks at the aliases once more, and only then writes that it is done; who moves an alias writes the move, then looks
whether somebody is deleting, and if so takes the move back and fails. Each writes before it looks, so one of the two
always sees the other (as in Dekker's algorithm). What was written as deleted stays deleted: nobody takes that back.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Literal

from eco_ray.errors import DamagedError, EcoRayError, NotAllowedError, NotFoundError
from eco_ray.models.manifest import AliasEvent, Deletion, checked_name, written
from eco_ray.models.records import Records

#: how often a place is tried that somebody else took in the same moment
TRIES = 100


class Moves:
    """The aliases and deletions of a registry."""

    def __init__(self, records: Records, by: str, now: Callable[[], str]) -> None:
        self._records = records
        self._by = by
        self._now = now

    # -- reading -----------------------------------------------------------------------------------------------------

    def resolve(self, name: str, alias: str) -> int:
        """The version that an alias means. Raises NotFoundError; DamagedError where its last move is damaged."""
        version = self._current(name, alias).version
        if version is None:
            raise NotFoundError(f"the alias {name}@{alias} was removed; `eco-ray model history {name}` says when")
        return version

    def aliases(self, name: str) -> tuple[dict[str, int | None], dict[str, str]]:
        """What each alias of a model means now (None: it was removed); and of which that is damaged, and how."""
        means: dict[str, int | None] = {}
        damaged: dict[str, str] = {}

        def last(alias: str) -> AliasEvent | DamagedError | None:
            try:
                return self._last(name, alias)
            except DamagedError as error:
                return error

        names = self._records.names(f"models/{checked_name(name)}/aliases")
        for alias, found in zip(names, self._records.each(last, names), strict=True):
            if isinstance(found, DamagedError):
                damaged[alias] = str(found)
            elif found is not None:
                means[alias] = found.version
        return means, damaged

    def history(self, name: str, alias: str) -> Iterator[tuple[int, AliasEvent | DamagedError]]:
        """Every move of an alias by its number, or what is wrong with its record; the oldest first."""
        numbers = self._numbers(name, alias)

        def one(number: int) -> AliasEvent | DamagedError:
            try:
                return self._event(name, alias, number)
            except DamagedError as error:
                return error

        return zip(numbers, self._records.each(one, numbers), strict=True)

    def deletion(self, name: str, version: int) -> Deletion | None:
        """That a version was deleted; None also where that record is damaged: what keeps the bytes counts."""
        with contextlib.suppress(NotFoundError, DamagedError):
            return self._records.read(Deletion, _deleted(name, version), model=name, version=version)
        return None

    def deletions(self, name: str) -> dict[int, Deletion]:
        """All versions of a model that were deleted."""
        numbers = self._records.numbers(f"models/{checked_name(name)}/deleted")
        found = self._records.each(lambda number: self.deletion(name, number), numbers)
        return {number: one for number, one in zip(numbers, found, strict=True) if one is not None}

    def problems(self, name: str) -> Iterator[tuple[str, str]]:
        """Which records of moves and deletions are not what was written, and what is wrong; and aliases of nothing."""
        for alias in self._records.names(f"models/{name}/aliases"):
            for number, found in self.history(name, alias):
                if isinstance(found, DamagedError):
                    yield f"models/{name}/aliases/{alias}/{number}.json", str(found)
        for number in self._records.numbers(f"models/{name}/deleted"):
            path = _deleted(name, number)
            try:
                self._records.read(Deletion, path, model=name, version=number)
            except DamagedError as error:
                yield path, f"{error}; the version counts as not deleted"
        gone, there = self.deletions(name), set(self._records.versions(name))
        for alias, version in self.aliases(name)[0].items():
            if version is not None and (version in gone or version not in there):
                what = "was deleted" if version in there else "is not there"
                yield f"{name}@{alias}", f"it means {name}:{version}, which {what}; promote another"

    # -- writing -----------------------------------------------------------------------------------------------------

    def promote(self, name: str, version: int, alias: str, why: str) -> AliasEvent:
        """Let an alias mean a version. What it meant may be damaged: this is the cure."""
        self._refuse_going(name, version)
        for _ in range(TRIES):
            number = self._records.next_number(_moves(name, alias))
            back = number - 1
            with contextlib.suppress(DamagedError):
                before = self._last(name, alias)
                if before is not None and before.version == version:  # said again: a rollback goes further back
                    back = before.back
            if event := self._write(name, alias, number, version, back, "promote", why):
                return self._settled(event)
        raise EcoRayError(f"{name}@{alias}: {TRIES} others moved it in the same moment; try again")

    def rollback(self, name: str, alias: str, why: str) -> AliasEvent:
        """Let an alias mean what it meant before. Who comes second in the same moment is told, and moves nothing."""
        last = self._current(name, alias)
        target = self._event(name, alias, last.back) if last.back else None
        if target is None or target.version is None:
            raise NotFoundError(f"{name}@{alias} meant nothing before; `eco-ray model history {name}` shows its moves")
        if self.deletion(name, target.version):
            raise NotFoundError(
                f"{name}@{alias} meant version {target.version} before, which was deleted; promote another"
            )
        self._refuse_going(name, target.version)
        return self._second(last, target.version, target.back, "rollback", why)

    def unalias(self, name: str, alias: str, why: str) -> AliasEvent:
        """Let an alias mean nothing; `rollback` brings it back."""
        self.resolve(name, alias)
        last = self._current(name, alias)
        return self._second(last, None, last.number, "remove", why)

    def delete(self, name: str, version: int, why: str) -> Deletion:
        """Write that a version was deleted; what was written before, if it was. NotAllowedError if an alias means it.

        The aliases are looked at twice: the first time spares who is just being refused to say that he deletes.
        """
        if found := self.deletion(name, version):
            return found
        self._refuse_meant(name, version)
        store, mine = self._records.store, f"{_deleting(name, version)}/{uuid.uuid4().hex}.json"
        made = written(Deletion, model=name, version=version, at=self._now(), by=self._by, why=why)
        store.put_new(mine, made.to_bytes())
        try:
            self._refuse_meant(name, version)
        except EcoRayError:
            store.remove(mine)
            raise
        path = _deleted(name, version)
        if not store.put_new(path, made.to_bytes()):
            if found := self.deletion(name, version):
                made = found
            else:  # what lies there is damaged
                store.put(path, made.to_bytes())
        for one in store.names(_deleting(name, version)):  # of those who died, too: it is done
            store.remove(f"{_deleting(name, version)}/{one}")
        return made

    def _refuse_meant(self, name: str, version: int) -> None:
        means, damaged = self.aliases(name)
        holds = [f"{name}@{alias}" for alias, one in means.items() if one == version]
        if holds:
            raise NotAllowedError(f"{name}:{version} is what {', '.join(holds)} means; promote another version first")
        for alias, problem in damaged.items():
            raise NotAllowedError(f"{name}@{alias} may mean {name}:{version}: {problem}")

    def _refuse_going(self, name: str, version: int) -> None:
        if self.deletion(name, version):
            raise NotFoundError(f"{name}:{version} was deleted; an alias cannot mean it")
        if going := self._records.store.names(_deleting(name, version)):
            raise NotAllowedError(
                f"{name}:{version} is being deleted; if that died, delete it again, or remove "
                f"{self._records.url}/{_deleting(name, version)}/{going[0]}"
            )

    def _is_going(self, name: str, version: int) -> bool:
        """Whether a version is deleted or about to be: looked for in this order, as the second is written first."""
        return bool(self._records.store.names(_deleting(name, version))) or self.deletion(name, version) is not None

    def _settled(self, event: AliasEvent) -> AliasEvent:
        """A move, if nobody deletes what it goes to; else it is taken back, and NotAllowedError tells so."""
        name, alias, gone = event.model, event.alias, set[int]()
        while event.version is not None and self._is_going(name, event.version):
            gone.add(event.version)
            before = self._before(event, gone)
            version, back = (None, event.number) if before is None else (before.version, before.back)
            why = f"version {event.version} was deleted in the same moment"
            back_again = self._write(name, alias, event.number + 1, version, back, "rollback", why)
            if back_again is None:  # somebody else has moved it on, and looks as we do
                break
            event = back_again
        if gone:
            raise NotAllowedError(
                f"{name}:{', '.join(map(str, sorted(gone)))} was deleted in the same moment; {name}@{alias} means what "
                "it meant before"
            )
        return event

    def _before(self, event: AliasEvent, gone: set[int]) -> AliasEvent | None:
        """The last move before one that went to none of some versions; None: none did, or it is damaged."""
        for number in reversed(self._numbers(event.model, event.alias)):
            if number < event.number:
                try:
                    found = self._event(event.model, event.alias, number)
                except DamagedError:
                    return None
                if found.version not in gone:
                    return found
        return None

    def _second(
        self, last: AliasEvent, version: int | None, back: int, action: Literal["rollback", "remove"], why: str
    ) -> AliasEvent:
        """The move after one that was looked at, or EcoRayError: somebody else was faster."""
        event = self._write(last.model, last.alias, last.number + 1, version, back, action, why)
        if event is None:
            raise EcoRayError(
                f"{last.model}@{last.alias} was moved by somebody else in the same moment; look at "
                f"`eco-ray model history {last.model}` before you move it again"
            )
        return self._settled(event)

    def _write(
        self,
        name: str,
        alias: str,
        number: int,
        version: int | None,
        back: int,
        action: Literal["promote", "rollback", "remove"],
        why: str,
    ) -> AliasEvent | None:
        """A move under a number; None: somebody has it."""
        event = written(
            AliasEvent,
            model=name, alias=alias, number=number, version=version, back=back, at=self._now(), action=action,
            by=self._by, why=why,
        )  # fmt: skip
        return event if self._records.store.put_new(f"{_moves(name, alias)}/{number}.json", event.to_bytes()) else None

    def _numbers(self, name: str, alias: str) -> list[int]:
        return self._records.numbers(_moves(name, alias))

    def _event(self, name: str, alias: str, number: int) -> AliasEvent:
        path = f"{_moves(name, alias)}/{number}.json"
        try:
            return self._records.read(AliasEvent, path, model=name, alias=alias, number=number)
        except DamagedError as error:
            raise DamagedError(
                f"{error}; `eco-ray model promote {name}:VERSION {alias}` says anew what {name}@{alias} means"
            ) from None

    def _current(self, name: str, alias: str) -> AliasEvent:
        """The move of an alias that counts. Raises NotFoundError where there is none."""
        found = self._last(name, alias)
        if found is None:
            raise NotFoundError(f"no alias {name}@{alias} in {self._records.url}{self._records.known(name)}")
        return found

    def _last(self, name: str, alias: str) -> AliasEvent | None:
        """The move of an alias that counts; None: there is none."""
        numbers = self._numbers(name, alias)
        return self._event(name, alias, numbers[-1]) if numbers else None


def _moves(name: str, alias: str) -> str:
    return f"models/{checked_name(name)}/aliases/{checked_name(alias, 'alias')}"


def _deleted(name: str, version: int) -> str:
    return f"models/{checked_name(name)}/deleted/{version}.json"


def _deleting(name: str, version: int) -> str:
    return f"models/{checked_name(name)}/deleting/{version}"
