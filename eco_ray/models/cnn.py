"""A small convolutional network for 28 x 28 grey digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: mean and standard deviation of MNIST's 60,000 training images with pixels in [0, 1]
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081


class SmallCNN(nn.Module):
    """Two convolutions with pooling and two dense layers; 105,866 parameters.

    Input: float pixels in [0, 1] (grey value / 255, ink bright), shape (N, 1, 28, 28). The network normalises them by
    MNIST_MEAN and MNIST_STD itself, so that training and serving cannot differ. Output: 10 logits per image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),  # 14 x 14
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),  # 7 x 7
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of the ten digits, shape (N, 10)."""
        logits: Tensor = self.classifier(self.features((pixels - MNIST_MEAN) / MNIST_STD))
        return logits

    @torch.inference_mode()
    def predict(self, pixels: Tensor) -> Tensor:
        """The most likely digit of each image, shape (N,)."""
        return self(pixels).argmax(dim=1)  # type: ignore[no-any-return]  # Module.__call__ is untyped
