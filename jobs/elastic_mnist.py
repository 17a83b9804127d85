"""Train a network on real handwritten digits with as many workers as the planner gives: the elastic job.

The batches are the same with any number of workers; what changes is how many rows of each a worker takes.

    python jobs/elastic_mnist.py --epochs 2                                    # alone: one worker, no cluster
    eco-ray job submit jobs/elastic_mnist.yaml
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from eco_ray.models.cnn import SmallCNN
from eco_ray.on_ray import training

if TYPE_CHECKING:
    from jobs import mnist_data
else:
    import mnist_data  # stands beside this script

LEARNING_RATE = 2e-3


def main() -> None:
    """Train in all workers; rank 0 evaluates at the end."""
    parser = argparse.ArgumentParser(description="Train a small CNN on 4,000 MNIST images, in parallel.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=256, help="images of a step, of all workers together")
    args = parser.parse_args()
    training.fit(partial(train, epochs=args.epochs, batch_size=args.batch))


def train(run: training.Run, epochs: int, batch_size: int) -> None:
    """Go on from the last checkpoint, or begin; the same in every worker."""
    torch.set_num_threads(1)
    data = mnist_data.load()
    images = torch.from_numpy(data.train_images).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(data.train_labels)

    torch.manual_seed(0)
    model = SmallCNN()
    state = run.restore() or {"consumed": 0}
    if state["consumed"]:
        model.load_state_dict(state["model"])
    parallel = run.wrap(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    if state["consumed"]:
        optimizer.load_state_dict(state["optimizer"])
    print(f"rank {run.rank} of {run.workers} begins after {state['consumed']} images", flush=True)

    for batch in run.batches(len(labels), size=batch_size, epochs=epochs, start=state["consumed"]):
        rows = torch.from_numpy(batch.rows)
        loss = cross_entropy(parallel(images[rows].to(run.device)), labels[rows].to(run.device)) * batch.weight
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.progress((batch.consumed, batch.total), loss=loss)
        run.pause_point(partial(_state, model, optimizer, batch.consumed), every_s=5)

    digits = model.cpu().predict(torch.from_numpy(data.held_out_images).reshape(-1, 1, 28, 28))
    accuracy = float((digits.numpy() == data.held_out_labels).mean())
    run.finish(accuracy=accuracy)
    if run.rank == 0:
        print(f"held-out accuracy {accuracy:.3f} ({len(data.held_out_labels)} images)", flush=True)


def _state(model: SmallCNN, optimizer: torch.optim.Optimizer, consumed: int) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "consumed": consumed}


if __name__ == "__main__":
    main()
