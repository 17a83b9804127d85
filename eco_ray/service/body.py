"""The body of a request as it comes in: bounded in size and time, of one request and of all together."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from pydantic_core import from_json  # six times faster than json on lists of numbers

from eco_ray.service.http import CLOSE, GoneError, Receive
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Problem, shown

#: a body above the limit is read on and thrown away, up to so many limits: who still sends does not see the answer
_READ_ON = 4


class Held:
    """Counts the bytes of bodies that are read or wait."""

    def __init__(self) -> None:
        self.bytes = 0


async def read_body(receive: Receive, declared: bytes | None, held: Held, limits: Limits) -> bytes:
    """The whole body; the caller takes its length off `held` when it is done. Raises Problem and GoneError."""
    size = int(declared) if declared and declared.isdigit() and len(declared) < 19 else 0
    taken = 0
    body = bytearray()  # no list of chunks: of one byte each they would take sixty times their size
    try:
        async with asyncio.timeout(limits.read_s):
            if size > limits.body_bytes:
                await _throw_away(receive, limits)
                raise _too_large(f"{size} bytes", limits)
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                chunk = message.get("body", b"")
                taken += len(chunk)
                held.bytes += len(chunk)
                if taken > limits.body_bytes:
                    body.clear()
                    if message.get("more_body"):
                        await _throw_away(receive, limits)
                    raise _too_large(f"{taken} bytes or more", limits)
                if held.bytes > limits.held_bytes:
                    detail = f"requests of {limits.held_bytes} bytes wait already; ask again in a second"
                    raise Problem(503, "busy", detail, ((b"retry-after", b"1"), CLOSE))
                if not message.get("more_body"):
                    return chunk if taken == len(chunk) else bytes(body + chunk)
                body += chunk
    except TimeoutError:
        held.bytes -= taken
        detail = f"{taken} bytes of the body came within {limits.read_s:g} s, and not its end; send it faster"
        raise Problem(408, "too slow", detail, (CLOSE,)) from None
    except BaseException:
        held.bytes -= taken
        raise


def json_object(body: bytes, limits: Limits, what: str) -> dict[str, Any]:
    """The object that is the body; `what` it should be. Raises Problem."""
    nodes = body.count(b"[") + body.count(b"{")
    if nodes > limits.json_nodes:
        detail = f"{nodes} brackets in the JSON; the limit is {limits.json_nodes}; send flat lists or binary tensors"
        raise Problem(413, "request too large", detail)
    try:
        content = from_json(body, allow_inf_nan=limits.allow_nonfinite, cache_strings="keys")
    except (ValueError, RecursionError) as error:
        raise Problem(400, "not JSON", f"the body is not JSON ({shown(str(error), 200)}); send {what}") from None
    if not isinstance(content, dict):
        raise Problem(400, "no object", f"the body is {shown(content)}; send {what}, an object")
    return content


async def _throw_away(receive: Receive, limits: Limits) -> None:
    left = _READ_ON * limits.body_bytes
    with suppress(TimeoutError):
        async with asyncio.timeout(limits.read_s):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def _too_large(what: str, limits: Limits) -> Problem:
    detail = f"{what}; the limit is {limits.body_bytes}; send fewer rows"
    return Problem(413, "request too large", detail, (CLOSE,))
