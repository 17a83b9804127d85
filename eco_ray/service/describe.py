"""What a service says of itself: metadata of the V2 protocol, the OpenAI list of models, and OpenAPI documents."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from eco_ray import __version__
from eco_ray.core.ports import Runtime
from eco_ray.core.tensors import Tensor
from eco_ray.service import describe_openai, describe_v2
from eco_ray.service.limits import Limits
from eco_ray.service.openapi import FLAG, FOOTPRINT, NUMBER, TEXT, document, read, record

SERVER = {"name": "eco_ray", "version": __version__, "extensions": ["eco_footprint", "binary_tensor_data"]}
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
#: what a model of the router may be called
REFERENCE = f"({_NAME})(?:[:@][A-Za-z0-9._-]{{1,100}})?"
_SERVER = record(name=TEXT, version=TEXT, extensions={"type": "array", "items": TEXT})
_OBJECT = {"type": "object"}
_LISTED, _LIST = ({"$ref": f"#/components/schemas/{name}"} for name in ("Listed", "List"))
_TENSOR = record(name=TEXT, datatype=TEXT, shape={"type": "array", "items": {"type": "integer", "minimum": -1}})
_TENSORS = {"type": "array", "items": _TENSOR}
_MODEL = record(
    name=TEXT,
    versions={"type": "array", "items": TEXT},
    platform=TEXT,
    inputs=_TENSORS,
    outputs=_TENSORS,
    parameters=_OBJECT,
)
#: what is read at a path, and whether a key is asked for
_PAGES: tuple[tuple[str, dict[str, Any], bool], ...] = (
    (".*/v1/models/[^/]+", _LISTED, True),
    (".*/v1/models", _LIST, True),
    ("/v2/models/[^/]+(/versions/[^/]+)?", _MODEL, True),
    (".*/(live|livez)", record(live=FLAG), False),
    (".*/(ready|readyz)", record(("ready",), name=TEXT, ready=FLAG), False),
    ("/v2", _SERVER, False),
)


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
    """The OpenAPI 3.1 document of a model's service, with these paths."""
    name = runtime.name
    served = {"anyOf": [{"enum": [name, f"{name}:{runtime.version}"]}, {**TEXT, "pattern": f"^{re.escape(name)}@"}]}
    paths = {path: _page(path) for path in gets}
    for path in posts:
        if path.endswith(("/infer", "/explain")):
            paths[path] = describe_v2.posted(path, runtime)
        else:
            paths[path] = describe_openai.posted(path, limits, served, name)
    schemas = {"Footprint": FOOTPRINT, **describe_openai.schemas(), **describe_v2.schemas(runtime, limits)}
    return document(f"{name}, version {runtime.version}", paths, schemas)


def router(posts: Iterable[str], limits: Limits) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the address that all models share; `posts`: below `/v1`."""
    named = {**TEXT, "pattern": f"^{REFERENCE}$"}
    one = {"name": "model", "in": "path", "required": True, "example": "NAME"}
    by_name, by_reference = ({**one, "schema": {**TEXT, "pattern": f"^{word}$"}} for word in (_NAME, REFERENCE))
    paths = {path: _page(path) for path in ("/v2", "/v2/health/live", "/v2/health/ready")}
    paths |= {path: _page(path) for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/v1/models")}
    models = "/v1/models/{model}"
    paths[models] = read(models, _LISTED, 404, guarded=True, parameters=[by_reference])
    for path in posts:
        own = f"/models/{{model}}{path}"
        paths[path] = describe_openai.posted(path, limits, named, "NAME")
        paths[own] = describe_openai.posted(own, limits, named, "NAME", parameters=[by_name])
    return document("all models", paths, {"Footprint": FOOTPRINT, **describe_openai.schemas()})


def usage(prefix: str, own: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document, at the path `own`, of what tells what a request cost."""
    path = f"{prefix}{{request_id}}"
    number = {"type": ["number", "null"], "minimum": 0}
    text = {"type": ["string", "null"]}
    time = {**TEXT, "format": "date-time"}
    cost = record(
        request_id=TEXT,
        model=TEXT,
        state={"enum": ["estimate", "settled", "unknown"]},
        reason=text,
        **dict.fromkeys(("energy_joules", "energy_kwh", "carbon_g_co2eq", "intensity_gco2e_per_kwh"), number),
        **dict.fromkeys(("nature", "source", "attribution_method", "grid_zone"), text),
        boundary={"const": "operational"},
        interval={"anyOf": [record(start=time, end=time), {"type": "null"}]},
        estimate=record(energy_joules=NUMBER, carbon_g_co2eq=number),
    )
    # with `/` too, which a path of OpenAPI cannot say
    told = {"name": "request_id", "in": "path", "required": True}
    told["schema"] = {**TEXT, "pattern": "^[A-Za-z0-9._~:+=-]{1,128}$"}
    paths = {path: read(path, cost, 304, 404, 503, guarded=True, parameters=[told]), own: read(own, _OBJECT, 304)}
    return document("usage", paths, {})


def _page(path: str) -> dict[str, Any]:
    """What is read at a path."""
    for pattern, schema, guarded in _PAGES:
        if re.fullmatch(pattern, path):
            return read(path, schema, *((304, 503) if "ready" in path else (304,)), guarded=guarded)
    return read(path, TEXT, media="text/plain") if path.endswith("/metrics") else read(path, _OBJECT, 304)


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
