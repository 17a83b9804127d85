"""Jobs as JSON text and back, exactly: the record that the store keeps and that an older or newer eco-ray can read.

A field that is missing takes its default, a field that is unknown is ignored. Floats round-trip to the last bit,
infinities and NaN included (Python's JSON tokens). `metrics` and `runtime_env` are JSON: a tuple in them comes back
as a list.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from eco_ray.core.jobs import Job
from eco_ray.errors import EcoRayError

#: (stored value, where it stands) -> value
Decoder = Callable[[Any, str], Any]

DAMAGED = "the record is damaged or of a newer eco-ray: upgrade eco-ray or restore the database from a backup"


def job_to_json(job: Job) -> str:
    """The whole job as JSON text (ASCII)."""
    return to_json(_plain(job), f"job {job.id}")


def job_from_json(text: str) -> Job:
    """The job that `job_to_json` wrote. Raises EcoRayError for a damaged record."""
    job: Job = _decoder(Job)(from_json(text, "job record"), "job record")
    return job


def to_json(value: Any, what: str) -> str:
    """JSON text; an EcoRayError that names `what` for a value that JSON cannot hold."""
    try:
        return json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise EcoRayError(
            f"{what} cannot be stored: {error}; keep numbers, text, booleans, lists and dictionaries with text keys"
        ) from error


def from_json(text: str, what: str) -> Any:
    """The value of JSON text; an EcoRayError that names `what` where it is damaged."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EcoRayError(f"{what} is not JSON ({error}): {DAMAGED}") from error


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@cache
def _decoder(hint: Any) -> Decoder:
    """How a stored value becomes a field with this type hint."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        options = [arg for arg in args if arg is not NoneType]
        if len(options) != 1 or len(args) != 2:
            raise TypeError(f"the job codec knows no union but `X | None`, not {hint}")
        return _optional(_decoder(options[0]))
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _tuple_of(_decoder(args[0]))
    if is_dataclass(hint) and isinstance(hint, type):
        return _record(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(hint)
    if hint is Any:
        return lambda value, where: value
    kind = origin or hint
    if kind in (str, int, float, bool, dict):
        return _scalar((int, float) if kind is float else (kind,), kind.__name__)
    raise TypeError(f"the job codec does not know how to read {hint}: add it to eco_ray/store/codec.py")


def _record(cls: type[Any]) -> Decoder:
    hints = get_type_hints(cls)
    known = [(f.name, f, _decoder(hints[f.name])) for f in fields(cls)]

    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, where, "an object")
        given: dict[str, Any] = {}
        for name, field, decoder in known:
            if name in value:
                given[name] = decoder(value[name], f"{where}: {name}")
            elif field.default is MISSING and field.default_factory is MISSING:
                raise EcoRayError(f"{where}: no {name}, which every {cls.__name__} has: {DAMAGED}")
        return cls(**given)

    return decode


def _optional(decoder: Decoder) -> Decoder:
    return lambda value, where: None if value is None else decoder(value, where)


def _tuple_of(decoder: Decoder) -> Decoder:
    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise _wrong(value, where, "a list")
        return tuple(decoder(item, where) for item in value)

    return decode


def _enum(cls: type[Enum]) -> Decoder:
    members = {member.value: member for member in cls}

    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, str) or value not in members:
            raise _wrong(value, where, f"one of {', '.join(members)}")
        return members[value]

    return decode


def _scalar(kinds: tuple[type, ...], name: str) -> Decoder:
    def decode(value: Any, where: str) -> Any:
        # bool is an int in Python, not here
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise _wrong(value, where, name)
        return value

    return decode


def _wrong(value: Any, where: str, expected: str) -> EcoRayError:
    return EcoRayError(f"{where} is {value!r:.80}, not {expected}: {DAMAGED}")
