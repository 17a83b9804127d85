"""Error bounds, clamped scales, and models that stay finite, small and savable."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.prune import prunable
from eco_ray.models.quantize import (
    MIN_SCALE,
    SCHEMES,
    Int8Layer,
    _products,
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
    quantize_model,
)
from eco_ray.models.weights import load_model, save_model

#: a busy machine is no failure
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**31)
magnitudes = st.sampled_from([0.0, 1e-42, 1e-38, 1e-30, 1e-3, 1.0, 1e4, 1e30, 3e38])


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@patient
@given(seed=seeds, sizes=st.lists(magnitudes, min_size=1, max_size=6), per_channel=st.booleans())
def test_int8_is_within_half_a_scale_for_channels_of_any_size(seed, sizes, per_channel):
    weight = random(seed, len(sizes), 3, 2) * torch.tensor(sizes).view(-1, 1, 1)
    values, scale = quantize_int8(weight, per_channel=per_channel)
    assert values.dtype == torch.int8
    assert values.shape == weight.shape
    assert scale.shape == (len(sizes), 1)
    assert (scale >= MIN_SCALE).all()
    back = dequantize_int8(values, scale)
    assert torch.isfinite(back).all()
    assert ((back - weight).abs() <= 0.5001 * scale.view(-1, 1, 1)).all()


def test_a_scale_per_channel_keeps_a_small_channel_that_one_scale_loses():
    weight = torch.stack([random(0, 50), 1e-4 * random(1, 50)])
    assert quantize_int8(weight)[0][1].abs().max() == 127
    assert quantize_int8(weight, per_channel=False)[0][1].abs().max() == 0


@patient
@given(
    seed=seeds,
    shape=st.sampled_from([(1, 1), (2, 33), (4, 3, 3, 3), (5, 70)]),
    group=st.sampled_from([2, 32, 64]),
)
def test_int4_round_trip_is_within_half_a_scale(seed, shape, group):
    weight = random(seed, *shape)
    packed, scale = quantize_int4(weight, group)
    inputs = weight[0].numel()
    groups = -(-inputs // group)
    assert packed.shape == (shape[0], groups * group // 2)
    assert scale.shape == (shape[0], groups)
    back = dequantize_int4(packed, scale, weight.shape)
    bound = scale.repeat_interleave(group, dim=1)[:, :inputs].view(shape) / 2
    assert ((back - weight).abs() <= 1.0001 * bound).all()


def with_dead_channels() -> SmallCNN:
    """A model whose first convolution and both dense layers have an all-zero channel, as pruning leaves them."""
    torch.manual_seed(0)
    model = SmallCNN().eval()
    with torch.no_grad():
        for layer in (model.features[0], model.features[3], model.classifier[1], model.classifier[3]):
            layer.weight[2] = 0
    return model


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_all_zero_channels_give_no_nan_and_answers_stay_close(scheme, per_channel):
    model, small = with_dead_channels(), with_dead_channels()
    quantize_model(small, scheme, per_channel=per_channel)
    pixels = torch.cat([random(5, 6, 1, 28, 28).abs(), torch.zeros(1, 1, 28, 28)])
    with torch.inference_mode():
        expected, found = model(pixels), small(pixels)
    assert torch.isfinite(found).all()
    assert found.dtype == torch.float32
    spread = float(expected.abs().max())
    assert (found - expected).abs().max() < (0.25 if scheme.startswith("int4") else 0.05) * spread


def test_a_dead_model_answers_its_biases():
    model = SmallCNN()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.classifier[3].bias.fill_(0.5)
    assert torch.allclose(quantize_model(model, "int8-dynamic")(torch.rand(2, 1, 28, 28)), torch.full((2, 10), 0.5))


@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("inputs", [16, 1040, 3000])
def test_dynamic_products_are_exact(monkeypatch, vnni, inputs):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    layer = nn.Sequential(nn.Linear(inputs, 8))
    small = quantize_model(layer, "int8-dynamic")[0]
    x = torch.full((3, 5, inputs), 127.0)  # quantised to itself
    small.weight.fill_(127)
    small.scale.fill_(1.0)
    assert torch.equal((small(x) - small.bias).round(), torch.full((3, 5, 8), 127.0 * 127 * inputs))


@pytest.mark.parametrize("vnni", [True, False])
def test_long_products_are_exact_where_floats_would_round(monkeypatch, vnni):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(64, 128, (32, 3000), generator=generator, dtype=torch.int8)
    weight = torch.randint(64, 128, (32, 3000), generator=generator, dtype=torch.int8)
    assert torch.equal(_products(rows, weight), (rows.long() @ weight.long().t()).float())


@pytest.mark.parametrize("kept", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_models_of_other_types_than_float32_answer_in_their_own(scheme, kept):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 5)).to(kept).eval()
    x = torch.rand(3, 2, 4, 4).to(kept)
    with torch.inference_mode():
        expected = model(x)
        found = quantize_model(model, scheme)(x)
    assert found.dtype == kept
    assert (found - expected).abs().max() < 0.1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_rows_give_no_answers(scheme):
    assert quantize_model(nn.Sequential(nn.Linear(8, 4)), scheme)(torch.rand(0, 8)).shape == (0, 4)


def test_a_layer_that_stands_in_two_places_becomes_one_small_layer():
    shared = nn.Linear(8, 8)
    model = quantize_model(nn.Sequential(shared, nn.ReLU(), shared), "int8-weight-only")
    assert isinstance(model[0], Int8Layer)
    assert model[0] is model[2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_attention_of_torch_stays_and_works(scheme):
    """It reads the weights of its layers itself, and the encoder's fast path does so with all of them."""
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
    x = torch.rand(2, 5, 16)
    with torch.inference_mode():
        expected = model(x)
        quantize_model(model, scheme)
        found = model(x)
    assert isinstance(model.layers[0].self_attn.out_proj, nn.Linear)
    assert not isinstance(model.layers[0].linear1, nn.Linear)
    assert 0 < (found - expected).abs().max() < 0.5


