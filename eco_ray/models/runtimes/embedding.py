"""A folder of sentence-transformers to be served: a vector for each text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eco_ray.core.ports import Arrays
from eco_ray.errors import UsageError
from eco_ray.models.bundle import MAX_EXTRA_BYTES
from eco_ray.models.find_signature import embedding_signature
from eco_ray.models.runtimes.arrays import tensors_of, to_texts
from eco_ray.models.runtimes.device import CPU, gives_back
from eco_ray.models.runtimes.pretrained import load_folder, need_transformers, read_config, unreadable

#: of texts that are computed together, padding included: more of them are no faster on one core
_TOKENS_AT_ONCE = 1024
#: of a text, for each token that the model takes, are read: the tokenizer makes all tokens of a text before it is cut,
#: and takes 350 bytes of memory for each character
_TOKEN_CHARACTERS = 100
_POOLING = "1_Pooling/config.json"


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (states * mask).sum(1) / mask.sum(1)


def _first(states: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
    return states[:, 0]


def _max(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states.masked_fill(mask == 0, -torch.inf).amax(1)


#: mode of 1_Pooling/config.json -> what makes [texts, size] of [texts, tokens, size] and a mask [texts, tokens, 1]
_POOLINGS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean_tokens": _mean,
    "cls_token": _first,
    "max_tokens": _max,
}


class Embedding:
    """Implements `core.ports.Runtime`; a text longer than the model takes is cut, which `tokens` shows."""

    kind = "embedding"
    platform = "eco_ray_transformers"
    deterministic = True

    def __init__(self, folder: Path, name: str, version: int, device: torch.device = CPU) -> None:
        """Raises UsageError for a folder that does what is not known here, EcoRayError without the extra `text`."""
        need_transformers()
        self.name, self.version = name, version
        self._normalises = _normalises(folder)
        self._pool = _pooling(folder)
        self.device = device
        self._model = load_folder(folder, "AutoModel", torch.float32).to(device)
        config = self._model.config
        if config.is_encoder_decoder:
            raise UsageError(f"{folder} has an encoder and a decoder; only models with one of them are served")
        told = read_config(folder, "sentence_bert_config.json") or {}
        self._lower = told.get("do_lower_case", False)
        self._pad = config.pad_token_id or 0
        limits = (
            told.get("max_seq_length"),
            (read_config(folder, "tokenizer_config.json") or {}).get("model_max_length"),
            config.max_position_embeddings,
        )
        most = int(min(limit for limit in limits if limit))
        self._tokenizer, self._most_characters = _tokenizer(folder, most), most * _TOKEN_CHARACTERS
        signature = embedding_signature(config.hidden_size)
        self.inputs, self.outputs = tensors_of(signature.inputs), tensors_of(signature.outputs)
        self.metadata: Mapping[str, Any] = {"max_tokens": most, "normalised": self._normalises}

    @gives_back
    def infer(self, inputs: Arrays) -> Arrays:
        """Raises UsageError for texts that are no UTF-8."""
        texts = to_texts(inputs["text"], "text")
        # one after the other: of several at once, other threads would do the work
        rows = [self._encode(text[: self._most_characters]) for text in texts]
        vectors = np.empty((len(rows), self.outputs[0].shape[1]), np.float32)
        for places in _together([len(row) for row in rows]):
            vectors[places] = self._embed([rows[place] for place in places])
        return {"embedding": vectors, "tokens": np.array([len(row) for row in rows], np.int64)}

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text.lower() if self._lower else text).ids)

    @torch.inference_mode()
    def _embed(self, rows: Sequence[list[int]]) -> np.ndarray[Any, Any]:
        ids = torch.full((len(rows), max(map(len, rows))), self._pad)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors = self._pool(states, mask[:, :, None].to(states.dtype))
        if self._normalises:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return np.asarray(vectors.cpu().numpy())


def _together(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Which texts are computed together: of similar length, so that little is padded."""
    places: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if places and (len(places) + 1) * lengths[place] > _TOKENS_AT_ONCE:
            yield places
            places = []
        places.append(place)
    if places:
        yield places


def _normalises(folder: Path) -> bool:
    """Whether the vectors get a length of 1. Raises UsageError for other steps than are known."""
    modules = read_config(folder, "modules.json")
    if not isinstance(modules, list):
        raise UsageError(f"{folder} has no modules.json; save it with SentenceTransformer.save_pretrained")
    steps = [(str(one.get("type")).rpartition(".")[2], one.get("path")) for one in modules]
    if steps[:2] != [("Transformer", ""), ("Pooling", "1_Pooling")] or [kind for kind, _ in steps[2:]] not in (
        [],
        ["Normalize"],
    ):
        raise UsageError(
            f"{folder} has the steps {', '.join(kind for kind, _ in steps)}; what is served is Transformer, Pooling "
            "(1_Pooling) and maybe Normalize: export the model with torch.export to .pt2"
        )
    prompts = read_config(folder, "config_sentence_transformers.json") or {}
    if prompts.get("default_prompt_name"):
        raise UsageError(
            f"{folder} puts a prompt before each text; set default_prompt_name to null, and send it with them"
        )
    return len(steps) == 3


def _pooling(folder: Path) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    told = read_config(folder, _POOLING) or {}
    modes = [key.removeprefix("pooling_mode_") for key, on in told.items() if key.startswith("pooling_mode_") and on]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise UsageError(
            f"{folder / _POOLING} asks for {', '.join(modes) or 'nothing'}; what is served is one of "
            f"{', '.join(_POOLINGS)}: export the model with torch.export to .pt2"
        )
    return _POOLINGS[modes[0]]


def _tokenizer(folder: Path, most: int) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file() or path.stat().st_size > MAX_EXTRA_BYTES:
        raise UsageError(f"{folder} has no tokenizer.json of {MAX_EXTRA_BYTES} bytes at most; save its tokenizer")
    try:
        made = Tokenizer.from_file(str(path))
    except Exception as error:  # the package has no class of its own
        raise unreadable(path, error) from None
    made.enable_truncation(most)
    made.no_padding()
    return made
