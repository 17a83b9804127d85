"""The client of an event loop: as `Client`, with `await`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, TypeVar

import httpx

from eco_ray.api_model import (
    GridForecast,
    GridNow,
    JobEvent,
    JobExplanation,
    JobLine,
    JobPlan,
    JobStatus,
    LedgerLine,
    LogText,
    NodeLine,
    Steered,
    Submitted,
)
from eco_ray.client import calls
from eco_ray.client.core import Call, Tries, checked_address, paged, result
from eco_ray.client.stream import SILENT_S, Place, Received

T = TypeVar("T")


class AsyncClient:
    """A cluster by its control API, in an event loop; all else as `eco_ray.Client`.

    >>> async with AsyncClient("https://eco.example.org", key="eco_...") as client:
    ...     async for line in client.jobs("running"):
    ...         print(line.id, line.message)
    """

    def __init__(self, address: str, *, key: str | None = None, timeout_s: float = 60.0, **options: Any) -> None:
        """`timeout_s`: for one try; `options`: for `httpx.AsyncClient`, such as `verify` and `proxy`."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        base = checked_address(address, key)
        self._http = httpx.AsyncClient(base_url=base, headers=headers, timeout=timeout_s, **options)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._http.base_url)!r})"

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def submit(self, job: calls.Job, *, idempotency_key: str | None = None) -> Submitted:
        """Submit a job: the keys of a job file, or the path of one. The same key is the same submission."""
        return await self._send(calls.submit(job, idempotency_key))

    async def plan(self, job: calls.Job) -> JobPlan:
        """When and where a job would run; nothing is changed."""
        return await self._send(calls.plan(job))

    async def jobs(self, *states: str, page: int = 100) -> AsyncIterator[JobLine]:
        """All jobs in these states, the newest first, fetched by pages."""
        async for line in self._pages(calls.jobs(states, page)):
            yield line

    async def job(self, job_id: str) -> JobStatus:
        """State, plan and attempts of a job."""
        return await self._send(calls.job(job_id))

    async def explain(self, job_id: str) -> JobExplanation:
        """Why a job is where it is, and until when."""
        return await self._send(calls.explain(job_id))

    async def logs(self, job_id: str, *, follow: bool = True) -> AsyncIterator[LogText]:
        """Output of a job as it comes, attempt after attempt; a connection that breaks is made again."""
        async with aclosing(self._stream(Place(calls.logs(job_id, follow)))) as received:
            async for one in received:
                yield LogText.model_validate(one.data)

    async def events(self, *, after: int | None = None) -> AsyncIterator[JobEvent]:
        """What happens to jobs, without an end; from now on, or after the event with this number."""
        async with aclosing(self._stream(Place(calls.events(after)))) as received:
            async for one in received:
                yield JobEvent.model_validate(one.data)

    async def cancel(self, job_id: str) -> Steered:
        """End a job."""
        return await self._send(calls.cancel(job_id))

    async def suspend(self, job_id: str) -> Steered:
        """Suspend a job until it is resumed."""
        return await self._send(calls.suspend(job_id))

    async def resume(self, job_id: str, *, budget_g: float | None = None, budget_kwh: float | None = None) -> Steered:
        """Let a suspended job go on, perhaps with other budgets."""
        return await self._send(calls.resume(job_id, budget_g, budget_kwh))

    async def ledger(
        self, by: str = "job", *, start: str | None = None, end: str | None = None, tenant: str | None = None,
        zone: str | None = None, page: int = 500,
    ) -> AsyncIterator[LedgerLine]:  # fmt: skip
        """Energy and operational carbon, summed; `start`, `end`: ISO 8601."""
        async for line in self._pages(calls.ledger(by, start, end, tenant, zone, page)):
            yield line

    async def nodes(self) -> list[NodeLine]:
        """Nodes with their zone."""
        return await self._send(calls.nodes())

    async def grid_now(self, *zones: str) -> list[GridNow]:
        """Carbon intensity now, of these zones or of all."""
        return await self._send(calls.grid_now(zones))

    async def grid_forecast(self, zone: str, hours: int = 24) -> GridForecast:
        """What is known about the next hours."""
        return await self._send(calls.grid_forecast(zone, hours))

    async def _send(self, call: Call[T]) -> T:
        tries = Tries(call)
        while True:
            try:
                response = await self._http.send(self._http.build_request(**call.request))
                wait_s = tries.after_answer(response)
            except httpx.TransportError as error:
                wait_s = tries.after_error(error)
            else:
                if wait_s is None:
                    return result(call, response)
            await asyncio.sleep(wait_s)

    async def _pages(self, call: Call[list[T]]) -> AsyncIterator[T]:
        following: Call[list[T]] | None = call
        while following is not None:
            found, following = await self._send(paged(following))
            for one in found:
                yield one

    async def _stream(self, place: Place) -> AsyncGenerator[Received, None]:
        while not place.ended:
            with suppress(httpx.TransportError):  # it goes on from its place
                async with aclosing(self._opened(place)) as received:
                    async for one in received:
                        yield one
            if not place.ended:
                await asyncio.sleep(place.wait_s())

    async def _opened(self, place: Place) -> AsyncGenerator[Received, None]:
        request = self._http.build_request(**place.request, timeout=SILENT_S)
        response = await self._http.send(request, stream=True)
        try:
            if response.status_code != 200:
                await response.aread()
                place.refused(response)
                return
            async for chunk in response.aiter_bytes():
                for one in place.take(chunk):
                    yield one
            place.was_left()
        finally:
            await response.aclose()
