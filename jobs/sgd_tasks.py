"""Three models for train_sgd.py, each a loss with its gradient: linear regression, a dense and a convolutional network.

The first two are written out with NumPy; the third is eco_ray's SmallCNN, whose gradient comes from torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eco_ray.train.batch_order import BatchOrder
from eco_ray.train.sgd import Task, Tensors

if TYPE_CHECKING:
    import torch

    from eco_ray.models.cnn import SmallCNN
    from jobs import linear_regression, mnist_data
else:
    import linear_regression  # these two stand beside this script
    import mnist_data

HIDDEN = 64


class Model(Task, Protocol):
    """A task that knows where to begin and how good it has become."""

    #: which rows each step sees
    batches: BatchOrder

    def start(self) -> Tensors:
        """Parameters to begin with, the same ones for the same seed."""

    def evaluate(self, parameters: Tensors) -> dict[str, float]:
        """How good parameters are, on what they were not trained on."""


def _order(rows: int, batch: int, seed: int) -> BatchOrder:
    """`batch` 0: all rows in a step."""
    return BatchOrder(rows, batch or rows, seed=seed, drop_last=False)


class LinearRegression:
    """442 diabetes patients, all of them: the mean squared error must meet that of the closed form."""

    def __init__(self, batch: int, seed: int) -> None:
        self.x, self.y = linear_regression.load_diabetes()
        self.batches = _order(len(self.y), batch, seed)

    def start(self) -> Tensors:
        """W = 0."""
        return {"w": np.zeros(self.x.shape[1])}

    def gradient(self, parameters: Tensors, step: int) -> tuple[float, Tensors]:
        """Of 1/n |Xw - y|^2."""
        rows = self.batches.rows(step)
        x, error = self.x[rows], self.x[rows] @ parameters["w"] - self.y[rows]
        return float(np.mean(error**2)), {"w": 2 / len(rows) * (x.T @ error)}

    def evaluate(self, parameters: Tensors) -> dict[str, float]:
        """Against the normal equations X'Xw = X'y."""
        solved = np.linalg.solve(self.x.T @ self.x, self.x.T @ self.y)
        mse, best = (linear_regression.mean_squared_error(self.x, self.y, w) for w in (parameters["w"], solved))
        return {"mse": mse, "closed_form_mse": best, "relative_gap": mse / best - 1}


class Mlp:
    """784 pixels, 64 hidden units with ReLU, ten digits; cross-entropy of the softmax."""

    def __init__(self, batch: int, seed: int) -> None:
        self.data, self.seed = mnist_data.load(), seed
        self.batches = _order(len(self.data.train_labels), batch, seed)

    def start(self) -> Tensors:
        """He et al., 2015: weights with a variance of 2 / inputs; biases 0."""
        rng = np.random.default_rng(self.seed)
        sizes = (784, HIDDEN, 10)
        parameters: Tensors = {}
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes), 1):
            parameters[f"w{layer}"] = (rng.normal(size=(inputs, outputs)) * np.sqrt(2 / inputs)).astype(np.float32)
            parameters[f"b{layer}"] = np.zeros(outputs, np.float32)
        return parameters

    @staticmethod
    def _scores(p: Tensors, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        hidden = np.maximum(x @ p["w1"] + p["b1"], 0)
        return hidden, hidden @ p["w2"] + p["b2"]

    def gradient(self, parameters: Tensors, step: int) -> tuple[float, Tensors]:
        """By the chain rule, from the softmax back."""
        rows = self.batches.rows(step)
        x, labels = self.data.train_images[rows], self.data.train_labels[rows]
        hidden, scores = self._scores(parameters, x)
        shifted = scores - scores.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        shares = powers / powers.sum(axis=1, keepdims=True)
        own = (np.arange(len(rows)), labels)
        loss = float(np.mean(np.log(powers.sum(axis=1)) - shifted[own]))
        shares[own] -= 1
        shares /= len(rows)  # d loss / d scores
        back = shares @ parameters["w2"].T * (hidden > 0)
        return loss, {"w1": x.T @ back, "b1": back.sum(axis=0), "w2": hidden.T @ shares, "b2": shares.sum(axis=0)}

    def evaluate(self, parameters: Tensors) -> dict[str, float]:
        """Share of the held-out images that are read right."""
        _, scores = self._scores(parameters, self.data.held_out_images)
        return {"accuracy": float(np.mean(scores.argmax(axis=1) == self.data.held_out_labels))}


class Cnn:
    """SmallCNN, as train_mnist.py trains it, with plain SGD."""

    def __init__(self, batch: int, seed: int) -> None:
        self.data, self.seed = mnist_data.load(), seed
        self.batches = _order(len(self.data.train_labels), batch, seed)
        self._model: SmallCNN | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_model": None}  # each process makes its own

    @property
    def model(self) -> SmallCNN:
        """The network; its weights are those of the last call."""
        if self._model is None:
            import torch

            from eco_ray.models.cnn import SmallCNN

            torch.set_num_threads(1)  # one CPU for each worker
            torch.manual_seed(self.seed)
            self._model = SmallCNN()
        return self._model

    def start(self) -> Tensors:
        """Torch's own initial values."""
        return {name: p.detach().numpy().copy() for name, p in self.model.named_parameters()}

    def _load(self, parameters: Tensors) -> torch.nn.Module:
        import torch

        with torch.no_grad():
            for name, values in self.model.named_parameters():
                values.copy_(torch.tensor(parameters[name]))
        return self.model

    def gradient(self, parameters: Tensors, step: int) -> tuple[float, Tensors]:
        """Of the cross-entropy; images are shifted by up to two pixels, drawn from the step."""
        import torch

        rows = self.batches.rows(step)
        shift = np.random.default_rng([self.seed, step]).integers(-2, 3, size=2)
        images = torch.from_numpy(self.data.train_images[rows]).reshape(-1, 1, 28, 28)
        model = self._load(parameters)
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            model(images.roll(shift.tolist(), dims=(2, 3))), torch.from_numpy(self.data.train_labels[rows])
        )
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
        return float(loss.detach()), gradient

    def evaluate(self, parameters: Tensors) -> dict[str, float]:
        """Share of the held-out images that are read right."""
        import torch

        self._load(parameters)
        digits = self.model.predict(torch.tensor(self.data.held_out_images).reshape(-1, 1, 28, 28))
        return {"accuracy": float((digits.numpy() == self.data.held_out_labels).mean())}


#: name -> the model for a batch (0: all rows) and a seed; the learning rate that suits it, falling to 0; the epochs
MODELS: dict[str, tuple[Callable[[int, int], Model], float, int]] = {
    "linear": (LinearRegression, 0.1, 300),
    "mlp": (Mlp, 0.2, 20),
    "cnn": (Cnn, 0.1, 6),
}
