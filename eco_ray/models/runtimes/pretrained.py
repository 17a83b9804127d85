"""Models of package transformers, from files of this machine alone: no code of theirs is run, no network is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.json_file import read_json

#: as package transformers looks for it
WEIGHTS = "model.safetensors"
_MAX_CONFIG_BYTES = 1 << 20
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def need_transformers() -> None:
    """Raise EcoRayError with the cure where the extra `text` is not installed."""
    try:
        import gguf  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise EcoRayError(f"{error.name} is not installed; text needs: pip install 'eco-ray[text]'") from None


def read_config(folder: Path, name: str) -> Any:
    """A JSON file of a model's folder; None where there is none. Raises UsageError for what is no JSON."""
    path = folder / name
    if not path.is_file():
        return None
    try:
        return read_json(path, _MAX_CONFIG_BYTES)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}; save the model again") from None


def load_folder(folder: Path, auto: str, dtype: torch.dtype) -> Any:
    """The model in a folder as transformers' class `auto` makes it, all its weights from the folder's safetensors file.

    Raises UsageError for one that transformers cannot make without code of the folder, or that lacks weights.
    """
    import transformers

    if not (folder / WEIGHTS).is_file():
        raise UsageError(f"{folder} has no {WEIGHTS}; name the model's file so")
    if (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder} is an adapter of another model; merge it into that one, and save the whole")
    try:
        model, told = getattr(transformers, auto).from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **_LOCAL
        )
    except Exception as error:  # whatever transformers meets in files that are not as they should be
        raise unreadable(folder, error) from None
    # what makes one vector of a text for another purpose; it is not used here, and often not kept
    if missing := sorted(name for name in told["missing_keys"] if not name.startswith("pooler.")):
        raise UsageError(
            f"{folder / WEIGHTS} lacks {len(missing)} weights, such as {missing[0]!r}; save the model again"
        )
    return model.eval().requires_grad_(False)


def load_gguf(path: Path, dtype: torch.dtype) -> Any:
    """The language model in a GGUF file, its weights no longer quantised.

    `from_pretrained` would do it, and asks for package accelerate, which it does not use for it. Raises UsageError.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, **_LOCAL)
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        weights = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model, torch_dtype=dtype)[
            "tensors"
        ]
        lacks, _ = model.load_state_dict(weights, strict=False, assign=True)
    except Exception as error:  # as above
        raise unreadable(path, error) from None
    model.tie_weights()
    read = {tensor.data_ptr() for tensor in weights.values()}
    if missing := [name for name in lacks if model.get_parameter(name).data_ptr() not in read]:
        raise UsageError(f"{path} lacks {len(missing)} weights, such as {missing[0]!r}; convert the model again")
    return model.eval().requires_grad_(False)


def load_tokenizer(folder: Path, gguf: str | None = None) -> Any:
    """The tokenizer of a folder, or of a GGUF file in it. Raises UsageError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf, **_LOCAL)
    except Exception as error:  # as above
        raise unreadable(folder / (gguf or "tokenizer.json"), error) from None
    if not tokenizer.is_fast:
        raise UsageError(f"{folder} has no tokenizer.json; save its tokenizer with package transformers 5")
    return tokenizer


def unreadable(path: Path, error: Exception) -> UsageError:
    """That package transformers or tokenizers cannot make something of a file."""
    short = " ".join(str(error).split())[:200]
    return UsageError(
        f"{path} cannot be served: {type(error).__name__}: {short}; only architectures that package transformers has "
        "are, without code of the model's own"
    )
