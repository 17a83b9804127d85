"""An answer token by token: the choice of each, and the text that is certain by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from eco_ray.core.text import Sampling

#: what stands for bytes that are no character, or not yet one
_HALF = "\N{REPLACEMENT CHARACTER}"
#: tokens of the prompt's end: what a token means as text may depend on those before it
_BEFORE = 4


class Choice:
    """Chooses tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._chance = torch.Generator()
        if sampling.seed is None:
            self._chance.seed()
        else:
            self._chance.manual_seed(sampling.seed % 2**64)

    def of(self, scores: torch.Tensor) -> int:
        """The next token, of its scores [tokens]."""
        if self._sampling.temperature == 0:
            return int(scores.argmax())
        scores = scores.double()
        # the highest becomes 0 first, so that no temperature makes an infinity of it
        probability = torch.softmax((scores - scores.max()) / self._sampling.temperature, 0)
        if self._sampling.top_p < 1:
            ordered, tokens = probability.sort(descending=True)
            before = ordered.cumsum(0) - ordered
            probability[tokens[before >= self._sampling.top_p]] = 0  # never the first, before which there is nothing
        return int(torch.multinomial(probability, 1, generator=self._chance))


class Text:
    """Makes text of tokens: whole characters, and nothing from where a stop text may begin."""

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._decode = decode
        self._tokens = list(prompt[-_BEFORE:])
        #: tokens whose text was given
        self._given = len(self._tokens)
        self._stop = [text for text in stop if text]
        self._held = ""
        #: whether a stop text came
        self.stopped = False

    def add(self, token: int) -> str:
        """What is certain with one more token."""
        self._tokens.append(token)
        whole = self._decode(self._tokens)
        if whole.endswith(_HALF):
            return ""
        self._held += whole[len(self._decode(self._tokens[: self._given])) :]
        del self._tokens[: self._given]
        self._given = len(self._tokens)
        found = [place for place in map(self._held.find, self._stop) if place >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self.rest()
        sure = len(self._held) - self._begun()
        given, self._held = self._held[:sure], self._held[sure:]
        return given

    def rest(self) -> str:
        """What was held back, now that nothing comes after it; half a character never becomes one."""
        given, self._held = self._held, ""
        return given

    def _begun(self) -> int:
        """Characters at the end that begin a stop text."""
        longest = min(len(self._held), max(map(len, self._stop), default=1) - 1)
        ends = (self._held[-size:] for size in range(longest, 0, -1))
        return next((len(end) for end in ends if any(text.startswith(end) for text in self._stop)), 0)
