"""Requests for text of the OpenAI API, chat or plain, and their answers: whole, or chunk by chunk as they come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from eco_ray.core.footprint import Footprint
from eco_ray.core.ports import TextRuntime
from eco_ray.core.text import Message, Sampling
from eco_ray.service.limits import Limits
from eco_ray.service.openai import fields, served, wrong
from eco_ray.service.problems import Problem

_COMMON = frozenset(("temperature", "top_p", "max_tokens", "seed", "stop", "stream", "stream_options"))
_CHAT = _COMMON | {"messages", "max_completion_tokens"}
_PLAIN = _COMMON | {"prompt"}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_MOST_STOPS = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants."""

    prompt: Sequence[int]
    sampling: Sampling
    stream: bool
    #: whether a stream tells its tokens in a chunk, too
    usage: bool


def parse(body: bytes, runtime: TextRuntime, limits: Limits, chat: bool) -> Asked:
    """The request. Raises Problem; and UsageError where the model's own rules are broken."""
    content = fields(body, runtime, limits, _CHAT if chat else _PLAIN)
    prompt = (
        runtime.chat(_messages(content.get("messages"))) if chat else runtime.tokens(_prompt(content.get("prompt")))
    )
    stream = _flag("stream", content.get("stream", False))
    options = content.get("stream_options", {})
    if not isinstance(options, dict) or options.keys() - {"include_usage"} or (options and not stream):
        raise wrong("stream_options", options, "send {'include_usage': true} with stream true, or leave it out")
    sampling = Sampling(
        _most_tokens(content, len(prompt), runtime.context_tokens, limits),
        _number(content, "temperature", 1.0, 0.0, 2.0),
        _top_p(content),
        _seed(content.get("seed")),
        _stop(content.get("stop", [])),
    )
    return Asked(prompt, sampling, stream, _flag("include_usage", options.get("include_usage", False)))


class Writer:
    """Documents of one answer."""

    def __init__(self, runtime: TextRuntime, chat: bool, request: str) -> None:
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{request}",
            "created": int(time.time()),
            "model": served(runtime),
        }

    def whole(self, text: str, finish: str | None, usage: dict[str, int], footprint: Footprint) -> bytes:
        """The answer that is not streamed."""
        told: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **told, "logprobs": None, "finish_reason": finish}
        kind = "chat.completion" if self._chat else "text_completion"
        return to_json(
            {**self._head, "object": kind, "choices": [choice], "usage": usage, "energy": footprint.to_json()}
        )

    def first(self) -> bytes:
        """What comes before the text; empty: nothing."""
        return self._chunk({"delta": {"role": "assistant", "content": ""}}) if self._chat else b""

    def piece(self, text: str, finish: str | None) -> bytes:
        """Some text, and why it ends; empty: there is nothing to tell."""
        parts = []
        if text:
            parts.append(self._chunk({"delta": {"content": text}} if self._chat else {"text": text}))
        if finish:
            parts.append(self._chunk({"delta": {}} if self._chat else {"text": ""}, finish))
        return b"".join(parts)

    def usage(self, usage: dict[str, int]) -> bytes:
        """The tokens, as a chunk without text."""
        return _event({**self._head, "object": self._kind, "choices": [], "usage": usage})

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _chunk(self, told: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, **told, "logprobs": None, "finish_reason": finish}
        return _event({**self._head, "object": self._kind, "choices": [choice]})


def failed(problem: Problem) -> bytes:
    """An answer that breaks off."""
    return b"data: " + problem.body(openai=True) + b"\n\n"


def ended(usage: dict[str, int], footprint: Footprint) -> bytes:
    """The end of a stream: what it took, for those who look, and the mark that all know."""
    return b": energy " + to_json({**footprint.to_json(), "usage": usage}) + b"\n\ndata: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + to_json(content) + b"\n\n"


def _messages(told: object) -> list[Message]:
    if not isinstance(told, list) or not told:
        raise wrong("messages", told, "send a list of messages, each with role and content")
    return [_message(at, one) for at, one in enumerate(told)]


def _message(at: int, told: Any) -> Message:
    role = _ROLES.get(str(told.get("role"))) if isinstance(told, dict) else None
    if role is None:
        raise wrong(f"messages[{at}]", told, f"send an object with content and a role of {', '.join(_ROLES)}")
    content = told.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise wrong(f"messages[{at}].content", content, "send text, or a list of {'type': 'text', 'text': ...}")
    return Message(role, content)


def _prompt(told: object) -> str:
    if isinstance(told, list) and len(told) == 1:
        told = told[0]
    if not isinstance(told, str):
        raise wrong("prompt", told, "send one string")
    return told


def _most_tokens(content: dict[str, Any], prompt: int, context: int, limits: Limits) -> int:
    name = "max_completion_tokens" if "max_completion_tokens" in content else "max_tokens"
    told = content.get(name)
    if told is not None and (type(told) is not int or not 1 <= told <= limits.max_tokens):
        raise wrong(name, told, f"send 1 to {limits.max_tokens}")
    if prompt + (told or 1) > context:
        detail = f"the prompt has {prompt} tokens, {told or 1} more are to come; the model's context is {context}"
        param = "messages" if "messages" in content else "prompt"
        cure = f"{detail}: send a shorter prompt, or ask for fewer"
        raise Problem(400, "context too long", cure, param=param, code="context_length_exceeded")
    return int(told) if told else min(limits.default_tokens, context - prompt)


def _number(content: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    told = content.get(name, default)
    if type(told) not in (int, float) or not low <= told <= high:
        raise wrong(name, told, f"send a number from {low:g} to {high:g}")
    return float(told)


def _top_p(content: dict[str, Any]) -> float:
    if (told := _number(content, "top_p", 1.0, 0.0, 1.0)) == 0:
        raise wrong("top_p", told, "send more than 0; temperature 0 is always the likeliest")
    return told


def _seed(told: object) -> int | None:
    if told is not None and (type(told) is not int or not -(1 << 63) <= told < 1 << 63):
        raise wrong("seed", told, "send a whole number of 64 bits, or leave it out")
    return told


def _stop(told: object) -> tuple[str, ...]:
    texts = [told] if isinstance(told, str) else told
    if (
        not isinstance(texts, list)
        or len(texts) > _MOST_STOPS
        or not all(isinstance(one, str) and one for one in texts)
    ):
        raise wrong("stop", told, f"send up to {_MOST_STOPS} strings that are not empty")
    return tuple(texts)


def _flag(name: str, told: object) -> bool:
    if not isinstance(told, bool):
        raise wrong(name, told, "use true or false")
    return told
