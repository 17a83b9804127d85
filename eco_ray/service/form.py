"""A request that fits the model, whatever API it came by, and how each API reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from eco_ray.core.footprint import Footprint
from eco_ray.core.ports import Arrays
from eco_ray.core.tensors import Tensor
from eco_ray.service.http import Answer, Headers


class Wanted(NamedTuple):
    """An output that a request asks for."""

    tensor: Tensor
    binary: bool = False


class Request(NamedTuple):
    """A request that fits the model."""

    #: None: it has none
    id: str | None
    inputs: Arrays
    #: of each input, by name
    datatypes: Mapping[str, str]
    outputs: tuple[Wanted, ...]
    #: what it is counted as
    rows: int
    #: of the whole request
    parameters: Mapping[str, Any] = {}
    #: in place of the inference; and a word for it
    compute: Callable[[Arrays], Arrays] | None = None
    what: str = ""
    #: what the form of the answer depends on beside `outputs`
    form: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """How one kind of request is read, and its answer written."""

    #: a part of ETags
    name: str
    #: raises Problem
    parse: Callable[[bytes, Headers], Request]
    write: Callable[[Request, Arrays, Footprint], Answer]
    #: whether its problems are told as clients of the OpenAI API read them
    openai: bool = False
    #: whether it is quick where the model is; others are kept out of the event loop
    quick: bool = True
