"""An input to explain: an array, a picture, or a test image of the demo data set; bounded by the model's signature.

Whatever the file is, no more is read or decoded than the signature allows, and no pickle.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.models.datasets import MNIST, load_images
from eco_ray.models.signature import TensorSpec

#: NumPy has no bfloat16: `explain` makes it of float32
_DTYPES = {"FP16": "float16", "BF16": "float32", "FP32": "float32", "FP64": "float64"}
_PICTURES = (".png", ".jpg", ".jpeg")
#: modes of Pillow that become grey or colour without anything that would have to be decided
_MODES = ("1", "L", "P", "RGB")


def is_image(spec: TensorSpec) -> bool:
    """Whether an input is a grey or colour image: [batch, 1 or 3, height, width]."""
    return len(spec.shape) == 4 and spec.shape[1] in (1, 3)


def read_input(source: str, spec: TensorSpec) -> NDArray[Any]:
    """What FILE.npy, FILE.png, FILE.jpg or mnist:INDEX holds, with a batch of one, of the input's type and shape.

    A picture becomes 0 (black) to 1. Raises UsageError for what does not fit, NotFoundError for a file that is missing.
    """
    dtype, path = _DTYPES[spec.datatype], Path(source)
    if source.startswith(f"{MNIST}:"):
        found: NDArray[Any] = _mnist(source).astype(dtype)
    elif path.suffix not in (".npy", *_PICTURES):
        raise UsageError(f"{source[:200]!r} is no input; give FILE.npy, FILE.png, FILE.jpg or {MNIST}:INDEX")
    elif not path.is_file():
        raise NotFoundError(f"no input file {source}")
    else:
        found = _array(path, dtype) if path.suffix == ".npy" else _picture(path, spec).astype(dtype)
    wanted = list(spec.shape[1:])
    if list(found.shape) not in (wanted, [1, *wanted]):
        raise UsageError(f"{source} has the shape {_shape(found.shape)}; input {spec.name!r} takes {wanted}")
    if not np.isfinite(found).all():
        raise UsageError(f"{source} holds values that are not finite; give numbers")
    return np.array(found, dtype=dtype, order="C").reshape(1, *wanted)


def _array(path: Path, dtype: str) -> NDArray[Any]:
    """Mapped, not read: the shape in the header is compared with the size of the file, and with the signature."""
    try:
        found = npy.open_memmap(path, mode="r")
    except (OSError, ValueError, OverflowError) as error:
        raise _unreadable(path, error) from None
    if found.dtype.newbyteorder("=") != np.dtype(dtype):
        raise UsageError(f"{path} is {found.dtype}; the input takes {dtype}: save array.astype('{dtype}')")
    return found


def _picture(path: Path, spec: TensorSpec) -> NDArray[Any]:
    if not is_image(spec):
        raise UsageError(f"input {spec.name!r} of shape {list(spec.shape)} takes no image; give FILE.npy")
    try:
        from PIL import Image
    except ImportError:
        raise EcoRayError("pictures need: pip install 'eco-ray[explain]'") from None
    _, channels, height, width = spec.shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                if image.size != (width, height):
                    raise UsageError(
                        f"{path} has {image.width} x {image.height} pixels; input {spec.name!r} takes "
                        f"{width} x {height}: resize it"
                    )
                if image.mode not in _MODES or "transparency" in image.info:
                    raise UsageError(f"{path} is of mode {image.mode}; save it as 8 bit grey or RGB, not transparent")
                pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _unreadable(path, error) from None
    return (pixels.reshape(height, width, channels).transpose(2, 0, 1) / np.float32(255)).astype(np.float32)


def _mnist(source: str) -> NDArray[Any]:
    index, images = source.partition(":")[2], load_images(MNIST).test_pixels
    if not (index.isascii() and index.isdigit() and len(index) <= 9 and int(index) < len(images)):
        raise UsageError(f"there is no test image {index[:40]!r} of {MNIST}; give 0 to {len(images) - 1}")
    found: NDArray[Any] = images[int(index)].numpy()
    return found


def _shape(shape: Sequence[int]) -> str:
    return str(list(shape))[:200]


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())[:160]}")
