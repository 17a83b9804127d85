"""Arrays and safetensors files for the tests of the container."""

import json
import struct

import numpy as np

from eco_ray.models.tensor_header import DTYPES

#: types of safetensors whose elements are whole bytes
BYTE_TYPES = [name for name, dtype in DTYPES.items() if dtype.bits % 8 == 0]


def weights(dtype, count, seed=0):
    """Bytes of normally distributed values where the type has an exponent, else of small integers."""
    rng = np.random.default_rng(seed)
    info = DTYPES[dtype]
    values = rng.normal(0, 0.05, count)
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    if info.is_float:
        return values.astype({"C64": "<c8"}.get(dtype, f"<f{info.bits // 8}")).tobytes()
    return (values * 200).astype(np.int64).astype(f"<i{info.bits // 8}").tobytes()


def safetensors(tensors, metadata=None, spaces=0):
    """A file of [(name, dtype, shape, bytes)], its tensors in this order."""
    header, at = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode() + b" " * spaces
    return struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors)
