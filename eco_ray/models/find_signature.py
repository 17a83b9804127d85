"""The signature that a model's file tells by itself. Names and headers are looked at; nothing of the file is run.

| format | where it stands |
|---|---|
| pt2 | JSON of the graph, read without torch, whose own loader may unpickle and evaluate (pt2.py) |
| safetensors | the architecture that eco_ray wrote into the header; other files hold weights alone |
| onnx | inputs and outputs of the graph, read with package onnx (extra `onnx`), which runs nothing |

Whatever a file holds, the answer is a signature or a reason why there is none.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from eco_ray.errors import EcoRayError
from eco_ray.models.pt2 import read_graph
from eco_ray.models.signature import Datatype, Signature, TensorSpec, parse_signature

#: architecture of weights.ARCHITECTURES -> what goes in and what comes out, named as the ONNX export names it
SIGNATURES = {
    "small-cnn": Signature(
        inputs=(TensorSpec(name="pixels", datatype="FP32", shape=(-1, 1, 28, 28)),),
        outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),),
        labels=tuple("0123456789"),
        kind="image-classifier",
    )
}
#: of a file whose tokenizer is in it; named as Triton's language models name them
TEXT_GENERATION = Signature(
    inputs=(TensorSpec(name="text_input", datatype="BYTES", shape=(1,)),),
    outputs=(TensorSpec(name="text_output", datatype="BYTES", shape=(1,)),),
    kind="text-generation",
)
#: a larger .onnx is not parsed: package onnx would hold its weights in memory
MAX_ONNX_BYTES = 256 << 20
#: of a safetensors header, as package safetensors limits it
MAX_HEADER_BYTES = 100_000_000
_OURS = "eco_ray.weights/"
_CURE = "describe inputs and outputs with --signature FILE"

#: ScalarType of torch/_export/serde/schema.py; complex and eight-bit floats have no name in the protocol
_PT2_TYPES: dict[Any, Datatype] = {
    1: "UINT8", 2: "INT8", 3: "INT16", 4: "INT32", 5: "INT64", 6: "FP16", 7: "FP32", 8: "FP64", 12: "BOOL",
    13: "BF16", 28: "UINT16", 34: "UINT32", 35: "UINT64",
}  # fmt: skip
#: TensorProto.DataType of onnx.proto
_ONNX_TYPES: dict[int, Datatype] = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip


def embedding_signature(size: int) -> Signature:
    """Texts in; for each a vector, and how many tokens of it were computed."""
    return Signature(
        inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
        outputs=(
            TensorSpec(name="embedding", datatype="FP32", shape=(-1, size)),
            TensorSpec(name="tokens", datatype="INT64", shape=(-1,)),
        ),
        kind="embedding",
    )


class Found(NamedTuple):
    """A signature, or why there is none."""

    signature: Signature | None
    why: str = ""


def find_signature(path: Path, kind: str) -> Found:
    """The signature of a file of one of the registry's formats, as far as the file tells it."""
    try:
        return Found(_FINDERS[kind](path)) if kind in _FINDERS else Found(None, f"a {kind} tells nothing; {_CURE}")
    except EcoRayError as error:
        return Found(None, f"{error}; {_CURE}")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OSError, RecursionError) as error:
        return Found(None, f"{path.name} tells it in no known way ({type(error).__name__}); {_CURE}")


def architecture_of(path: Path) -> str:
    """The architecture in the header of a safetensors file that eco_ray wrote; its tensors are not read.

    Raises EcoRayError for another file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            raise EcoRayError(f"{path.name} has a header of {length} bytes, limit {MAX_HEADER_BYTES}")
        with safe_open(path, framework="np") as opened:
            header: dict[str, str] = opened.metadata() or {}
    except (OSError, struct.error, SafetensorError) as error:
        raise EcoRayError(f"{path.name} is no safetensors file: {' '.join(str(error).split())[:100]}") from None
    if not header.get("format", "").startswith(_OURS):
        raise EcoRayError(f"{path.name} holds weights alone, not the architecture that they belong to")
    return header.get("architecture", "")


def _of_safetensors(path: Path) -> Signature:
    architecture = architecture_of(path)
    if architecture not in SIGNATURES:
        raise EcoRayError(f"{path.name} is of the unknown architecture {architecture[:80]!r}")
    return SIGNATURES[architecture]


def _of_pt2(path: Path) -> Signature:
    module = read_graph(path)["graph_module"]
    values = module["graph"]["tensor_values"]
    ends = module["signature"]
    return _signature(
        [_pt2_spec(spec["user_input"]["arg"], values) for spec in ends["input_specs"] if "user_input" in spec],
        [_pt2_spec(spec["user_output"]["arg"], values) for spec in ends["output_specs"] if "user_output" in spec],
        path,
    )


def _pt2_spec(argument: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    if "as_tensor" not in argument:
        raise EcoRayError("an input or output is no tensor")
    name = argument["as_tensor"]["name"]
    sizes = [size.get("as_int", -1) for size in values[name]["sizes"]]
    return {"name": name, "datatype": _datatype(name, values[name]["dtype"], _PT2_TYPES), "shape": sizes}


def _of_onnx(path: Path) -> Signature:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise EcoRayError("reading it needs: pip install 'eco-ray[onnx]'") from None
    if (size := path.stat().st_size) > MAX_ONNX_BYTES:
        raise EcoRayError(f"{path.name} has {size} bytes; above {MAX_ONNX_BYTES} it is not read for its signature")
    try:
        graph = onnx.ModelProto.FromString(path.read_bytes()).graph
    except DecodeError:
        raise EcoRayError(f"{path.name} is no ONNX file") from None
    weights = {weight.name for weight in graph.initializer}  # the older format lists them among the inputs
    return _signature(
        [_onnx_spec(one) for one in graph.input if one.name not in weights], map(_onnx_spec, graph.output), path
    )


def _onnx_spec(value: Any) -> dict[str, Any]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise EcoRayError(f"{value.name[:80]!r} has no shape")
    sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim]
    return {"name": value.name, "datatype": _datatype(value.name, tensor.elem_type, _ONNX_TYPES), "shape": sizes}


def _datatype(name: str, code: int, types: Mapping[int, Datatype]) -> Datatype:
    if code not in types:
        raise EcoRayError(f"{name[:80]!r} has the element type {code!r}, which the V2 protocol does not know")
    return types[code]


def _signature(inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]], path: Path) -> Signature:
    return parse_signature({"inputs": list(inputs), "outputs": list(outputs)}, path.name)


_FINDERS: dict[str, Callable[[Path], Signature]] = {
    "pt2": _of_pt2,
    "safetensors": _of_safetensors,
    "onnx": _of_onnx,
    "gguf": lambda _path: TEXT_GENERATION,
}
