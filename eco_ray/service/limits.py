"""What a service takes at most."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one replica; the defaults suit a classical model on a CPU."""

    #: of a request's body, as it is sent and also when it is decompressed [bytes]
    body_bytes: int = 16 * MIB
    #: of the bodies of all requests that are read or wait [bytes]; a request above it is asked to come again
    held_bytes: int = 256 * MIB
    #: opening brackets and braces in a request's JSON: each becomes an object of 60 to 90 bytes
    json_nodes: int = 1_000_000
    #: of a tensor
    elements: int = 16_000_000
    #: rows of a request, where the model's first dimension is open
    batch: int = 1024
    #: from a request's head to the end of its body [s]
    read_s: float = 10.0
    #: from there to the answer, waiting for others included [s]
    answer_s: float = 30.0
    #: the same of an answer that is sent as it comes, to its end [s]
    stream_s: float = 300.0
    #: tokens that a language model generates: at most, and for who does not say
    max_tokens: int = 4096
    default_tokens: int = 256
    #: whether NaN and infinities may be among the inputs
    allow_nonfinite: bool = False
    #: of the cache of answers; 0: none [bytes], [answers]
    cache_bytes: int = 64 * MIB
    cache_entries: int = 10_000
