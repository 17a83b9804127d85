"""Train a version of the registry on, and push the next version: a delta, with its joules and lineage.

It ends early when a point of accuracy costs more grams than --grams-per-point, and looks in its first steps for the
number of threads, or the power limit, with the least energy. It can be interrupted at any batch, as train_mnist.py.

    eco-ray model push mnist_cnn.safetensors mnist --alias prod
    python jobs/finetune_mnist.py mnist@prod --epochs 2                                       # alone, no cluster
    eco-ray job submit jobs/finetune_mnist.yaml
    ray job submit --working-dir . -- eco-ray run --deadline 8h -- python jobs/finetune_mnist.py mnist@prod
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from eco_ray import training
from eco_ray.models.datasets import LabelledImages, load_images
from eco_ray.models.manifest import Manifest, Training
from eco_ray.models.registry import About, Registry
from eco_ray.models.weights import load_model, save_model
from eco_ray.train import session

BATCH = 64


def main() -> None:
    """Pull, train, push."""
    parser = argparse.ArgumentParser(description="Fine-tune an MNIST model of the registry.")
    parser.add_argument("model", help="name@ALIAS or name:VERSION")
    parser.add_argument("--data", default="mnist", help="`mnist`, or a safetensors file of images and labels")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="at the start; falls linearly to zero")
    parser.add_argument("--grams-per-point", type=float, help="end when an accuracy point costs more [g]")
    parser.add_argument("--eta", type=float, default=1.0, help="weight of energy against time, in [0, 1]")
    parser.add_argument("--registry", metavar="URL", help="where models are, by the settings if not given")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with session.open() as run:
        fine_tune(run, args)


def fine_tune(run: session.Session, args: argparse.Namespace) -> None:
    """Go on from the last checkpoint, or from the version."""
    registry = training.open_registry(args.registry)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = on_device(load_images(args.data), device)
    state = run.restore() or {}
    # the alias may mean another version by now; an interrupted update goes on with the one that it began with
    model, parent = pull(registry, state.get("parent", args.model))
    model.to(device)
    before = state.get("before") or evaluate(model, data)
    if "model" in state:
        model.load_state_dict(state["model"])
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    step, accuracy = state.get("step", 0), state.get("accuracy", before)
    batches = len(data.train_labels) // BATCH
    steps = args.epochs * batches
    enough = training.GramsPerPoint(args.grams_per_point) if args.grams_per_point else None
    if enough and "enough" in state:
        enough.load_state_dict(state["enough"])
    power = training.power_limits(training.ZeusCost(args.eta))
    if "power" in state:
        power.load_state_dict(state["power"])
    energy = training.energy()
    if "energy" in state:
        energy.load_state_dict(state["energy"])

    def snapshot() -> dict[str, Any]:
        return {
            **{"parent": parent.reference, "model": model.state_dict(), "optimizer": optimizer.state_dict()},
            **{"step": step, "before": before, "accuracy": accuracy},
            **{"power": power.state_dict(), "energy": energy.state_dict()},
            **({"enough": enough.state_dict()} if enough else {}),
        }

    with power:
        while step < steps:
            loss = train_batch(model, optimizer, data, args, step, steps)
            step += 1
            power.step(BATCH, left=(steps - step) * BATCH)
            ends = False
            if step % batches == 0:
                accuracy = evaluate(model, data)
                ends = enough is not None and enough.update(accuracy, emitted_g())
                used_j = energy.lap().energy_j
                print(f"epoch {step // batches}: loss {loss:.4f}, accuracy {accuracy:.3f}, {used_j:.1f} J", flush=True)
            run.progress((step, steps), loss=loss, accuracy=accuracy, **power.metrics)
            run.pause_point(snapshot, every_s=5)
            if ends and enough:
                print(f"ends after {step} of {steps} steps: {enough.why}", flush=True)
                break
    energy.lap()
    metrics = {"accuracy": accuracy, "accuracy_before": before, "steps": step}
    made = push(registry, model, parent, run, training.what_it_took(energy.total), metrics)
    run.finish(accuracy=accuracy, accuracy_before=before, model=made.reference)
    how = "as a delta" if made.blob.base else "alone"
    print(f"held-out accuracy {before:.3f} -> {accuracy:.3f}; {made.reference} is kept {how}", flush=True)


def on_device(data: LabelledImages, device: str) -> LabelledImages:
    """All of it, which is little."""
    tensors = (data.train_pixels, data.train_labels, data.test_pixels, data.test_labels)
    return LabelledImages(data.name, *(one.to(device) for one in tensors))


def pull(registry: Registry, reference: str) -> tuple[nn.Module, Manifest]:
    """The model and its record."""
    with tempfile.TemporaryDirectory(prefix="eco_ray-tune-") as folder:
        file = Path(folder) / "model.safetensors"
        parent = registry.pull(reference, file)
        model, _ = load_model(file)
    return model, parent


def train_batch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: LabelledImages,
    args: argparse.Namespace,
    step: int,
    steps: int,
) -> float:
    """One batch, drawn from the step alone, so that a resumed run sees the same ones; its loss."""
    model.train()
    epoch, batch = divmod(step, len(data.train_labels) // BATCH)
    order = np.random.default_rng([args.seed, 1, epoch]).permutation(len(data.train_labels))
    rows = torch.from_numpy(order[batch * BATCH : (batch + 1) * BATCH]).to(data.train_labels.device)
    optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - step / steps)
    optimizer.zero_grad()
    loss = cross_entropy(model(data.train_pixels[rows]), data.train_labels[rows])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def evaluate(model: nn.Module, data: LabelledImages) -> float:
    """Share of the held-out images that are read right."""
    model.eval()
    with torch.inference_mode():
        right = int((model(data.test_pixels).argmax(1) == data.test_labels).sum())
    return right / len(data.test_labels)


def emitted_g() -> float | None:
    """What this job has emitted by now, by the ledger; None: unknown."""
    told = training.standing()
    return told.spent.operational_g if told is not None and told.spent is not None else None


def push(
    registry: Registry,
    model: nn.Module,
    parent: Manifest,
    run: session.Session,
    took: Training,
    metrics: dict[str, float],
) -> Manifest:
    """The next version; the one that an attempt before this one has pushed, if it came so far."""
    if run.job_id:
        for _, found in registry.manifests(parent.name):
            if isinstance(found, Manifest) and found.lineage.get("job") == run.job_id:
                return found
    about = About(
        framework=f"torch {torch.__version__}",
        signature=parent.signature,
        metrics=metrics,
        lineage={"parent": parent.reference, "update": "fine-tune", **({"job": run.job_id} if run.job_id else {})},
        training=took,
    )
    with tempfile.TemporaryDirectory(prefix="eco_ray-tune-") as folder:
        file = Path(folder) / "model.safetensors"
        save_model(model, file, {"accuracy": metrics["accuracy"], "parent": parent.reference})
        return registry.push(file, parent.name, about)


if __name__ == "__main__":
    main()
