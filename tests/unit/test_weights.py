import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from eco_ray import __version__
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.weights import load_model, save_model


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(3)
    model = SmallCNN()
    path = tmp_path / "models" / "m.safetensors"
    save_model(model, path, {"version": 2, "accuracy": 0.975})
    return model, path


def test_round_trip_gives_the_same_answers_and_the_metadata(saved):
    model, path = saved
    loaded, metadata = load_model(path)
    pixels = torch.rand(8, 1, 28, 28)
    assert torch.equal(loaded(pixels), model(pixels))
    assert metadata == {"version": 2, "accuracy": 0.975, "architecture": "small-cnn", "eco_ray_version": __version__}
    assert not loaded.training
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]


def test_any_safetensors_tool_reads_it(saved):
    model, path = saved
    assert load_file(path).keys() == model.state_dict().keys()


def test_small_cnn_is_small_and_normalises_its_input():
    model = SmallCNN()
    assert sum(p.numel() for p in model.parameters()) == 105_866
    seen = []
    model.features.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert model.predict(torch.full((2, 1, 28, 28), 0.1307)).shape == (2,)
    assert seen[0].abs().max() < 1e-6


def test_every_flipped_byte_is_found(saved):
    _, path = saved
    whole = path.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    for at in [0, 3, *range(8, header_end, 61), header_end, (header_end + len(whole)) // 2, len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            _, metadata = load_model(path)
        except EcoRayError as error:
            assert str(path) in str(error)  # noqa: PT017  # a flip in the header's padding may be harmless
        else:
            assert metadata["accuracy"] == 0.975


@pytest.mark.parametrize("size", [0, 5, 100, 100_000])
def test_a_truncated_file_is_damaged(saved, size):
    _, path = saved
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(EcoRayError, match=rf"{size} bytes\) is damaged.*again"):
        load_model(path)


def test_an_unknown_architecture_names_the_known_ones(saved, monkeypatch):
    _, path = saved
    monkeypatch.setattr("eco_ray.models.weights.ARCHITECTURES", {"other": SmallCNN})
    with pytest.raises(EcoRayError, match=r"'small-cnn'.*knows other.*use eco_ray"):
        load_model(path)


def test_a_foreign_or_missing_file_and_an_unknown_class(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(EcoRayError, match="format None"):
        load_model(tmp_path / "foreign.safetensors")
    with pytest.raises(NotFoundError, match="train one"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match=r"Linear cannot be saved.*small-cnn.*ARCHITECTURES"):
        save_model(torch.nn.Linear(2, 2), tmp_path / "x", {})
    with pytest.raises(UsageError, match="not JSON"):
        save_model(SmallCNN(), tmp_path / "x", {"loss": float("nan")})


def test_a_model_that_cannot_be_written_leaves_the_old_one(saved, monkeypatch):
    model, path = saved
    before = path.read_bytes()

    def full(tensors, part, metadata):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eco_ray.models.weights.save_file", full)
    with pytest.raises(EcoRayError, match=r"No space left.*free space"):
        save_model(model, path, {})
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1
    assert json.dumps(load_model(path)[1])
