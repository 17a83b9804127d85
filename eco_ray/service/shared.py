"""Many models at one address: the path of a request names the model, whose own application answers.

    /v2/models/NAME/...                                     the application of NAME, loaded if need be
    /v2/models/NAME[/versions/V]/ready  .../NAME/metrics    where NAME is not loaded: nothing is loaded for them

A version takes over when it is there: the one before answers until then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Generic, Protocol, TypeVar

from eco_ray.core import keys
from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.service import http, openai
from eco_ray.service.gate import Gate
from eco_ray.service.http import Answer, Headers, Receive, Scope, Send
from eco_ray.service.inference import Footprints
from eco_ray.service.metrics import CONTENT_TYPE
from eco_ray.service.problems import Problem, shown

_LOG = logging.getLogger(__name__)

#: an ASGI application
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Version(Protocol):
    """A version of a model; equal ones are the same."""

    @property
    def model(self) -> str:
        """Its name in URLs."""
        ...

    @property
    def version(self) -> int:
        """Its number."""
        ...


V = TypeVar("V", bound=Version)


class Models(Protocol[V]):
    """Where the applications of versions are."""

    def use(self, key: V) -> AbstractAsyncContextManager[App]:
        """The application of a version, loaded if need be. Raises EcoRayError, and whatever a model raises."""
        ...

    @property
    def loaded(self) -> Collection[V]:
        """Those that are there, or being loaded."""
        ...


class SharedApp(Generic[V]):
    """The models of one replica. For one event loop."""

    def __init__(self, models: Models[V], footprint: Footprints, gate: Callable[[str], Gate]) -> None:
        """`gate(model)` is asked before a model is loaded; when it is there, its application asks."""
        self._models, self._footprint, self._gate = models, footprint, gate
        self._served: dict[str, V] = {}
        #: by model: what is to take over; and what did not, and why
        self._coming: dict[str, V] = {}
        self._failed: dict[str, tuple[V, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, versions: Iterable[V]) -> None:
        """Serve these and no others. A model that is loaded in another version changes when the new one is loaded."""
        wanted = {one.model: one for one in versions}
        loaded = self._models.loaded
        before = {name: one for name, one in self._served.items() if one in loaded and one != wanted.get(name)}
        self._coming = {name: one for name, one in wanted.items() if name in before}
        self._served = {name: before.get(name, one) for name, one in wanted.items()}
        self._failed = {}
        for one in self._coming.values():
            task = asyncio.create_task(self._take_over(one))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        async with AsyncExitStack() as stack:
            app: App
            try:
                app = await self._app(scope, stack)
            except Exception as error:  # a problem, or whatever a model raises when it is loaded
                app = self._refusing(error)
            await app(scope, receive, send)

    async def _app(self, scope: Scope, stack: AsyncExitStack) -> App:
        """Who answers. Raises Problem, and what loading raises."""
        name, rest = _asked(scope)
        version = self._served.get(name)
        if version is None:
            detail = f"no model {shown(name)} is served here; GET /v1/models lists those that are"
            raise Problem(404, "no such model", detail, param="model", code="model_not_found")
        failed, why = self._failed.get(name, (version, ""))
        if why and rest == f"versions/{failed.version}/ready":
            raise Problem(500, "model failed", why)
        if version not in self._models.loaded:
            if rest in ("ready", f"versions/{version.version}/ready"):
                return self._telling(http.told_json({"name": name, "ready": True}))
            if rest == "metrics":
                return self._telling(Answer(200, [(b"content-type", CONTENT_TYPE.encode())]))
            self._gate(name)(dict(scope["headers"]), keys.Scope.READ)  # nothing is loaded for who may not ask
        try:
            return await stack.enter_async_context(self._models.use(version))
        except Exception as error:
            raise _not_loaded(version, error) from error

    async def _take_over(self, one: V) -> None:
        why = ""
        try:
            async with self._models.use(one):
                pass
        except Exception as error:  # whatever it is, the one before is there
            why = _not_loaded(one, error).detail
        if self._coming.get(one.model) != one:
            return  # it was changed again
        del self._coming[one.model]
        if why:
            self._failed[one.model] = one, why
        else:
            self._served[one.model] = one

    def _telling(self, told: Answer) -> App:
        """Answers so to who reads."""

        async def answer(scope: Scope, headers: Headers) -> Answer:
            return told if http.allowed(scope["method"], http.GET) else Answer(204, [(b"allow", http.GET)])

        return self._serving(answer)

    def _refusing(self, error: Exception) -> App:
        """Answers with a problem."""

        async def answer(scope: Scope, headers: Headers) -> Answer:
            raise error

        return self._serving(answer)

    def _serving(self, answer: Callable[[Scope, Headers], Awaitable[Answer]]) -> App:
        began = time.perf_counter(), time.thread_time()

        def paid(told: Answer) -> Answer:
            wall_s, cpu_s = time.perf_counter() - began[0], time.thread_time() - began[1]
            return http.with_footprint(told, self._footprint(cpu_s, wall_s, 1.0))

        async def answered(scope: Scope, headers: Headers) -> Answer:
            return paid(await answer(scope, headers))

        def refused(scope: Scope, problem: Problem) -> Answer:
            return paid(http.refused(problem, openai.path_is(scope["path"])))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await http.serve(scope, receive, send, answered, refused)

        return app


def _asked(scope: Scope) -> tuple[str, str]:
    """The model that a path names, and what follows."""
    name, _, rest = scope.get("path", "").removeprefix("/v2/models/").partition("/")
    return name, rest


def _not_loaded(version: Version, error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case UnreachableError():  # no room, or its registry is away
            return Problem(503, "not loaded", str(error), ((b"retry-after", b"1"),))
        case EcoRayError():
            return Problem(500, "model failed", f"{version.model}:{version.version} could not be loaded: {error}")
    _LOG.error("%s:%d could not be loaded", version.model, version.version, exc_info=error)
    detail = f"{version.model}:{version.version} could not be loaded; the log of the service says why"
    return Problem(500, "model failed", detail)
