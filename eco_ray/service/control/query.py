"""What may stand behind the `?` of a request, read strictly: what is not told by the OpenAPI document is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from eco_ray.errors import UsageError
from eco_ray.schema import unknown
from eco_ray.service.problems import Problem, shown
from eco_ray.times import parse_instant

#: longest text behind the `?` [bytes], and most fields in it
_BYTES, _FIELDS = 4096, 50


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field of a query: how it is read, and what the OpenAPI document says of it."""

    name: str
    #: its value; raises ValueError or UsageError with a sentence
    read: Callable[[str], Any]
    schema: Mapping[str, Any]
    description: str
    #: where it is not there
    default: Any = None
    required: bool = False
    #: may be there several times; its value is then a tuple
    many: bool = False

    def describe(self) -> dict[str, Any]:
        """As a parameter of OpenAPI."""
        schema: Mapping[str, Any] = {"type": "array", "items": self.schema} if self.many else self.schema
        shape = {"style": "form", "explode": True} if self.many else {}
        where = {"name": self.name, "in": "query", "required": self.required}
        return {**where, "description": self.description, "schema": schema, **shape}


def read_query(text: bytes, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The value of each parameter, by name. Raises Problem."""
    if len(text) > _BYTES:
        raise _wrong(f"{len(text)} bytes behind the `?`; the limit is {_BYTES}; ask for less at once")
    try:
        pairs = parse_qsl(
            text.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=_FIELDS
        )
    except ValueError:  # UnicodeDecodeError is one
        raise _wrong(f"{shown(text)} is no query; send name=value, joined by & and in UTF-8") from None
    known = {one.name: one for one in parameters}
    given: dict[str, list[Any]] = {}
    for name, value in pairs:
        if name not in known:
            words = unknown("parameter", name, known) if known else f"{shown(name)} is no parameter: this takes none"
            raise _wrong(words)
        try:
            given.setdefault(name, []).append(known[name].read(value))
        except (ValueError, UsageError) as error:
            raise _wrong(f"{name}: {error}") from None
    return {one.name: _value(one, given.get(one.name, [])) for one in parameters}


def whole(name: str, low: int, high: int, default: int, description: str) -> Parameter:
    """A whole number between two."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
            raise ValueError(f"{shown(text)} is not a whole number from {low} to {high}")
        return int(text)

    schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
    return Parameter(name, read, schema, description, default)


def word(
    name: str, words: Sequence[str], description: str, default: str | None = None, *, many: bool = False
) -> Parameter:
    """One of some words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(unknown(name, text, words))
        return text

    told = {} if default is None else {"default": default}
    schema = {"type": "string", "enum": list(words), **told}
    return Parameter(name, read, schema, description, () if many else default, many=many)


def flag(name: str, default: bool, description: str) -> Parameter:
    """`true` or `false`."""

    def read(text: str) -> bool:
        if text not in ("true", "false"):
            raise ValueError(f"{shown(text)} is neither true nor false")
        return text == "true"

    return Parameter(name, read, {"type": "boolean", "default": default}, description, default)


def instant(name: str, description: str) -> Parameter:
    """A moment [s since epoch], written in ISO 8601."""
    return Parameter(name, parse_instant, {"type": "string", "format": "date-time"}, description)


def text(name: str, description: str, *, limit: int = 100, required: bool = False, many: bool = False) -> Parameter:
    """Any short text."""

    def read(value: str) -> str:
        if not 0 < len(value) <= limit:
            raise ValueError(f"{len(value)} characters; give 1 to {limit}")
        return value

    schema = {"type": "string", "minLength": 1, "maxLength": limit}
    return Parameter(name, read, schema, description, () if many else None, required, many)


def _value(one: Parameter, given: list[Any]) -> Any:
    if one.many:
        return tuple(dict.fromkeys(given))
    if len(given) > 1:
        raise _wrong(f"{one.name} is there {len(given)} times; send it once")
    if not given and one.required:
        raise _wrong(f"{one.name} is missing; add {one.name}=..., {one.description.lower()}")
    return given[0] if given else one.default


def _wrong(detail: str) -> Problem:
    return Problem(400, "wrong query", detail)
