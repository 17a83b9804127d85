"""What is told of a request that cannot be answered: problem+json (RFC 9457)."""

from __future__ import annotations

import json
import reprlib

#: name, value
Header = tuple[bytes, bytes]


class Problem(Exception):
    """A request that cannot be answered: status, title, and a detail with value, limit and cure."""

    def __init__(self, status: int, title: str, detail: str, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.headers = status, title, detail, headers

    def body(self) -> bytes:
        """The document. Its type is a tag URI (RFC 4151) made of the title: it names the kind and is no address."""
        content = {
            "type": f"tag:eco-ray,2026:{self.title.replace(' ', '-')}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "error": self.detail,  # where clients of the V2 protocol look
        }
        return json.dumps(content).encode()


def shown(value: object, limit: int = 80) -> str:
    """A value of a request for a detail: short, on one line; of what is large, only a part is looked at."""
    if isinstance(value, int) and value.bit_length() > 256:  # Python refuses to write numbers of thousands of digits
        return f"a number of {value.bit_length()} bits"
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    return short.repr(value)[: limit + 20]
