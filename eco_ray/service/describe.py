"""What a service says of itself: metadata of the V2 protocol, the OpenAI list of models, and an OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eco_ray import __version__
from eco_ray.core.ports import Runtime
from eco_ray.core.tensors import Tensor
from eco_ray.service import describe_openai
from eco_ray.service.limits import Limits
from eco_ray.service.v2 import MAX_ID_CHARACTERS

SERVER = {"name": "eco_ray", "version": __version__, "extensions": ["eco_footprint", "binary_tensor_data"]}
_NUMBER = {"type": "number"}
_ITEMS: Mapping[str, dict[str, Any]] = {
    "BOOL": {"type": "boolean"},
    "BYTES": {"type": "string"},
    **dict.fromkeys(("FP16", "BF16", "FP32", "FP64"), _NUMBER),
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "error"],
    "properties": {
        **{name: {"type": "string"} for name in ("type", "title", "detail")},
        "status": {"type": "integer"},
        # of the V2 protocol, and of the OpenAI API
        "error": {"anyOf": [{"type": "string"}, {"type": "object"}]},
    },
}
_V2_GOOD = {
    "description": "The outputs, with the footprint of this request in `parameters`",
    "headers": {name: {"schema": {"type": "string"}} for name in ("Eco-Footprint", "Eco-Cache", "ETag")},
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Answer"}},
        "application/octet-stream": {},
    },
}
_V2_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Request"}},
        "application/octet-stream": {},
    },
}


def model(runtime: Runtime) -> dict[str, Any]:
    """Metadata of the model."""
    plain = {key: value for key, value in runtime.metadata.items() if isinstance(value, str | int | float | bool)}
    return {
        "name": runtime.name,
        "versions": [str(runtime.version)],
        "platform": runtime.platform,
        "inputs": [_tensor(tensor) for tensor in runtime.inputs],
        "outputs": [_tensor(tensor) for tensor in runtime.outputs],
        "parameters": plain,
    }


def openai_id(name: str) -> dict[str, Any]:
    """A model as the OpenAI API lists it; when it was made is not known here."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "eco_ray"}


def openapi(runtime: Runtime, limits: Limits, posts: Iterable[str], gets: Iterable[str]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the service, with these paths."""
    return _document(
        f"{runtime.name}, version {runtime.version}",
        {**_read(gets), **{path: {"post": _computed(path, limits)} for path in posts}},
        _schemas(runtime, limits),
    )


def router(posts: Iterable[str], limits: Limits) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the address that all models share."""
    paths = {path: {"post": _computed(path, limits)} for path in posts}
    gets = ("/v1/models", "/livez", "/readyz", "/metrics", "/openapi.json")
    return _document("all models", {**_read(gets), **paths}, {"Problem": _PROBLEM})


def _document(title: str, paths: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    info = {"title": title, "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _read(paths: Iterable[str]) -> dict[str, Any]:
    return {
        path: {"get": {"operationId": _operation("get", path), "responses": _responses({"description": "As asked"})}}
        for path in paths
    }


def _computed(path: str, limits: Limits) -> dict[str, Any]:
    if path.endswith(("/infer", "/explain")):
        verb, body, good = path.rpartition("/")[2], _V2_BODY, _V2_GOOD
    else:
        told = describe_openai.operation(path, limits)
        verb, body, good = "post", told["requestBody"], told["good"]
    responses = _responses(good)
    if not path.endswith("completions"):
        responses["304"] = {"description": "If-None-Match names this answer"}
    return {"operationId": _operation(verb, path), "requestBody": body, "responses": responses}


def _responses(good: Mapping[str, Any]) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"200": good, "default": {"description": "A problem, with value, limit and cure", "content": problem}}


def _schemas(runtime: Runtime, limits: Limits) -> dict[str, Any]:
    text = {"type": "string"}
    parameters = {"type": "object"}
    return {
        "Problem": _PROBLEM,
        "Request": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {**text, "maxLength": MAX_ID_CHARACTERS},
                "parameters": {
                    "type": "object",
                    "properties": {
                        "binary_data_output": {"type": "boolean"},
                        "target": {"type": "integer", "minimum": 0, "description": "of /explain: the class"},
                    },
                },
                "inputs": {
                    "type": "array",
                    "minItems": len(runtime.inputs),
                    "maxItems": len(runtime.inputs),
                    "items": {"anyOf": [_input(tensor, limits) for tensor in runtime.inputs]},
                },
                "outputs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {
                            "name": {"enum": [tensor.name for tensor in runtime.outputs]},
                            "parameters": {
                                "type": "object",
                                "properties": {"binary_data": {"type": "boolean"}},
                                "additionalProperties": False,
                            },
                        },
                    },
                },
            },
        },
        "Answer": {
            "type": "object",
            "required": ["model_name", "model_version", "outputs", "parameters"],
            "properties": {
                "model_name": text,
                "model_version": text,
                "id": text,
                "outputs": {"type": "array", "items": {"type": "object"}},
                "parameters": {
                    "type": "object",
                    "required": ["footprint"],
                    "properties": {"footprint": parameters},
                },
            },
        },
    }


def _input(tensor: Tensor, limits: Limits) -> dict[str, Any]:
    sizes = {"type": "integer", "minimum": 0, "maximum": limits.elements}
    return {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"const": tensor.name},
            "datatype": {"enum": list(tensor.datatypes)},
            "shape": {"type": "array", "items": sizes, "minItems": min(map(len, tensor.shapes))},
            "data": {"type": "array", "items": _ITEMS.get(tensor.datatype, {"type": "integer"})},
        },
    }


def _operation(verb: str, path: str) -> str:
    return "_".join([verb, *(part for part in path.replace(".", "_").split("/") if part)])


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
