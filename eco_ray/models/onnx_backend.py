"""onnxruntime with int8 weights: the fewest joules per answer on a CPU. Extra `onnx`, imported lazily."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.models import prune
from eco_ray.models.compress import Variant
from eco_ray.models.export import export_onnx, need_onnx, quiet, write_whole
from eco_ray.models.recipe import ONNXRUNTIME_INT8
from eco_ray.models.runtimes.device import CPU, full

#: operators whose weights become int8. Convolutions stay float32: onnxruntime's int8 ones are slower on a CPU.
OPERATORS = ("MatMul", "Gemm", "Gather", "Attention", "EmbedLayerNormalization")
_CUDA = "CUDAExecutionProvider"
#: what onnxruntime says where memory does not do: its class for that is that of all other failures
_FULL = "Failed to allocate memory"


def quantize_onnx(
    source: Path, target: Path, *, per_channel: bool = True, operators: Sequence[str] = OPERATORS
) -> None:
    """Write `target`, the ONNX model `source` with int8 weights and inputs that are quantised at each call.

    Weights keep to 7 bits, since CPUs without VNNI add pairs of products in 16 bits that would overflow (onnxruntime's
    `reduce_range`). Raises EcoRayError without the extra `onnx`.
    """
    need_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(
            str(prepared),
            str(target),
            op_types_to_quantize=list(operators),
            per_channel=per_channel,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )


class OnnxModel:
    """An ONNX model in onnxruntime."""

    def __init__(
        self, path: Path, threads: int = 1, device: torch.device = CPU, memory_bytes: int | None = None
    ) -> None:
        """`memory_bytes`: of a GPU's that it may take; None: all.

        Operators that onnxruntime has for the CPU only stay there. Raises EcoRayError without the extra `onnx`, for a
        file that onnxruntime refuses, and for a GPU that it cannot use.
        """
        need_onnx()
        import onnxruntime

        provider = _provider(onnxruntime, device, memory_bytes)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # a waiting thread that spins burns joules for microseconds
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # onnxruntime's own classes have no common base
            raise EcoRayError(f"onnxruntime cannot load {path}: {error}; export the model again") from error
        # where CUDA's libraries are missing, it warns and takes the CPU
        if device != CPU and _CUDA not in self._session.get_providers():
            raise _no_gpu(f"onnxruntime {onnxruntime.__version__} cannot load its part for CUDA", device)
        self.inputs: tuple[str, ...] = tuple(found.name for found in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(found.name for found in self._session.get_outputs())
        self._refused: type[Exception] = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name, for arrays by input name.

        Raises UsageError for sizes that the model does not take, DeviceFullError where memory does not do.
        """
        try:
            return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))
        except self._refused as error:
            short = " ".join(str(error).split())[:160]
            raise UsageError(f"the model does not take these inputs: {short}; compare its signature") from None
        except Exception as error:  # as above
            _, said, size = str(error).partition(_FULL)
            if not said:
                raise
            raise full(said + " ".join(size.split())[:160]) from None

    def __call__(self, x: Tensor) -> Tensor:
        """The first output for the only input."""
        return torch.from_numpy(self.run({self.inputs[0]: x.numpy()})[self.outputs[0]])


def _provider(onnxruntime: Any, device: torch.device, memory_bytes: int | None) -> Any:
    """What InferenceSession takes for a device."""
    if device == CPU:
        return "CPUExecutionProvider"
    if _CUDA not in (found := onnxruntime.get_available_providers()):
        raise _no_gpu(f"onnxruntime {onnxruntime.__version__} has {', '.join(found)}, none for CUDA", device)
    limit = {} if memory_bytes is None else {"gpu_mem_limit": memory_bytes}
    return _CUDA, {"device_id": device.index or 0, **limit}


def _no_gpu(why: str, device: torch.device) -> EcoRayError:
    return EcoRayError(
        f"{why}, and the model is to compute on {device}; pip uninstall onnxruntime, then pip install onnxruntime-gpu "
        "for the CUDA that is here, or serve it without a GPU"
    )


def onnx_int8(model: nn.Module, example: Tensor, *, per_channel: bool = True) -> Variant:
    """The model in onnxruntime with int8 weights, as a variant; `example`: an input of two rows or more.

    Raises EcoRayError for weights and biases that are not finite, and without the extra `onnx`.
    """
    for name, values in model.named_parameters():
        prune.must_be_finite(name, values)

    def write(path: Path) -> None:
        write_whole(path, lambda part: part.write_bytes(content))

    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        export_onnx(model, example, plain)
        quantize_onnx(plain, small, per_channel=per_channel)
        content = small.read_bytes()
        running = OnnxModel(small)
    return Variant(ONNXRUNTIME_INT8, running, write, prune.sparsity_of(model), suffix=".onnx")
