"""`eco-ray model explain`: which parts of an input spoke for a class."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings
from eco_ray.errors import EcoRayError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from eco_ray.core.ports import WorkEnergy
    from eco_ray.models.explain import Explanation
    from eco_ray.models.manifest import Manifest
    from eco_ray.models.registry import Registry
    from eco_ray.models.signature import Signature


@click.command()
@click.argument("reference", metavar="NAME:V|NAME@ALIAS")
@click.option(
    "--input", "source", required=True, help="FILE.npy, FILE.png, FILE.jpg, or mnist:INDEX of the test images."
)
@click.option("--target", metavar="CLASS", help="A label, or a number from 0 on [the predicted class].")
@click.option(
    "--steps", type=click.IntRange(1, 1000), default=50, show_default=True, help="More of them add up more exactly."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write FILE.png, of an image, or FILE.json [nothing].")
@click.option(
    "--cpu", default="cascade-lake", show_default=True, help="CPU family of the power model, where nothing measures."
)
@click.option("--registry", metavar="URL", help="A directory, or s3://, gs://, az:// [STATE_DIR/models].")
@common_options
def explain(
    reference: str,
    source: str,
    target: str | None,
    steps: int,
    out: Path | None,
    cpu: str,
    registry: str | None,
    settings: Settings,
) -> None:
    """Which parts of an input spoke for a class, and which against it: integrated gradients of a version.

    It takes a model with one float input of fixed size and one score per class, as .pt2 or safetensors that eco_ray
    wrote, and the extra `explain`.
    """
    import torch

    from eco_ray.cli.model_compress import open_work_meter
    from eco_ray.models.explain import class_of, explainable, need_captum
    from eco_ray.models.explain import explain as explained
    from eco_ray.models.explain_input import is_image, read_input
    from eco_ray.open_registry import open_registry

    need_captum()  # before its import would count as energy of the explanation
    where = open_registry(settings, registry)
    found = where.manifest(reference)
    given = explainable(found.signature, found.format, found.reference)
    assert found.signature is not None  # noqa: S101  # explainable has seen to it
    if out is not None and out.suffix not in (".png", ".json"):
        raise UsageError(f"--out {out}: give a path that ends in .png or .json")
    if out is not None and out.suffix == ".png" and not is_image(given):
        raise UsageError(f"--out {out}: no picture of an input of shape {list(given.shape)}; give FILE.json")
    chosen = None if target is None else class_of(target, found.signature)
    inputs, meter = read_input(source, given), open_work_meter(cpu)
    model = _load(where, found)
    torch.set_num_threads(1)  # energy is of one CPU
    made: list[Explanation] = []
    used = meter.measure(lambda: made.append(explained(model, inputs, chosen, steps, given)))
    document = _document(found, found.signature, source, made[0], used, out)
    if out is not None and out.suffix == ".png":
        _draw(out, inputs, made[0], document)
    elif out is not None:
        _write(out, document)
    emit(settings, document, [_row(document)])
    if not made[0].is_complete:
        click.echo(
            f"the attributions miss the change in score by {made[0].convergence_delta:.3g}; raise --steps [{steps}]",
            err=True,
        )
    if settings.output == "table":
        click.echo(f"energy, +-{100 * used.error_rel:.0f} %: {used.source}", err=True)
        if out is not None:
            click.echo(f"wrote {out}", err=True)


def _load(where: Registry, found: Manifest) -> nn.Module:
    from eco_ray.models.explain import load_differentiable

    with tempfile.TemporaryDirectory(prefix="eco_ray-explain-") as folder:
        file = Path(folder) / f"model.{found.format}"
        where.pull(found.reference, file)
        return load_differentiable(file, found.format)


def _document(
    found: Manifest, signature: Signature, source: str, made: Explanation, used: WorkEnergy, out: Path | None
) -> dict[str, Any]:
    from eco_ray.models.explain import BASELINE

    labels = signature.labels

    def described(number: int, score: float) -> dict[str, Any]:
        return {"class": number, "label": labels[number] if number < len(labels) else str(number), "score": score}

    return {
        "model": found.reference,
        "input": source,
        "method": "integrated-gradients",
        "predicted": described(made.predicted, made.score),
        "target": described(made.target, made.target_score),
        "baseline": {"name": BASELINE, "score": made.baseline_score},
        "steps": made.steps,
        "convergence_delta": made.convergence_delta,
        "complete": made.is_complete,
        "nature": "modelled",
        "energy": {
            "energy_j": used.energy_j,
            "cpu_s": used.cpu_s,
            "nature": str(used.nature),
            "error_rel": used.error_rel,
            "source": used.source,
        },
        "written": None if out is None else str(out),
        "attributions": made.attributions[0].tolist(),
    }


def _row(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": document["model"],
        "predicted": document["predicted"]["label"],
        "score": document["predicted"]["score"],
        "target": document["target"]["label"],
        "its_score": document["target"]["score"],
        "of_zeros": document["baseline"]["score"],
        "delta": document["convergence_delta"],
        "energy_j": document["energy"]["energy_j"],
    }


def _draw(out: Path, inputs: Any, made: Explanation, document: dict[str, Any]) -> None:
    from eco_ray.models.explain_picture import write_picture

    predicted, target = document["predicted"], document["target"]
    title = f"{document['model']} says {predicted['label'][:30]}, score {predicted['score']:.3g}"
    if made.target != made.predicted:
        title += f"; target {target['label'][:30]}, score {target['score']:.3g}"
    note = (
        f"integrated gradients: score of {target['label'][:30]} from {made.baseline_score:.3g} for zeros to "
        f"{made.target_score:.3g} for the input, {made.steps} steps"
    )
    write_picture(out, inputs, made.attributions, target["label"], title, note)


def _write(out: Path, document: dict[str, Any]) -> None:
    from eco_ray.whole_file import write_whole

    try:
        write_whole(out, json.dumps(document, allow_nan=False) + "\n")
    except OSError as error:
        raise EcoRayError(f"{out} could not be written: {error}; free space or give another path") from None
