"""Many models in one process: within their bounds, each loaded once, none taken away while it is used."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from eco_ray.errors import EcoRayError, UnreachableError, UsageError
from eco_ray.models.runtimes.many import ManyRuntimes


class Loader:
    """Models of a size of their version, that say how often they were loaded."""

    def __init__(self):
        self.loads: list[str] = []
        self.fails = 0
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()

    def __call__(self, name, version):
        self.loads.append(name)
        self.began.set()
        assert self.go.wait(10)
        if self.fails:
            self.fails -= 1
            raise EcoRayError(f"{name} is damaged")
        return SimpleNamespace(name=name, version=version)


@pytest.fixture
def loader():
    return Loader()


def many(loader, most=3, most_bytes=10, wait_s=0.05):
    return ManyRuntimes(loader, lambda _name, version: version, most, most_bytes, wait_s)


def touch(models, *names, version=1):
    for name in names:
        with models.use(name, version) as runtime:
            assert (runtime.name, runtime.version) == (name, version)


def names(models):
    return [name for name, _ in models.loaded]


def test_the_one_used_longest_ago_goes_first(loader):
    models = many(loader)
    touch(models, "a", "b", "c", "a", "d")
    assert names(models) == ["c", "a", "d"]
    touch(models, "c", "b")
    assert names(models) == ["d", "c", "b"]
    assert loader.loads == ["a", "b", "c", "d", "b"]


def test_bytes_are_bounded_too(loader):
    models = many(loader)
    touch(models, "a", version=4)
    touch(models, "b", version=6)
    assert names(models) == ["a", "b"]
    touch(models, "c", version=5)
    assert names(models) == ["c"]
    with pytest.raises(UsageError, match="d:11 has 11 bytes, limit 10"):
        touch(models, "d", version=11)
    assert names(models) == ["c"]


def test_two_versions_of_a_name_are_two_models(loader):
    models = many(loader)
    touch(models, "a")
    touch(models, "a", version=2)
    assert models.loaded == (("a", 1), ("a", 2))


def test_none_goes_while_it_is_used(loader):
    models = many(loader, most=2)
    with models.use("a", 1):
        touch(models, "b", "c")
        assert names(models) == ["a", "c"]
        with models.use("c", 1):
            with pytest.raises(UnreachableError, match=r"no room for d:1: 2 models, limit 2, were in use for 0\.05 s"):
                touch(models, "d")
            assert names(models) == ["a", "c"]


def test_nothing_goes_in_vain(loader):
    models = many(loader)
    touch(models, "a")
    with models.use("b", 6), pytest.raises(UnreachableError):
        touch(models, "c", version=5)
    assert names(models) == ["a", "b"]


def test_who_finds_no_room_waits_for_it(loader):
    models = many(loader, most=1, wait_s=10)
    with ThreadPoolExecutor(1) as pool:
        with models.use("a", 1):
            waiting = pool.submit(touch, models, "b")
            time.sleep(0.02)
            assert loader.loads == ["a"]
        waiting.result(10)
    assert names(models) == ["b"]


def test_a_model_that_many_ask_for_is_loaded_once(loader):
    models = many(loader)
    loader.go.clear()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(touch, models, "a") for _ in range(8)]
        assert loader.began.wait(10)
        time.sleep(0.02)
        assert not any(one.done() for one in waiting)
        loader.go.set()
        for one in waiting:
            one.result(10)
    assert loader.loads == ["a"]


def test_a_load_does_not_hold_up_other_models(loader):
    models = many(loader)
    touch(models, "b")
    loader.go.clear()
    loader.began.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(touch, models, "a")
        assert loader.began.wait(10)
        touch(models, "b")
        loader.go.set()
        waiting.result(10)


def test_a_failure_is_told_to_all_who_wait_and_not_kept(loader):
    models = many(loader)
    loader.fails = 1
    loader.go.clear()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(touch, models, "a") for _ in range(4)]
        assert loader.began.wait(10)
        time.sleep(0.05)
        loader.go.set()
        told = [one.exception(10) for one in waiting]
    assert [str(one) for one in told] == ["a is damaged"] * 4
    assert models.loaded == ()
    touch(models, "a")
    assert loader.loads == ["a", "a"]


def test_a_user_s_own_failure_lets_go(loader):
    models = many(loader, most=1)
    with pytest.raises(ZeroDivisionError), models.use("a", 1):
        raise ZeroDivisionError
    touch(models, "b")
    assert names(models) == ["b"]


def test_bounds_hold_whatever_threads_do(loader):
    models = many(loader, most=3, most_bytes=7, wait_s=10)
    used, lock = {}, threading.Lock()

    def work(number):
        name, version = f"m{number % 5}", 1 + number % 3
        with models.use(name, version) as runtime:
            with lock:
                used[name, version] = used.get((name, version), 0) + 1
                now = [key for key, users in used.items() if users]
                assert len(now) <= 3
                assert sum(version for _, version in now) <= 7
                assert set(now) <= set(models.loaded)
            time.sleep(0.0005)
            assert (runtime.name, runtime.version) == (name, version)
            with lock:
                used[name, version] -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(300)))
    assert len(models.loaded) <= 3
