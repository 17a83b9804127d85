"""The V2 inference protocol of a model in an OpenAPI document: requests, with one to try, and answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from eco_ray.core.ports import Runtime
from eco_ray.core.tensors import Tensor
from eco_ray.service.limits import Limits
from eco_ray.service.openapi import COUNT, FLAG, NUMBER, TEXT, computed, record
from eco_ray.service.v2 import MAX_ID_CHARACTERS
from eco_ray.service.values import DTYPES

#: an example with more elements is not shown
_MOST_ELEMENTS = 4096
_OTHERS: Mapping[str, Mapping[str, Any]] = {
    "BOOL": FLAG,
    "BYTES": TEXT,
    **dict.fromkeys(("FP16", "BF16", "FP32", "FP64"), NUMBER),
}
_HEAD_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of the JSON at the beginning, where binary tensors follow it",
    "schema": {"type": "integer", "minimum": 1},
}


def posted(path: str, runtime: Runtime) -> dict[str, Any]:
    """An inference, or the question why."""
    request: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Request"}}
    if (example := _example(runtime)) is not None:
        request["examples"] = {"zeros": {"value": example}}
    body = {"application/json": request, "application/octet-stream": {}}
    good = {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}, "application/octet-stream": {}}
    return computed(path, body, good, 304, 422, parameters=[_HEAD_LENGTH])


def schemas(runtime: Runtime, limits: Limits) -> dict[str, Any]:
    """Of requests and answers."""
    flag = {"type": ["boolean", "null"]}
    binary = {"type": "object", "properties": {"binary_data": flag}, "additionalProperties": False}
    wanted = {"enum": [tensor.name for tensor in runtime.outputs]}
    parameters = {
        "binary_data_output": flag,
        "target": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": (1 << 31) - 1,
            "description": "of /explain: the class",
        },
    }
    number = len(runtime.inputs)
    inputs = {"anyOf": [one for tensor in runtime.inputs for one in _inputs(tensor, limits)]}
    output = record(
        ("name", "datatype", "shape"),
        name=TEXT,
        datatype={"enum": list(DTYPES)},
        shape={"type": "array", "items": COUNT},
        data={"type": "array"},
        parameters=record(binary_data_size=COUNT),
    )
    return {
        "Request": record(
            ("inputs",),
            id={**TEXT, "maxLength": MAX_ID_CHARACTERS},
            parameters={"type": "object", "properties": parameters},
            inputs={"type": "array", "minItems": number, "maxItems": number, "items": inputs},
            outputs={"type": ["array", "null"], "items": record(("name",), name=wanted, parameters=binary)},
        ),
        "Answer": record(
            ("model_name", "model_version", "outputs", "parameters"),
            model_name={"const": runtime.name},
            model_version={**TEXT, "pattern": "^[1-9][0-9]*$"},  # the one beside it may have answered
            id=TEXT,
            outputs={"type": "array", "items": output},
            parameters=record(footprint={"$ref": "#/components/schemas/Footprint"}),
        ),
    }


def _inputs(tensor: Tensor, limits: Limits) -> list[dict[str, Any]]:
    """One for each datatype and shape that it may have."""
    size = {"type": "object", "properties": {"binary_data_size": COUNT}, "additionalProperties": False}
    return [
        record(
            ("name", "datatype", "shape"),
            name={"const": tensor.name},
            datatype={"const": datatype},
            shape=_shape(shape, limits),
            # flat, or nested as the shape says
            data={"type": "array", "items": {"anyOf": [_item(datatype), {"type": "array"}]}},
            parameters=size,
        )
        for datatype in tensor.datatypes
        for shape in tensor.shapes
    ]


def _shape(shape: tuple[int, ...], limits: Limits) -> dict[str, Any]:
    most = [limits.batch if at == 0 else limits.elements for at in range(len(shape))]
    sizes = [
        {"type": "integer", "minimum": 1, "maximum": most[at]} if size == -1 else {"const": size}
        for at, size in enumerate(shape)
    ]
    bounds = {"type": "array", "minItems": len(shape), "maxItems": len(shape)}
    return {**bounds, "prefixItems": sizes} if sizes else bounds


def _item(datatype: str) -> Mapping[str, Any]:
    if datatype in _OTHERS:
        return _OTHERS[datatype]
    info = np.iinfo(DTYPES[datatype])
    return {"type": "integer", "minimum": int(info.min), "maximum": int(info.max)}


def _example(runtime: Runtime) -> dict[str, Any] | None:
    inputs = []
    for tensor in runtime.inputs:
        shape = [1 if size == -1 else size for size in tensor.shape]
        if math.prod(shape) > _MOST_ELEMENTS:
            return None
        zero: Any = {"BYTES": "Hello", "BOOL": False}.get(tensor.datatype, 0)
        data = [zero] * math.prod(shape)
        inputs.append({"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": data})
    return {"inputs": inputs}
