"""What `kubectl kustomize` makes of the manifests keeps to Kubernetes' schemas, to KubeRay's, and to our rules."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest
from manifests import BUILDS, K8S, WHOLE, build
from policy_rules import RULES, mounts_have_volumes, references_are_there
from ray_rules import CRDS, cel_errors, cluster_errors, errors, job_errors, schema_errors, service_errors

#: kinds of others, whose schemas are not here
FOREIGN = ("kueue.x-k8s.io/", "monitoring.coreos.com/", "ray.io/")
#: oldest and newest Kubernetes that the manifests are for
VERSIONS = ("1.31", "1.37")


@pytest.mark.parametrize("name", BUILDS)
def test_it_builds_each_object_once_and_in_its_namespace(name: str) -> None:
    objects = build(name)
    names = [(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names) > 0
    cluster_wide = ("Namespace", "ResourceFlavor", "ClusterQueue")
    assert {one["metadata"].get("namespace") for one in objects if one["kind"] not in cluster_wide} == {"eco-ray"}


@pytest.mark.parametrize("name", BUILDS)
def test_core_objects_keep_to_the_schemas_of_kubernetes(name: str) -> None:
    if find_spec("kubernetes_validate") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must check core objects: kubernetes-validate is missing")
        pytest.skip("kubernetes-validate is not installed; the extra dev brings it")
    import kubernetes_validate

    for one in build(name):
        if not one["apiVersion"].startswith(FOREIGN):
            for version in VERSIONS:
                kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("name", BUILDS)
def test_objects_of_kuberay_keep_to_its_crds(name: str) -> None:
    if not CRDS.exists():
        pytest.skip(f"no CRDs of KubeRay at {CRDS}")
    ours = [one for one in build(name) if one["apiVersion"].startswith("ray.io/")]
    assert [told for one in ours for check in (schema_errors, cel_errors) for told in check(one)] == []


@pytest.mark.parametrize("name", BUILDS)
def test_objects_of_kuberay_keep_to_what_no_schema_says(name: str) -> None:
    ours = [one for one in build(name) if one["apiVersion"].startswith("ray.io/")]
    assert [told for one in ours for check in (cluster_errors, job_errors, service_errors) for told in check(one)] == []


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_our_rules_hold(name: str, rule) -> None:
    assert list(rule(build(name))) == []


@pytest.mark.parametrize("name", WHOLE)
def test_an_installation_has_all_that_its_pods_name(name: str) -> None:
    assert list(references_are_there(build(name))) == []


def test_examples_name_only_what_an_installation_has() -> None:
    for name in BUILDS:
        if name.startswith("examples/"):
            assert list(references_are_there([*build(WHOLE[0]), *build(name)])) == [], name


def test_with_the_counters_of_machines_nothing_changes_but_host_paths(tmp_path) -> None:
    """Component rapl: two host paths, read only, and a pod security level that allows them."""
    shutil.copytree(K8S, tmp_path / "k8s")
    folder = tmp_path / "k8s/overlays/metal"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text("resources: [../single-zone]\ncomponents: [../../components/rapl]\n")
    objects = build(folder)
    worker = next(one for one in objects if one["kind"] == "RayCluster")["spec"]["workerGroupSpecs"][0]["template"]
    (container,) = worker["spec"]["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    (folder_env,) = (env for env in container["env"] if env["name"] == "ECO_RAY_POWERCAP_DIR")
    assert mounts[folder_env["value"]]["readOnly"]
    # links in the one lead to ../../devices/virtual/powercap, as on the machine
    assert mounts["/host/sys/devices/virtual/powercap"]["readOnly"]
    told = [told for rule in RULES for told in rule(objects)]
    assert len(told) == 2
    assert all("hostPath /sys/" in one for one in told)
    assert list(mounts_have_volumes(objects)) == told
    assert errors(next(one for one in objects if one["kind"] == "RayCluster")) == []
