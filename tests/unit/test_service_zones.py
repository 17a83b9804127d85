"""A model in three zones behind one address: shares, origins, and zones that fail in every way while it is asked."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import httpx
import pytest
from service_cases import Echo, ask, footprint
from service_server import Server

from eco_ray.core.zone_routes import Routes
from eco_ray.service.app import ModelApp
from eco_ray.service.limits import Limits
from eco_ray.service.own_cost import OwnCostApp
from eco_ray.service.problems import Problem
from eco_ray.service.zones import ZoneApp, ZonesApp

PATH = "/v2/models/m/infer"
ROUTES = Routes(
    "AA",
    ("AA", "BB"),
    ("AA", "BB", "CC"),
    ((0.5, 0.5, 0.0), (0.0, 0.0, 1.0)),
    ((0.0, 10.0, 20.0), (10.0, 0.0, 5.0)),
)


class Front:
    """What HAProxy is to the router: one address, under which replicas of zones come, go and fail."""

    def __init__(self) -> None:
        #: by zone: None: answers; a status that a proxy gives in its place; or what the replica itself does
        self.how: dict[str, int | str | None] = dict.fromkeys(ROUTES.zones)
        self.asked: Counter[str] = Counter()
        self.bodies: list[bytes] = []
        self.zones = {zone: ZoneApp(self.replica(zone), zone) for zone in ROUTES.zones}

    def replica(self, zone: str) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            self.bodies.append(body)
            how = self.how[zone]
            if how == "hangs" or (how == "slow" and scope["method"] == "POST"):
                await asyncio.sleep(30 if how == "hangs" else 0.5)
            if isinstance(how, float):
                await asyncio.sleep(how)
            if how == "dies":
                raise RuntimeError
            status = how if isinstance(how, int) else 200
            told = {"zone": zone, "path": scope["path"], "query": scope["query_string"].decode(), "bytes": len(body)}
            headers = [(b"content-type", b"application/json"), (b"eco-footprint", b"x")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(told).encode()})

        return answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        zone = scope["path"].split("/")[2]
        how = self.how[zone]
        if scope["method"] == "POST":
            self.asked[zone] += 1
        if isinstance(how, str) and how.startswith("proxy "):
            await send({"type": "http.response.start", "status": int(how[6:]), "headers": []})
            await send({"type": "http.response.body", "body": b"nobody"})
            return
        await self.zones[zone](scope, receive, send)


class House:
    def __init__(self, **how: Any) -> None:
        self.front = Front()
        self.behind = Server(self.front)
        self.app = ZonesApp("m", self.behind.url, ROUTES, probe_s=0.05, **how)
        self.server = Server(OwnCostApp(self.app, footprint))
        self.http = httpx.Client(base_url=self.server.url, timeout=30)

    def post(self, origin: str = "", **how: Any) -> httpx.Response:
        headers = {"Eco-Origin-Zone": origin} if origin else {}
        return self.http.post(PATH, **{"content": b"x" * 100, "headers": headers, **how})

    def stop(self) -> None:
        self.http.close()
        self.server.stop()
        self.behind.stop()

    def wait_until_back(self) -> None:
        deadline = time.monotonic() + 5
        while self.app.away and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not self.app.away


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.stop()


def test_requests_have_the_shares_of_where_they_come_from(house: House) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for origin in ("", "BB", "nowhere"):
        for _ in range(10):
            got = house.post(origin)
            seen[origin, got.json()["zone"]] += 1
            assert got.headers["eco-zone"] == got.json()["zone"]
            assert got.headers["eco-footprint"] == "x"  # the replica's, not the router's
    assert seen == {("", "AA"): 5, ("", "BB"): 5, ("nowhere", "AA"): 5, ("nowhere", "BB"): 5, ("BB", "CC"): 10}
    assert house.app.counts == {"AA": 20, "BB": 10}


def test_pages_are_passed_on_and_count_for_nothing(house: House) -> None:
    got = house.http.get("/v2/models/m/a%0d%0ab%3fc%23/..%2f?q=1&r=%0d%0a")
    assert got.json()["path"] == "/v2/models/m/a\r\nb?c#/../"
    assert got.json()["query"] == "q=1&r=%0d%0a"
    for _ in range(3):
        house.http.get("/v2/models/m")
    assert Counter(house.post().json()["zone"] for _ in range(10)) == {"AA": 5, "BB": 5}
    assert house.app.counts["AA"] == 10


@pytest.mark.parametrize("how", ["proxy 404", "proxy 500", "proxy 502", "proxy 503", "proxy 504"])
def test_no_request_is_lost_while_a_zone_is_away_and_it_is_asked_once(house: House, how: str) -> None:
    house.front.how["BB"] = how
    got = [house.post() for _ in range(20)]
    assert {(one.status_code, one.json()["zone"], one.json()["bytes"]) for one in got} == {(200, "AA", 100)}
    assert house.front.asked["BB"] == 1  # then it is left alone
    assert house.app.away == ("BB",)
    house.front.how["BB"] = None
    house.wait_until_back()
    assert Counter(house.post().json()["zone"] for _ in range(10)) == {"AA": 5, "BB": 5}  # owed nothing


def test_the_next_is_the_one_with_the_shortest_way(house: House) -> None:
    house.front.how |= {"CC": "proxy 503"}
    assert house.post("BB").json()["zone"] == "BB"
    house.front.how |= {"BB": "proxy 503"}
    assert house.post("BB").json()["zone"] == "AA"


def test_without_any_zone_the_answer_says_so_and_the_first_that_is_back_answers(house: House) -> None:
    house.front.how = dict.fromkeys(ROUTES.zones, "proxy 503")
    got = house.post()
    assert (got.status_code, got.headers["retry-after"], got.json()["title"]) == (503, "1", "model away")
    assert "none of AA, BB, CC answers for m" in got.json()["detail"]
    assert "eco-footprint" in got.headers
    house.front.how["CC"] = None  # all are away as far as the router knows: it tries them nonetheless
    assert house.post().json()["zone"] == "CC"


def test_a_zone_that_is_busy_lets_others_answer_and_stays_in_use(house: House) -> None:
    house.front.how["AA"] = 503
    assert {house.post().json()["zone"] for _ in range(6)} == {"BB"}
    assert house.front.asked["AA"] == 3
    assert house.app.away == ()
    house.front.how = dict.fromkeys(ROUTES.zones, 503)
    got = house.post()
    assert (got.status_code, got.json()["bytes"]) == (503, 100)  # what the last one said
    house.front.how = {"AA": 503, "BB": "proxy 503", "CC": "proxy 503"}
    assert house.post().headers["eco-zone"] == "AA"


@pytest.mark.parametrize("status", [200, 304, 400, 404, 413, 429, 500, 504])
def test_what_a_replica_says_is_said_once(house: House, status: int) -> None:
    house.front.how = dict.fromkeys(ROUTES.zones, status)
    assert house.post().status_code == status
    assert sum(house.front.asked.values()) == 1
    assert house.app.away == ()


def test_a_zone_that_hangs_is_left_for_another() -> None:
    house = House(limits=Limits(answer_s=-4.5))  # half a second with the grace
    try:
        house.front.how["AA"] = "hangs"
        began = time.monotonic()
        assert {house.post().json()["zone"] for _ in range(6)} == {"BB"}
        assert time.monotonic() - began < 3  # one of them has waited for it
        assert house.app.away == ("AA",)
    finally:
        house.stop()


def test_a_zone_that_is_asleep_has_the_time_that_a_start_takes() -> None:
    house = House(limits=Limits(answer_s=-4.4))  # 0.6 s with the grace
    try:
        house.front.how["AA"] = 1.2
        house.app.follow(replace(ROUTES, asleep=("AA",)))
        assert {house.post().json()["zone"] for _ in range(3)} == {"AA", "BB"}
        assert house.app.away == ()
        house.app.follow(ROUTES)
        assert {house.post().json()["zone"] for _ in range(3)} == {"BB"}
    finally:
        house.stop()


def test_a_replica_that_dies_under_a_request_is_no_loss(house: House) -> None:
    house.front.how["AA"] = "dies"  # the server says 500 for it, without the zone
    assert {(one.status_code, one.json()["zone"]) for one in (house.post() for _ in range(6))} == {(200, "BB")}


def test_a_server_that_refuses_connections_is_no_loss() -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        app = ZonesApp("m", f"http://127.0.0.1:{free.getsockname()[1]}", ROUTES)
    server = Server(app)
    try:
        got = httpx.post(server.url + PATH, content=b"x")
        assert (got.status_code, got.json()["title"]) == (503, "model away")
    finally:
        server.stop()


def test_new_shares_hold_from_the_next_request_and_zones_that_are_no_more_are_forgotten(house: House) -> None:
    house.front.how["BB"] = "proxy 503"
    while not house.app.away:
        house.post()
    house.app.follow(replace(ROUTES, zones=("AA", "CC"), shares=((0.0, 1.0), (1.0, 0.0)), ways_ms=((0, 1), (1, 0))))
    assert house.app.away == ()
    assert [house.post(origin).json()["zone"] for origin in ("", "BB")] == ["CC", "AA"]


def test_who_may_not_ask_is_refused_before_the_body_is_read() -> None:
    def nobody(headers: Any, scope: Any, **_: Any) -> Any:
        raise Problem(401, "no key", "send one")

    house = House(gate=nobody)
    try:
        assert house.post().status_code == 401
        assert house.front.asked == {}
        assert house.http.get("/v2/models/m/ready").status_code == 200  # pages have their own gate
    finally:
        house.stop()


def test_many_at_once_lose_nothing_while_zones_come_and_go(house: House) -> None:
    async def all_of_them() -> Counter[int]:
        seen: Counter[int] = Counter()

        async def ask(http: httpx.AsyncClient) -> None:
            seen[(await http.post(PATH, content=b"x" * 1000)).status_code] += 1

        async with httpx.AsyncClient(base_url=house.server.url, timeout=30) as http:
            for step in range(12):
                house.front.how["AA"] = [None, "proxy 502", "slow", 503][step % 4]
                house.front.how["BB"] = ["slow", None, "proxy 503", None][step % 4]
                await asyncio.gather(*(ask(http) for _ in range(20)))
        return seen

    assert asyncio.run(all_of_them()) == {200: 240}
    assert {len(body) for body in house.front.bodies} <= {0, 1000}
    assert house.app._held.bytes == 0


def test_the_document_of_a_model_in_zones_tells_of_them_and_that_of_another_does_not() -> None:
    zoned, alone = (ask(ModelApp(Echo(), footprint, in_zone=so), "GET", "/openapi.json").json for so in (True, False))
    operations = [one for verbs in zoned["paths"].values() for one in verbs.values()]
    assert all("Eco-Origin-Zone" in {told["name"] for told in one["parameters"]} for one in operations)
    answers = [*zoned["components"]["responses"].values(), *(one["responses"]["200"] for one in operations)]
    assert all("Eco-Zone" in one["headers"] for one in answers)
    assert "Eco-Zone" not in json.dumps(alone)
    assert "Eco-Origin-Zone" not in json.dumps(alone)
