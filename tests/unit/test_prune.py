"""What pruning keeps and drops, and what each L1 shrinkage makes zero."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.prune import (
    apply_masks,
    gradual_sparsity,
    magnitude_masks,
    prunable,
    shrink,
    shrink_model,
    sparsity_of,
    two_of_four_mask,
    zero_masks,
)

#: a busy machine is no failure
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**31)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scope", ["global", "layer"])
@patient
@given(seed=seeds, sparsity=st.floats(0, 0.99))
def test_the_sparsity_is_reached_exactly_and_the_largest_are_kept(scope, seed, sparsity):
    weights = {"a": random(seed, 7, 5), "b": 3 * random(seed + 1, 4, 3, 2, 2)}
    masks = magnitude_masks(weights, sparsity, scope)
    assert {name: mask.shape for name, mask in masks.items()} == {name: w.shape for name, w in weights.items()}
    groups = [["a"], ["b"]] if scope == "layer" else [["a", "b"]]
    for names in groups:
        size = torch.cat([weights[name].abs().flatten() for name in names])
        kept = torch.cat([masks[name].flatten() for name in names])
        assert int((~kept).sum()) == round(sparsity * len(size))
        if kept.any() and not kept.all():
            assert size[~kept].max() <= size[kept].min()


def test_global_takes_from_the_layer_of_small_weights_and_layer_from_each():
    weights = {"small": 0.01 * random(1, 10, 10), "large": random(2, 10, 10)}
    over_all = magnitude_masks(weights, 0.5, "global")
    assert int(over_all["small"].sum()) < 5
    assert int(over_all["large"].sum()) > 95
    assert [int(mask.sum()) for mask in magnitude_masks(weights, 0.5, "layer").values()] == [50, 50]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_weights_are_ranked_in_their_own_precision(scope):
    """In float32 these are equal, or beyond its range."""
    fine = torch.tensor([[1 + 3e-12, 1 + 1e-12, 1 + 2e-12, 1.0]], dtype=torch.float64)
    for weight in (fine, 1e300 * fine, 1e-300 * fine):
        masks = magnitude_masks({"w": weight}, 0.5, scope)
        assert masks["w"].tolist() == [[True, False, True, False]]


def test_layers_of_different_types_are_ranked_together():
    weights = {"a": torch.tensor([[1.0, 3.0]]), "b": torch.tensor([[2 + 1e-12, 1e300]], dtype=torch.float64)}
    weights["c"] = torch.tensor([[2.0, 4.0]], dtype=torch.bfloat16)
    masks = magnitude_masks(weights, 1 / 3)
    assert [masks[name].tolist() for name in "abc"] == [[[False, True]], [[True, True]], [[False, True]]]


def test_equal_weights_are_dropped_in_order_and_no_more_than_asked():
    assert magnitude_masks({"w": torch.ones(1, 5)}, 0.4)["w"].tolist() == [[False, False, True, True, True]]


@patient
@given(seed=seeds, outputs=st.integers(1, 5), inputs=st.integers(1, 30))
def test_two_of_four_holds_in_every_group(seed, outputs, inputs):
    weight = random(seed, outputs, inputs)
    mask = two_of_four_mask(weight)
    whole = inputs // 4 * 4
    fours = mask[:, :whole].reshape(outputs, -1, 4)
    assert (fours.sum(dim=2) == 2).all()
    assert mask[:, whole:].all()
    size = weight[:, :whole].abs().reshape(outputs, -1, 4)
    assert (size.masked_fill(~fours, 9e9).amin(2) >= size.masked_fill(fours, -1.0).amax(2)).all()


def test_two_of_four_goes_along_the_inputs_of_a_convolution():
    mask = two_of_four_mask(random(3, 6, 4, 3, 3))
    assert mask.shape == (6, 4, 3, 3)
    assert (mask.reshape(6, 9, 4).sum(2) == 2).all()


@patient
@given(seed=seeds, lambda_=st.floats(1e-4, 2))
def test_soft_thresholding_gives_exact_zeros_and_the_sign_step_does_not(seed, lambda_):
    weight = random(seed, 200)
    soft, sign = shrink(weight, lambda_, "soft"), shrink(weight, lambda_, "sign")
    within = weight.abs() <= lambda_
    assert torch.equal(soft == 0, within)
    assert torch.allclose(soft[~within], (weight - lambda_ * weight.sign())[~within])
    assert torch.equal(sign, weight - lambda_ * weight.sign())
    # only an exact hit becomes zero, and what was within lambda has crossed it
    assert torch.equal(sign == 0, weight.abs() == torch.tensor(lambda_))
    inside = weight.abs() < torch.tensor(lambda_)
    assert (sign[inside] * weight[inside] < 0).all()


def test_soft_thresholding_makes_no_negative_zeros():
    """They are other bits: a quarter more bytes for the coder."""
    made = shrink(torch.tensor([-0.5, -0.01, 0.01, -0.0]), 0.1)
    assert not torch.signbit(made[1:]).any()


def test_soft_thresholding_of_zero_stays_zero_and_lambda_0_changes_nothing():
    weight = torch.tensor([-1.0, 0.0, 0.5])
    assert torch.equal(shrink(weight, 0.0), weight)
    assert shrink(weight, 1.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("done", "expected"), [(-1, 0.2), (0, 0.2), (0.5, 0.8 - 0.6 / 8), (1, 0.8), (7, 0.8)])
def test_gradual_sparsity_follows_the_cubic(done, expected):
    assert gradual_sparsity(done, 0.8, 0.2) == pytest.approx(expected)


@patient
@given(a=st.floats(0, 1), b=st.floats(0, 1))
def test_gradual_sparsity_never_falls(a, b):
    low, high = sorted((a, b))
    assert gradual_sparsity(low, 0.8) <= gradual_sparsity(high, 0.8) + 1e-12


def test_masks_make_a_model_sparse_and_leave_biases():
    torch.manual_seed(0)
    model = SmallCNN()
    biases = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("bias")}
    assert sparsity_of(model) == 0
    masks = magnitude_masks(prunable(model), 0.8)
    apply_masks(model, masks)
    assert sparsity_of(model) == pytest.approx(0.8, abs=1e-5)
    assert all(torch.equal(p, biases[n]) for n, p in model.named_parameters() if n in biases)
    assert all(torch.equal(found, masks[n]) for n, found in zero_masks(model).items())


def test_shrinking_a_model_makes_zeros_only_with_the_soft_operator():
    torch.manual_seed(0)
    soft, sign = SmallCNN(), SmallCNN()
    shrink_model(soft, 0.01, "soft")
    shrink_model(sign, 0.01, "sign")
    assert sparsity_of(soft) > 0.3
    assert sparsity_of(sign) < 0.001


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_a_wrong_sparsity_is_refused(sparsity):
    with pytest.raises(UsageError, match="outside"):
        magnitude_masks({"w": torch.ones(2, 2)}, sparsity)


@pytest.mark.parametrize("lambda_", [-1, float("nan"), float("inf")])
def test_a_wrong_lambda_is_refused(lambda_):
    with pytest.raises(UsageError, match="lambda"):
        shrink(torch.ones(2), lambda_)


def test_other_mistakes_are_refused():
    with pytest.raises(UsageError, match="soft or sign"):
        shrink(torch.ones(2), 0.1, "hard")
    with pytest.raises(UsageError, match=r"no prunable weight 'no\.weight'"):
        apply_masks(SmallCNN(), {"no.weight": torch.ones(1, dtype=torch.bool)})
    spoiled = torch.tensor([[1.0, float("nan"), 2, 3]])
    for prune in (two_of_four_mask, lambda w: magnitude_masks({"w": w}, 0.5)):
        with pytest.raises(EcoRayError, match="not finite"):
            prune(spoiled)
