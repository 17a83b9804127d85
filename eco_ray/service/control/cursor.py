"""Cursors: where a list goes on. They name the last line that was seen, so that what is added meanwhile moves nothing.

A cursor is no secret and no right: whoever shows one sees below it what their key lets them see.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from eco_ray.service.control.query import Parameter
from eco_ray.service.problems import Problem, shown

#: longest cursor [characters]
_LIMIT = 1024
_CURE = "send the one of the header Link of the page before, with the same other parameters"

CURSOR = Parameter(
    "cursor",
    str,
    {"type": "string", "maxLength": _LIMIT},
    "Where the page goes on: of the header Link of the page before",
)


def write(last: Sequence[str | float | bool], of: str) -> str:
    """A cursor after the line that `last` names, of the list that `of` names: path and filters."""
    content = json.dumps([_mark(of), *last], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def read(cursor: str, of: str, kinds: Sequence[type]) -> list[Any]:
    """What `write` was given. Raises Problem for another list's, and for what nobody wrote."""
    try:
        if len(cursor) > _LIMIT:
            raise ValueError
        padded = cursor + "=" * (-len(cursor) % 4)
        mark: object
        last: list[Any]
        mark, *last = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise _wrong(f"{shown(cursor)} is no cursor; {_CURE}") from None
    right = len(last) == len(kinds) and all(type(value) is kind for value, kind in zip(last, kinds, strict=True))
    if not right or any(isinstance(value, float) and not math.isfinite(value) for value in last):
        raise _wrong(f"{shown(cursor)} is no cursor of this list; {_CURE}")
    if mark != _mark(of):
        raise _wrong(f"the cursor is of a list with other parameters; {_CURE}")
    return last


def _mark(of: str) -> str:
    return hashlib.blake2b(of.encode(), digest_size=6).hexdigest()


def _wrong(detail: str) -> Problem:
    return Problem(400, "wrong cursor", detail)
