"""`eco-ray model compress`: a model made smaller by a recipe, beside the model as it was."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings
from eco_ray.errors import EcoRayError, NotFoundError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from eco_ray.core.ports import WorkMeter
    from eco_ray.models.compress import Figures, Variant


@click.command()
@click.argument("model")
@click.option("--recipe", required=True, help="A packaged recipe such as prune80-int8, or a YAML file.")
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(0, 100),
    default=0.5,
    show_default=True,
    help="Percentage points; a result that loses more is refused, and nothing is written.",
)
@click.option("--data", default="mnist", show_default=True, help="mnist, or a safetensors file of labelled images.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the result [nowhere].")
@click.option(
    "--export",
    "exports",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Also write FILE.pt2, FILE.onnx or FILE.ts; may be given more than once.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the fine-tuning.")
@click.option(
    "--cpu", default="cascade-lake", show_default=True, help="CPU family of the power model, where nothing measures."
)
@common_options
def compress(
    model: str,
    recipe: str,
    max_accuracy_drop: float,
    data: str,
    out: Path | None,
    exports: tuple[Path, ...],
    seed: int,
    cpu: str,
    settings: Settings,
) -> None:
    """Compress MODEL by a recipe; accuracy, bytes, latency and joules of each step side by side."""
    import torch

    from eco_ray.models.compress import judge, variants
    from eco_ray.models.datasets import load_images
    from eco_ray.models.export import EXPORTERS
    from eco_ray.models.recipe import load_recipe
    from eco_ray.models.weights import load_model

    steps = load_recipe(recipe)
    for path in exports:
        if path.suffix not in EXPORTERS:
            raise UsageError(f"--export {path}: give a path that ends in {', '.join(EXPORTERS)}")
    found = find_model(model)
    loaded, _ = load_model(found)
    images = load_images(data)
    torch.set_num_threads(1)  # CPU time is then comparable between runtimes, and energy is of one CPU
    candidates = list(variants(loaded, steps, images, seed))
    figures = judge(candidates, images, _meter(cpu))
    refusal = figures[-1].refusal(max_accuracy_drop)
    written = [] if refusal else _write(candidates[-1], figures[-1], recipe, images.test_pixels[:2], out, exports)
    emit(
        settings,
        {
            "model": str(found),
            "recipe": recipe,
            "data": images.name,
            "test_images": len(images.test_labels),
            "max_accuracy_drop_points": max_accuracy_drop,
            "accepted": not refusal,
            "refusal": refusal,
            "variants": [_document(each, max_accuracy_drop) for each in figures],
            "written": [str(path) for path in written],
        },
        [_row(each, figures[0], max_accuracy_drop) for each in figures],
    )
    if settings.output == "table":
        last = figures[-1]
        click.echo(f"{len(images.test_labels)} test images of {images.name}; packed by {last.packed_by}", err=True)
        click.echo(f"energy is {last.nature}, +-{100 * last.error_rel:.0f} %: {last.source}", err=True)
        for path in written:
            click.echo(f"wrote {path}", err=True)
    if refusal:
        raise EcoRayError(f"refused: {refusal}")


def find_model(reference: str) -> Path:
    """The file that MODEL names. Raises NotFoundError for a missing one, UsageError for a reference of a registry."""
    path = Path(reference)
    if path.is_file():
        return path
    name, _, version = reference.partition(":")
    if name and version.isdigit() and "/" not in reference:
        raise UsageError(f"{reference!r} names a version in a registry, and there is none yet; give the path of a file")
    raise NotFoundError(f"no model file {reference}; train one with `python jobs/train_mnist.py --out FILE`")


def _meter(cpu: str) -> WorkMeter:
    from eco_ray.power import curve_from_cpu, open_meter
    from eco_ray.power.work import CpuWorkMeter

    cpus = os.cpu_count() or 1
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return CpuWorkMeter(open_meter(curve_from_cpu(cpu, cpus, memory_gb)), cpus)


def _write(
    variant: Variant, figures: Figures, recipe: str, example: Any, out: Path | None, exports: tuple[Path, ...]
) -> list[Path]:
    from eco_ray.models.export import export_model
    from eco_ray.models.weights import save_model

    if exports and variant.model is None:
        raise UsageError(f"--export takes torch models; {variant.name} is written by --out FILE.onnx")
    if out is not None:
        if variant.model is None:
            if out.suffix != variant.suffix:
                raise UsageError(f"--out {out}: {variant.name} is written as {variant.suffix}; give such a path")
            variant.write(out)
        else:
            model: nn.Module = variant.model
            save_model(model, out, {"accuracy": figures.accuracy, "recipe": recipe})
    for path in exports:
        if path.suffix == ".ts":
            click.echo(
                "TorchScript is deprecated in torch and no faster; prefer FILE.pt2 (docs/compression.md)", err=True
            )
        export_model(variant.model, example, path)  # type: ignore[arg-type]  # checked above
    return [*([out] if out else []), *exports]


def _document(figures: Figures, max_drop_points: float) -> dict[str, Any]:
    return {**asdict(figures), "nature": str(figures.nature), "accepted": not figures.refusal(max_drop_points)}


def _row(figures: Figures, first: Figures, max_drop_points: float) -> dict[str, Any]:
    return {
        "variant": figures.variant,
        "accuracy_pct": f"{100 * figures.accuracy:.2f}",
        "drop_points": f"{figures.accuracy_drop_points:+.2f}",
        "zeros_pct": f"{100 * figures.sparsity:.1f}",
        "bytes": figures.size_bytes,
        "packed": figures.packed_bytes,
        "packed_of_fp32": f"{figures.packed_bytes / first.size_bytes:.3f}",
        "latency_ms": figures.latency_ms,
        "cpu_ms": figures.cpu_ms,
        "energy_mj": 1000 * figures.energy_j,
        "nature": str(figures.nature),
        "accepted": "no" if figures.refusal(max_drop_points) else "yes",
    }
