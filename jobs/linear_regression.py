"""Linear regression by gradient descent, written out, against the closed form, on real patients' data.

442 diabetes patients, ten measurements each, and how far the disease had come a year later (Efron et al., "Least angle
regression", 2004; comes with scikit-learn). Ten times ten-fold cross-validation chooses the step size; the chosen one
then fits all patients, and its mean squared error must meet that of the normal equations.

    python jobs/linear_regression.py                                                          # alone, no cluster
    eco-ray job submit jobs/linear_regression.yaml
    ray job submit --working-dir . -- eco-ray run --deadline 5h -- python jobs/linear_regression.py
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are small; before numpy reads it

import numpy as np
from numpy.typing import NDArray

from eco_ray.train import session

Array = NDArray[np.floating[Any]]
FOLDS = 10
#: as shares of 1/L, L the largest curvature of the error: above 2 gradient descent diverges
STEP_SIZES = (0.1, 0.3, 1.0, 1.8)


def load_diabetes() -> tuple[Array, Array]:
    """(442, 11) standardised measurements, the last column 1 for the intercept, and the (442,) outcome."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise SystemExit("the data come with scikit-learn, which is not installed: pip install 'eco-ray[demo]'")
    folder = Path(package.origin).parent / "datasets/data"
    x = np.loadtxt(folder / "diabetes_data_raw.csv.gz")
    y = np.loadtxt(folder / "diabetes_target.csv.gz")
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return np.column_stack([x, np.ones(len(x))]), y


def mean_squared_error(x: Array, y: Array, w: Array) -> float:
    """MSE(w) = 1/n |Xw - y|^2."""
    return float(np.mean((x @ w - y) ** 2))


def gradient_descent(x: Array, y: Array, step_size: float, steps: int) -> Array:
    """Minimise MSE(w) from w = 0; `step_size` is a share of 1/L."""
    n = len(y)
    curvature = 2 / n * np.linalg.norm(x, ord=2) ** 2  # largest eigenvalue of the Hessian 2/n X'X
    w = np.zeros(x.shape[1])
    for _ in range(steps):
        gradient = 2 / n * (x.T @ (x @ w - y))  # d MSE / d w
        w -= step_size / curvature * gradient
    return w


def main() -> None:
    """Cross-validate, fit, compare."""
    parser = argparse.ArgumentParser(description="Gradient descent against the closed form on the diabetes data.")
    parser.add_argument("--steps", type=int, default=3500, help="gradient steps of each fit in the cross-validation")
    parser.add_argument("--repeats", type=int, default=10, help="times that the ten folds are drawn anew")
    args = parser.parse_args()
    with session.open() as run:
        fit(run, args.steps, args.repeats)


def fit(run: session.Session, steps: int, repeats: int) -> None:
    """Go on from the last checkpoint, or begin."""
    x, y = load_diabetes()
    tasks = [(r, f, s) for r in range(repeats) for f in range(FOLDS) for s in range(len(STEP_SIZES))]
    state = run.restore() or {"tasks_done": 0, "error_sums": np.zeros(len(STEP_SIZES))}
    sums: Array = state["error_sums"]

    for done in range(state["tasks_done"], len(tasks)):
        repeat, fold, size = tasks[done]
        held_out = np.random.default_rng(repeat).permutation(len(y)) % FOLDS == fold
        w = gradient_descent(x[~held_out], y[~held_out], STEP_SIZES[size], steps)
        sums[size] += mean_squared_error(x[held_out], y[held_out], w)

        def snapshot(tasks_done: int = done + 1) -> dict[str, Any]:
            return {"tasks_done": tasks_done, "error_sums": sums}

        run.progress((done + 1, len(tasks) + 1))
        run.pause_point(snapshot, every_s=5)

    errors = sums / (repeats * FOLDS)
    best = int(np.argmin(errors))
    for share, error in zip(STEP_SIZES, errors, strict=True):
        print(f"step size {share:.1f}/L: cross-validated MSE {error:.2f}", flush=True)

    mse = mean_squared_error(x, y, gradient_descent(x, y, STEP_SIZES[best], 10 * steps))
    closed_form_mse = mean_squared_error(x, y, np.linalg.solve(x.T @ x, x.T @ y))  # normal equations X'Xw = X'y
    gap = mse / closed_form_mse - 1
    run.finish(mse=mse, closed_form_mse=closed_form_mse, relative_gap=gap, cv_mse=errors[best])
    print(
        f"MSE {mse:.6f} by gradient descent, {closed_form_mse:.6f} in closed form, relative gap {gap:.1e}", flush=True
    )


if __name__ == "__main__":
    main()
