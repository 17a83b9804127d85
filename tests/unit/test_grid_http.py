"""Requests to sources against a real server that drips, cuts, redirects and lies: bounded, and without the key."""

from __future__ import annotations

import base64
import copy
import gzip
import pickle
import threading
import time

import httpx
import pytest
from grid_server import Answer, GridServer, as_json, as_text, closed_port, redirect
from http_cases import KEY, an_http, refused

from eco_ray.errors import UsageError
from eco_ray.grid.http import MAX_RETRY_AFTER_S, Fault, Http, SourceError, retry_after_s
from eco_ray.grid.keys import Secret

# --- what comes back


def test_path_query_and_headers_arrive_and_the_json_comes_back(server):
    server.on("/v4/latest", as_json({"carbonIntensity": 302}))
    http = an_http(server, headers={"auth-token": KEY})
    assert http.get_json("/latest", {"zone": "US-CAL-CISO", "odd": "a b&c+d"}, {"X-One": "1"}) == {
        "carbonIntensity": 302
    }
    (asked,) = server.requests
    assert (asked.method, asked.path) == ("GET", "/v4/latest")
    assert asked.query == {"zone": "US-CAL-CISO", "odd": "a b&c+d"}
    assert asked.headers["auth-token"] == KEY
    assert asked.headers["x-one"] == "1"
    assert asked.headers["accept-encoding"] == "identity"


def test_basic_is_sent(server):
    server.on("/v4/login", as_json({"token": "t"}))
    an_http(server).get_json("/login", basic=("ann", "pass:word"))
    assert server.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"ann:pass:word").decode()


def test_a_byte_order_mark_is_no_part_of_the_answer(server):
    server.on("/v4/a", Answer(b'\xef\xbb\xbf{"a": 1}'))
    assert an_http(server).get_json("/a") == {"a": 1}


# --- bounds


def test_an_answer_that_drips_is_given_up_in_time(server):
    server.on("/v4/a", Answer(b" " * 100, piece=1, drip_s=0.1))
    begin = time.monotonic()
    error = refused(an_http(server, timeout_s=0.5), "/a")
    assert time.monotonic() - begin < 1.5
    assert error.fault is Fault.UNREACHABLE
    assert "longer than 0.5 s" in str(error)


def test_headers_that_drip_are_given_up_in_time(server):
    head = b"HTTP/1.1 200 OK\r\n" + b"X-Slow: " + b"a" * 200
    server.on("/v4/a", Answer(raw=head, piece=1, drip_s=0.1))
    begin = time.monotonic()
    error = refused(an_http(server, timeout_s=0.5), "/a")
    assert time.monotonic() - begin < 1.5
    assert error.fault is Fault.UNREACHABLE
    assert "longer than 0.5 s" in str(error)


