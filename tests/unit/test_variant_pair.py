"""Which version may answer for which, and what is known of the joules of both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.deployments import Deployment
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_places import Place, Room
from eco_ray.core.units import Nature
from eco_ray.core.variant_pair import ENOUGH, Spent, VersionFacts, check_pair, intensity_and_pue, joined
from eco_ray.core.variants import Mixing
from eco_ray.errors import UsageError
from eco_ray.models.manifest import Blob, Manifest
from eco_ray.models.signature import Signature, TensorSpec
from eco_ray.on_ray.serving.variant_facts import facts_of

LARGE = VersionFacts("mnist:1", "safetensors", "in, out", 0.98)
SMALL = VersionFacts("mnist:2", "safetensors", "in, out", 0.96)
MIXING = Mixing(0.5, 0.97, 400.0)
MANY = Spent(100, 500.0, Nature.MODELLED)


def test_both_accuracies_are_those_of_the_manifests():
    assert check_pair(LARGE, SMALL, MIXING) == (0.98, 0.96)


def test_what_compress_measured_of_both_goes_before_what_was_told_of_the_large_one():
    made = replace(SMALL, parent="mnist:1", parent_accuracy=0.975)
    assert check_pair(LARGE, made, MIXING) == (0.975, 0.96)
    assert check_pair(replace(LARGE, accuracy=None), made, MIXING) == (0.975, 0.96)
    assert check_pair(LARGE, replace(made, parent="mnist:7"), MIXING) == (0.98, 0.96)  # of another one


@pytest.mark.parametrize(
    ("large", "small", "why"),
    [
        ({"accuracy": None}, {}, r"mnist:1 has no measured accuracy .* model compress mnist:1`.*--metric accuracy"),
        ({}, {"accuracy": None}, r"mnist:2 has no measured accuracy"),
        ({}, {"accuracy": 97.0}, r"the accuracy of mnist:2 in the registry is 97: it must be from 0 to 1"),
        ({"signature": None}, {}, r"mnist:1 has no signature"),
        ({}, {"signature": None}, r"mnist:2 has no signature .* --signature FILE"),
        ({}, {"signature": "other"}, r"mnist:2 has another signature than mnist:1"),
        ({}, {"format": "onnx"}, r"mnist:2 \(onnx\) is served with other names"),
        ({"accuracy": 0.969}, {}, r"floor 0.97 is above the accuracy 0.969 of mnist:1"),
    ],
)
def test_what_may_not_answer_for_the_other_is_refused_with_a_cure(large, small, why):
    with pytest.raises(UsageError, match=why):
        check_pair(replace(LARGE, **large), replace(SMALL, **small), MIXING)


def test_formats_whose_inputs_are_named_by_the_signature_may_differ():
    check_pair(replace(LARGE, format="pt2"), replace(SMALL, format="onnx"), MIXING)


def test_joules_are_those_of_answers_with_the_way_there():
    spent = {"mnist:1": MANY, "mnist:2": Spent(ENOUGH, 40.0, Nature.ASSUMED)}
    pair = joined(LARGE, SMALL, MIXING, spent, Spent(10, 5.0))
    assert (pair.large.j_per_request, pair.small.j_per_request) == (5.0, 2.5)
    assert (pair.nature, pair.in_joules, pair.source) == (Nature.ASSUMED, True, "footprints of answers")


def test_with_few_answers_they_are_those_of_compress():
    few = {"mnist:1": MANY, "mnist:2": Spent(ENOUGH - 1, 1e9)}
    made = replace(SMALL, parent="mnist:1", energy_j=1.0, parent_energy_j=3.0, energy_nature=Nature.MEASURED)
    pair = joined(LARGE, made, MIXING, few, Spent())
    assert (pair.large.j_per_request, pair.small.j_per_request, pair.nature) == (3.0, 1.0, Nature.MEASURED)
    other = joined(LARGE, replace(made, parent="mnist:9"), MIXING, few, Spent())
    assert not other.in_joules


def test_what_nobody_measured_is_assumed_and_said_to_be():
    pair = joined(LARGE, SMALL, MIXING, {}, Spent())
    assert pair.small.j_per_request < pair.large.j_per_request
    assert (pair.nature, pair.in_joules) == (Nature.ASSUMED, False)
    assert "assumed" in pair.source


def test_the_mean_follows_what_requests_take_of_late():
    kept = Spent(1e6, 1e6)
    for _ in range(100):
        kept = kept.plus(Spent(200, 400.0))
    assert kept.j_per_request == pytest.approx(2.0, rel=0.01)
    assert kept.plus(Spent()) == kept
    assert Spent().plus(Spent()).j_per_request == 0.0


def room(name, intensity, pue=1.0):
    return Room(Node(name, name.upper(), Resources(4.0), PowerCurve((0, 1), (5, 10), "t"), pue), Resources(), intensity)


def test_intensity_is_that_of_the_nodes_with_replicas():
    one = Deployment(
        "m", 1, nodes=("a", "b"), places=(Place("a", ()), Place("a", ()), Place("b", ()), Place("gone", ()))
    )
    intensity, pue = intensity_and_pue(one, [room("a", 100.0, 1.5), room("b", 400.0), room("c", 900.0)])
    assert intensity == pytest.approx(200.0)
    assert intensity * pue == pytest.approx((2 * 150 + 400) / 3)
    assert intensity_and_pue(one, [room("a", 100.0), room("b", None)]) == (None, 1.0)
    assert intensity_and_pue(one, []) == (None, 1.0)
    assert intensity_and_pue(one, [room("a", 0.0)]) == (0.0, 1.0)


def test_a_manifest_tells_what_push_and_compress_wrote():
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
    signature = Signature(inputs=(spec,), outputs=(spec,), kind="classifier")
    one = Manifest(
        **{"name": "m", "version": 2, "created": "t", "format": "onnx", "sha256": "0" * 64, "size": 1},
        blob=Blob(coding="raw"),
        signature=signature,
        metrics={
            **{"accuracy": 0.96, "accuracy_drop_points": 1.5, "energy_j": 1, "energy_j_before": 2.5},
            "energy_nature": "modelled",
        },
        lineage={"parent": "m:1"},
    )
    facts = facts_of(one)
    assert (facts.accuracy, facts.parent, facts.parent_accuracy) == (0.96, "m:1", 0.975)
    assert (facts.energy_j, facts.parent_energy_j, facts.energy_nature) == (1.0, 2.5, Nature.MODELLED)
    assert facts.signature == facts_of(one.model_copy(update={"metrics": {}})).signature
    odd = one.model_copy(
        update={"metrics": {"accuracy": "good", "energy_j": True, "energy_nature": "x"}, "lineage": {}}
    )
    facts = facts_of(odd)
    assert (facts.accuracy, facts.energy_j, facts.energy_nature, facts.parent) == (None, None, Nature.ASSUMED, "")
