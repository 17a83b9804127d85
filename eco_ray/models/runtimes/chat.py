"""A language model to be served: a GGUF file, or a folder of transformers with a causal one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eco_ray.core.ports import Arrays
from eco_ray.core.text import Message, Piece, Sampling
from eco_ray.errors import UsageError
from eco_ray.models.find_signature import TEXT_GENERATION
from eco_ray.models.runtimes.answer import Choice, Text
from eco_ray.models.runtimes.arrays import tensors_of, to_bytes, to_texts
from eco_ray.models.runtimes.device import CPU, gives_back
from eco_ray.models.runtimes.pretrained import load_folder, load_gguf, load_tokenizer, need_transformers

#: of an answer by `infer`
INFER_TOKENS = 64
#: of a prompt that are computed at once, so that a long one takes no more memory than its cache
_PROMPT_TOKENS = 512
_ROLES = ("system", "user", "assistant")


class Chat:
    """Implements `core.ports.TextRuntime`.

    SmolLM2-135M of a GGUF file, in one thread of a Xeon with AMX, CPU time:

    | weights | answer [tokens/s] | prompt [tokens/s] | process [MB] |
    |---|---|---|---|
    | float32 | 12 | 360 | 990 |
    | bfloat16 | 14 | 1030 | 735 |

    So it is bfloat16 where the CPU computes in it. Two threads took ten times the CPU time on a machine whose two cores
    had other work, and were slower: they wait for each other at each of the many small steps.
    """

    kind = "text-generation"
    platform = "eco_ray_transformers"
    inputs, outputs = tensors_of(TEXT_GENERATION.inputs), tensors_of(TEXT_GENERATION.outputs)
    #: of `infer`
    deterministic = True

    def __init__(
        self, path: Path, name: str, version: int, dtype: torch.dtype | None = None, device: torch.device = CPU
    ) -> None:
        """`path`: of the GGUF file, or of the folder. `dtype`: of the weights; None: what is best on the device.

        Raises UsageError for what package transformers does not know, EcoRayError without the extra `text`.
        """
        need_transformers()
        self.name, self.version = name, version
        self.device = device
        if dtype is None:
            dtype = torch.bfloat16 if _has_bfloat16(device) else torch.float32
        if path.is_dir():
            model, self._tokenizer = load_folder(path, "AutoModelForCausalLM", dtype), load_tokenizer(path)
        else:
            model, self._tokenizer = load_gguf(path, dtype), load_tokenizer(path.parent, path.name)
        self._model = model.to(device)
        for module in self._model.modules() if device == CPU else ():
            if type(module) is nn.Linear:
                module.__class__ = _RowLinear  # the same weights
        self._codes = self._tokenizer.backend_tokenizer
        self._codes.no_truncation()
        self._codes.no_padding()
        config = self._model.config
        most = getattr(config, "max_position_embeddings", None)
        if not isinstance(most, int):
            raise UsageError(f"{path} does not tell max_position_embeddings; add it to its configuration")
        self.context_tokens = most
        #: of a text that can be within the context; tokenising takes some hundred bytes of memory for each
        self._most_characters = most * max(map(len, self._codes.get_vocab()))
        self._vocabulary = config.vocab_size
        self._ends = _ends(self._model, self._tokenizer)
        self.metadata: Mapping[str, Any] = {"context_tokens": most, "dtype": str(dtype).removeprefix("torch.")}

    def chat(self, messages: Sequence[Message]) -> Sequence[int]:
        """The tokens that the model's own template makes, which runs in jinja's sandbox."""
        from jinja2 import TemplateError

        for message in messages:
            if message.role not in _ROLES:
                raise UsageError(f"role {message.role[:40]!r} is not known; use one of {', '.join(_ROLES)}")
        if self._tokenizer.chat_template is None:
            raise UsageError(f"{self.name} has no chat template, it goes on with plain text: ask for a completion")
        told = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ValueError, TypeError, IndexError) as error:
            short = " ".join(str(error).split())[:160]
            raise UsageError(f"{self.name} does not take this conversation: {short}; change its order") from None
        return self._encode(text, begins=False)  # the template begins it

    def tokens(self, text: str) -> Sequence[int]:
        """The tokens of a plain prompt."""
        return self._encode(text, begins=True)

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        """Go on after a prompt: a piece for each token, computed when it is asked for."""
        if not prompt or not all(0 <= token < self._vocabulary for token in prompt):
            raise UsageError(
                f"a prompt is 1 token or more of 0 to {self._vocabulary - 1}; send a text that is not empty"
            )
        if len(prompt) + sampling.max_tokens > self.context_tokens:
            raise UsageError(
                f"{len(prompt)} tokens of the prompt and {sampling.max_tokens} of the answer are above the "
                f"{self.context_tokens} of {self.name}; shorten the prompt, or ask for fewer with max_tokens"
            )
        return self._generate(prompt, sampling)

    def infer(self, inputs: Arrays) -> Arrays:
        """The likeliest text after a plain prompt, INFER_TOKENS at most."""
        (text,) = to_texts(inputs[self.inputs[0].name], self.inputs[0].name)
        prompt = self.tokens(text)
        most = max(1, min(INFER_TOKENS, self.context_tokens - len(prompt)))
        answer = "".join(piece.text for piece in self.generate(prompt, Sampling(most, temperature=0)))
        return {self.outputs[0].name: to_bytes([answer])}

    def _generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        choice, text, cache = Choice(sampling), Text(self._decode, prompt, sampling.stop), None
        for begin in range(0, len(prompt), _PROMPT_TOKENS):
            scores, cache = self._step(prompt[begin : begin + _PROMPT_TOKENS], cache)
        for number in range(1, sampling.max_tokens + 1):
            token = choice.of(scores)
            ended = token in self._ends
            given = "" if ended else text.add(token)
            if ended or text.stopped:
                yield Piece(given + text.rest(), 1, "stop")
                return
            if number == sampling.max_tokens:
                yield Piece(given + text.rest(), 1, "length")
                return
            yield Piece(given, 1)
            scores, cache = self._step([token], cache)

    @gives_back
    @torch.inference_mode()  # here, as it would hold for whoever takes the pieces, too
    def _step(self, tokens: Sequence[int], cache: Any) -> tuple[torch.Tensor, Any]:
        """The scores of the next token, for a choice on the CPU, and what the model keeps of all before it."""
        given = torch.tensor([list(tokens)], device=self.device)
        answer = self._model(given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return answer.logits[0, -1].cpu(), answer.past_key_values

    def _encode(self, text: str, *, begins: bool) -> list[int]:
        if len(text) > self._most_characters:
            raise UsageError(
                f"the prompt has {len(text)} characters; {self._most_characters} are more than the "
                f"{self.context_tokens} tokens of {self.name} can be: shorten it"
            )
        return list(self._codes.encode(text, add_special_tokens=begins).ids)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._codes.decode(list(tokens), skip_special_tokens=True))


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device itself computes in it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _RowLinear(nn.Linear):
    """For one token at a time: in bfloat16 on a CPU, torch's matrix times vector takes 0.7 of the time of the other."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As of nn.Linear."""
        if input.numel() != self.in_features:
            return super().forward(input)
        row = torch.mv(self.weight, input.reshape(-1))
        return (row if self.bias is None else row + self.bias).reshape(*input.shape[:-1], -1)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, as each of the model's files tells them."""
    told = (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id)
    listed = (one if isinstance(one, list) else [one] for one in told)
    return frozenset(token for one in listed for token in one if token is not None)
