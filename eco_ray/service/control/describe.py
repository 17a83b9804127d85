"""The OpenAPI 3.1 document of the control API, made of its routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from eco_ray.api_model import BASE, EVENTS
from eco_ray.service import openapi
from eco_ray.service.control.route import Good, Route, is_model

OPENAPI = f"{BASE}/openapi.json"
#: the body of a request is read
_BODY = (408, 413, 415)
_MEANINGS: Mapping[int, str] = {
    409: "It cannot be done as things stand: the key was used for another job, or the job is in no state for it",
    422: "No plan can meet what the job asks for: deadline, capacity, zones or budget",
}
_REF = "#/components/schemas/{model}"


def document(routes: Iterable[Route], others: Mapping[str, Any]) -> dict[str, Any]:
    """The whole of it; `others`: paths that are answered beside the routes."""
    paths: dict[str, dict[str, Any]] = dict(others)
    schemas: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    paths[OPENAPI] = openapi.read(OPENAPI, {"type": "object"}, 304)
    made = openapi.document("control", paths, schemas)
    responses = made["components"]["responses"]
    for status, meaning in _MEANINGS.items():
        responses[f"Problem{status}"] = {**responses["Problem400"], "description": meaning}
    return made


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    parts = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, "maxLength": 200}}
        for name in route.pattern.groupindex
    ]
    headers = [
        {"name": name, "in": "header", "description": words, "schema": {"type": "string", "pattern": pattern}}
        for name, words, pattern in route.reads
    ]
    parameters = [*parts, *(one.describe() for one in route.parameters), *headers]
    statuses = {*route.problems, 503, *(_BODY if route.body else ())}
    told: dict[str, Any] = openapi.read(route.path, {}, *statuses, guarded=True, parameters=parameters)["get"]
    each = told["responses"].pop("200")["headers"]
    good = {str(status): _good(one, each, schemas) for status, one in sorted(route.good.items())}
    method = route.method.lower()
    found = {
        **told,
        "operationId": openapi.operation_id(method, route.path),
        "summary": route.summary,
        "description": f"Needs a key with the scope `{route.scope}`, unless the service is on loopback without keys.",
        "responses": {**good, **told["responses"]},
    }
    if route.body:
        content = {"schema": route.body.schema, "example": route.body.example}
        found["requestBody"] = {"required": route.body.required, "content": {"application/json": content}}
    return found


def _good(one: Good, each: Mapping[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    named = {
        name: {"description": words, "schema": {"type": "string"}, "required": name == "Location"}
        for name, words in one.headers.items()
    }
    found: dict[str, Any] = {"description": one.description, "headers": {**each, **named}}
    if one.model is None:
        return found
    schema = _schema(one.model, schemas)
    if one.media != "application/json":
        return {**found, "content": {one.media: {"schema": _event(schema)}}}
    return {**found, "content": {one.media: {"schema": schema, "example": one.example}}}


def _event(data: Mapping[str, Any]) -> dict[str, Any]:
    """Of each event of a stream; one named `problem` has a problem as its data."""
    either = {"anyOf": [data, {"$ref": "#/components/schemas/Problem"}, {"type": "object"}]}
    text = {"type": "string"}
    content = {"contentMediaType": "application/json", "contentSchema": either}
    return {
        "type": "object",
        "required": ["event", "data"],
        "properties": {"id": text, "event": {"enum": list(EVENTS)}, "data": {**text, **content}},
    }


def _schema(model: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if not is_model(model):
        return {"type": "array", "items": _schema(get_args(model)[0], schemas)}
    kind: type[BaseModel] = model
    made = kind.model_json_schema(ref_template=_REF, mode="serialization")
    schemas.update(made.pop("$defs", {}))
    schemas[kind.__name__] = made
    return {"$ref": _REF.format(model=kind.__name__)}
