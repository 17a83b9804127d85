"""What a language model is asked for, and what it gives piece by piece."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    #: system, user or assistant
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and when to stop."""

    #: generated at most, >= 1
    max_tokens: int
    #: 0: always the likeliest token
    temperature: float = 1.0
    #: only the likeliest tokens with this probability together, in (0, 1]
    top_p: float = 1.0
    #: the same seed and prompt give the same text; None: another one each time
    seed: int | None = None
    #: texts before which the answer ends; they are not part of it
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer: what one more token made certain."""

    #: empty while a token is half a character, or may become a stop text
    text: str
    #: generated for it
    tokens: int
    #: why the answer ends here: `stop` or `length`; None: it goes on
    finish: str | None = None
