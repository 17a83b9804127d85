"""Exported files answer as the model does, hold no pickle where we say so, and appear whole or not at all."""

from __future__ import annotations

import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from compress_cases import make_images

import eco_ray
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.compress import variants
from eco_ray.models.datasets import load_images
from eco_ray.models.export import export_model, export_torchscript
from eco_ray.models.quantize import SCHEMES, quantize_model
from eco_ray.models.recipe import Recipe
from eco_ray.models.weights import load_model, save_model

EXAMPLE = torch.rand(2, 1, 28, 28)


def small_cnn(scheme: str | None) -> torch.nn.Module:
    torch.manual_seed(0)
    model = SmallCNN().eval()
    return quantize_model(model, scheme) if scheme else model


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_pt2_answers_alike_for_any_batch_and_holds_no_pickle(scheme, tmp_path):
    model, path = small_cnn(scheme), tmp_path / "deep" / "m.pt2"
    export_model(model, EXAMPLE, path)
    loaded = torch.export.load(path).module()
    for count in (1, 5):
        pixels = torch.rand(count, 1, 28, 28)
        assert torch.allclose(loaded(pixels), model(pixels), atol=1e-6)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            # a pickle of protocol 2 or newer begins with \x80 and its protocol, torch.save's zip with PK
            assert not name.endswith(".pkl"), name
            if "weights/weight_" not in name:
                assert not content.startswith((b"\x80", b"PK")), name
    assert [found.name for found in path.parent.iterdir()] == ["m.pt2"]


def assert_alike(write, suffix, folder):
    """Two writes, one content, in which nothing is of this machine."""
    first, second = (folder / f"{name}{suffix}" for name in ("first", "another"))
    write(first)
    write(second)
    assert first.read_bytes() == second.read_bytes()
    assert str(Path(eco_ray.__file__).parent).encode() not in first.read_bytes()


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_pt2_of_one_model_is_one_file(scheme, tmp_path):
    model = small_cnn(scheme)
    assert_alike(lambda path: export_model(model, EXAMPLE, path), ".pt2", tmp_path)


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_safetensors_of_one_model_is_one_file(scheme, tmp_path):
    metadata = {"accuracy": 0.9, "recipe": 'a "\N{WHITE SMILING FACE}" \x01\\', "epochs": 3}
    assert_alike(lambda path: save_model(small_cnn(scheme), path, metadata), ".safetensors", tmp_path)
    code = (
        "import sys, torch; torch.manual_seed(0); from eco_ray.models.cnn import SmallCNN\n"
        "from eco_ray.models.weights import save_model; save_model(SmallCNN(), sys.argv[1], {'b': 1, 'a': 2})"
    )
    if scheme is None:
        save_model(small_cnn(None), tmp_path / "here", {"b": 1, "a": 2})
        subprocess.run([sys.executable, "-c", code, tmp_path / "there"], check=True)
        assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
    assert load_model(tmp_path / "first.safetensors")[1]["recipe"] == metadata["recipe"]


def test_torchscript_works_and_says_that_it_is_deprecated(tmp_path):
    model, path = small_cnn("int8-weight-only"), tmp_path / "m.ts"
    with pytest.warns(DeprecationWarning, match=r"torch.jit.trace is deprecated .* write .pt2"):
        export_torchscript(model, EXAMPLE, path)
    pixels = torch.rand(5, 1, 28, 28)
    assert torch.allclose(torch.jit.load(path)(pixels), model(pixels), atol=1e-6)


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"'.pkl'; give .pt2, .ts, .onnx"):
        export_model(small_cnn(None), EXAMPLE, tmp_path / "m.pkl")


def test_what_fails_leaves_nothing(tmp_path):
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        export_model(Broken(), EXAMPLE, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".pt2", ".ts", ".safetensors"])
def test_a_disk_that_becomes_full_is_told_and_leaves_nothing(suffix, tmp_path):
    def write(path):
        if suffix == ".safetensors":
            save_model(small_cnn(None), path, {})
        else:
            export_model(small_cnn(None), EXAMPLE, path)

    write(tmp_path / f"kept{suffix}")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(EcoRayError, match=r"could not be written.*; free space or give another path"):
            write(tmp_path / f"more{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == [f"kept{suffix}"]


@pytest.mark.parametrize("suffix", [".pt2", ".ts"])
def test_a_place_that_cannot_be_written_says_so(suffix, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / f"file/m{suffix}", tmp_path / f"{'long' * 99}{suffix}"):
        with pytest.raises(EcoRayError, match=r"could not be written: .*; free space or give another path"):
            export_model(small_cnn(None), EXAMPLE, path)


def test_without_the_extra_onnx_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EcoRayError, match=r"pip install 'eco-ray\[onnx\]'"):
        export_model(small_cnn(None), EXAMPLE, tmp_path / "m.onnx")