def test_the_whole_number_product_is_of_the_cpu_alone(monkeypatch):
    """torch's product of int8 on a GPU refuses 16 rows and fewer."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setattr(torch, "_int_mm", lambda *_: pytest.fail("_int_mm on another device"))
    small = quantize_model(nn.Sequential(nn.Linear(8, 4)), "int8-dynamic").to("meta")
    assert small(torch.rand(1, 8, device="meta")).shape == (1, 4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quantised_model_is_saved_small_and_loaded_alike(scheme, tmp_path):
    small = quantize_model(with_dead_channels(), scheme)
    path = tmp_path / "m.safetensors"
    save_model(small, path, {"accuracy": 0.9})
    loaded, metadata = load_model(path)
    pixels = torch.rand(4, 1, 28, 28)
    assert torch.equal(loaded(pixels), small(pixels))
    assert metadata["accuracy"] == 0.9
    weight = load_file(path)["classifier.1.weight"]
    bits = 8 * weight.element_size() * weight.numel() / (64 * 1568)
    assert bits == {"bf16": 16, "int4-weight-only": 4}.get(scheme, 8)


def test_a_file_of_a_scheme_we_do_not_know_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    save_model(quantize_model(SmallCNN(), "bf16"), path, {})
    monkeypatch.delitem(SCHEMES, "bf16")
    with pytest.raises(EcoRayError, match=r"quantised as 'bf16'; this eco_ray .* knows int8-weight-only"):
        load_model(path)


def test_mistakes_are_refused():
    with pytest.raises(UsageError, match="unknown quantisation 'int3'; give one of int8-weight-only"):
        quantize_model(SmallCNN(), "int3")
    with pytest.raises(UsageError, match="no Linear or Conv2d"):
        quantize_model(nn.Sequential(nn.ReLU()), "int8-dynamic")
    with pytest.raises(UsageError, match="even number"):
        quantize_int4(torch.ones(2, 2), 3)
    with pytest.raises(UsageError, match="padding mode"):
        quantize_model(nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="reflect")), "bf16")
    for value in (float("nan"), float("inf")):
        with pytest.raises(EcoRayError, match="not all finite"):
            quantize_int8(torch.tensor([[1.0, value]]))


class Doubled(nn.Linear):
    """A layer with a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_layers_that_would_silently_become_others_are_refused():
    with pytest.raises(UsageError, match="Doubled with a forward of its own"):
        quantize_model(nn.Sequential(Doubled(4, 4)), "int8-weight-only")
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(UsageError, match="layer 0 is parametrised"):
        quantize_model(normed, "int8-weight-only")
    with pytest.raises(UsageError, match="layer 0 is parametrised"):
        prunable(normed)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_encoder_with_padding_is_quantised(scheme):
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2).eval()
    x, padding = torch.randn(2, 5, 32), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        expected = encoder(x, src_key_padding_mask=padding)
        found = quantize_model(encoder, scheme)(x, src_key_padding_mask=padding)
    assert torch.nn.functional.cosine_similarity(found[0].flatten(), expected[0].flatten(), 0) > 0.95


LARGEST = torch.finfo(torch.float32).max


def two_layers(kept: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).to(kept)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(scheme, part, value):
    model = two_layers()
    with torch.no_grad():
        getattr(model[2], part).view(-1)[1] = value
    with pytest.raises(EcoRayError, match=rf"2\.{part} holds values that are not finite"):
        quantize_model(model, scheme)
    assert isinstance(model[0], nn.Linear)  # none or all of them


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_what_float64_holds_and_the_scheme_does_not_is_named(scheme, part):
    model = two_layers(torch.float64)
    with torch.no_grad():
        getattr(model[2], part).view(-1)[1] = -1e39
    with pytest.raises(EcoRayError, match=rf"2\.{part} reaches 1e\+39, and {scheme} holds up to 3\.\d+e\+38"):
        quantize_model(model, scheme)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_bfloat16_has_a_smaller_largest_number_than_float32(part):
    for value, fits in ((torch.finfo(torch.bfloat16).max, True), (LARGEST, False)):
        model = two_layers()
        with torch.no_grad():
            getattr(model[2], part).view(-1)[1] = value
        if fits:
            assert torch.isfinite(quantize_model(model, "bf16")[2].weight_float()).all()
            continue
        with pytest.raises(EcoRayError, match=rf"2\.{part} reaches 3\.40282e\+38, and bf16 holds up to 3\.38953e\+38"):
            quantize_model(model, "bf16")


@patient
@given(steps=st.integers(0, 300), highest=st.sampled_from([127, 7]))
def test_the_largest_weights_stay_finite(steps, highest):
    """127 x (max / 127) rounds to infinity for the largest float."""
    largest = torch.tensor(LARGEST)
    for _ in range(steps):
        largest = torch.nextafter(largest, torch.tensor(0.0))
    weight = torch.tensor([[1.0, -1.0]]) * largest
    if highest == 127:
        values, scale = quantize_int8(weight)
        back = dequantize_int8(values, scale)
    else:
        packed, scale = quantize_int4(weight)
        back = dequantize_int4(packed, scale, weight.shape)
    assert torch.isfinite(back).all()
    assert ((back.double() - weight.double()).abs() <= scale.double() / 2).all()


def test_weights_of_float64_that_float32_holds_as_zero_become_zero():
    model = two_layers(torch.float64)
    with torch.no_grad():
        model[2].weight.fill_(1e-300)
    assert (quantize_model(model, "int8-weight-only")[2].weight_float() == 0).all()
