"""From a request's body to its answer: read, computed alone or with others, or known from before; counted, written."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eco_ray.core.footprint import Footprint
from eco_ray.core.ports import Arrays, Runtime
from eco_ray.core.requests import ServiceUse
from eco_ray.errors import DeviceFullError, UsageError
from eco_ray.service import http
from eco_ray.service.batches import Batcher, Compute, Item, LeftError, Outcome, is_open, together
from eco_ray.service.cache import AnswerCache, Kept, key_of
from eco_ray.service.encoding import decompressed
from eco_ray.service.form import Form, Request
from eco_ray.service.http import Answer, Headers
from eco_ray.service.limits import MIB, Limits
from eco_ray.service.metrics import Metrics
from eco_ray.service.problems import Header, Problem
from eco_ray.service.turn import Job, Turns

#: (CPU time [s], wall time [s], share of them in (0, 1]) -> what they cost
Footprints = Callable[[float, float, float], Footprint]

#: a request that may be answered in the event loop [bytes]
_SMALL_BYTES = 64 << 10
#: tensors of a round; the one that reaches it is the last
_ROUND_BYTES = MIB
_HIT: Header = (b"eco-cache", b"hit")
_MISS: Header = (b"eco-cache", b"miss")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Books:
    """Whom requests are told to, and what they cost."""

    footprint: Footprints
    #: each inference, and its rows or tokens
    count: Callable[[ServiceUse, int], None]
    #: each hit of the cache: tenant, joules
    avoided: Callable[[str, float], None]
    metrics: Metrics


class _Job(Job):
    """One request on its way."""

    __slots__ = ("body", "cpu_s", "form", "headers", "item", "kept", "key", "outcome", "request", "tenant", "wall_s")

    def __init__(self, form: Form, headers: Headers, tenant: str, body: bytes, limit_s: float) -> None:
        small = len(body) <= _SMALL_BYTES and b"content-encoding" not in headers and form.quick
        super().__init__(limit_s, small, size=len(body))
        self.form, self.headers, self.tenant, self.body = form, headers, tenant, body
        #: what reading it took [s]
        self.cpu_s = self.wall_s = 0.0
        self.request: Request | None = None
        #: in the cache; empty: it has nothing to do with it
        self.key = b""
        self.kept: Kept | None = None
        self.item: Item | None = None
        self.outcome: Outcome | None = None


class Inferences:
    """The inferences of one model."""

    def __init__(
        self, runtime: Runtime, books: Books, limits: Limits, batching: Callable[[Compute], Batcher] | None
    ) -> None:
        self._runtime, self._books, self._limits = runtime, books, limits
        caches = runtime.deterministic and limits.cache_bytes > 0
        self._cache = AnswerCache(limits.cache_bytes, limits.cache_entries) if caches else None
        self._joins = is_open(runtime)
        self.turns = Turns(self._round)
        self._batcher = batching(self._compute) if batching else None

    async def answer(self, form: Form, headers: Headers, tenant: str, body: bytes) -> Answer:
        """The answer to a request. Raises TimeoutError."""
        job = _Job(form, headers, tenant, body, self._limits.answer_s)
        if not self.turns.at_once(job) or job.answer is None:
            async with asyncio.timeout(self._limits.answer_s):
                if job.item is None:
                    await self.turns.do(job)
                if job.answer is None and self._batcher is not None and job.item is not None:
                    job.outcome = await self._batcher(job.item)
                    await self.turns.do(job)
        answer: Answer = job.answer
        return answer

    async def _compute(self, items: list[Item]) -> list[Outcome]:
        """For a batcher."""
        outcomes: list[Outcome] = await self.turns.do(Job(self._limits.answer_s, work=lambda: self._together(items)))
        return outcomes

    def _together(self, items: list[Item]) -> list[Outcome]:
        return together(self._runtime, items, self._limits.batch, self._joins)

    def _round(self, jobs: Iterator[Job]) -> None:
        """Read what waits, compute it, and write the answers."""
        read: list[_Job] = []
        rows = size = 0
        for job in jobs:
            assert isinstance(job, _Job)  # noqa: S101
            if job.outcome is not None:
                self._finish(job, job.outcome)
            elif self._read(job) and job.item is not None and (self._batcher is None or job.item.compute is not None):
                read.append(job)
                rows += job.item.rows
                size += sum(array.nbytes for array in job.item.inputs.values())
            if rows >= self._limits.batch or size >= _ROUND_BYTES:
                break
        items = [job.item for job in read if job.item is not None]
        for job, outcome in zip(read, self._together(items), strict=True):
            self._finish(job, outcome)

    def _read(self, job: _Job) -> bool:
        """Whether the request is one; an answer from the cache is written, another one is to be computed."""
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        try:
            headers = job.headers
            body = decompressed(headers.get(b"content-encoding", b""), job.body, self._limits.body_bytes)
            job.request = request = job.form.parse(body, headers)
            cache = None if b"no-store" in headers.get(b"cache-control", b"").lower() else self._cache
            if cache is not None:
                job.key = key_of(job.tenant, self._runtime, request)
                job.kept = cache.get(job.key)
        except Exception as error:  # a problem, or what nobody foresaw: its neighbours go on
            self._fail(job, Outcome(error, time.thread_time() - cpu_s, time.perf_counter() - wall_s))
            return False
        job.body = b""
        spent_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
        if job.kept is not None:
            self._finish(job, Outcome(job.kept.arrays, *spent_s))
        else:
            waits = request.inputs, request.datatypes, request.rows, *spent_s
            job.item = Item(*waits, request.compute, lambda: job.dropped)
        return True

    def _finish(self, job: _Job, outcome: Outcome) -> None:
        try:
            if isinstance(outcome.arrays, Exception):
                raise outcome.arrays
            job.answer = self._written(job, outcome.arrays, outcome)
            job.proves = job.kept is None  # what was refused says nothing of the model's speed
        except Exception as error:
            self._fail(job, outcome._replace(arrays=error))

    def _fail(self, job: _Job, outcome: Outcome) -> None:
        error = outcome.arrays
        match error:
            case Problem():
                problem = error
            case UsageError():
                problem = Problem(400, "wrong data", str(error))
            case LeftError():
                problem = Problem(503, "too slow", "nobody waits for the answer any more")
            case DeviceFullError():
                problem = Problem(503, "device full", str(error))
            case _:
                assert isinstance(error, Exception)  # noqa: S101
                _LOG.error("model %s failed", self._runtime.name, exc_info=error)
                detail = "the model failed on these inputs; the log of the service says why"
                problem = Problem(500, "model failed", detail)
        footprint = self._books.footprint(outcome.cpu_s, outcome.wall_s, outcome.share)
        # refused, and yet it took time: uncounted, that would be charged to those who asked in the same interval
        request_id = job.headers[http.REQUEST_ID].decode()
        self._books.count(ServiceUse(request_id, job.tenant, outcome.cpu_s, outcome.share, footprint), 0)
        job.answer = http.with_footprint(http.refused(problem, job.form.openai), footprint)

    def _written(self, job: _Job, arrays: Arrays, outcome: Outcome) -> Answer:
        request, headers, kept = job.request, job.headers, job.kept
        assert request is not None  # noqa: S101
        footprint = self._books.footprint(outcome.cpu_s, outcome.wall_s, outcome.share)
        if job.key and kept is None and self._cache is not None:
            self._cache.put(job.key, arrays, footprint.energy_j)
        request_id = headers[http.REQUEST_ID].decode()
        use = ServiceUse(request_id, job.tenant, outcome.cpu_s, outcome.share, footprint)
        self._books.count(use, request.rows)
        self._books.metrics.inferred(footprint)
        told = [http.footprint_header(footprint), http.VARY]
        if job.key:
            etag = _etag(job.key, job.form, request)
            told += (_HIT if kept else _MISS), (b"etag", etag)
            if kept:
                avoided_j = max(0.0, kept.energy_j - footprint.energy_j)
                self._books.metrics.hit(avoided_j)
                self._books.avoided(job.tenant, avoided_j)
                if http.has(headers, etag):
                    return Answer(304, told, footprint=footprint)
        answer = job.form.write(request, arrays, footprint)
        answer.headers += told
        answer.footprint = footprint
        return http.encoded(answer, headers)


def _etag(key: bytes, form: Form, request: Request) -> bytes:
    """A weak one: answers alike in outputs and their form, with another footprint and id."""
    wanted = repr((form.name, request.form, [(tensor.name, binary) for tensor, binary in request.outputs])).encode()
    return b'W/"%s"' % hashlib.blake2b(key + wanted, digest_size=20).hexdigest().encode()
