"""The ASGI application of one model: its routes, and who may take them.

    /v2  /v2/health/live|ready  /v2/models/NAME[/versions/V][/ready]  .../infer|explain   V2 inference protocol
    /models/NAME/v1/models[/NAME]                                                         OpenAI API
    /livez  /readyz  /metrics  /openapi.json

Bodies are read in the event loop; what takes time with their size is done when it is their turn (`turn.py`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

from eco_ray.core import keys
from eco_ray.core.ports import Runtime, TextRuntime
from eco_ray.core.requests import ServiceUse
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.service import describe, http, openai, v2
from eco_ray.service.batches import Batcher, Compute
from eco_ray.service.body import Held, read_body
from eco_ray.service.form import Form
from eco_ray.service.gate import Admission, Gate, named_tenant
from eco_ray.service.generation import Generations
from eco_ray.service.http import Answer, Headers, Page, Receive, Scope, Send
from eco_ray.service.inference import Books, Footprints, Inferences
from eco_ray.service.limits import Limits
from eco_ray.service.metrics import CONTENT_TYPE, Metrics
from eco_ray.service.openapi import in_zones
from eco_ray.service.problems import Header, Problem, shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TEXT: Header = (b"content-type", CONTENT_TYPE.encode())

#: answers the body of a request
Post = Callable[[Headers, Admission, bytes, Receive], Awaitable[Answer]]


class ModelApp:
    """One model behind HTTP."""

    def __init__(
        self,
        runtime: Runtime,
        footprint: Footprints,
        *,
        gate: Gate = named_tenant,
        count: Callable[[ServiceUse, int], None] = lambda use, rows: None,
        avoided: Callable[[str, float], None] = lambda tenant, joules: None,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        batching: Callable[[Compute], Batcher] | None = None,
        in_zone: bool = False,
    ) -> None:
        """`count(use, rows)` is told of each inference, `avoided(tenant, joules)` of each hit of the cache.

        Both are called where the inference is: in the worker thread or in the event loop. `batching` makes what
        collects requests that are computed together; None: those that wait are. `in_zone`: it is one of several zones,
        and its document says so.
        """
        if not _NAME.fullmatch(runtime.name):
            raise UsageError(f"a model named {runtime.name!r:.120} has no URL; use letters, digits, '.', '_' and '-'")
        self._runtime, self._footprint, self._gate, self._limits = runtime, footprint, gate, limits
        self._in_zone = in_zone
        self._metrics = Metrics(runtime.name, runtime.version)
        books = Books(footprint, count, avoided, self._metrics)
        self._inferences = Inferences(runtime, books, limits, batching)
        self._turns = self._inferences.turns
        self._books = books
        self._held = Held()
        base = f"/v2/models/{runtime.name}"
        bases = base, f"{base}/versions/{runtime.version}"
        self._openai = f"/models/{runtime.name}/v1", f"{base}/openai/v1"
        self._posts = self._make_posts(bases)
        self._pages = self._make_pages(bases)

    @property
    def stuck(self) -> bool:
        """Whether the model is at something that takes longer than its limit, and nobody waits for any more."""
        return self._turns.stuck

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        status = await http.serve(scope, receive, send, partial(self._answer, receive), self._refused)
        if status is not None:
            self._metrics.answered(status)

    @property
    def spent(self) -> tuple[int, float, Nature]:
        """Inferences so far, their energy by their footprints [J], and how that is known."""
        return self._metrics.spent

    async def _answer(self, receive: Receive, scope: Scope, headers: Headers) -> Answer:
        path = scope["path"]
        post, page = self._posts.get(path), self._pages.get(path)
        if post is None and page is None:
            raise self._no_path(path)
        methods = http.GET if post is None else http.POST
        if not http.allowed(scope["method"], methods):
            return self._cheap(lambda: Answer(204, [(b"allow", methods)]))
        if post is not None:
            admission = self._gate(headers, keys.Scope.INFER)
            try:
                _check_variant(headers)
                answer = await self._posted(post, headers, admission, receive)
            except Problem as problem:
                answer = self._refused(scope, problem)
            if answer.footprint is not None:
                admission.settle(answer.footprint)
            answer.headers += admission.headers
            return answer
        assert page is not None  # noqa: S101
        passed = self._gate(headers, keys.Scope.READ).headers if page.guarded else ()
        answer = self._cheap(lambda: http.got(page, headers))
        answer.headers += passed
        return answer

    async def _posted(self, post: Post, headers: Headers, admission: Admission, receive: Receive) -> Answer:
        body = await read_body(receive, headers.get(b"content-length"), self._held, self._limits)
        try:
            return await post(headers, admission, body, receive)
        except TimeoutError:
            detail = f"no answer within {self._limits.answer_s:g} s; send fewer rows, or ask again later"
            raise Problem(503, "too slow", detail, ((b"retry-after", b"1"),)) from None
        finally:
            self._held.bytes -= len(body)

    def _cheap(self, make: Callable[[], Answer]) -> Answer:
        """An answer that is made at once, in the event loop."""
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        answer = make()
        spent_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
        return http.with_footprint(answer, self._footprint(*spent_s, 1.0))

    def _refused(self, scope: Scope, problem: Problem) -> Answer:
        return self._cheap(lambda: http.refused(problem, openai.path_is(scope["path"])))

    def _health(self, key: str) -> Answer:
        if key == "live" or not self.stuck:
            return http.told_json({key: True})
        detail = "an inference takes longer than its limit; wait, or restart the replica"
        return http.refused(Problem(503, "not ready", detail, ((b"retry-after", b"1"),)))

    def _model_ready(self) -> Answer:
        answer = self._health("ready")
        return http.told_json({"name": self._runtime.name, "ready": True}) if answer.status == 200 else answer

    def _make_posts(self, bases: tuple[str, ...]) -> dict[str, Post]:
        runtime, limits = self._runtime, self._limits
        paths: dict[str, Form | None] = {f"{base}/infer": v2.infer(runtime, limits) for base in bases}
        paths |= {f"{base}/explain": v2.explain(runtime, limits) for base in bases}
        if runtime.kind == "embedding":
            paths |= {f"{prefix}/embeddings": openai.embeddings(runtime, limits) for prefix in self._openai}
        posts: dict[str, Post] = {path: partial(self._inferred, form) for path, form in paths.items() if form}
        if runtime.kind == "text-generation":
            texts = Generations(cast(TextRuntime, runtime), self._books, self._turns, limits)
            for prefix in self._openai:
                posts[f"{prefix}/chat/completions"] = partial(texts.answer, True)
                posts[f"{prefix}/completions"] = partial(texts.answer, False)
        return posts

    async def _inferred(
        self, form: Form, headers: Headers, admission: Admission, body: bytes, receive: Receive
    ) -> Answer:
        return await self._inferences.answer(form, headers, admission.tenant, body)

    def _make_pages(self, bases: tuple[str, ...]) -> dict[str, Page]:
        runtime = self._runtime
        model = describe.openai_id(runtime.name)
        pages: dict[str, Page] = {
            "/v2": http.fixed(describe.SERVER),
            **{path: Page(lambda: self._health("live")) for path in ("/livez", "/v2/health/live")},
            **{path: Page(lambda: self._health("ready")) for path in ("/readyz", "/v2/health/ready")},
            **{base: http.fixed(describe.model(runtime), guarded=True) for base in bases},
            **{f"{base}/ready": Page(self._model_ready) for base in bases},
        }
        # between two looks they tell what one request cost, with all digits, whoever's it was
        metrics = Page(lambda: Answer(200, [_TEXT], self._metrics.text()), guarded=True)
        pages |= dict.fromkeys(("/metrics", f"{bases[0]}/metrics"), metrics)
        for prefix in self._openai:
            pages[f"{prefix}/models"] = http.fixed({"object": "list", "data": [model]}, guarded=True)
            for name in (runtime.name, openai.served(runtime)):
                pages[f"{prefix}/models/{name}"] = http.fixed(describe.openai_id(name), guarded=True)
        described = describe.openapi(runtime, self._limits, sorted(self._posts), pages)
        described = in_zones(described) if self._in_zone else described
        return {**pages, **dict.fromkeys(("/openapi.json", f"{bases[0]}/openapi.json"), http.fixed(described))}

    def _no_path(self, path: str) -> Problem:
        runtime = self._runtime
        parts = path.split("/")[1:]
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            if parts[2] != runtime.name:
                detail = f"no model {shown(parts[2])} is served here; the model is {runtime.name!r}"
                return Problem(404, "no such model", detail)
            if parts[3:4] == ["versions"] and parts[4:5] != [str(runtime.version)]:
                told = shown(parts[4] if len(parts) > 4 else "")
                detail = f"version {told} of {runtime.name} is not served here; version {runtime.version} is"
                return Problem(404, "no such version", detail)
            if parts[-1] == "explain":
                return Problem(404, "no such path", f"{runtime.name} says not why it answers so; ask it to infer")
        if openai.path_is(path):
            kind = f"a model of kind {runtime.kind!r}" if runtime.kind else "a model of unknown kind"
            detail = f"no path {shown(path)}; {runtime.name!r} is served here, {kind}: see /openapi.json"
            return Problem(404, "no such path", detail, code="model_not_found")
        detail = f"no path {shown(path)}; see /openapi.json, /v2 and /v2/models/{runtime.name}"
        return Problem(404, "no such path", detail)


def _check_variant(headers: Headers) -> None:
    """The header by which a client refuses a smaller variant is there in one form."""
    told = headers.get(http.VARIANT)
    if told not in (None, b"none"):
        raise Problem(
            400, "wrong header", f"Eco-Variant is {shown(told.decode('latin-1'))}; send 'none', or leave it out"
        )
