"""Requests and answers of the V2 inference protocol: JSON, and JSON followed by binary tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from pydantic_core import to_json as write_json

from eco_ray.core.footprint import Footprint
from eco_ray.core.ports import Arrays, Explains, Runtime
from eco_ray.core.tensors import Tensor
from eco_ray.service import values
from eco_ray.service.body import json_object
from eco_ray.service.form import Form, Request, Wanted
from eco_ray.service.http import HEAD_LENGTH, JSON, OCTETS, Answer, Headers
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Problem, shown

#: of a request's id
MAX_ID_CHARACTERS = 128


class Written(NamedTuple):
    """The body of an answer."""

    body: bytes
    #: length of the JSON before binary tensors; None: it is all JSON
    head_bytes: int | None


def infer(runtime: Runtime, limits: Limits) -> Form:
    """The form of an inference."""

    def parse(body: bytes, headers: Headers) -> Request:
        return parse_request(body, headers.get(HEAD_LENGTH), runtime, limits)

    return Form("v2", parse, partial(_answer, runtime))


def explain(runtime: Runtime, limits: Limits) -> Form | None:
    """The form of a question why; None: the model does not know."""
    if not isinstance(runtime, Explains):
        return None
    explained = tuple(Tensor(tensor.name, "FP32", tensor.shape) for tensor in runtime.inputs)

    def parse(body: bytes, headers: Headers) -> Request:
        request = parse_request(body, headers.get(HEAD_LENGTH), runtime, limits, explained)
        target = request.parameters.get("target")
        if target is not None and (type(target) is not int or not 0 <= target < 1 << 31):
            detail = f"target is {shown(target)}; use the number of a class, from 0, or leave it out"
            raise Problem(400, "wrong parameters", detail)
        compute = partial(runtime.explain, target=target)
        return request._replace(compute=compute, what=f"explain {target}")

    def write(request: Request, arrays: Arrays, footprint: Footprint) -> Answer:
        found = tuple(wanted for wanted in request.outputs if wanted.tensor.name in arrays)
        return _answer(runtime, request._replace(outputs=found), arrays, footprint)

    return Form("v2 explain", parse, write, quick=False)


def _answer(runtime: Runtime, request: Request, arrays: Arrays, footprint: Footprint) -> Answer:
    body, head_bytes = write_answer(runtime, request, arrays, {"footprint": footprint.to_json()})
    if head_bytes is None:
        return Answer(200, [JSON], body)
    return Answer(200, [OCTETS, (HEAD_LENGTH, b"%d" % head_bytes)], body)


def parse_request(
    body: bytes, head_length: bytes | None, runtime: Runtime, limits: Limits, outputs: Sequence[Tensor] | None = None
) -> Request:
    """A request from its body; `head_length` is the header of that name. Raises Problem.

    `outputs`: what may be asked for; None: the runtime's.
    """
    head_bytes = _head_bytes(head_length, len(body))
    head = body if head_bytes is None else body[:head_bytes]
    content = json_object(head, limits, "a V2 inference request")
    tensors = content.get("inputs")
    if not isinstance(tensors, list):
        raise Problem(400, "no inputs", "the body has no list `inputs`; send a V2 inference request")
    rest = memoryview(body)[len(head) :]
    specs = {tensor.name: tensor for tensor in runtime.inputs}
    inputs: dict[str, values.Array] = {}
    datatypes: dict[str, str] = {}
    for told in tensors:
        spec = _spec(told, specs, inputs, "input")
        datatypes[spec.name] = datatype = _datatype(told, spec)
        shape = _shape(told, spec, limits)
        size = _parameters(told, "binary_data_size")
        if size is None:
            inputs[spec.name] = values.from_json(
                spec.name, datatype, shape, told.get("data"), nonfinite=limits.allow_nonfinite
            )
            continue
        if type(size) is not int or not 0 <= size <= len(rest) or "data" in told:
            detail = f"binary_data_size {shown(size)} of '{spec.name}'; {len(rest)} bytes are left after the JSON"
            raise Problem(400, "wrong data", f"{detail}: send either `data` or as many bytes as it says")
        inputs[spec.name] = values.from_bytes(spec.name, datatype, shape, rest[:size], nonfinite=limits.allow_nonfinite)
        rest = rest[size:]
    if missing := specs.keys() - inputs.keys():
        raise Problem(400, "no input", f"no input named {shown(sorted(missing)[0])}; {_describes(runtime)}")
    if len(rest):
        raise Problem(400, "wrong data", f"{len(rest)} bytes after the last binary tensor; leave them out")
    first = runtime.inputs[0]
    rows = int(inputs[first.name].shape[0]) if first.shape[:1] == (-1,) else 1
    parameters = content.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Problem(400, "wrong parameters", f"parameters is {shown(parameters)}; send an object or leave it out")
    wanted = _outputs(content, parameters, runtime.outputs if outputs is None else outputs)
    return Request(_id(content), inputs, datatypes, wanted, rows, parameters=parameters)


def write_answer(runtime: Runtime, request: Request, arrays: Arrays, parameters: Mapping[str, Any]) -> Written:
    """The body of an answer with the outputs that are wanted."""
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for tensor, binary in request.outputs:
        array = arrays[tensor.name]
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(array.shape)}
        outputs.append(told)
        if binary:
            blobs.append(values.to_bytes(tensor.datatype, array))
            told["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            told["data"] = values.to_json(tensor.name, tensor.datatype, array)
    content: dict[str, Any] = {
        "model_name": runtime.name,
        "model_version": str(runtime.version),
        "outputs": outputs,
        "parameters": parameters,
    }
    if request.id is not None:
        content["id"] = request.id
    head = write_json(content)
    return Written(b"".join([head, *blobs]), len(head)) if blobs else Written(head, None)


def _head_bytes(told: bytes | None, body_bytes: int) -> int | None:
    if told is None:
        return None
    if not told.isdigit() or len(told) > 18 or not 0 < int(told) <= body_bytes:
        detail = f"Inference-Header-Content-Length is {shown(told.decode('latin-1'))}; the body has {body_bytes} bytes"
        raise Problem(400, "wrong header", f"{detail}: give the length of the JSON at its beginning")
    return int(told)


def _spec(told: object, specs: Mapping[str, Tensor], seen: Mapping[str, Any], what: str) -> Tensor:
    name = told.get("name") if isinstance(told, dict) else told
    spec = specs.get(name) if isinstance(told, dict) and isinstance(name, str) else None
    if spec is None:
        names = ", ".join(map(repr, specs))
        raise Problem(400, f"no such {what}", f"{shown(name)} is no {what} of the model; it has {names}")
    if spec.name in seen:
        raise Problem(400, f"no such {what}", f"{what} {spec.name!r} is there twice; send it once")
    return spec


def _datatype(told: Mapping[str, Any], spec: Tensor) -> str:
    datatype = told.get("datatype")
    if datatype not in spec.datatypes:
        detail = f"datatype {shown(datatype)} of {spec.name!r}; use {' or '.join(spec.datatypes)}"
        raise Problem(400, "wrong datatype", detail)
    return str(datatype)


def _shape(told: Mapping[str, Any], spec: Tensor, limits: Limits) -> tuple[int, ...]:
    shape = told.get("shape")
    if isinstance(shape, list) and all(type(size) is int for size in shape):
        for wanted in spec.shapes:
            if len(shape) == len(wanted) and all(map(_fits, shape, wanted)) and _is_batch(shape, wanted, limits):
                if math.prod(shape) > limits.elements:
                    detail = f"shape {shown(shape)} of {spec.name!r} has more than {limits.elements} elements"
                    raise Problem(413, "request too large", f"{detail}; send it in parts")
                return tuple(shape)
    wanted_words = " or ".join(_words(wanted) for wanted in spec.shapes)
    batch = f" with N from 1 to {limits.batch}" if any(wanted[:1] == (-1,) for wanted in spec.shapes) else ""
    raise Problem(400, "wrong shape", f"shape {shown(shape)} of {spec.name!r}; use {wanted_words}{batch}")


def _fits(size: int, wanted: int) -> bool:
    return size >= 1 if wanted == -1 else size == wanted


def _is_batch(shape: Sequence[int], wanted: Sequence[int], limits: Limits) -> bool:
    return wanted[:1] != (-1,) or shape[0] <= limits.batch


def _words(shape: Sequence[int]) -> str:
    sizes = [("N" if at == 0 else "any") if size == -1 else str(size) for at, size in enumerate(shape)]
    return f"[{', '.join(sizes)}]"


def _parameters(told: Mapping[str, Any], known: str) -> Any:
    """The one parameter that a tensor may have; None: it has none."""
    parameters = told.get("parameters", {})
    if not isinstance(parameters, dict) or parameters.keys() - {known}:
        detail = f"parameters {shown(parameters)} of a tensor; {known} alone is known here: leave the others out"
        raise Problem(400, "unknown parameter", detail)
    return parameters.get(known)


def _outputs(content: Mapping[str, Any], parameters: Mapping[str, Any], known: Sequence[Tensor]) -> tuple[Wanted, ...]:
    binary = _flag(parameters.get("binary_data_output"), "binary_data_output", False)
    outputs = content.get("outputs")
    if not outputs and (outputs is None or isinstance(outputs, list)):
        return tuple(Wanted(tensor, binary) for tensor in known)
    if not isinstance(outputs, list):
        raise Problem(400, "wrong outputs", f"outputs is {shown(outputs)}; send a list of outputs or leave it out")
    specs = {tensor.name: tensor for tensor in known}
    wanted: dict[str, Wanted] = {}
    for told in outputs:
        spec = _spec(told, specs, wanted, "output")
        wanted[spec.name] = Wanted(spec, _flag(_parameters(told, "binary_data"), "binary_data", binary))
    return tuple(wanted.values())


def _flag(told: object, name: str, default: bool) -> bool:
    if told is None:
        return default
    if not isinstance(told, bool):
        raise Problem(400, "wrong parameters", f"{name} is {shown(told)}; use true or false")
    return told


def _id(content: Mapping[str, Any]) -> str | None:
    if "id" not in content:
        return None
    told = content["id"]
    if not isinstance(told, str) or len(told) > MAX_ID_CHARACTERS:
        detail = f"id is {shown(told)}; use a string of at most {MAX_ID_CHARACTERS} characters, or leave it out"
        raise Problem(400, "wrong id", detail)
    return told


def _describes(runtime: Runtime) -> str:
    return f"/v2/models/{runtime.name} describes the inputs"