@pytest.mark.parametrize("answer", [Answer(raw=b"H" * 300, piece=1, drip_s=0.1), Answer(delay_s=30)])
def test_what_was_given_up_ends_soon(server, answer):
    server.on("/v4/a", answer)
    refused(an_http(server, timeout_s=0.3), "/a")
    end = time.monotonic() + 3
    while any(thread.name == "eco-ray-grid" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_server_that_says_nothing_is_given_up_in_time(server):
    server.on("/v4/a", Answer(delay_s=20))
    begin = time.monotonic()
    assert refused(an_http(server, timeout_s=0.4), "/a").fault is Fault.UNREACHABLE
    assert time.monotonic() - begin < 1.5


def test_the_time_is_that_of_all_redirects_together(server):
    server.on("/v4/a", Answer(b"", 302, {"Location": "/v4/a"}, delay_s=0.4))
    begin = time.monotonic()
    refused(an_http(server, timeout_s=0.6), "/a")
    assert time.monotonic() - begin < 1.2


def test_after_one_that_was_given_up_the_next_is_asked_as_usual(server):
    server.on("/v4/a", Answer(delay_s=20), as_json(7))
    http = an_http(server, timeout_s=0.4)
    refused(http, "/a")
    assert http.get_json("/a") == 7


def test_no_more_is_read_than_the_limit(server):
    server.on("/v4/a", as_text("[" + "1," * 40_000 + "1]"))
    error = refused(an_http(server, limit_bytes=50_000), "/a")
    assert error.fault is Fault.MALFORMED
    assert "larger than 50000 bytes" in str(error)


def test_the_limit_itself_is_allowed(server):
    server.on("/v4/a", as_text(" " * 49_999 + "1"))
    assert an_http(server, limit_bytes=50_000).get_json("/a") == 1


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate, gzip"])
def test_a_compressed_answer_is_refused_unread(server, encoding):
    server.on("/v4/a", Answer(gzip.compress(b"1" * 1000), headers={"Content-Encoding": encoding}))
    error = refused(an_http(server), "/a")
    assert error.fault is Fault.MALFORMED
    assert "Content-Encoding" in str(error)


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_an_answer_that_says_it_is_not_compressed_is_read(server, encoding):
    server.on("/v4/a", as_text("1", headers={"Content-Encoding": encoding}))
    assert an_http(server).get_json("/a") == 1


def test_our_own_limit_of_requests_a_minute_says_when_to_ask_again(server):
    server.on("/v4/a", as_json(1))
    http = an_http(server, max_per_minute=3)
    for _ in range(3):
        http.get_json("/a")
    error = refused(http, "/a")
    assert error.fault is Fault.RATE_LIMITED
    assert 0 < error.retry_after_s <= 60
    assert "limit of 3 requests a minute" in str(error)
    assert len(server.requests) == 3


# --- redirects


def test_a_redirect_on_the_same_host_is_followed_with_the_key(server):
    server.on("/v4/old", redirect("/v4/new?zone=DE"))
    server.on("/v4/new", as_json(5))
    assert an_http(server, headers={"auth-token": KEY}).get_json("/old", {"zone": "DE"}) == 5
    assert server.requests[1].query == {"zone": "DE"}
    assert server.requests[1].headers["auth-token"] == KEY


@pytest.mark.parametrize(
    "target",
    [
        "http://localhost:{port}/v4/new",
        "//localhost:{port}/v4/new",
        "http://127.0.0.1:{other}/v4/new",
        "https://127.0.0.1:{port}/v4/new",
        "http://ann:pw@127.0.0.1:{port}/v4/new",
        "ftp://127.0.0.1:{port}/v4/new",
        "http://[broken",
    ],
)
def test_a_redirect_elsewhere_is_not_followed(server, target):
    with GridServer() as other:
        other.on("/v4/new", as_json(5))
        server.on("/v4/new", as_json(5))
        server.on("/v4/old", redirect(target.format(port=server.port, other=other.port)))
        error = refused(an_http(server, headers={"auth-token": KEY}), "/old")
        assert error.fault is Fault.MALFORMED
        assert "redirect" in str(error)
        assert other.requests == []
    assert server.paths() == ["/v4/old"]


def test_https_is_never_left_for_http():
    http = Http("test-source", "https://grid.example/v4", secret=Secret(KEY, "test"))
    request = http._client.build_request("GET", "https://grid.example/v4/a")
    for target in ("http://grid.example/v4/a", "https://grid.example:8443/v4/a", "https://grid.example.org/v4/a"):
        with pytest.raises(SourceError, match="redirect"):
            http._redirected("/a", request.url, _moved(target))
    assert str(http._redirected("/a", request.url, _moved("/b"))) == "https://grid.example/b"


def _moved(target: str) -> httpx.Response:
    return httpx.Response(302, headers={"Location": target})


def test_redirects_end(server):
    server.on("/v4/a", redirect("/v4/a"))
    assert "more than 3 redirects" in str(refused(an_http(server), "/a"))
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [300, 302, 304])
def test_a_redirect_to_nowhere_is_an_answer_that_cannot_be_used(server, status):
    server.on("/v4/a", Answer(b"", status))
    error = refused(an_http(server), "/a")
    assert error.fault is Fault.MALFORMED
    assert f"HTTP {status}" in str(error)
    assert len(server.requests) == 1


# --- statuses


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, Fault.NO_DATA),
        (401, Fault.REFUSED),
        (403, Fault.REFUSED),
        (404, Fault.NO_DATA),
        (418, Fault.MALFORMED),
        (429, Fault.RATE_LIMITED),
        (500, Fault.UNREACHABLE),
        (503, Fault.UNREACHABLE),
        (204, Fault.NO_DATA),
    ],
)
def test_a_status_is_a_fault_with_what_the_server_said(server, status, fault):
    server.on("/v4/a", as_json({"message": "so\nit\x1b[31m is"}, status) if status != 204 else Answer(b"", 204))
    error = refused(an_http(server), "/a")
    assert (error.fault, error.status) == (fault, status)
    assert f"test-source (127.0.0.1/a): HTTP {status}" in str(error)
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)


