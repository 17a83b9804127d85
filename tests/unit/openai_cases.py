"""Tiny models of the kinds that the OpenAI API serves, and a gate that knows one key."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from service_cases import Echo

from eco_ray.core.keys import Scope
from eco_ray.core.ports import Arrays
from eco_ray.core.tensors import Tensor
from eco_ray.core.text import Message, Piece, Sampling
from eco_ray.errors import UsageError
from eco_ray.service.gate import Admission
from eco_ray.service.problems import Problem


@dataclass
class Vectors(Echo):
    """Embeds a text as (length, 0.5, -1)."""

    kind: str = "embedding"
    deterministic: bool = True

    def __post_init__(self) -> None:
        self.inputs = (Tensor("text", "BYTES", (-1,)),)
        self.outputs = (Tensor("embedding", "FP32", (-1, 3)), Tensor("tokens", "INT64", (-1,)))

    def infer(self, inputs: Arrays) -> Arrays:
        self.calls += 1
        self.act(inputs)
        lengths = [len(text.decode()) for text in inputs["text"]]
        return {
            "embedding": np.array([[length, 0.5, -1.0] for length in lengths], np.float32),
            "tokens": np.array([length + 2 for length in lengths], np.int64),
        }


@dataclass
class Parrot(Echo):
    """Repeats the last message, a word for each token, until it is told to stop."""

    kind: str = "text-generation"
    context_tokens: int = 50
    #: for each token [s]
    pause_s: float = 0.0
    fails_at: int | None = None
    fails_by: Exception = field(default_factory=lambda: RuntimeError("secret"))
    samplings: list[Sampling] = field(default_factory=list)
    made: int = 0
    closed: threading.Event = field(default_factory=threading.Event)

    def chat(self, messages: Sequence[Message]) -> Sequence[int]:
        self.words = messages[-1].content.split()
        return list(range(sum(len(message.content.split()) + 1 for message in messages)))

    def tokens(self, text: str) -> Sequence[int]:
        self.words = text.split()
        return list(range(len(self.words)))

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        self.kept = self._generate(sampling)  # so that it ends by being closed alone
        return self.kept

    def _generate(self, sampling: Sampling) -> Iterator[Piece]:
        self.samplings.append(sampling)
        self.closed.clear()
        if "forbidden" in self.words:
            raise UsageError("the prompt is forbidden; send another one")
        try:
            for at in range(sampling.max_tokens):
                time.sleep(self.pause_s)
                if at == self.fails_at:
                    raise self.fails_by
                self.made += 1
                word = self.words[at] if at < len(self.words) else ""
                if word in ("", *sampling.stop):
                    yield Piece("", 1, "stop")
                    return
                yield Piece(word + " ", 1, "length" if at == sampling.max_tokens - 1 else None)
        finally:
            self.closed.set()


def one_key(headers: Mapping[bytes, bytes], scope: Scope) -> Admission:
    """Lets `good` pass and `busy` come again."""
    match headers.get(b"authorization"):
        case b"Bearer good":
            return Admission("vision", ((b"ratelimit", b'"requests";r=9'),))
        case b"Bearer busy":
            raise Problem(429, "requests", "too many; wait", ((b"retry-after", b"1"),))
        case _:
            raise Problem(401, "no valid key", "send a key", ((b"www-authenticate", b"Bearer"),))


def chat(*contents: str, **more: Any) -> dict[str, Any]:
    """A request."""
    return {"model": "echo", "messages": [{"role": "user", "content": text} for text in contents], **more}
