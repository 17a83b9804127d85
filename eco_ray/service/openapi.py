"""What the OpenAPI 3.1 documents of all applications share: operations, their statuses, headers and problems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from eco_ray import __version__
from eco_ray.core.tenants import TENANT

TEXT: Mapping[str, Any] = {"type": "string"}
NUMBER: Mapping[str, Any] = {"type": "number"}
FLAG: Mapping[str, Any] = {"type": "boolean"}
COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 0}
#: of who reads, and of who sends something to be computed
READ = (400, 500)
GUARDED = (401, 403)
COMPUTED = (*READ, *GUARDED, 408, 413, 415, 429, 503)

_MEANINGS: Mapping[int, str] = {
    304: "If-None-Match names this answer",
    400: "The request is wrong: a header, the body or a field of it",
    401: "No valid key",
    403: "The key may not do this, or is of another tenant",
    404: "No such thing, or it is another tenant's",
    408: "The body came too slowly",
    413: "The request is too large, as it is sent or when it is decompressed",
    415: "A Content-Encoding that is not understood",
    422: "JSON cannot say the answer",
    429: "A limit of the tenant is used up",
    500: "The model or the service failed",
    503: "Busy, too slow or away; ask again",
}
_RETRY = {"Retry-After": {"schema": TEXT}}
_HEADERS: Mapping[int, Mapping[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": TEXT, "required": True}},
    403: {"WWW-Authenticate": {"schema": TEXT}},
    415: {"Accept-Encoding": {"schema": TEXT, "required": True}},
    429: _RETRY,
    503: _RETRY,
}
_EACH = {
    "X-Request-Id": {"schema": TEXT, "required": True},
    # where another version is beside the one that is served, and where that is a smaller variant
    "Eco-Model-Version": {"schema": TEXT},
    "Eco-Variant": {"schema": {"enum": ["small", "large"]}},
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "error"],
    "properties": {
        **dict.fromkeys(("type", "title", "detail"), TEXT),
        "status": {"type": "integer"},
        # of the V2 protocol, and of the OpenAI API
        "error": {"anyOf": [TEXT, {"$ref": "#/components/schemas/OpenAIError"}]},
    },
}
_OPENAI_ERROR = {
    "type": "object",
    "required": ["message", "type", "param", "code"],
    "properties": {**dict.fromkeys(("message", "type", "code"), TEXT), "param": {"type": ["string", "null"]}},
}
_TENANT = {
    "name": "Eco-Tenant",
    "in": "header",
    "description": "Who is charged; with a key it may only repeat the key's tenant",
    "schema": {**TEXT, "pattern": f"^({TENANT.pattern})?$"},
}
_VARIANT = {
    "name": "Eco-Variant",
    "in": "header",
    "description": "`none`: not by a smaller variant, whatever its share is",
    "schema": {"enum": ["none"]},
}
_ORIGIN = {
    "name": "Eco-Origin-Zone",
    "in": "header",
    "description": "Grid zone that the request comes from; one that is not known counts as the home zone",
    "schema": TEXT,
}
#: without it none of the zones has answered
_ZONE = {"Eco-Zone": {"description": "Grid zone whose replica answered", "schema": TEXT}}
_ENCODING = {"name": "Content-Encoding", "in": "header", "schema": {"enum": ["gzip", "zstd", "identity"]}}


def document(title: str, paths: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The whole of it."""
    responses = {
        f"Problem{status}": {
            "description": meaning,
            "headers": {**_EACH, **_HEADERS.get(status, {})},
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, meaning in _MEANINGS.items()
        if status >= 400
    }
    keys = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {"Problem": _PROBLEM, "OpenAIError": _OPENAI_ERROR, **schemas},
            "responses": responses,
            "securitySchemes": keys,
        },
    }


def in_zones(told: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a model that is served per zone: requests may say where they come from, answers their zone."""
    paths = {
        path: {
            verb: {**one, "parameters": [*one.get("parameters", ()), _ORIGIN], "responses": _zoned(one["responses"])}
            for verb, one in verbs.items()
        }
        for path, verbs in told["paths"].items()
    }
    parts = told["components"]
    return {**told, "paths": paths, "components": {**parts, "responses": _zoned(parts["responses"])}}


def read(
    path: str,
    schema: Mapping[str, Any],
    *statuses: int,
    guarded: bool = False,
    media: str = "application/json",
    parameters: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What GET answers; `statuses`: beside 200 and those that all have."""
    good = {"description": "As asked", "headers": _EACH, "content": {media: {"schema": schema}}}
    told = {*READ, *statuses, *(GUARDED if guarded else ())}
    found = {"operationId": operation_id("get", path), "responses": _responses(good, told)}
    return {"get": {**found, **_for(parameters, guarded)}}


def computed(
    path: str,
    body: Mapping[str, Any],
    good: Mapping[str, Any],
    *statuses: int,
    parameters: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What POST answers: `body` and `good` by media type; `statuses`: beside 200 and those that all have."""
    told = {"description": "The answer, with its footprint", "headers": {**_EACH, **_FOOTPRINT}, "content": good}
    return {
        "post": {
            "operationId": operation_id("post", path),
            "requestBody": {"required": True, "content": body},
            "responses": _responses(told, {*COMPUTED, *statuses}),
            **_for([_ENCODING, _VARIANT, *parameters], guarded=True),
        }
    }


def operation_id(verb: str, path: str) -> str:
    """A name for it that is one word."""
    return "_".join([verb, *re.findall(r"[A-Za-z0-9_-]+", path)])


def record(required: Iterable[str] = (), **properties: Any) -> dict[str, Any]:
    """An object with these properties, of which some, or without a word all, are there."""
    return {"type": "object", "required": list(required) or list(properties), "properties": properties}


_FOOTPRINT = {name: {"schema": TEXT} for name in ("Eco-Footprint", "Eco-Cache", "ETag")}
_OR_NULL = {"type": ["number", "null"], "minimum": 0}
FOOTPRINT = record(
    energy_joules=NUMBER,
    energy_kwh=NUMBER,
    avg_power_watts=NUMBER,
    duration_seconds=NUMBER,
    attribution_method=TEXT,
    carbon_g_co2eq=_OR_NULL,
    nature={"enum": ["measured", "modelled", "assumed"]},
    boundary={"const": "operational"},
    grid_zone=TEXT,
    intensity_gco2e_per_kwh=_OR_NULL,
)


def _responses(good: Mapping[str, Any], statuses: Iterable[int]) -> dict[str, Any]:
    found: dict[str, Any] = {"200": good}
    for status in sorted(statuses):
        problem = {"$ref": f"#/components/responses/Problem{status}"}
        found[str(status)] = problem if status >= 400 else {"description": _MEANINGS[status], "headers": _EACH}
    return found


def _zoned(responses: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {**one, "headers": {**one["headers"], **_ZONE}} if "headers" in one else one
        for name, one in responses.items()
    }


def _for(parameters: Iterable[Mapping[str, Any]], guarded: bool) -> dict[str, Any]:
    """Parameters, and who may ask: where a service is on loopback only, nobody needs a key."""
    if guarded:
        return {"parameters": [*parameters, _TENANT], "security": [{}, {"bearer": []}, {"key": []}]}
    return {"parameters": list(parameters)} if parameters else {}
