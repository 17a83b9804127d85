"""The OpenAI API in an OpenAPI document: what is taken of its requests, what its answers have, and one to try."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eco_ray.service.limits import Limits
from eco_ray.service.openapi import COUNT, FLAG, NUMBER, TEXT, computed, record

_TEXTS = {"type": "array", "items": TEXT, "maxItems": 4}
_LISTED = {"$ref": "#/components/schemas/Listed"}


def posted(
    path: str, limits: Limits, model: Mapping[str, Any], name: str, parameters: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The operation of a path that ends as those of the API do; `model`: schema of the field, `name`: one to try."""
    kind = path.rpartition("/v1/")[2]
    kinds: Mapping[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
        "embeddings": (_embeddings(limits), "Embeddings", {"input": "Hello"}),
        "chat/completions": (_chat(limits), "Chat", {"messages": [{"role": "user", "content": "Hello"}]}),
        "completions": (_completion(limits), "Completion", {"prompt": "Hello"}),
    }
    request, answer, example = kinds[kind]
    needed, *others = request
    # null is as if it were not there
    optional = {field: {"anyOf": [request[field], {"type": "null"}]} for field in others}
    schema = record(("model", needed), model=model, **{needed: request[needed]}, **optional)
    body = {"application/json": {"schema": schema, "examples": {"hello": {"value": {"model": name, **example}}}}}
    good: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer}"}}}
    if kind == "embeddings":
        return computed(path, body, good, 304, 404, 422, parameters=parameters)
    return computed(path, body, {**good, "text/event-stream": {}}, 404, parameters=parameters)


def schemas() -> dict[str, Any]:
    """Of answers."""
    footprint = {"$ref": "#/components/schemas/Footprint"}
    usage = record(("prompt_tokens", "total_tokens"), prompt_tokens=COUNT, total_tokens=COUNT, completion_tokens=COUNT)
    vector = {"anyOf": [{"type": "array", "items": NUMBER}, TEXT]}
    embedding = record(object={"const": "embedding"}, index=COUNT, embedding=vector)
    finish = {"index": COUNT, "logprobs": {"type": "null"}, "finish_reason": {"enum": ["stop", "length", None]}}
    message = record(role={"const": "assistant"}, content=TEXT)
    whole = {"id": TEXT, "created": COUNT, "model": TEXT, "usage": usage, "energy": footprint}
    return {
        "Listed": record(id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT),
        "List": record(object={"const": "list"}, data={"type": "array", "items": _LISTED}),
        "Embeddings": record(
            object={"const": "list"},
            data={"type": "array", "items": embedding},
            model=TEXT,
            usage=usage,
            energy=footprint,
        ),
        "Chat": record(object={"const": "chat.completion"}, choices=_choices(message=message, **finish), **whole),
        "Completion": record(object={"const": "text_completion"}, choices=_choices(text=TEXT, **finish), **whole),
    }


def _choices(**properties: Any) -> dict[str, Any]:
    return {"type": "array", "items": record(**properties), "minItems": 1, "maxItems": 1}


def _embeddings(limits: Limits) -> dict[str, Any]:
    text = {**TEXT, "minLength": 1}
    several = {"type": "array", "items": text, "minItems": 1, "maxItems": limits.batch}
    return {
        "input": {"anyOf": [text, several]},
        "encoding_format": {"enum": ["float", "base64"]},
        "dimensions": {"type": "integer"},
    }


def _completion(limits: Limits) -> dict[str, Any]:
    prompt = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 1}]}
    return {"prompt": prompt, **_sampling(limits)}


def _chat(limits: Limits) -> dict[str, Any]:
    parts = {"type": "array", "items": record(type={"const": "text"}, text=TEXT)}
    role = {"enum": ["system", "developer", "user", "assistant"]}
    message = record(role=role, content={"anyOf": [TEXT, parts]})
    messages = {"type": "array", "minItems": 1, "items": message}
    return {"messages": messages, "max_completion_tokens": _tokens(limits), **_sampling(limits)}


def _sampling(limits: Limits) -> dict[str, Any]:
    return {
        "max_tokens": _tokens(limits),
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "seed": {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 63) - 1},
        "stop": {"anyOf": [TEXT, _TEXTS]},
        "stream": FLAG,
        "stream_options": {"type": "object", "properties": {"include_usage": FLAG}, "additionalProperties": False},
    }


def _tokens(limits: Limits) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1, "maximum": limits.max_tokens}
