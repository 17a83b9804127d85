"""Many small models in one process: loaded when they are asked for, and given up when others need their room."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from eco_ray.errors import UnreachableError, UsageError

Key = TypeVar("Key", bound=Hashable)
Loaded = TypeVar("Loaded")


@dataclass(eq=False, slots=True)
class _Place(Generic[Loaded]):
    """A model that somebody has asked for."""

    users: int = 0
    #: of its files; None: it waits for room, and takes none
    bytes: int | None = None
    loaded: asyncio.Task[Loaded] | None = None

    @property
    def may_go(self) -> bool:
        return not self.users and self.loaded is not None and self.loaded.done()


class ManyModels(Generic[Key, Loaded]):
    """Models by whatever names them, of which those that were used last stay. For one event loop."""

    def __init__(
        self,
        load: Callable[[Key], Loaded],
        size_bytes: Callable[[Key], int],
        most: int,
        most_bytes: int,
        wait_s: float = 30.0,
    ) -> None:
        """`size_bytes`: of a model's files, asked before `load`; both are called in worker threads.

        `most`, `most_bytes`: models, and all their files. `wait_s`: for room, where every model is in use.
        """
        self._load, self._size_bytes = load, size_bytes
        self._most, self._most_bytes, self._wait_s = most, most_bytes, wait_s
        #: the one that was used longest ago first
        self._places: OrderedDict[Key, _Place[Loaded]] = OrderedDict()
        #: set and replaced when there may be more room
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def use(self, key: Key) -> AsyncIterator[Loaded]:
        """A model, which stays while it is used. Who asks for one that is being loaded waits for that.

        Raises what its loading raises, to all who wait for it; the next one tries again. UsageError for a model larger
        than all of them may be, UnreachableError where others were in use for as long as it waits.
        """
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place()
            place.loaded = asyncio.create_task(self._fill(key, place))
        self._places.move_to_end(key)
        place.users += 1
        try:
            assert place.loaded is not None  # noqa: S101
            # who leaves does not end it for the others
            yield place.loaded.result() if place.loaded.done() else await asyncio.shield(place.loaded)
        finally:
            place.users -= 1
            self._changed.set()

    @property
    def loaded(self) -> tuple[Key, ...]:
        """What is there or being loaded, the one that was used longest ago first."""
        return tuple(key for key, place in self._places.items() if place.bytes is not None)

    async def _fill(self, key: Key, place: _Place[Loaded]) -> Loaded:
        try:
            size = await asyncio.to_thread(self._size_bytes, key)
            if size > self._most_bytes:
                raise UsageError(
                    f"{key} has {size} bytes, limit {self._most_bytes} of all models here; serve it by itself"
                )
            try:
                async with asyncio.timeout(self._wait_s):
                    while not self._make_room(size):
                        self._changed.clear()
                        await self._changed.wait()
            except TimeoutError:
                raise UnreachableError(
                    f"no room for {key}: {len(self.loaded)} models, limit {self._most}, were in use for "
                    f"{self._wait_s:g} s; try again, or allow more"
                ) from None
            place.bytes = size
            return await asyncio.to_thread(self._load, key)
        except BaseException:
            del self._places[key]
            raise
        finally:
            self._changed.set()

    def _make_room(self, size: int) -> bool:
        """Give up what was used longest ago, as far as it takes; nothing where that would not do."""
        held = {key: place for key, place in self._places.items() if place.bytes is not None}
        total, count, going = sum(place.bytes or 0 for place in held.values()), len(held), []
        for key, place in held.items():
            if count < self._most and total + size <= self._most_bytes:
                break
            if place.may_go:
                going.append(key)
                total, count = total - (place.bytes or 0), count - 1
        if count >= self._most or total + size > self._most_bytes:
            return False
        for key in going:
            del self._places[key]
        return True
