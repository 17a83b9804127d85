"""Records (frozen dataclasses) as plain values that JSON can hold, and back, exactly.

A field that is missing takes its default, a field that is unknown is ignored. Infinities and NaN stay floats, for which
Python's JSON has tokens. What has the type Any or `dict` is JSON already: a tuple in it comes back as a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from eco_ray.errors import EcoRayError

#: (plain value, where it stands) -> value
Decoder = Callable[[Any, str], Any]

DAMAGED = "the record is damaged or of a newer eco-ray: upgrade eco-ray or restore the database from a backup"

T = TypeVar("T")


def plain(value: Any) -> Any:
    """A record, or what is in one, as numbers, text, lists and dictionaries with text keys."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def from_plain(kind: type[T], value: Any, where: str) -> T:
    """The record that `plain` gave. Raises EcoRayError, which says `where`, for a damaged one."""
    hint: Any = kind
    found: T = decoder(hint)(value, where)
    return found


@cache
def decoder(hint: Any) -> Decoder:
    """How a plain value becomes what has this type hint. Raises TypeError where that is not known."""
    composed = _COMPOSED.get(get_origin(hint))
    if composed is not None:
        return composed(get_args(hint))
    # of a type variable what it is bound by, of a generic class the class
    kind: Any = getattr(hint, "__bound__", None) or get_origin(hint) or hint
    if is_dataclass(kind):
        return _record(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _one_of({member.value: member for member in kind})
    if kind is Any:
        return lambda value, where: value
    if kind in (str, int, float, bool, dict):
        return _scalar((int, float) if kind is float else (kind,), kind.__name__)
    raise TypeError(f"the codec does not know how to read {hint}: add it to eco_ray/core/plain.py")


def _record(cls: Any) -> Decoder:
    hints = get_type_hints(cls)
    known = [(f.name, f, decoder(hints[f.name])) for f in fields(cls)]

    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise wrong(value, where, "an object")
        given: dict[str, Any] = {}
        for name, field, read in known:
            if name in value:
                given[name] = read(value[name], f"{where}: {name}")
            elif field.default is MISSING and field.default_factory is MISSING:
                raise EcoRayError(f"{where}: no {name}, which every {cls.__name__} has: {DAMAGED}")
        return cls(**given)

    return decode


def _optional(args: tuple[Any, ...]) -> Decoder:
    options = [arg for arg in args if arg is not NoneType]
    if len(options) != 1 or len(args) != 2:
        raise TypeError(f"the codec knows no union but `X | None`, not one of {args}")
    read = decoder(options[0])
    return lambda value, where: None if value is None else read(value, where)


def _tuple(args: tuple[Any, ...]) -> Decoder:
    if len(args) == 2 and args[1] is Ellipsis:
        return _each(tuple, args[0])
    reads = tuple(map(decoder, args))

    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, list) or len(value) != len(reads):
            raise wrong(value, where, f"a list of {len(reads)}")
        return tuple(read(item, where) for read, item in zip(reads, value, strict=True))

    return decode


def _each(make: Callable[[list[Any]], Any], hint: Any) -> Decoder:
    read = decoder(hint)

    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise wrong(value, where, "a list")
        return make([read(item, where) for item in value])

    return decode


def _mapping(args: tuple[Any, ...]) -> Decoder:
    """Keys are text in JSON, whatever they were."""
    key, item = args[0], decoder(args[1])

    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise wrong(value, where, "an object")
        return {key(one): item(other, f"{where}: {one}") for one, other in value.items()}

    return decode


def _one_of(members: Mapping[str, Any]) -> Decoder:
    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, str) or value not in members:
            raise wrong(value, where, f"one of {', '.join(members)}")
        return members[value]

    return decode


def _scalar(kinds: tuple[type, ...], name: str) -> Decoder:
    def decode(value: Any, where: str) -> Any:
        # bool is an int in Python, not here
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise wrong(value, where, name)
        return value

    return decode


def wrong(value: Any, where: str, expected: str) -> EcoRayError:
    """The error for what is something else."""
    return EcoRayError(f"{where} is {value!r:.80}, not {expected}: {DAMAGED}")


_COMPOSED: Mapping[Any, Callable[[tuple[Any, ...]], Decoder]] = {
    Union: _optional,
    UnionType: _optional,
    tuple: _tuple,
    Mapping: _mapping,
    frozenset: lambda args: _each(frozenset, args[0]),
    np.ndarray: lambda args: _each(np.array, float),
    Literal: lambda args: _one_of({value: value for value in args}),
}
