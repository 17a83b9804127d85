"""`eco-ray model deploy`: what its words mean, without a cluster."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest
from click.testing import CliRunner

from eco_ray.cli.main import cli
from eco_ray.cli.model_serve import _check_shared, _digest, _memory, _seconds, _with_options, _zones
from eco_ray.cli.model_variant import shown, with_variant
from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment
from eco_ray.core.variants import Mixing
from eco_ray.errors import EcoRayError, NoClusterError, UsageError
from eco_ray.on_ray import serving_client

ONE = Deployment("m", 1, demand=Resources(0.5), min_replicas=2, max_replicas=4, slo_p95_s=0.2)
OPTION = click.Option(["--x"])


@pytest.mark.parametrize(
    ("text", "gb"), [("6GB", 6.0), ("512MB", 0.512), ("1.5 GB", 1.5), ("1GiB", 1.073741824), ("2", 2.0), (None, None)]
)
def test_sizes(text, gb):
    assert _memory(None, OPTION, text) == (None if gb is None else pytest.approx(gb))


@pytest.mark.parametrize("text", ["6TB", "GB", "-1GB", "1e3GB", "6 G"])
def test_what_is_no_size(text):
    with pytest.raises(click.BadParameter, match="write 6GB or 512MB"):
        _memory(None, OPTION, text)


@pytest.mark.parametrize(("text", "seconds"), [("200ms", 0.2), ("2.5ms", 0.0025), ("1s", 1.0), ("2m", 120.0)])
def test_times(text, seconds):
    assert _seconds(None, OPTION, text) == pytest.approx(seconds)


def options(**given):
    names = ("min_replicas", "max_replicas", "cpus", "gpus", "memory_gb", "gpu_memory_gb", "slo_p95_s", "batch_wait_s")
    return {**dict.fromkeys((*names, "routing", "per_zone")), **given}


def test_what_is_left_out_stays():
    assert _with_options(ONE, options()) == ONE
    assert _with_options(ONE, options(cpus=1.0)).demand == Resources(1.0)


def test_min_alone_is_a_number_of_replicas_and_max_a_range():
    assert (_with_options(ONE, options(min_replicas=3)).max_replicas) == 3
    assert (_with_options(ONE, options(min_replicas=0)).max_replicas) == 1
    changed = _with_options(ONE, options(max_replicas=8))
    assert (changed.min_replicas, changed.max_replicas) == (2, 8)
    with pytest.raises(UsageError, match="--max 1 is less than --min 2"):
        _with_options(ONE, options(max_replicas=1))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"canary": 0}, "--canary"),
        ({"slo_p95_s": 0.2}, "--slo-p95"),
        ({"min_replicas": 0, "max_replicas": 2}, "--min, --max"),
        ({"cpus": 1.0, "memory_gb": 1.0}, "--cpus, --memory"),
        ({"gpus": 0.0, "gpu_memory_gb": 6.0}, "--gpus, --gpu-memory"),
        ({"batch_wait_s": 0.0}, "--batch-wait"),
        ({"zones": ("DE",)}, "--zone"),
        ({"routing": "default"}, "--routing"),
        ({"variant": 2, "variant_share": 30.0, "accuracy_floor": 0.9}, "--variant, --variant-share, --accuracy-floor"),
        ({"dirty_above": 300.0}, "--dirty-above"),
        ({"per_zone": True}, "--per-zone"),
    ],
)
def test_what_shared_replicas_cannot_do_for_one_of_their_models_is_refused(given, told):
    with pytest.raises(UsageError, match=f"^{told} is for replicas .* deploy m without --shared"):
        _check_shared("m", {**options(), "canary": None, "zones": (), **given})
    _check_shared("m", {**options(), "canary": None, "zones": ()})


MIXED = replace(ONE, variant=2, mixing=Mixing(0.3, 0.97, 400.0))
ASKED = {"variant": 2, "variant_share": 30.0, "accuracy_floor": 0.97}


def test_a_variant_is_what_was_said_of_it_and_the_rest_stays():
    assert with_variant(ONE, {**ASKED, "dirty_above": None}, None) == MIXED
    assert with_variant(MIXED, options(), None) == MIXED
    assert with_variant(MIXED, {"variant_share": 50.0}, None).mixing == Mixing(0.5, 0.97, 400.0)
    assert with_variant(MIXED, {"accuracy_floor": 0.0}, None).mixing == Mixing(0.3, 0.0, 400.0)
    other = with_variant(with_variant(MIXED, {"dirty_above": 0.0}, None), {"variant": 3}, None)
    assert other == replace(MIXED, variant=3, mixing=Mixing(0.3, 0.97, 0.0))
    assert with_variant(MIXED, {"variant_share": 0.0}, None) == ONE
    assert with_variant(ONE, {"variant_share": 0.0}, None) == ONE


@pytest.mark.parametrize(
    ("one", "given", "canary", "why"),
    [
        (ONE, {"variant": 2}, None, "--variant 2 needs --variant-share and --accuracy-floor"),
        (ONE, {"variant": 2, "variant_share": 5.0}, None, "needs --accuracy-floor: how many"),
        (ONE, {"variant_share": 5.0, "dirty_above": 9.0}, None, "--variant-share, --dirty-above is for a variant"),
        (MIXED, {"variant_share": 0.0, "dirty_above": 9.0}, None, "--variant-share 0 ends the variant"),
        (MIXED, {}, 10, "cannot have a canary and a variant at once.* --variant-share 0 first"),
        (ONE, ASKED, 10, "a canary and a variant at once"),
        (replace(ONE, canary=3, canary_percent=5), ASKED, None, "promote version 3, or end it with --canary 0"),
        (replace(ONE, path="/m"), ASKED, None, "m is a file, whose accuracy nobody knows"),
        (replace(MIXED, path="/m"), {}, None, "m is a file, .* end the variant with --variant-share 0"),
    ],
)
def test_a_variant_that_is_not_clear_is_refused(one, given, canary, why):
    with pytest.raises(UsageError, match=why):
        with_variant(one, given, canary)


def test_a_variant_in_a_table():
    assert shown({"version": 2, "percent": 12.5, "allowed_percent": 30.0}) == "2 (12.5 % now, 30 % at most)"
    assert shown(None) == ""


def test_routing_is_kept_unless_it_is_told():
    turns = _with_options(ONE, options(routing="round-robin"))
    assert turns.round_robin
    assert _with_options(turns, options()).round_robin
    assert not _with_options(turns, options(routing="default")).round_robin


def test_per_zone_is_kept_unless_it_is_told():
    each = _with_options(ONE, options(per_zone=True))
    assert each.per_zone
    assert _with_options(each, options()).per_zone


def test_the_table_says_where_requests_go_and_what_that_emits():
    zones = [{"zone": "DE", "share": 0.25}, {"zone": "FR", "share": 0.75}]
    told = {"grams_per_h": 12.345, "home_grams_per_h": 40.0}
    assert _zones({"zones": zones, "traffic": told}) == "DE 25%, FR 75%; 12.3 g/h, at home 40"
    assert _zones({"zones": zones, "traffic": {**told, "home_grams_per_h": None}}) == "DE 25%, FR 75%; 12.3 g/h"
    assert _zones({"zones": zones, "traffic": {**told, "grams_per_h": None}}) == "DE 25%, FR 75%"
    assert _zones({"zones": [{"zone": "DE", "share": None}], "traffic": None}) == "DE"


def test_the_digest_of_a_folder_is_that_of_its_names_and_bytes(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").write_bytes(b"1")
    first = _digest(tmp_path / "f")
    (tmp_path / "f" / "b").write_bytes(b"2")
    assert len({first, _digest(tmp_path / "f"), _digest(tmp_path / "f" / "a")}) == 3
    (tmp_path / "f" / "b").unlink()
    assert _digest(tmp_path / "f") == first


@pytest.mark.parametrize(
    "command", [["deployments"], ["deploy", "m@prod"], ["deploy", "m@prod", "--shared"], ["undeploy", "m"]]
)
def test_without_a_cluster_it_is_said(tmp_path, command):
    done = CliRunner().invoke(cli, ["model", *command, "--state-dir", str(tmp_path)])
    assert isinstance(done.exception, NoClusterError)


def test_a_deployment_that_fails_is_in_the_audit_log(tmp_path, monkeypatch):
    rows = []

    class Client:
        def __init__(self, settings):
            pass

        def deployments(self):
            return []

        def deploy(self, wanted, before):
            raise EcoRayError("m:1 failed its smoke request: not finite")

        def audit(self, entry):
            rows.append((entry.action, entry.object, entry.detail, entry.actor != ""))

    monkeypatch.setattr(serving_client, "ServingClient", Client)
    (tmp_path / "m.onnx").write_bytes(b"1")
    words = ["model", "deploy", str(tmp_path / "m.onnx"), "--name", "m", "--state-dir", str(tmp_path)]
    assert isinstance(CliRunner().invoke(cli, words).exception, EcoRayError)
    assert rows == [("refuse-model", "m:1", "m:1 failed its smoke request: not finite", True)]
