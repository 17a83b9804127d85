"""The OpenAI API in an OpenAPI document: what is taken of its requests, and what is there beside its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eco_ray.service.limits import Limits

_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}


def operation(path: str, limits: Limits) -> Mapping[str, Any]:
    """Request and good answer of a path that ends as those of the API do."""
    if path.endswith("/embeddings"):
        return _described(_embeddings(limits), "Vectors")
    chat = path.endswith("/chat/completions")
    return _described(_completions(limits, chat), "Text", streams=True)


def _described(request: Mapping[str, Any], what: str, streams: bool = False) -> Mapping[str, Any]:
    content: dict[str, Any] = {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"model": _TEXT, "usage": {"type": "object"}, "energy": {"type": "object"}},
            }
        }
    }
    if streams:
        content["text/event-stream"] = {}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "good": {"description": f"{what}, with the footprint of this request in `energy`", "content": content},
    }


def _embeddings(limits: Limits) -> dict[str, Any]:
    several = {"type": "array", "items": {**_TEXT, "minLength": 1}, "minItems": 1, "maxItems": limits.batch}
    return {
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": _TEXT,
            "input": {"anyOf": [{**_TEXT, "minLength": 1}, several]},
            "encoding_format": {"enum": ["float", "base64"]},
            "dimensions": {"type": "integer"},
        },
    }


def _completions(limits: Limits, chat: bool) -> dict[str, Any]:
    tokens = {"type": "integer", "minimum": 1, "maximum": limits.max_tokens}
    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": ["system", "developer", "user", "assistant"]}, "content": {}},
    }
    what: dict[str, Any] = {"prompt": _TEXT}
    if chat:
        what = {"messages": {"type": "array", "minItems": 1, "items": message}, "max_completion_tokens": tokens}
    return {
        "type": "object",
        "required": ["model", next(iter(what))],
        "properties": {
            "model": _TEXT,
            **what,
            "max_tokens": tokens,
            "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "seed": {"type": "integer"},
            "stop": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 4}]},
            "stream": _FLAG,
            "stream_options": {"type": "object", "properties": {"include_usage": _FLAG}},
        },
    }
