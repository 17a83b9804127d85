"""Keys show in no error and no log line of a request, however the server sends them back."""

from __future__ import annotations

import base64
import logging
import traceback
from urllib.parse import quote_plus

import pytest
from grid_server import Answer, as_text, redirect
from http_cases import KEY, an_http, refused

from eco_ray.grid.http import SourceError
from eco_ray.grid.keys import Secret


def _forms(text: str) -> list[str]:
    return [
        text,
        quote_plus(text),
        quote_plus(text).lower(),
        "".join(f"%{ord(char):02X}" for char in text),
        "".join(f"\\u{ord(char):04x}" for char in text),
        "".join(f"&#{ord(char)};" for char in text),
        "".join(f"&#x{ord(char):X};" for char in text),
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
        text.replace("/", "\\/"),
        base64.b64encode(text.encode()).decode(),
        base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
        "".join(f"%25{ord(char):02x}" for char in text),
        text.encode().hex(),
        text.encode().hex().upper(),
        text[::-1],
        " ".join(text),
        "\u200b".join(text),
        text[:-1],
        base64.b64encode(f"auth-token: {text}".encode()).decode(),
        "".join(f"\\{ord(char):03o}" for char in text),
        "".join(chr(ord(char) + 0xFEE0) for char in text),
    ]


@pytest.mark.parametrize("form", range(len(_forms(KEY))))
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_the_server_sends_back_is_not_quoted(server, form, status, caplog):
    caplog.set_level(logging.DEBUG)
    echoed = _forms(KEY)[form]
    header = echoed if echoed.isascii() else "x"
    server.on("/v4/a", Answer(f"no access for {echoed} here".encode(), status, {"X-Echo": header}))
    error = refused(an_http(server, secret=Secret(KEY, "test")), "/a")
    assert "is not shown, for a key travelled" in str(error)
    assert echoed not in str(error)
    assert echoed not in caplog.text
    assert echoed not in "".join(traceback.format_exception(error))
    assert echoed not in repr(error)


def test_without_a_key_the_server_is_quoted_and_still_no_other_key(server):
    other = Secret(KEY, "another source")
    server.on("/v4/a", as_text(f"no such zone {KEY}", 404))
    assert str(refused(an_http(server), "/a")).endswith("HTTP 404 Not Found: 'no such zone ***'")
    assert other.reveal() == KEY


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 {}\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 401 {}\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/{} 200 OK\r\n\r\n",
        b"{}\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n{}\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: {}\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: https://{}.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_no_line_that_a_server_sends_shows(server, raw, caplog):
    caplog.set_level(logging.DEBUG)
    echoed = KEY.encode().hex()
    server.on("/*", Answer(raw=raw.replace(b"{}", echoed.encode())))
    http = an_http(server, secret=Secret(KEY, "test"))
    try:
        said = str(http.get_json("/a"))
    except SourceError as error:
        said = "".join(traceback.format_exception(error))
    assert echoed not in said
    assert echoed not in caplog.text


def test_a_key_at_the_end_of_the_quote_is_not_cut_in_half(server):
    secret = Secret(KEY, "another source")
    server.on("/v4/a", as_text("x" * 230 + KEY, 500))
    assert KEY[:4] not in str(refused(an_http(server), "/a"))
    assert secret.reveal() == KEY


@pytest.mark.parametrize("part", ["ann@example.org", "pass:w0rd!", "ann@example.org:pass:w0rd!"])
def test_both_parts_of_user_and_password_are_cut_out(server, part):
    secret = Secret("ann@example.org:pass:w0rd!", "test")
    server.on("/v4/a", as_text(f"who is {part}?", 401))
    assert part not in str(refused(an_http(server, secret=secret), "/a"))


def test_a_key_in_the_query_shows_in_no_error_and_no_log(server, caplog):
    caplog.set_level(logging.DEBUG)
    http = an_http(server, secret=Secret(KEY, "test"))
    server.on("/v4/a", redirect(f"http://{quote_plus(KEY)}.example/?securityToken={quote_plus(KEY)}"))
    errors = [refused(http, "/a", {"securityToken": KEY})]
    server.on("/v4/a", redirect(f"/v4/b?securityToken={quote_plus(KEY)}"))
    server.on("/v4/b", Answer(b"no", 403, {"X-Echo": KEY, "Set-Cookie": f"key={quote_plus(KEY)}"}))
    errors.append(refused(http, "/a", {"securityToken": KEY}))
    errors.append(refused(http, f"/{KEY.replace('/', '')}", {"securityToken": KEY}))
    assert "HTTP Request: GET" in caplog.text
    shown = caplog.text + "".join("".join(traceback.format_exception(error)) for error in errors)
    for form in _forms(KEY):
        assert form not in shown


def test_a_key_in_a_header_or_as_basic_shows_in_no_log(server, caplog):
    caplog.set_level(logging.DEBUG)
    secret = Secret(f"ann:{KEY}", "test")
    server.on("/v4/a", Answer(b"no", 401, {"X-Echo": f"{KEY} {base64.b64encode(f'ann:{KEY}'.encode()).decode()}"}))
    http = an_http(server, secret=secret, headers={"auth-token": KEY})
    refused(http, "/a", basic=("ann", KEY))
    assert "httpcore" in {record.name.split(".")[0] for record in caplog.records}
    for form in _forms(KEY) + _forms(f"ann:{KEY}"):
        assert form not in caplog.text


def test_other_lines_of_the_log_are_left_alone(caplog):
    caplog.set_level(logging.DEBUG)
    secret = Secret(KEY, "test")
    logging.getLogger("httpx").info("%s of %d", "one", 2)
    assert caplog.records[-1].args == ("one", 2)
    assert str(secret) == "***"
