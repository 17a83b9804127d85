"""What a replica tells for its scaling, and what that costs a request."""

from __future__ import annotations

import asyncio
import time

import pytest

from eco_ray.on_ray.serving.vitals import UNKNOWN, Vitals, waited_for_cpu_s
from eco_ray.on_ray.surroundings import AppResponse


class Clocks:
    def __init__(self):
        self.clock_s, self.process_s, self.waited_s = 100.0, 2.0, 7.0

    def pass_(self, wall_s, cpu_s=0.0, waited_s=0.0):
        self.clock_s += wall_s
        self.process_s += cpu_s
        self.waited_s += waited_s


@pytest.fixture
def clocks():
    return Clocks()


@pytest.fixture
def vitals(clocks):
    return Vitals(3.0, 1, lambda: clocks.clock_s, lambda: clocks.process_s, lambda: clocks.waited_s)


def test_a_start_is_what_was_imported_and_loaded(vitals, clocks):
    assert vitals.told(0.0)["start_s"] == UNKNOWN
    clocks.pass_(1.5, 1.0)
    vitals.ready()
    told = vitals.told(0.0)
    assert (told["start_s"], told["start_j"], told["node"]) == (pytest.approx(3.5), pytest.approx(9.0), 1.0)


def test_waiting_and_work_are_apart(vitals, clocks):
    vitals.ready()
    clocks.pass_(4.0, 0.04)
    assert vitals.told(0.0)["idle_w"] == UNKNOWN
    clocks.pass_(4.0, 0.04)
    assert vitals.told(0.0)["idle_w"] == pytest.approx(0.03)
    came_s = vitals.came()
    clocks.pass_(1.0, 0.5, 0.3)
    told = vitals.told(0.0)
    assert (told["requests"], told["worked_s"]) == (1.0, pytest.approx(0.8))
    clocks.pass_(1.0, 0.8)  # it still computes
    assert vitals.told(0.0)["worked_s"] == pytest.approx(1.6)
    vitals.answered(came_s)
    vitals.gone()
    clocks.pass_(10.0, 0.1, 0.1)
    told = vitals.told(0.0)
    assert told["worked_s"] == pytest.approx(1.6)
    assert told["idle_w"] == pytest.approx(3.0 * 0.18 / 18)
    assert vitals.told(7.0)["worked_s"] == 7.0  # of a GPU, while the CPU waits


def test_what_the_system_tells_of_waiting_only_grows():
    before_s, began_s = waited_for_cpu_s(), time.perf_counter()
    sum(range(300_000))
    assert 0.0 <= before_s <= waited_for_cpu_s() <= before_s + time.perf_counter() - began_s + 0.01


def test_the_p95_is_of_late_and_of_enough_answers(vitals, clocks):
    for took_s in [0.01] * 18:
        came_s = vitals.came()
        clocks.pass_(took_s)
        vitals.answered(came_s)
        vitals.gone()
    assert vitals.told(0.0)["p95_s"] == UNKNOWN
    for took_s in [0.5, 0.5]:
        came_s = vitals.came()
        clocks.pass_(took_s)
        vitals.answered(came_s)
        vitals.gone()
    told = vitals.told(0.0)
    assert (told["p95_s"], told["p95_of"]) == (pytest.approx(0.5), 20.0)
    clocks.pass_(31.0)
    assert vitals.told(0.0)["p95_of"] == 0.0
    assert all(isinstance(value, float) for value in vitals.told(0.0).values())  # Serve takes nothing else


def answer(vitals, status, method="POST", fails=False):
    async def app(scope, receive, send):
        if fails:
            raise ValueError("no")
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-request-id", b"1")]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    sent = []
    asyncio.run(AppResponse(app, vitals)({"type": "http", "method": method}, None, send))
    return sent


def test_requests_are_told_once_and_only_good_answers_have_a_latency(vitals):
    assert answer(vitals, 200)[0]["headers"] == []
    answer(vitals, 400)
    answer(vitals, 200, "GET")
    with pytest.raises(ValueError, match="no"):
        answer(vitals, 200, fails=True)
    answer(None, 200)
    assert (vitals._came, vitals._gone, len(vitals._latencies)) == (3, 3, 1)


def test_a_request_pays_less_than_two_microseconds():
    vitals = Vitals(3.0)
    best_s = float("inf")
    for _ in range(20):
        began_s = time.perf_counter()
        for _ in range(1000):
            vitals.answered(vitals.came())
            vitals.gone()
        best_s = min(best_s, time.perf_counter() - began_s)
    assert best_s / 1000 < 2e-6
