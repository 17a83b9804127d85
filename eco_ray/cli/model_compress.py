"""`eco-ray model compress`: a model made smaller by a recipe, beside the model as it was."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.whole_file import check_place, is_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from eco_ray.core.ports import WorkMeter
    from eco_ray.models.compress import Figures, Variant
    from eco_ray.models.manifest import Manifest
    from eco_ray.models.recipe import Recipe
    from eco_ray.models.registry import Registry


@click.command()
@click.argument("model")
@click.option("--recipe", required=True, help="A packaged recipe such as prune80-int8 or int8, or a YAML file.")
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(0, 100),
    default=0.5,
    show_default=True,
    help="Percentage points; a result that loses more is refused, and nothing is written.",
)
@click.option("--data", default="mnist", show_default=True, help="mnist, or a safetensors file of labelled images.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the result, FILE.safetensors [nowhere].")
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
@click.option("--registry", metavar="URL", help="Where NAME:V is, and its variant goes [STATE_DIR/models].")
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
    registry: str | None,
    settings: Settings,
) -> None:
    """Compress MODEL by a recipe; accuracy, bytes, latency and joules of each step side by side.

    MODEL is a file, or NAME:V or NAME@ALIAS of the registry: then the result is the next version of NAME.
    """
    import torch

    from eco_ray.models.compress import judge, variants
    from eco_ray.models.datasets import load_images
    from eco_ray.models.recipe import load_recipe
    from eco_ray.models.weights import load_model

    if math.isnan(max_accuracy_drop):
        raise UsageError("--max-accuracy-drop nan is no number of points; give 0 to 100")
    steps = load_recipe(recipe)
    _check_paths(steps, out, exports)
    meter = open_work_meter(cpu)
    parent = find_version(model, settings, registry)
    found = None if parent else find_model(model)
    if found and out is not None and out.exists() and out.samefile(found):
        raise UsageError(f"--out {out} is the model itself; give another path")
    loaded = _load(parent) if parent else load_model(str(found))[0]
    images = load_images(data)
    torch.set_num_threads(1)  # CPU time is then comparable between runtimes, and energy is of one CPU
    candidates = list(variants(loaded, steps, images, seed))
    figures = judge(candidates, images, meter)
    refusal = figures[-1].refusal(max_accuracy_drop)
    written = [] if refusal else _write(candidates[-1], figures[-1], recipe, _two(images.test_pixels), out, exports)
    registered = None
    if parent and not refusal:
        how = {"recipe": recipe, "steps": steps.steps(), "seed": seed, "test_data": images.name}
        registered = _register(parent, candidates[-1], figures[0], figures[-1], how)
    emit(
        settings,
        {
            "model": parent.manifest.reference if parent else str(found),
            "recipe": recipe,
            "data": images.name,
            "test_images": len(images.test_labels),
            "max_accuracy_drop_points": max_accuracy_drop,
            "accepted": not refusal,
            "refusal": refusal,
            "variants": [_document(each, max_accuracy_drop) for each in figures],
            "written": [str(path) for path in written],
            "registered": registered,
        },
        _rows(figures, max_accuracy_drop),
    )
    if settings.output == "table":
        last = figures[-1]
        click.echo(
            f"{len(images.test_labels)} test images of {images.name}; latency, CPU time and energy are of one image",
            err=True,
        )
        click.echo(f"energy, +-{100 * last.error_rel:.0f} %: {last.source}", err=True)
        for path in written:
            click.echo(f"wrote {path}", err=True)
        if registered:
            click.echo(f"registered {registered}", err=True)
    if refusal:
        raise EcoRayError(f"refused: {refusal}")


def _two(pixels: Tensor) -> Tensor:
    """Two images as an example: with one, an export may take the number for a constant."""
    return pixels[:2] if len(pixels) > 1 else pixels.repeat(2, 1, 1, 1)


def find_model(reference: str) -> Path:
    """The file that MODEL names. Raises NotFoundError for a missing one, UsageError for one that is no model's."""
    from eco_ray.models.export import EXPORTERS

    path = Path(reference)
    if path.suffix == ".ecoz":
        plain = path.with_suffix(".safetensors")
        raise UsageError(f"{path} is packed; first: eco-ray model unpack {path} -o {plain}")
    if path.suffix in EXPORTERS:
        raise UsageError(f"{path} is an exported program; give the .safetensors file that it was made from")
    if is_file(path):
        return path
    raise NotFoundError(f"no model file {reference}; train one with `python jobs/train_mnist.py --out FILE`")


@dataclass(frozen=True)
class Parent:
    """The version that is compressed, and where it is."""

    registry: Registry
    manifest: Manifest


def find_version(reference: str, settings: Settings, url: str | None) -> Parent | None:
    """The version of the registry that MODEL names; None where it names a file."""
    from eco_ray.open_registry import open_registry

    if is_file(Path(reference)) or not re.fullmatch(r"[^/:@]+(:\d+|@[^/:@]+)", reference):
        return None
    registry = open_registry(settings, url)
    return Parent(registry, registry.manifest(reference))


def _load(parent: Parent) -> nn.Module:
    from eco_ray.models.weights import load_model

    with tempfile.TemporaryDirectory(prefix="eco_ray-compress-") as folder:
        file = Path(folder) / f"model.{parent.manifest.format}"
        parent.registry.pull(parent.manifest.reference, file)
        return load_model(find_model(str(file)))[0]