def test_an_error_quotes_little_of_a_long_body(server):
    server.on("/v4/a", as_text("x" * 100_000, 500))
    assert len(str(refused(an_http(server), "/a"))) < 400


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("1.5", 1.5),
        ("999999999", MAX_RETRY_AFTER_S),
        ("1e400", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200.0),
        ("Thu, 01 Jan 1970 00:20:00 -0000", 200.0),
        ("Thu, 01 Jan 1970 00:20:00", 200.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_S),
        ("Thu, 99 Foo 1970 00:20:00 GMT", None),
    ],
)
def test_retry_after(value, seconds, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after_s(value, 1000.0) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


def test_retry_after_is_in_the_error(server):
    server.on("/v4/a", as_json({}, 429, {"Retry-After": "7"}))
    assert refused(an_http(server), "/a").retry_after_s == 7.0


# --- no server, no JSON


def test_nobody_listens(server):
    http = Http("test-source", f"http://127.0.0.1:{closed_port()}", timeout_s=2)
    assert refused(http, "/a").fault is Fault.UNREACHABLE


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid", "a..b"])
def test_no_such_host(host):
    error = refused(Http("test-source", f"https://{host}", timeout_s=5), "/a")
    assert error.fault is Fault.UNREACHABLE


@pytest.mark.parametrize(
    "answer",
    [
        Answer(raw=b""),
        Answer(raw=b"\x00\x01\x02garbage\r\n\r\n"),
        Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n{}"),
        Answer(b'{"a": 1}', cut_after=3),
    ],
    ids=["closed", "garbage", "bad-length", "cut"],
)
def test_what_is_no_http(server, answer):
    server.on("/v4/a", answer)
    assert refused(an_http(server), "/a").fault is Fault.UNREACHABLE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502</html>",
        b'{"a": NaN}',
        b"[Infinity]",
        b"[-Infinity]",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[1] 2",
        b"\xff\xfe\x00[",
        b"9" * 5000,
    ],
    ids=["empty", "html", "nan", "inf", "-inf", "deep", "deep-objects", "two", "bytes", "long-number"],
)
def test_what_is_no_json(server, body):
    server.on("/v4/a", Answer(body))
    error = refused(an_http(server), "/a")
    assert error.fault is Fault.MALFORMED
    assert "no JSON" in str(error)
    assert len(str(error)) < 700


def test_a_path_that_makes_no_url_is_an_error_of_ours(server):
    with pytest.raises(SourceError):
        an_http(server).get_json("/a?b#c")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("grid.example", "no web address"),
        ("ftp://grid.example", "no web address"),
        ("https://", "no web address"),
        ("https://ann:pw@grid.example", "holds a password"),
        ("https://grid.example/?zone=DE", "query"),
        ("https://grid.example/#top", "query"),
        ("https://grid.example:port", "no URL"),
        ("https://ann:pw@grid.example:port", "no URL"),
        ("http://grid.example", "unencrypted"),
        ("http://localhost.evil.example", "unencrypted"),
        ("http://127.0.0.1.evil.example", "unencrypted"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url, says):
    with pytest.raises(UsageError, match=says) as caught:
        Http("test-source", url, secret=Secret(KEY, "test"))
    assert "pw@" not in str(caught.value)


def test_a_key_that_is_not_known_yet_travels_no_less_safely():
    with pytest.raises(UsageError, match="unencrypted"):
        Http("test-source", "http://grid.example", keyed=True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost", "http://[::1]:80", "https://grid.example"])
def test_a_key_may_travel_to_this_machine_or_encrypted(url):
    Http("test-source", url, secret=Secret(KEY, "test")).close()


def test_an_error_survives_a_copy_and_a_pickle():
    error = SourceError("why", Fault.RATE_LIMITED, 5.0, 429)
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(again), again.fault, again.retry_after_s, again.status) == ("why", Fault.RATE_LIMITED, 5.0, 429)
