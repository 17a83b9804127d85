"""What is told of a request that cannot be answered: problem+json (RFC 9457)."""

from __future__ import annotations

import json
import reprlib
from typing import Any

#: name, value
Header = tuple[bytes, bytes]

#: words of the OpenAI API: (type, code) of a status; other codes are made of the title
_OPENAI = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", ""),
    404: ("not_found_error", ""),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


class Problem(Exception):
    """A request that cannot be answered: status, title, and a detail with value, limit and cure."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        headers: tuple[Header, ...] = (),
        *,
        param: str | None = None,
        code: str = "",
    ) -> None:
        """`param` and `code`: for clients of the OpenAI API, the field that is wrong and a word for how."""
        super().__init__(detail)
        self.status, self.title, self.detail, self.headers = status, title, detail, headers
        self.param, self.code = param, code

    def body(self, openai: bool = False) -> bytes:
        """The document. Its type is a tag URI (RFC 4151) made of the title: it names the kind and is no address.

        `error` is where clients look: those of the V2 protocol for a text, those of the OpenAI API for an object.
        """
        content = {
            "type": f"tag:eco-ray,2026:{self.title.replace(' ', '-')}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "error": self._for_openai() if openai else self.detail,
        }
        return json.dumps(content).encode()

    def _for_openai(self) -> dict[str, Any]:
        kind, code = _OPENAI.get(self.status, ("server_error" if self.status >= 500 else "invalid_request_error", ""))
        code = self.code or code or self.title.replace(" ", "_")
        return {"message": self.detail, "type": kind, "param": self.param, "code": code}


def shown(value: object, limit: int = 80) -> str:
    """A value of a request for a detail: short, on one line; of what is large, only a part is looked at."""
    if isinstance(value, int) and value.bit_length() > 256:  # Python refuses to write numbers of thousands of digits
        return f"a number of {value.bit_length()} bits"
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    return short.repr(value)[: limit + 20]
