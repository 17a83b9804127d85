"""The controller's own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from eco_ray.errors import UsageError
from eco_ray.on_ray import brain
from eco_ray.on_ray.brain import Brain


class World:
    """What a brain's work and ticks leave behind."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.ticks = threading.Semaphore(0)
        self.threads: set[int] = set()
        self.brain = Brain(self.tick)

    def tick(self) -> None:
        self.threads.add(threading.get_ident())
        self.ticks.release()

    def note(self, word: str) -> str:
        self.threads.add(threading.get_ident())
        self.done.append(word)
        return word


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.brain.stop()


def refuse() -> None:
    raise UsageError("no")


def test_work_is_done_in_its_order_by_one_thread(world: World) -> None:
    world.brain.do_soon(lambda: world.note("before the start"))
    world.brain.start()
    world.brain.do_soon(lambda: world.note("then"))
    assert world.brain.ask(lambda: world.note("last")) == "last"
    assert world.done == ["before the start", "then", "last"]
    assert world.ticks.acquire(timeout=5)
    assert len(world.threads) == 1
    assert threading.get_ident() not in world.threads


def test_an_error_goes_to_who_asked_and_to_nobody_else(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.brain.start()
    with pytest.raises(UsageError, match="no"):
        world.brain.ask(refuse)
    assert not caplog.records
    world.brain.do_soon(refuse)
    assert world.brain.ask(lambda: world.note("next")) == "next"
    assert "goes on with the next" in caplog.text


def test_it_ticks_while_nobody_asks_and_while_everybody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain, "TICK_S", 0.02)
    world = World()

    def tick() -> None:
        world.tick()
        refuse()  # a tick that fails is not the last one

    busy = Brain(tick)
    busy.start()
    for _ in range(4):
        assert world.ticks.acquire(timeout=5)
    ticked = 0
    end = time.monotonic() + 5
    while ticked < 4 and time.monotonic() < end:
        busy.ask(lambda: None)
        ticked += world.ticks.acquire(blocking=False)
    busy.stop()
    assert ticked == 4
    time.sleep(0.1)
    while world.ticks.acquire(blocking=False):
        pass
    assert not world.ticks.acquire(timeout=0.1)  # it has stopped