@pytest.fixture
def _onnx():
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)


@pytest.mark.usefixtures("_onnx")
def test_onnx_of_one_model_is_one_file(tmp_path):
    from eco_ray.models.onnx_backend import quantize_onnx

    model = small_cnn(None)
    assert_alike(lambda path: export_model(model, EXAMPLE, path), ".onnx", tmp_path)
    assert_alike(lambda path: quantize_onnx(tmp_path / "first.onnx", path), "-int8.onnx", tmp_path)


@pytest.mark.usefixtures("_onnx")
def test_onnxruntime_int8_answers_nearly_alike_and_is_small(tmp_path):
    from eco_ray.models.onnx_backend import OnnxModel, onnx_int8

    model = small_cnn(None)
    export_model(model, EXAMPLE, tmp_path / "m.onnx")
    pixels = torch.rand(5, 1, 28, 28)
    with torch.inference_mode():
        expected = model(pixels)
    assert torch.allclose(OnnxModel(tmp_path / "m.onnx")(pixels), expected, atol=1e-5)
    variant = onnx_int8(model, EXAMPLE)
    variant.write(tmp_path / "new" / "small.onnx")
    (tmp_path / "new" / "small.onnx").replace(tmp_path / "small.onnx")
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(EcoRayError, match="could not be written"):
        variant.write(tmp_path / "small.onnx" / "m.onnx")
    assert (tmp_path / "small.onnx").stat().st_size < 0.4 * (tmp_path / "m.onnx").stat().st_size
    for running in (variant.logits, OnnxModel(tmp_path / "small.onnx")):
        assert torch.cosine_similarity(running(pixels), expected).min() > 0.99


@pytest.mark.usefixtures("_onnx")
@pytest.mark.parametrize("per_channel", [True, False])
def test_onnxruntime_int8_keeps_7_bits_of_dense_weights_and_leaves_convolutions(tmp_path, per_channel):
    import onnx

    from eco_ray.models.onnx_backend import onnx_int8

    path = tmp_path / "m.onnx"
    onnx_int8(small_cnn(None), EXAMPLE, per_channel=per_channel).write(path)
    graph = onnx.load(path).graph
    arrays = {found.name: onnx.numpy_helper.to_array(found) for found in graph.initializer}
    dense = {name: values for name, values in arrays.items() if values.dtype == "int8" and values.ndim == 2}
    assert sorted(values.size for values in dense.values()) == [640, 64 * 1568]
    assert all(abs(values.astype(int)).max() <= 64 for values in dense.values())
    scales = sorted(v.size for name, v in arrays.items() if name.endswith("_scale") and "weight" in name)
    assert scales == ([10, 64] if per_channel else [1, 1])
    assert [node.op_type for node in graph.node].count("Conv") == 2


@pytest.mark.usefixtures("_onnx")
def test_onnxruntime_gets_the_pruned_model_of_a_recipe(tmp_path):
    data = load_images(str(make_images(tmp_path)))
    keys = {"prune": {"sparsity": 0.7}, "quantize": {"scheme": "onnxruntime-int8"}}
    _, pruned, small = variants(small_cnn(None), Recipe.model_validate(keys), data)
    assert small.sparsity == pytest.approx(0.7, abs=1e-4)
    pixels = data.test_pixels[:5]
    assert torch.cosine_similarity(small.logits(pixels), pruned.logits(pixels)).min() > 0.99


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_onnxruntime_int8_names_what_is_not_finite(part):
    from eco_ray.models.onnx_backend import onnx_int8

    model = small_cnn(None)
    with torch.no_grad():
        getattr(model.classifier[3], part).view(-1)[0] = float("nan")
    with pytest.raises(EcoRayError, match=rf"classifier\.3\.{part} holds values that are not finite"):
        onnx_int8(model, EXAMPLE)


@pytest.mark.usefixtures("_onnx")
def test_a_layer_of_zeros_stays_finite_on_onnxruntime():
    from eco_ray.models.onnx_backend import onnx_int8

    model = small_cnn(None)
    with torch.no_grad():
        model.classifier[1].weight[3:40] = 0
        model.classifier[3].weight.zero_()
    assert torch.allclose(onnx_int8(model, EXAMPLE).logits(EXAMPLE), model.classifier[3].bias.expand(2, 10), atol=1e-6)


@pytest.mark.usefixtures("_onnx")
def test_onnxruntime_refuses_a_damaged_file(tmp_path):
    from eco_ray.models.onnx_backend import OnnxModel

    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(EcoRayError, match="onnxruntime cannot load"):
        OnnxModel(tmp_path / "m.onnx")
