"""KubeRay's objects against the schema of its CRDs, unknown fields refused, and against what that schema lets pass."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from manifests import REPOSITORY, Object, ray_spec, title
from pydantic import ValidationError

#: `ray.io_rayclusters.yaml`, ... of KubeRay 1.7.0, which are not in this repository
CRDS = REPOSITORY.parent / "shared" / "kuberay-crds"
_GROUP_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?")
_MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")


@functools.cache
def crd(kind: str) -> Object:
    """The schema of a kind (v1); the test is skipped where it is not to be had."""
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"no CRDs of KubeRay at {CRDS}")
    told = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    schema: Object = next(one for one in told["spec"]["versions"] if one["name"] == "v1")["schema"]["openAPIV3Schema"]
    return schema


@functools.cache
def _validator(kind: str) -> Draft202012Validator:
    # what an API server adds by itself
    meta: Object = {"metadata": {"type": "object"}, "apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
    schema = _closed(crd(kind))
    return Draft202012Validator({**schema, "properties": {**schema["properties"], **meta}})


def _closed(schema: Any) -> Any:
    """The same, with unknown fields refused wherever fields are listed."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items() if key != "description"}
    fields = schema.get("properties")
    if (
        isinstance(fields, dict)
        and schema.get("type") == "object"
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        closed["additionalProperties"] = False
    return closed


def schema_errors(one: Object) -> Iterator[str]:
    """What the schema refuses."""
    for error in _validator(one["kind"]).iter_errors(one):
        yield f"{title(one)}: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"


# -- CEL rules of the schema, by their text; each gets the value that the rule is written at --------------------------
# A rule about `oldSelf` holds between two versions of an object: there is one here, and nothing to compare.

CEL: dict[str, Callable[[Any], bool]] = {
    "self == oldSelf": lambda _value: True,
    "self in ['ray.io/kuberay-operator', 'kueue.x-k8s.io/multikueue']": lambda value: value in _MANAGERS,
    "!((has(self.onSuccess) || has(self.onFailure)) && has(self.deletionRules))": lambda value: (
        not ({"onSuccess", "onFailure"} & value.keys() and "deletionRules" in value)
    ),
    "((has(self.onSuccess) && has(self.onFailure)) || has(self.deletionRules))": lambda value: (
        {"onSuccess", "onFailure"} <= value.keys() or "deletionRules" in value
    ),
    "!(has(self.jobStatus) && has(self.jobDeploymentStatus))": lambda value: (
        not {"jobStatus", "jobDeploymentStatus"} <= value.keys()
    ),
    "has(self.jobStatus) || has(self.jobDeploymentStatus)": lambda value: bool(
        {"jobStatus", "jobDeploymentStatus"} & value.keys()
    ),
}


def cel_errors(one: Object) -> Iterator[str]:
    """What the schema's own rules refuse; one that is not in the table is an error too."""
    yield from _cel(crd(one["kind"]), one, title(one))


def _cel(schema: Object, value: Any, where: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        holds = CEL.get(" ".join(rule["rule"].split()))
        if holds is None:
            yield f"{where}: the rule {rule['rule']!r} is unknown here; add it to CEL"
        elif not holds(value):
            yield f"{where}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        for key, inner in (schema.get("properties") or {}).items():
            if key in value:
                yield from _cel(inner, value[key], f"{where}.{key}")
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            yield from _cel(schema["items"], item, f"{where}[{index}]")


# -- what neither has, and the operator or the cluster refuses later --------------------------------------------------


def cluster_errors(one: Object) -> Iterator[str]:
    """Of the cluster in an object."""
    spec = ray_spec(one)
    if spec is None:
        return
    name = title(one)
    groups = spec.get("workerGroupSpecs", ())
    names = [group.get("groupName", "") for group in groups]
    for twice in sorted({group for group in names if names.count(group) > 1}):
        yield f"{name}: {names.count(twice)} groups are called {twice!r}"
    autoscaling = bool(spec.get("enableInTreeAutoscaling"))
    for group in groups:
        where = f"{name} {group.get('groupName')}"
        if not _GROUP_NAME.fullmatch(group.get("groupName", "")):
            yield f"{where}: no name of a group"
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if not 0 <= least <= group.get("replicas", least) <= most:
            yield f"{where}: replicas {group.get('replicas')} are not from minReplicas {least} to maxReplicas {most}"
        if autoscaling and group.get("suspend"):
            yield f"{where}: a group cannot be suspended in a cluster with an autoscaler"
        if "idleTimeoutSeconds" in group and spec.get("autoscalerOptions", {}).get("version") != "v2":
            yield f"{where}: idleTimeoutSeconds of a group needs autoscaler v2"
    for where, group in [("head", spec["headGroupSpec"]), *((group.get("groupName"), group) for group in groups)]:
        if "labels" in group.get("rayStartParams", {}):
            yield f"{name} {where}: labels belong beside rayStartParams, not into it"
        containers = group.get("template", {}).get("spec", {}).get("containers") or []
        if not containers:
            yield f"{name} {where}: no container"
        for container in containers:
            if not container.get("image"):
                yield f"{name} {where}: container {container.get('name')} has no image"
    options = spec.get("gcsFaultToleranceOptions")
    if options and options.get("backend", "redis") == "redis" and not options.get("redisAddress"):
        yield f"{name}: gcsFaultToleranceOptions without redisAddress"


def job_errors(one: Object) -> Iterator[str]:
    """Of a RayJob."""
    if one["kind"] != "RayJob":
        return
    spec, name = one["spec"], title(one)
    if ("clusterSelector" in spec) == ("rayClusterSpec" in spec):
        yield f"{name}: give a clusterSelector or a rayClusterSpec"
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"):
        yield f"{name}: submissionMode {mode!r} is unknown"
    if mode != "InteractiveMode" and not spec.get("entrypoint"):
        yield f"{name}: no entrypoint"
    if mode != "K8sJobMode" and "submitterPodTemplate" in spec:
        yield f"{name}: submitterPodTemplate is for K8sJobMode alone"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield f"{name}: suspend deletes the cluster, and needs shutdownAfterJobFinishes"
    if spec.get("suspend") and "clusterSelector" in spec:
        yield f"{name}: a job on a cluster of others cannot be suspended"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield f"{name}: ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    restart = spec.get("submitterPodTemplate", {}).get("spec", {}).get("restartPolicy", "Never")
    if restart not in ("Never", "OnFailure"):
        yield f"{name}: restartPolicy {restart} of a submitter"


def service_errors(one: Object) -> Iterator[str]:
    """Of a RayService."""
    if one["kind"] != "RayService":
        return
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeDeploySchema

    spec, name = one["spec"], title(one)
    try:
        told = yaml.safe_load(spec.get("serveConfigV2") or "") or {}
        ServeDeploySchema.model_validate(told)
        for app in told["applications"]:
            for deployment in app.get("deployments", ()):
                AutoscalingConfig(**deployment.get("autoscaling_config", {}))  # Serve looks into it later only
    except (ValidationError, yaml.YAMLError) as error:
        yield f"{name}: serveConfigV2: {str(error)[:500]}"
    strategy = spec.get("upgradeStrategy", {})
    kind = strategy.get("type", "NewCluster")
    if kind not in ("NewCluster", "NewClusterWithIncrementalUpgrade", "None"):
        yield f"{name}: upgradeStrategy.type {kind!r} is unknown"
    options = strategy.get("clusterUpgradeOptions")
    if (kind == "NewClusterWithIncrementalUpgrade") != (options is not None):
        yield f"{name}: clusterUpgradeOptions go with NewClusterWithIncrementalUpgrade, which needs them"
    if options is not None:
        if not 0 < options.get("maxSurgePercent", 100) <= 100 or not 0 < options["stepSizePercent"] <= 100:
            yield f"{name}: percents from 1 to 100: {options}"
        if options["intervalSeconds"] <= 0 or not options["gatewayClassName"]:
            yield f"{name}: intervalSeconds above 0, and a gateway's class: {options}"
        if not (ray_spec(one) or {}).get("enableInTreeAutoscaling"):
            yield f"{name}: an incremental upgrade needs enableInTreeAutoscaling"


def errors(one: Object) -> list[str]:
    """All of it, for one object of KubeRay's."""
    found = [schema_errors, cel_errors] if _there(CRDS) else []
    return [told for check in (*found, cluster_errors, job_errors, service_errors) for told in check(one)]


def _there(path: Path) -> bool:
    return path.exists()
