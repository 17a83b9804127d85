"""A model as a file that runs without its Python class: torch.export, TorchScript (deprecated), ONNX.

| suffix | format | pickle inside |
|---|---|---|
| .pt2 | torch.export: graph as JSON, weights as plain bytes | no: the sample inputs are left out |
| .onnx | ONNX protobuf (extra `onnx`) | no |
| .ts | TorchScript by torch.jit.trace, for older runtimes | `data.pkl`, read by TorchScript, not Python |
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.whole_file import draft_of

#: largest batch of an exported program
MAX_BATCH = 4096


def export_pt2(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write a .pt2 that takes 1 to MAX_BATCH rows. `example`: an input of two rows or more.

    `torch.export.load(path).module()` runs it.
    """
    program = _program(model, example)
    program.example_inputs = None  # torch would pickle them into the file
    made = io.BytesIO()  # of a path, torch would write its name into the file
    torch.export.save(program, made)
    path.write_bytes(made.getvalue())


def _program(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The model as a graph, without the paths of this machine, so that the same model gives the same file elsewhere."""
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with torch.no_grad():
        program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: batch},))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def export_torchscript(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write TorchScript by tracing, and warn: torch has deprecated it, and a trace keeps one way through the code.

    `torch.jit.load(path)` runs it.
    """
    warnings.warn(
        "torch.jit.trace is deprecated in torch and no faster than the model itself; write .pt2 unless a runtime needs "
        "TorchScript",
        DeprecationWarning,
        stacklevel=2,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(model.eval(), example)  # type: ignore[no-untyped-call]
        made = io.BytesIO()  # torch ends the process where the disk is full
        torch.jit.save(traced, made)
    path.write_bytes(made.getvalue())


def export_onnx(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write ONNX that takes 1 to MAX_BATCH rows, `pixels` -> `logits`. Raises EcoRayError without the extra `onnx`."""
    need_onnx()
    with quiet():
        torch.onnx.export(
            _program(model, example),
            (),
            str(path),
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=["pixels"],
            output_names=["logits"],
        )


#: suffix -> what writes it
EXPORTERS: dict[str, Callable[[nn.Module, Tensor, Path], None]] = {
    ".pt2": export_pt2,
    ".ts": export_torchscript,
    ".onnx": export_onnx,
}

#: schemes of quantize.py whose ONNX files no runtime takes
NOT_ONNX = ("bf16", "int4-weight-only", "int8-dynamic")


def export_model(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write the format of the path's suffix, the whole file or none. Raises UsageError for another suffix."""
    if path.suffix not in EXPORTERS:
        raise UsageError(f"{path}: no format is known by {path.suffix or 'no suffix'!r}; give {', '.join(EXPORTERS)}")
    write_whole(path, lambda part: EXPORTERS[path.suffix](model, example, part))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file of the same suffix beside `path`, then rename it: the whole file appears, or none.

    Raises EcoRayError for a place that cannot be written.
    """
    part = draft_of(path, path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()  # torch's own error for a wrong place would be a RuntimeError without the path
        write(part)
        part.replace(path)
    except OSError as error:
        raise EcoRayError(f"{path} could not be written: {error}; free space or give another path") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def need_onnx() -> None:
    """Raise EcoRayError with the cure where the extra `onnx` is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise EcoRayError(f"{error.name} is not installed; ONNX needs: pip install 'eco-ray[onnx]'") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter tells its progress on stdout and warns of its own parts; errors still come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
