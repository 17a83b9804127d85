"""Train by stochastic gradient descent: in this process, or with workers around a parameter server on Ray.

    python jobs/train_sgd.py --model linear --batch 0              # all rows in a step; 64: mini-batches; 1: stochastic
    python jobs/train_sgd.py --model mlp --method async --workers 2 --codec int8         # Ray, started on this machine
    python jobs/train_sgd.py --model cnn --method sync --workers 2
    eco-ray job submit jobs/train_sgd.yaml
    ray job submit --working-dir . -- eco-ray run --deadline 16h -- python jobs/train_sgd.py --model mlp

It can wait and it can be interrupted at any step. `plain` and `sync` go on bit for bit (sync: without a codec).
"""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one CPU for each process; before numpy reads it

from eco_ray.train import session
from eco_ray.train.sgd import SGD, LearningRate, Tensors, descend

if TYPE_CHECKING:
    from jobs import sgd_tasks
else:
    import sgd_tasks  # stands beside this script

#: gradients in a synchronous update, whatever the number of workers, so that it never changes what is learned
GROUP = 4


def main() -> None:
    """Train, evaluate, say what came of it."""
    parser = argparse.ArgumentParser(description="Batch, stochastic, synchronous or asynchronous SGD.")
    parser.add_argument("--model", choices=sorted(sgd_tasks.MODELS), default="mlp")
    parser.add_argument("--method", choices=["plain", "sync", "async"], default="plain", help="plain: in this process")
    parser.add_argument("--batch", type=int, default=32, help="rows of a gradient; 0: all of them")
    parser.add_argument("--epochs", type=int, help="default: what suits the model")
    parser.add_argument("--learning-rate", type=float, help="at the start; falls linearly to zero")
    parser.add_argument("--momentum", type=float, default=0.0, help="asynchrony acts as momentum by itself")
    parser.add_argument("--workers", type=int, help="default: those that the job holds resources for")
    parser.add_argument("--staleness-bound", type=int, help="most updates that a gradient of async may have missed")
    parser.add_argument("--codec", default="none", help="of gradients: none, int8, topk:0.01")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with session.open() as run:
        train(run, args)


def train(run: session.Session, args: argparse.Namespace) -> None:
    """Go on from the last checkpoint, or begin."""
    make, rate, epochs = sgd_tasks.MODELS[args.model]
    model = make(args.batch, args.seed)
    optimiser = SGD(LearningRate(args.learning_rate or rate, 0.0), args.momentum)
    steps = (args.epochs or epochs) * len(model.batches)
    metrics: dict[str, Any] = {}
    began = time.perf_counter()
    if args.method == "plain":
        parameters = in_this_process(run, model, optimiser, steps)
    else:
        parameters, metrics = on_ray(run, model, optimiser, steps, args)
    took_s = time.perf_counter() - began
    found = model.evaluate(parameters)
    run.finish(**metrics, **found)
    told = ", ".join(f"{name} {value:.6g}" for name, value in found.items())
    print(f"{args.model}, {args.method}, {steps} gradients in {took_s:.1f} s: {told}", flush=True)
    if metrics:
        print(
            f"staleness {metrics['staleness']} (gradients by the updates that they missed); gradients "
            f"{metrics['bytes_pushed'] / 1e6:.1f} MB ({metrics['bytes_pushed_share']:.1%} of plain), parameters "
            f"{metrics['bytes_pulled'] / 1e6:.1f} MB; {metrics['workers_lost']} workers lost",
            flush=True,
        )


def in_this_process(run: session.Session, model: sgd_tasks.Model, optimiser: SGD, steps: int) -> Tensors:
    """One step after the other."""
    state: dict[str, Any] = run.restore() or {"done": 0, "parameters": model.start(), "optimiser": optimiser.state()}
    optimiser.load(state["optimiser"])
    parameters: Tensors = state["parameters"]
    for done, loss in descend(model, parameters, optimiser, steps, state["done"]):
        run.progress((done, steps), loss=loss)

        def snapshot(done: int = done) -> dict[str, Any]:
            return {"done": done, "parameters": parameters, "optimiser": optimiser.state()}

        run.pause_point(snapshot, every_s=5)
    return parameters


def on_ray(
    run: session.Session, model: sgd_tasks.Model, optimiser: SGD, steps: int, args: argparse.Namespace
) -> tuple[Tensors, dict[str, Any]]:
    """With workers; their number may be another one at the next attempt."""
    from eco_ray.on_ray.training import async_sgd

    workers = args.workers or run.workers
    options = async_sgd.Options(
        steps=steps - steps % GROUP if args.method == "sync" else steps,
        workers=workers,
        method=args.method,
        staleness_bound=args.staleness_bound,
        group=GROUP,
        codec=args.codec,
    )
    parameters, tally = async_sgd.train(run, model, model.start(), optimiser, options)
    return parameters, tally.metrics()


if __name__ == "__main__":
    main()
