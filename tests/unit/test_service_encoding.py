"""Content codings: there and back, bombs that stop at the limit, cut and damaged bodies, and what a client prefers."""

from __future__ import annotations

import gzip
import random
import time
import tracemalloc
from contextlib import suppress

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eco_ray.service.encoding import CODINGS, compressed, decompressed, negotiated
from eco_ray.service.problems import Problem

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIMIT = 100_000


@patient
@given(st.sampled_from(CODINGS), st.lists(st.binary(max_size=300), max_size=3))
def test_bodies_come_back_also_in_several_frames(coding: str, parts: list[bytes]) -> None:
    body = b"".join(compressed(coding, part) for part in parts)
    assert decompressed(coding.encode(), body, LIMIT) == b"".join(parts)


@patient
@given(st.sampled_from(CODINGS), st.binary(max_size=300), st.data())
def test_a_cut_body_is_refused(coding: str, body: bytes, data: st.DataObject) -> None:
    whole = compressed(coding, body)
    with pytest.raises(Problem, match="send it whole"):
        decompressed(coding.encode(), whole[: data.draw(st.integers(1, len(whole) - 1))], LIMIT)


@patient
@given(st.sampled_from(CODINGS), st.binary(min_size=1, max_size=300))
def test_what_is_not_compressed_is_refused_or_small(coding: str, body: bytes) -> None:
    with suppress(Problem):
        assert len(decompressed(coding.encode(), body, LIMIT)) <= LIMIT


@pytest.mark.parametrize("coding", CODINGS)
def test_the_limit_is_exact(coding: str) -> None:
    assert len(decompressed(coding.encode(), compressed(coding, b"a" * LIMIT), LIMIT)) == LIMIT
    with pytest.raises(Problem, match="larger than 100000 bytes") as caught:
        decompressed(coding.encode(), compressed(coding, b"a" * (LIMIT + 1)), LIMIT)
    assert caught.value.status == 413


BOMBS = {
    "gzip": lambda: gzip.compress(b"\0" * 200_000_000),
    "gzip of many members": lambda: gzip.compress(b"\0" * 50_000) * 2000,
    "zstd": lambda: zstandard.compress(b"\0" * 200_000_000),
    "zstd of many frames": lambda: zstandard.compress(b"\0" * 50_000) * 2000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_stops_at_the_limit(bomb: str) -> None:
    body = BOMBS[bomb]()
    tracemalloc.start()
    with pytest.raises(Problem, match="larger than") as caught:
        decompressed(bomb.partition(" ")[0].encode(), body, LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.status == 413
    assert peak < len(body) + 5 * LIMIT


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_of_empty_streams_takes_no_longer_than_its_size(coding: str) -> None:
    empty = compressed(coding, b"")
    body = empty * ((2 << 20) // len(empty))
    began_s = time.thread_time()
    with pytest.raises(Problem, match="more than 1000") as caught:
        decompressed(coding.encode(), body, LIMIT)
    assert caught.value.status == 400
    assert time.thread_time() - began_s < 1.0  # 3 s and 6 s where each copied the rest, and 64 times that for 16 MiB
    assert decompressed(coding.encode(), compressed(coding, b"a" * 10) * 1000, LIMIT) == b"a" * 10_000


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_of_several_chunks_comes_back(coding: str) -> None:
    parts = [random.Random(number).randbytes(100_000) for number in range(3)]
    body = b"".join(compressed(coding, part) for part in parts)
    assert decompressed(coding.encode(), body, 300_000) == b"".join(parts)
    for cut in (1, 70_000, 100_001):
        with pytest.raises(Problem, match="send it whole"):
            decompressed(coding.encode(), body[:-cut], 300_000)


def test_a_window_larger_than_http_allows_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = packer.compress(b"a") + packer.flush()
    with pytest.raises(Problem) as caught:
        decompressed(b"zstd", body, LIMIT)
    assert caught.value.status == 400


@pytest.mark.parametrize("coding", [b"br", b"gzip, gzip", b"deflate", b"\xff", b"x" * 10_000])
def test_other_codings_are_refused_with_those_that_are_known(coding: bytes) -> None:
    with pytest.raises(Problem, match="zstd, gzip") as caught:
        decompressed(coding, b"a", LIMIT)
    assert caught.value.status == 415
    assert dict(caught.value.headers)[b"accept-encoding"] == b"zstd, gzip"
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize("coding", [b"", b"identity", b" Identity "])
def test_no_coding_is_no_coding(coding: bytes) -> None:
    assert decompressed(coding, b"a", LIMIT) == b"a"


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (b"", None),
        (b"gzip", "gzip"),
        (b"gzip, deflate, br, zstd", "zstd"),
        (b"gzip;q=1.0, zstd;q=0.5", "gzip"),
        (b"GZIP ; Q=0.5", "gzip"),
        (b"zstd;q=0, gzip", "gzip"),
        (b"*", "zstd"),
        (b"*;q=0", None),
        (b"zstd;q=0, *", "gzip"),
        (b"identity, gzip;q=0.5", None),
        (b"identity;q=0.5, gzip", "gzip"),
        (b"br", None),
        (b"gzip;q=2", None),
        (b"gzip;q=x, zstd;q=nan", None),
        (b"x-gzip", "gzip"),
        (b",;,;;q=1,", None),
        (b"\xff\xfe", None),
    ],
)
def test_the_client_chooses(accept: bytes, coding: str | None) -> None:
    assert negotiated(accept) == coding
