"""Softmax regression on the MNIST pixels by gradient descent, written out: the job that cannot wait.

Its deadline leaves no room for a cleaner hour, so it is placed in the cleanest zone that is free now.

    python jobs/softmax_regression.py                                                         # alone, no cluster
    eco-ray job submit jobs/softmax_regression.yaml
    ray job submit --working-dir . -- eco-ray run --deadline 110m -- python jobs/softmax_regression.py
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one core; before numpy reads it

import numpy as np
from numpy.typing import NDArray

from eco_ray.train import session

if TYPE_CHECKING:
    from jobs import mnist_data
else:
    import mnist_data  # stands beside this script

Pixels = NDArray[np.float32]
BATCH = 100
STEP_SIZE = 0.1
FOLDS = 5
#: strengths of the penalty on the weights that are tried
WEIGHT_DECAYS = (0.0, 1e-3, 3e-3, 1e-2)


def softmax(scores: Pixels) -> Pixels:
    """p_k = exp(s_k) / sum_j exp(s_j) of each row; the shift by the row's maximum keeps exp finite."""
    powers: Pixels = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Pixels = powers / powers.sum(axis=1, keepdims=True)
    return shares


def fit(x: Pixels, labels: NDArray[np.int64], weight_decay: float, epochs: int) -> tuple[Pixels, Pixels]:
    """Weights (784, 10) and bias (10,) that make the labels likely, by gradient descent on mini-batches."""
    weights, bias = np.zeros((x.shape[1], 10), np.float32), np.zeros(10, np.float32)
    one_hot = np.eye(10, dtype=np.float32)[labels]
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        for rows in rng.permutation(len(x)).reshape(-1, BATCH):
            error = softmax(x[rows] @ weights + bias) - one_hot[rows]  # d cross-entropy / d scores
            weights -= STEP_SIZE * (x[rows].T @ error / BATCH + weight_decay * weights)
            bias -= STEP_SIZE * error.mean(axis=0)
    return weights, bias


def share_right(x: Pixels, labels: NDArray[np.int64], model: tuple[Pixels, Pixels]) -> float:
    """Accuracy of a fitted model."""
    weights, bias = model
    return float(np.mean((x @ weights + bias).argmax(axis=1) == labels))


def main() -> None:
    """Choose the penalty by cross-validation on 4,000 images, fit them all, test on 1,000 others."""
    parser = argparse.ArgumentParser(description="Softmax regression on 4,000 MNIST images.")
    parser.add_argument("--epochs", type=int, default=80, help="of each fit")
    args = parser.parse_args()
    with session.open() as run:
        train(run, args.epochs)


def train(run: session.Session, epochs: int) -> None:
    """Go on from the last checkpoint, or begin."""
    data = mnist_data.load()
    x, labels = data.train_images, data.train_labels
    fold_of = np.random.default_rng(0).permutation(len(x)) % FOLDS
    tasks = [(decay, fold) for decay in WEIGHT_DECAYS for fold in range(FOLDS)]
    state: dict[str, Any] = run.restore() or {"scores": []}
    scores: list[float] = state["scores"]

    for decay, fold in tasks[len(scores) :]:
        model = fit(x[fold_of != fold], labels[fold_of != fold], decay, epochs)
        scores.append(share_right(x[fold_of == fold], labels[fold_of == fold], model))
        run.progress((len(scores), len(tasks) + 1))
        run.pause_point(lambda: state, every_s=5)

    by_decay = np.reshape(scores, (len(WEIGHT_DECAYS), FOLDS)).mean(axis=1)
    for decay, score in zip(WEIGHT_DECAYS, by_decay, strict=True):
        print(f"weight decay {decay:g}: cross-validated accuracy {score:.3f}", flush=True)
    best = WEIGHT_DECAYS[int(by_decay.argmax())]
    accuracy = share_right(data.held_out_images, data.held_out_labels, fit(x, labels, best, epochs))
    run.finish(accuracy=accuracy, weight_decay=best)
    print(f"held-out accuracy {accuracy:.3f} ({len(data.held_out_labels)} images)", flush=True)


if __name__ == "__main__":
    main()
