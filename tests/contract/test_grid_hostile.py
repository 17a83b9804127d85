"""Every lie of every service, through the chain: a stated fallback each time, never a number of the liar's."""

from __future__ import annotations

import math
import random

import pytest
from grid_clients import CLIENTS, NOW, TROUBLES, Client
from grid_clients_more import MORE_CLIENTS
from grid_server import Answer, GridServer, as_json, as_text, redirect

from eco_ray.errors import EcoRayError
from eco_ray.grid import Chain, ModelledProfile

DAY = 86_400.0
ALL = [*CLIENTS, *MORE_CLIENTS]
#: answers of a server that is not well, whatever was asked
BROKEN = {
    "400": as_json({"status": "error", "message": "Invalid zone"}, status=400),
    "401": as_json({"error": "Unauthorized"}, status=401),
    "403": as_json({"error": "Forbidden"}, status=403),
    "404": as_json({"message": "No recent data"}, status=404),
    "429": as_json({"message": "Too many requests"}, status=429, headers={"Retry-After": "3600"}),
    "500": as_text("<html>Internal Server Error</html>", status=500),
    "503": as_text("", status=503),
    "garbage": as_text("\x00\x01 garbage {"),
    "half of it": as_text('{"data": [{"point_time": "2026-10-01T09:00:00+00:00", "val'),
    "empty": as_text(""),
    "deep": as_text("[" * 100_000),
    "elsewhere": redirect("http://localhost.example/latest"),
}


@pytest.fixture(params=ALL, ids=lambda client: client.name)
def client(request) -> Client:
    return request.param


def the_stated_fallback(client: Client, server: GridServer) -> str:
    """Ask through a chain; returns why the source is not used, after checking that nothing of it is."""
    source = client.open(server)
    model = ModelledProfile()
    last = [model] if source.kind is model.kind else []
    chain = Chain([source], source.kind, last_resorts=last, chance=random.Random(1), monotonic_s=lambda: 0.0)
    assert not chain.refresh(client.zone, NOW, NOW + DAY)
    use = chain.use(client.zone, NOW)
    assert use.rung in ("last-resort", "nothing")
    assert client.name in use.why
    if client.key:
        assert client.key not in repr(use)
    for ask in (lambda: chain.forecast(client.zone, NOW, NOW + DAY), lambda: chain.actual(client.zone, NOW, NOW)):
        if use.rung == "last-resort":
            assert ask().source == model.forecast(client.zone, NOW, NOW).source
            assert math.isfinite(ask().at(NOW))
        else:
            with pytest.raises(EcoRayError, match=r"is not known|nothing is known"):
                ask()
    return use.why


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_lie_is_never_a_number(client, server, trouble):
    if trouble in client.without:
        pytest.skip(f"{client.name} cannot have it")
    client.serve(server, lambda body: client.spoil(trouble, body))
    assert the_stated_fallback(client, server)


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_a_broken_server_is_never_a_number(client, server, answer: Answer):
    server.on("/*", answer)
    assert the_stated_fallback(client, server)


def test_there_are_enough_of_them():
    assert len(TROUBLES) + len(BROKEN) >= 30