def _register(parent: Parent, variant: Variant, before: Figures, after: Figures, how: dict[str, Any]) -> str:
    """Push a variant as the next version of its model, with where it comes from and what was measured."""
    from eco_ray.models.registry import About

    measured: dict[str, float | int | str | bool] = {
        "accuracy": after.accuracy,
        "accuracy_drop_points": after.accuracy_drop_points,
        "packed_bytes": after.packed_bytes,
        "packed_bytes_before": before.packed_bytes,
        "latency_ms": after.latency_ms,
        "latency_ms_before": before.latency_ms,
        "energy_j": after.energy_j,
        "energy_j_before": before.energy_j,
        "energy_nature": str(after.nature),
    }
    lineage = {"parent": parent.manifest.reference, "variant": after.variant, **how}
    # an ONNX file tells its own: it names inputs and outputs anew
    signature = None if variant.model is None else parent.manifest.signature
    about = About(parent.manifest.framework, signature, measured, lineage)
    with tempfile.TemporaryDirectory(prefix="eco_ray-compress-") as folder:
        file = Path(folder) / ("model.onnx" if variant.model is None else "model.safetensors")
        _write(variant, after, how["recipe"], None, file, ())
        return parent.registry.push(file, parent.manifest.name, about).reference


def open_work_meter(cpu: str) -> WorkMeter:
    """Joules of what this process does on one CPU; the family of CPU counts where nothing measures."""
    from eco_ray.power import curve_from_cpu, open_meter
    from eco_ray.power.work import CpuWorkMeter

    cpus = os.cpu_count() or 1
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return CpuWorkMeter(open_meter(curve_from_cpu(cpu, cpus, memory_gb)), cpus)


def _check_paths(recipe: Recipe, out: Path | None, exports: tuple[Path, ...]) -> None:
    """Raise UsageError for what the result cannot be written as, EcoRayError where it cannot be written.

    Also where the extra `onnx` is needed: all this before minutes of training.
    """
    from eco_ray.models.export import EXPORTERS, NOT_ONNX, need_onnx
    from eco_ray.models.recipe import ONNXRUNTIME_INT8

    scheme = recipe.quantize.scheme if recipe.quantize else "the result"
    suffix = ".onnx" if scheme == ONNXRUNTIME_INT8 else ".safetensors"
    if out is not None and out.suffix != suffix:
        raise UsageError(f"--out {out}: {scheme} is written as {suffix}; give such a path")
    for path in exports:
        if path.suffix not in EXPORTERS:
            raise UsageError(f"--export {path}: give a path that ends in {', '.join(EXPORTERS)}")
        if path.suffix == ".onnx" and scheme in NOT_ONNX:
            raise UsageError(f"--export {path}: ONNX runtimes do not run {scheme} models of torch; give FILE.pt2")
        if scheme == ONNXRUNTIME_INT8:
            raise UsageError(f"--export takes torch models; {scheme} is written by --out FILE.onnx")
    for option, place in (*([("--out", out)] if out else []), *(("--export", path) for path in exports)):
        try:
            check_place(place)
        except OSError as error:
            raise EcoRayError(f"{option} {place} cannot be written: {error.strerror}; give another path") from None
    if ".onnx" in {suffix, *(path.suffix for path in exports)}:
        need_onnx()


def _write(
    variant: Variant, figures: Figures, recipe: str, example: Any, out: Path | None, exports: tuple[Path, ...]
) -> list[Path]:
    from eco_ray.models.export import export_model
    from eco_ray.models.weights import save_model

    if out is not None:
        if variant.model is None:
            variant.write(out)
        else:
            model: nn.Module = variant.model
            save_model(model, out, {"accuracy": figures.accuracy, "recipe": recipe})
    for path in exports:
        if path.suffix == ".ts":
            click.echo(
                "TorchScript is deprecated in torch and no faster; prefer FILE.pt2 (docs/compression.md)", err=True
            )
        export_model(variant.model, example, path)  # type: ignore[arg-type]  # _check_paths has seen to it
    return [*([out] if out else []), *exports]


def _document(figures: Figures, max_drop_points: float) -> dict[str, Any]:
    return {**asdict(figures), "nature": str(figures.nature), "accepted": not figures.refusal(max_drop_points)}


def _rows(figures: Sequence[Figures], max_drop_points: float) -> list[dict[str, Any]]:
    """A column per variant, so that three of them fit a narrow terminal."""
    columns = {each.variant: _column(each, figures[0], max_drop_points) for each in figures}
    names = next(iter(columns.values()))
    return [{"": name, **{variant: column[name] for variant, column in columns.items()}} for name in names]


def _column(figures: Figures, first: Figures, max_drop_points: float) -> dict[str, str]:
    return {
        "accuracy": f"{100 * figures.accuracy:.2f} %",
        "accuracy drop": f"{figures.accuracy_drop_points:.2f} points",
        "zeros": f"{100 * figures.sparsity:.1f} %",
        "bytes": f"{figures.size_bytes:,}",
        "packed": f"{figures.packed_bytes:,}",
        f"of {first.variant}'s": f"{figures.packed_bytes / first.size_bytes:.3f}",
        "packed by": figures.packed_by,
        "latency": f"{figures.latency_ms:.3g} ms",
        "CPU time": f"{figures.cpu_ms:.3g} ms",
        "energy": f"{1000 * figures.energy_j:.3g} mJ",
        "nature": str(figures.nature),
        "accepted": "no" if figures.refusal(max_drop_points) else "yes",
    }
