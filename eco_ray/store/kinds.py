"""What each column of the ledger may hold: told of one row in words, and of many by the database itself.

SQLite keeps whatever it is given in a column of any type, and no database knows our words: a row that somebody edited
must not become a number.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eco_ray.core.ledger import OWNER_KINDS
from eco_ray.core.units import Nature

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

#: energy of one interval [mJ]: exact as a float too, and a sum of 1,000 such intervals still fits BIGINT
MAX_MJ = 2**53 - 1
MAX_BIGINT = 2**63 - 1
WHOLE = {"seq", "energy_mj", "gpu_mj", "idle_mj", "unallocated_mj", "attempt", "requests", "items"}
#: of these, what is no amount and never summed
UNLIMITED = {"seq", "attempt"}
REAL = {"start_s", "end_s", "made_s", "system_cpu_s", "error_rel", "intensity", "intensity_age_s", "pue"}
#: may be unknown
OPTIONAL = {"requests", "items", "intensity", "intensity_age_s"}
_NATURES = tuple(nature.value for nature in Nature)
#: columns of few words
WORDS = {"nature": _NATURES, "intensity_nature": ("", *_NATURES), "owner_kind": OWNER_KINDS}


def faults(names: Iterable[str], values: Sequence[Any]) -> list[str]:
    """What the columns of one row hold that they cannot hold, in words."""
    return [
        f"{name} is {value!r:.60}, not {wanted}"
        for name, value in zip(names, values, strict=True)
        if (wanted := _wanted(name, value))
    ]


def _wanted(name: str, value: Any) -> str:
    """What a column should hold where it does not; empty where it does."""
    if value is None and name in OPTIONAL:
        return ""
    if name in WHOLE:
        limit = MAX_BIGINT if name in UNLIMITED else MAX_MJ
        return "" if type(value) is int and abs(value) <= limit else f"a whole number of at most {limit}"
    if name in REAL:
        return "" if type(value) in (int, float) and math.isfinite(value) else "a finite number"
    if name in WORDS:
        return "" if value in WORDS[name] else f"one of {', '.join(word or 'nothing' for word in WORDS[name])}"
    if type(value) is not str:
        return "text"
    return "a JSON list" if name == "flags" and not _is_list(value) else ""


def _is_list(text: str) -> bool:
    try:
        return text == "[]" or isinstance(json.loads(text), list)
    except ValueError:
        return False


def wrong(connection: Connection, columns: Mapping[str, ColumnElement[Any]]) -> ColumnElement[int]:
    """In SQL: 1 where one of these, by the name of what it holds, cannot be so, else 0."""
    from sqlalchemy import and_, case, func, or_, true

    typed = connection.dialect.name != "sqlite"
    sound: list[ColumnElement[bool]] = [true()]
    for name, column in columns.items():
        if name in REAL:  # text and blobs sort after all numbers on SQLite, NaN does on PostgreSQL
            holds: ColumnElement[bool] = column.between(-sys.float_info.max, sys.float_info.max)
        elif name in WHOLE and name not in UNLIMITED:  # so that sums do not overflow
            holds = column.between(-MAX_MJ, MAX_MJ)
            holds = holds if typed else and_(holds, func.typeof(column) == "integer")
        elif name in WORDS:
            holds = column.in_(WORDS[name])
        elif typed:
            continue
        else:
            holds = func.typeof(column) == ("integer" if name in WHOLE else "text")
        sound.append(or_(column.is_(None), holds) if name in OPTIONAL else holds)
    return case((and_(*sound), 0), else_=1)
