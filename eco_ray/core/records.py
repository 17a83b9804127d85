"""Copies of frozen records with other values in some fields."""

from __future__ import annotations

from typing import Any, TypeVar

Record = TypeVar("Record")


def changed(record: Record, **changes: Any) -> Record:
    """`dataclasses.replace` for records whose fields are all arguments, at a tenth of its time: jobs change often.

    The record must be without `slots`, so that all its fields are copied at once. Raises KeyError for a field that it
    does not have.
    """
    kind = type(record)
    fields = record.__dict__
    if not changes.keys() <= fields.keys():
        raise KeyError(f"{kind.__name__} has no field {', '.join(sorted(changes.keys() - fields.keys()))}")
    copy: Record = object.__new__(kind)
    values = copy.__dict__
    values.update(fields)
    values.update(changes)
    return copy
