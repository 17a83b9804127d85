"""The OpenAI API of a model: what its requests have in common, and embeddings. https://platform.openai.com/docs/api-reference"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic_core import to_json

from eco_ray.core.footprint import Footprint
from eco_ray.core.ports import Arrays, Runtime
from eco_ray.service.body import json_object
from eco_ray.service.form import Form, Request, Wanted
from eco_ray.service.http import JSON, Answer, Headers
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Problem, shown

#: fields that change nothing here, whatever their value
_HARMLESS = frozenset((
    *("user", "metadata", "store", "service_tier", "safety_identifier", "parallel_tool_calls", "verbosity"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
))  # fmt: skip
#: fields whose other values are not supported
_NEUTRAL: Mapping[str, Any] = {
    **{"n": 1, "best_of": 1, "logprobs": False, "echo": False, "suffix": "", "tools": [], "functions": []},
    **{"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "tool_choice": "none", "function_call": "none"},
    **{"response_format": {"type": "text"}, "modalities": ["text"]},
}


def path_is(path: str) -> bool:
    """Whether clients of the OpenAI API ask there."""
    return path.startswith(("/models/", "/v1/")) or "/openai/v1/" in path


def fields(body: bytes, runtime: Runtime, limits: Limits, known: frozenset[str]) -> dict[str, Any]:
    """The fields of a request for this model, without those that are null. Raises Problem."""
    content = {
        name: value
        for name, value in json_object(body, limits, "a request of the OpenAI API").items()
        if value is not None
    }
    _check_model(content.get("model"), runtime)
    for name, value in content.items():
        if name in known or name == "model" or name in _HARMLESS:
            continue
        if name in _NEUTRAL and _same(value, _NEUTRAL[name]):
            continue
        raise wrong(name, value, "it is not supported here; leave it out", "unsupported_parameter")
    return content


def wrong(param: str, value: object, cure: str, code: str = "invalid_value") -> Problem:
    """A field that has a wrong value."""
    return Problem(400, "wrong field", f"{shown(param)} is {shown(value)}; {cure}", param=param[:80], code=code)


def served(runtime: Runtime) -> str:
    """The model's name in answers."""
    return f"{runtime.name}:{runtime.version}"


def embeddings(runtime: Runtime, limits: Limits) -> Form:
    """The form of a request for embeddings, of a model of that kind."""
    text = runtime.inputs[0]
    outputs = tuple(map(Wanted, runtime.outputs))
    size = next(tensor.shape[-1] for tensor in runtime.outputs if tensor.name == "embedding")
    known = frozenset(("input", "encoding_format", "dimensions"))

    def parse(body: bytes, _headers: Headers) -> Request:
        content = fields(body, runtime, limits, known)
        told = content.get("input")
        texts = [told] if isinstance(told, str) else told
        if not isinstance(texts, list) or not 0 < len(texts) <= limits.batch:
            what = f"a list of {len(texts)}" if isinstance(texts, list) else told
            raise wrong("input", what, f"send a string, or a list of 1 to {limits.batch} strings")
        for one in texts:
            if not isinstance(one, str) or not one:
                raise wrong("input", one, "send strings that are not empty")
        if (dimensions := content.get("dimensions", size)) != size:
            raise wrong("dimensions", dimensions, f"embeddings of this model have {size}: leave it out")
        form = content.get("encoding_format", "float")
        if form not in ("float", "base64"):
            raise wrong("encoding_format", form, "use float or base64")
        array = np.empty(len(texts), object)
        array[:] = [one.encode("utf-8", "replace") for one in texts]  # half a character becomes `?`
        return Request(None, {text.name: array}, {text.name: "BYTES"}, outputs, len(texts), form=form)

    def write(request: Request, arrays: Arrays, footprint: Footprint) -> Answer:
        found = np.asarray(arrays["embedding"]).astype("<f4")
        if not np.isfinite(found).all():
            raise Problem(422, "not finite", "an embedding has NaN or infinities; send another text")
        rows = (
            [base64.b64encode(row.tobytes()).decode() for row in found] if request.form == "base64" else found.tolist()
        )
        tokens = int(arrays["tokens"].sum())
        content = {
            "object": "list",
            "data": [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(rows)],
            "model": served(runtime),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "energy": footprint.to_json(),
        }
        return Answer(200, [JSON], to_json(content))

    return Form("embeddings", parse, write, openai=True)


def _check_model(told: object, runtime: Runtime) -> None:
    """`name`, `name:VERSION`, or `name@alias`, which whoever sent the request here has looked up."""
    if not isinstance(told, str):
        raise wrong("model", told, f"send {runtime.name!r}", "missing_required_parameter")
    name, colon, version = told.partition(":")
    if name.partition("@")[0] != runtime.name or (colon and version != str(runtime.version)):
        detail = f"no model {shown(told)} is served here; the model is {served(runtime)!r}"
        raise Problem(404, "no such model", detail, param="model", code="model_not_found")


def _same(value: Any, neutral: Any) -> bool:
    """Equal, where true is no 1."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)
