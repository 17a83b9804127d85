"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
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


class Client:
    """A cluster by its control API.

    >>> with Client("https://eco.example.org", key="eco_...") as client:
    ...     made = client.submit("jobs/train_mnist.yaml")
    ...     for piece in client.logs(made.id):
    ...         print(piece.text, end="")

    Methods raise UsageError, InfeasibleError, NotFoundError, NotAllowedError and UnreachableError, with the words of
    the server. What is safe to ask again is asked again, for some seconds. Several threads may use it.
    """

    def __init__(self, address: str, *, key: str | None = None, timeout_s: float = 60.0, **options: Any) -> None:
        """`timeout_s`: for one try; `options`: for `httpx.Client`, such as `verify` and `proxy`."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        base = checked_address(address, key)
        self._http = httpx.Client(base_url=base, headers=headers, timeout=timeout_s, **options)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._http.base_url)!r})"

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def submit(self, job: calls.Job, *, idempotency_key: str | None = None) -> Submitted:
        """Submit a job: the keys of a job file, or the path of one. The same key is the same submission."""
        return self._send(calls.submit(job, idempotency_key))

    def plan(self, job: calls.Job) -> JobPlan:
        """When and where a job would run; nothing is changed."""
        return self._send(calls.plan(job))

    def jobs(self, *states: str, page: int = 100) -> Iterator[JobLine]:
        """All jobs in these states, the newest first, fetched by pages."""
        yield from self._pages(calls.jobs(states, page))

    def job(self, job_id: str) -> JobStatus:
        """State, plan and attempts of a job."""
        return self._send(calls.job(job_id))

    def explain(self, job_id: str) -> JobExplanation:
        """Why a job is where it is, and until when."""
        return self._send(calls.explain(job_id))

    def logs(self, job_id: str, *, follow: bool = True) -> Iterator[LogText]:
        """Output of a job as it comes, attempt after attempt; a connection that breaks is made again."""
        for one in self._stream(Place(calls.logs(job_id, follow))):
            yield LogText.model_validate(one.data)

    def events(self, *, after: int | None = None) -> Iterator[JobEvent]:
        """What happens to jobs, without an end; from now on, or after the event with this number."""
        for one in self._stream(Place(calls.events(after))):
            yield JobEvent.model_validate(one.data)

    def cancel(self, job_id: str) -> Steered:
        """End a job."""
        return self._send(calls.cancel(job_id))

    def suspend(self, job_id: str) -> Steered:
        """Suspend a job until it is resumed."""
        return self._send(calls.suspend(job_id))

    def resume(self, job_id: str, *, budget_g: float | None = None, budget_kwh: float | None = None) -> Steered:
        """Let a suspended job go on, perhaps with other budgets."""
        return self._send(calls.resume(job_id, budget_g, budget_kwh))

    def ledger(
        self, by: str = "job", *, start: str | None = None, end: str | None = None, tenant: str | None = None,
        zone: str | None = None, page: int = 500,
    ) -> Iterator[LedgerLine]:  # fmt: skip
        """Energy and operational carbon, summed; `start`, `end`: ISO 8601."""
        yield from self._pages(calls.ledger(by, start, end, tenant, zone, page))

    def nodes(self) -> list[NodeLine]:
        """Nodes with their zone."""
        return self._send(calls.nodes())

    def grid_now(self, *zones: str) -> list[GridNow]:
        """Carbon intensity now, of these zones or of all."""
        return self._send(calls.grid_now(zones))

    def grid_forecast(self, zone: str, hours: int = 24) -> GridForecast:
        """What is known about the next hours."""
        return self._send(calls.grid_forecast(zone, hours))

    def _send(self, call: Call[T]) -> T:
        tries = Tries(call)
        while True:
            try:
                response = self._http.send(self._http.build_request(**call.request))
                wait_s = tries.after_answer(response)
            except httpx.TransportError as error:
                wait_s = tries.after_error(error)
            else:
                if wait_s is None:
                    return result(call, response)
            time.sleep(wait_s)

    def _pages(self, call: Call[list[T]]) -> Iterator[T]:
        following: Call[list[T]] | None = call
        while following is not None:
            found, following = self._send(paged(following))
            yield from found

    def _stream(self, place: Place) -> Iterator[Received]:
        while not place.ended:
            with suppress(httpx.TransportError):  # it goes on from its place
                yield from self._opened(place)
            if not place.ended:
                time.sleep(place.wait_s())

    def _opened(self, place: Place) -> Iterator[Received]:
        request = self._http.build_request(**place.request, timeout=SILENT_S)
        response = self._http.send(request, stream=True)
        try:
            if response.status_code != 200:
                response.read()
                place.refused(response)
                return
            for chunk in response.iter_bytes():
                yield from place.take(chunk)
            place.was_left()
        finally:
            response.close()
