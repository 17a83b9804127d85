"""A least-squares problem as a task of eco_ray.train.sgd."""

from __future__ import annotations

import numpy as np

from eco_ray.train.batch_order import BatchOrder


class LeastSquares:
    """Mean of (xw - y)^2 over the rows of a step; two tensors, so that names and shapes matter."""

    def __init__(self, rows=60, batch=10, noise=0.1, dtype=np.float64, seed=0):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(rows, 4))
        self.x = x.astype(dtype)
        self.y = (x @ [1.0, -2.0, 3.0, 0.5] + 4.0 + noise * rng.normal(size=rows)).astype(dtype)
        self.batches = BatchOrder(rows, batch, seed=seed, drop_last=False)

    def start(self):
        return {"w": np.zeros((2, 2), self.x.dtype), "b": np.zeros(1, self.x.dtype)}

    def gradient(self, parameters, step):
        rows = self.batches.rows(step)
        x, error = self.x[rows], self.x[rows] @ parameters["w"].reshape(-1) + parameters["b"] - self.y[rows]
        slope = 2 / len(rows) * error
        return float(np.mean(error**2)), {"w": (x.T @ slope).reshape(2, 2), "b": slope.sum(keepdims=True)}

    def closed_form(self):
        x = np.column_stack([self.x, np.ones(len(self.x))])
        solution = np.linalg.lstsq(x, self.y)[0]
        return {"w": solution[:4].reshape(2, 2), "b": solution[4:]}


def gap(a, b):
    """Largest difference between two sets of tensors."""
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def same(a, b):
    """Whether every bit is the same."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
