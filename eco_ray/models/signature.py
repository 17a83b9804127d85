"""What goes into a model and what comes out: names, datatypes and shapes as the V2 inference protocol tells them.

https://github.com/kserve/open-inference-protocol: `inputs` and `outputs` are the lists of the same names in its model
metadata, so a service answers with them as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from eco_ray.errors import UsageError
from eco_ray.json_file import read_json
from eco_ray.schema import Strict, check

#: of the protocol, and BF16
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]  # fmt: skip
DATATYPES: tuple[Datatype, ...] = get_args(Datatype)
FLOATS = ("FP16", "BF16", "FP32", "FP64")
#: what a model is for; empty: not known
Kind = Literal["", "classifier", "image-classifier", "embedding", "text-generation"]
#: of all labels together, so that a manifest stays below its limit even where each becomes six bytes of JSON
MAX_LABEL_CHARACTERS = 100_000
MAX_FILE_BYTES = 1 << 20


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r} holds characters that cannot be printed; leave them out")
    return text


def _size(size: int) -> int:
    if size == 0:
        raise ValueError("0 is no size; give 1 or more, or -1 for any")
    return size


_Text = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
_Size = Annotated[int, Field(strict=True, ge=-1, le=2**31 - 1), AfterValidator(_size)]


class TensorSpec(Strict):
    """One input or output."""

    name: _Text
    datatype: Datatype
    #: -1: any size
    shape: tuple[_Size, ...] = Field(max_length=8)


class Signature(Strict):
    """Inputs and outputs of a model."""

    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=64)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=64)
    #: names of the classes, in the order of an output's last dimension; two may be alike
    labels: tuple[_Text, ...] = Field(default=(), max_length=10_000)
    kind: Kind = ""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for what, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            if len(set(names)) < len(names):
                raise ValueError(f"{max(names, key=names.count)!r} is the name of two {what}; rename one")
        characters = sum(map(len, self.labels))
        if characters > MAX_LABEL_CHARACTERS:
            raise ValueError(f"{characters} characters of labels are above {MAX_LABEL_CHARACTERS}; shorten them")
        if self.labels and not any(spec.shape[-1:] in ((-1,), (len(self.labels),)) for spec in self.outputs):
            shapes = ", ".join(str(list(spec.shape)) for spec in self.outputs)
            raise ValueError(
                f"{len(self.labels)} labels, but no output ends in {len(self.labels)}: {shapes}; give as many as there "
                "are classes"
            )
        return self


def parse_signature(values: Any, where: str) -> Signature:
    """A signature from JSON. Raises UsageError; `where` names the file."""
    if not isinstance(values, dict):
        keys = ", ".join(Signature.model_fields)
        raise UsageError(f"{where}: {repr(values)[:80]} is not a mapping; give a mapping with keys from {keys}")
    return check(Signature, values, where)


def read_signature(path: Path) -> Signature:
    """The signature in a JSON file. Raises UsageError."""
    try:
        values = read_json(path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a signature: {error}") from None
    return parse_signature(values, str(path))
