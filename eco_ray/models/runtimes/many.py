"""Many small models in one process: loaded when they are asked for, and given up when others need their room."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from eco_ray.core.ports import Runtime
from eco_ray.errors import UnreachableError, UsageError

Key = tuple[str, int]


@dataclass(eq=False, slots=True)
class _Place:
    """What a model takes, from before it is loaded on."""

    bytes: int
    users: int = 0
    runtime: Future[Runtime] = field(default_factory=Future)


class ManyRuntimes:
    """Models by name and version, of which those that were used last stay. Several threads may use it."""

    def __init__(
        self,
        load: Callable[[str, int], Runtime],
        size_bytes: Callable[[str, int], int],
        most: int,
        most_bytes: int,
        wait_s: float = 30.0,
    ) -> None:
        """`size_bytes`: of a model's files, asked before `load`. `most`, `most_bytes`: models, and all their files.

        `wait_s`: for room, where every model is in use.
        """
        self._load, self._size_bytes = load, size_bytes
        self._most, self._most_bytes, self._wait_s = most, most_bytes, wait_s
        #: the one that was used longest ago first
        self._places: OrderedDict[Key, _Place] = OrderedDict()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def use(self, name: str, version: int) -> Iterator[Runtime]:
        """A model, which stays while it is used. Who asks for one that somebody else loads waits for that.

        Raises what its loading raises, to all who wait for it; the next one tries again. UsageError for a model larger
        than all of them may be, UnreachableError where others were in use for as long as it waits.
        """
        key = name, version
        place, is_new = self._take(key)
        try:
            if is_new:
                self._fill(key, place)
            yield place.runtime.result()
        finally:
            with self._changed:
                place.users -= 1
                self._changed.notify_all()

    @property
    def loaded(self) -> tuple[Key, ...]:
        """What is there or being loaded, the one that was used longest ago first."""
        with self._changed:
            return tuple(self._places)

    def _take(self, key: Key) -> tuple[_Place, bool]:
        """A model's place with one more user, and whether it is still to be loaded by whoever asked."""
        with self._changed:
            if key in self._places:
                return self._used(key), False
        size = self._size_bytes(*key)
        if size > self._most_bytes:
            raise UsageError(
                f"{key[0]}:{key[1]} has {size} bytes, limit {self._most_bytes} of all models here; serve it by itself"
            )
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._places or self._make_room(size), self._wait_s):
                raise UnreachableError(
                    f"no room for {key[0]}:{key[1]}: {len(self._places)} models, limit {self._most}, were in use for "
                    f"{self._wait_s:g} s; try again, or allow more"
                )
            is_new = key not in self._places
            if is_new:
                self._places[key] = _Place(size)
            return self._used(key), is_new

    def _used(self, key: Key) -> _Place:
        self._places.move_to_end(key)
        self._places[key].users += 1
        return self._places[key]

    def _make_room(self, size: int) -> bool:
        """Give up what was used longest ago, as far as it takes; nothing where that would not do."""
        left = list(self._places.items())
        total, count, going = sum(place.bytes for _, place in left), len(left), []
        for key, place in left:
            if count < self._most and total + size <= self._most_bytes:
                break
            if not place.users:
                going.append(key)
                total, count = total - place.bytes, count - 1
        if count >= self._most or total + size > self._most_bytes:
            return False
        for key in going:
            del self._places[key]
        return True

    def _fill(self, key: Key, place: _Place) -> None:
        try:
            place.runtime.set_result(self._load(*key))
        except BaseException as error:
            with self._changed:
                del self._places[key]
            place.runtime.set_exception(error)
            raise
