"""Many models in one process: within their bounds, each loaded once, none taken away while it is used."""

from __future__ import annotations

import asyncio
import functools
import threading
from types import SimpleNamespace

import pytest

from eco_ray.errors import EcoRayError, UnreachableError, UsageError
from eco_ray.models.runtimes.many import ManyModels


class Loader:
    """Models of a size that is their version, such as `a:4`; says how often each was loaded."""

    def __init__(self):
        self.loads: list[str] = []
        self.fails = 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self, key):
        self.loads.append(key)
        assert self.go.wait(10)
        if self.fails:
            self.fails -= 1
            raise EcoRayError(f"{key} is damaged")
        return SimpleNamespace(key=key)


@pytest.fixture
def loader():
    return Loader()


def in_a_loop(test):
    @functools.wraps(test)
    def run(loader):
        asyncio.run(test(loader))

    return run


def many(loader, most=3, most_bytes=10, wait_s=0.05):
    return ManyModels(loader, lambda key: int(key[2:]), most, most_bytes, wait_s)


async def touch(models, *keys):
    for key in keys:
        async with models.use(key) as model:
            assert model.key == key


@in_a_loop
async def test_the_one_used_longest_ago_goes_first(loader):
    models = many(loader)
    await touch(models, "a:1", "b:1", "c:1", "a:1", "d:1")
    assert models.loaded == ("c:1", "a:1", "d:1")
    await touch(models, "c:1", "b:1")
    assert models.loaded == ("d:1", "c:1", "b:1")
    assert loader.loads == ["a:1", "b:1", "c:1", "d:1", "b:1"]


@in_a_loop
async def test_bytes_are_bounded_too(loader):
    models = many(loader)
    await touch(models, "a:4", "b:6")
    assert models.loaded == ("a:4", "b:6")
    await touch(models, "c:5")
    assert models.loaded == ("c:5",)
    with pytest.raises(UsageError, match="d:11 has 11 bytes, limit 10"):
        await touch(models, "d:11")
    assert models.loaded == ("c:5",)


@in_a_loop
async def test_none_goes_while_it_is_used(loader):
    models = many(loader, most=2)
    async with models.use("a:1"):
        await touch(models, "b:1", "c:1")
        assert models.loaded == ("a:1", "c:1")
        async with models.use("c:1"):
            with pytest.raises(UnreachableError, match=r"no room for d:1: 2 models, limit 2, were in use for 0\.05 s"):
                await touch(models, "d:1")
            assert models.loaded == ("a:1", "c:1")


@in_a_loop
async def test_nothing_goes_in_vain(loader):
    models = many(loader)
    await touch(models, "a:1")
    async with models.use("b:6"):
        with pytest.raises(UnreachableError):
            await touch(models, "c:5")
    assert models.loaded == ("a:1", "b:6")


@in_a_loop
async def test_who_finds_no_room_waits_for_it(loader):
    models = many(loader, most=1, wait_s=10)
    async with models.use("a:1"):
        waiting = [asyncio.create_task(touch(models, key)) for key in ("b:1", "c:1", "b:1")]
        await asyncio.sleep(0.02)
        assert loader.loads == ["a:1"]
    await asyncio.gather(*waiting)
    assert sorted(loader.loads) == ["a:1", "b:1", "c:1"]
    assert len(models.loaded) == 1


@in_a_loop
async def test_a_model_that_many_ask_for_is_loaded_once_and_holds_up_no_other(loader):
    models = many(loader)
    await touch(models, "b:1")
    loader.go.clear()
    waiting = [asyncio.create_task(touch(models, "a:1")) for _ in range(8)]
    await asyncio.sleep(0.02)
    waiting.pop().cancel()  # one who leaves ends it for nobody else
    await touch(models, "b:1")
    assert not any(one.done() for one in waiting[:7])
    loader.go.set()
    await asyncio.gather(*waiting)
    assert loader.loads == ["b:1", "a:1"]


@in_a_loop
async def test_a_failure_is_told_to_all_who_wait_and_not_kept(loader):
    models = many(loader)
    loader.fails = 1
    told = await asyncio.gather(*[touch(models, "a:1") for _ in range(4)], return_exceptions=True)
    assert [str(one) for one in told] == ["a:1 is damaged"] * 4
    assert models.loaded == ()
    await touch(models, "a:1")
    assert loader.loads == ["a:1", "a:1"]


@in_a_loop
async def test_a_user_s_own_failure_lets_go(loader):
    models = many(loader, most=1)
    with pytest.raises(ZeroDivisionError):
        async with models.use("a:1"):
            raise ZeroDivisionError
    await touch(models, "b:1")
    assert models.loaded == ("b:1",)


@in_a_loop
async def test_bounds_hold_whatever_is_asked_for_at_once(loader):
    models = many(loader, most=3, most_bytes=7, wait_s=10)
    used = {}

    async def work(number):
        key = f"{'abcde'[number % 5]}:{1 + number % 3}"
        async with models.use(key) as model:
            used[key] = used.get(key, 0) + 1
            now = [one for one, users in used.items() if users]
            assert len(now) <= 3
            assert sum(int(one[2:]) for one in now) <= 7
            assert set(now) <= set(models.loaded)
            await asyncio.sleep(0.0005)
            assert model.key == key
            used[key] -= 1

    await asyncio.gather(*map(work, range(300)))
    assert len(models.loaded) <= 3
