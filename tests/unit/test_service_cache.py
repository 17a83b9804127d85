"""The cache of answers: bounded in bytes and entries, the oldest used let go first, whatever is asked."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_cases import Echo

from eco_ray.service import values
from eco_ray.service.cache import AnswerCache, key_of
from eco_ray.service.v2 import Request


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000)), max_size=40),
    st.integers(0, 20_000),
    st.integers(0, 5),
)
def test_it_never_holds_more_than_its_bounds(puts: list[tuple[int, int]], limit_bytes: int, limit: int) -> None:
    cache = AnswerCache(limit_bytes, limit)
    for key, size in puts:
        cache.put(b"%d" % key, {"y": np.zeros(size, np.uint8)}, 1.0)
        assert cache.size_bytes <= limit_bytes
        assert len(cache) <= limit
        assert cache.size_bytes == sum(kept.size_bytes for kept in cache._kept.values())


def test_the_oldest_used_goes_first() -> None:
    cache = AnswerCache(10**6, 2)
    for key in (b"a", b"b"):
        cache.put(key, {}, 1.0)
    cache.get(b"a")
    cache.put(b"c", {}, 1.0)
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]


def test_what_is_kept_does_not_change_with_the_models_buffer() -> None:
    cache = AnswerCache(10**6, 2)
    buffer = np.zeros(3)
    cache.put(b"a", {"y": buffer}, 1.0)
    buffer[:] = 1
    kept = cache.get(b"a")
    assert kept is not None
    assert kept.arrays["y"].tolist() == [0, 0, 0]


def test_bytes_count_with_their_elements() -> None:
    cache = AnswerCache(10_000, 9)
    array = np.empty(1, object)
    array[0] = b"x" * 20_000
    cache.put(b"a", {"y": array}, 1.0)
    assert len(cache) == 0


def key(datatype: str, data: list[object], shape: list[int], tenant: str = "") -> bytes:
    array = values.from_json("x", datatype, shape, data)
    return key_of(tenant, Echo(datatype), Request(None, {"x": array}, {"x": datatype}, (), 1))


def test_keys_differ_where_the_question_does() -> None:
    keys = [
        key("FP32", [0.0, 0.0], [2]), key("FP32", [0.0, 0.0], [2], "a"), key("FP32", [0.0, 0.0], [1, 2]),
        key("INT32", [0, 0], [2]), key("FP32", [0.0, 1.0], [2]), key("INT64", [0], [1]),
        key("BYTES", ["a", "bc"], [2]), key("BYTES", ["ab", "c"], [2]),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key("FP32", [0.0], [1]) == key("FP32", [0], [1])
