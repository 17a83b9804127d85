"""Rules of ours that no schema has. Each tells what is wrong in words; nothing told is nothing wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from manifests import Object, Pod, named, pods, ray_clusters, title

Rule = Callable[[list[Object]], Iterator[str]]
#: made by hand (docs/kubernetes.md)
SECRETS = {"eco-ray-secrets", "eco-ray-grid-keys", "eco-ray-metrics"}
_SECRET_NAME = re.compile(r"(PASSWORD|PASSWD|TOKEN|SECRET|CREDENTIAL)S?$|_KEY$|^ECO_RAY_KEY_(?!PEPPER)|STORE_URL$")
_IN_URL = re.compile(r"://[^/\s:@]+:[^/\s@]+@")
_DASHBOARD = {8265, "8265", "dashboard"}


def images_are_pinned(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        for one in pod.containers(init=True):
            _, _, tag = one.get("image", "").rpartition("/")[2].partition(":")
            if not tag or tag == "latest":
                yield f"{pod.name} {one['name']}: image {one.get('image')!r} has no version of its own; name one"


def pods_are_locked_down(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        whole = pod.spec.get("securityContext", {})
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield f"{pod.name}: {key}"
        if whole.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.name}: seccompProfile is not RuntimeDefault"
        for one in pod.containers(init=True):
            yield from _container(f"{pod.name} {one['name']}", one, whole)
    for name, spec in ray_clusters(objects):
        if spec.get("enableInTreeAutoscaling"):
            yield from _container(f"{name} autoscaler", spec.get("autoscalerOptions", {}), {"runAsUser": 1000})


def _container(name: str, one: Object, whole: Object) -> Iterator[str]:
    mine = one.get("securityContext", {})
    if mine.get("privileged"):
        yield f"{name}: privileged"
    if mine.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation is not false"
    if not mine.get("runAsNonRoot", whole.get("runAsNonRoot")) or not mine.get("runAsUser", whole.get("runAsUser")):
        yield f"{name}: may run as root; give runAsNonRoot and runAsUser"
    if not mine.get("readOnlyRootFilesystem"):
        yield f"{name}: its root file system can be written"
    if mine.get("capabilities", {}).get("drop") != ["ALL"] or mine["capabilities"].get("add"):
        yield f"{name}: keeps capabilities"
    if any("hostPort" in port for port in one.get("ports", ())):
        yield f"{name}: hostPort"


def containers_have_limits(objects: list[Object]) -> Iterator[str]:
    told = [(f"{pod.name} {one['name']}", one) for pod in pods(objects) for one in pod.containers(init=True)]
    told += [
        (f"{name} autoscaler", spec.get("autoscalerOptions", {}))
        for name, spec in ray_clusters(objects)
        if spec.get("enableInTreeAutoscaling")
    ]
    for name, one in told:
        for kind in ("requests", "limits"):
            missing = {"cpu", "memory"} - one.get("resources", {}).get(kind, {}).keys()
            if missing:
                yield f"{name}: no {kind} of {', '.join(sorted(missing))}"


def servers_have_probes(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        for one in pod.containers() if pod.role != "submitter" else ():
            for probe in ("readinessProbe", "livenessProbe"):
                if probe not in one:
                    yield f"{pod.name} {one['name']}: no {probe}"


def secrets_are_references(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        if one["kind"] == "Secret":
            yield f"{title(one)}: a Secret with its content; it belongs into no repository"
        if one["kind"] == "ConfigMap":
            for key, text in one.get("data", {}).items():
                if _SECRET_NAME.search(key) or _IN_URL.search(text):
                    yield f"{title(one)}: {key} has a secret"
    for pod in pods(objects):
        for container in pod.containers(init=True):
            for env in container.get("env", ()):
                text = str(env.get("value", ""))
                if "value" in env and (_SECRET_NAME.search(env["name"]) or _IN_URL.search(text)):
                    yield f"{pod.name}: {env['name']} is in clear; use valueFrom.secretKeyRef"
    for name, spec in ray_clusters(objects):
        password = spec.get("gcsFaultToleranceOptions", {}).get("redisPassword", {})
        if "value" in password:
            yield f"{name}: redisPassword is in clear; use valueFrom.secretKeyRef"


def mounts_have_volumes(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        claims = [one["metadata"]["name"] for one in _claims(objects, pod)]
        volumes = {volume["name"] for volume in pod.spec.get("volumes", ())}
        mounted = {mount["name"] for one in pod.containers(init=True) for mount in one.get("volumeMounts", ())}
        if missing := mounted - volumes - set(claims):
            yield f"{pod.name}: {', '.join(sorted(missing))} mounted, and no volume"
        if idle := volumes - mounted:
            yield f"{pod.name}: volume {', '.join(sorted(idle))} is mounted nowhere"
        for volume in pod.spec.get("volumes", ()):
            if "hostPath" in volume:
                yield f"{pod.name}: hostPath {volume['hostPath']['path']}"
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{pod.name}: emptyDir {volume['name']} has no sizeLimit"


def _claims(objects: list[Object], pod: Pod) -> list[Object]:
    return [
        claim
        for one in objects
        if one["kind"] == "StatefulSet" and title(one) == pod.name
        for claim in one["spec"].get("volumeClaimTemplates", ())
    ]


def references_are_there(objects: list[Object]) -> Iterator[str]:
    """Of a whole installation: what pods name is in it, or is a Secret that the documentation makes."""
    there = {(one["kind"], one["metadata"]["name"]) for one in objects} | {("Secret", name) for name in SECRETS}
    for pod in pods(objects):
        wanted = [("ServiceAccount", pod.spec[key]) for key in ("serviceAccountName",) if key in pod.spec]
        for volume in pod.spec.get("volumes", ()):
            wanted += [("ConfigMap", volume[key]["name"]) for key in ("configMap",) if key in volume]
            wanted += [("Secret", volume[key]["secretName"]) for key in ("secret",) if key in volume]
            key = "persistentVolumeClaim"
            wanted += [("PersistentVolumeClaim", volume[key]["claimName"])] if key in volume else []
        for one in pod.containers(init=True):
            for source in one.get("envFrom", ()):
                wanted += [("ConfigMap", source["configMapRef"]["name"])] if "configMapRef" in source else []
                wanted += [("Secret", source["secretRef"]["name"])] if "secretRef" in source else []
            for env in one.get("env", ()):
                origin = env.get("valueFrom", {})
                wanted += [("Secret", origin["secretKeyRef"]["name"])] if "secretKeyRef" in origin else []
        for kind, name in wanted:
            if (kind, name) not in there:
                yield f"{pod.name}: {kind} {name} is nowhere"


def nothing_is_public(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        if one["kind"] in ("Ingress", "Gateway", "HTTPRoute"):
            yield f"{title(one)}: makes something public"
        if one["kind"] == "Service" and one["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{title(one)}: type {one['spec']['type']}"
    for name, spec in ray_clusters(objects):
        head = spec["headGroupSpec"]
        if head.get("enableIngress") or head.get("serviceType", "ClusterIP") != "ClusterIP":
            yield f"{name}: its head is public, and with it the job API"


def network_is_closed(objects: list[Object]) -> Iterator[str]:
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    if any(one["kind"] == "Namespace" for one in objects) and not any(_denies_all(one["spec"]) for one in policies):
        yield "no NetworkPolicy denies what no other allows"
    for one in policies:
        for rule in one["spec"].get("ingress") or ():
            if not rule.get("from"):
                yield f"{title(one)}: anybody may come in"
            opened = {port.get("port") for port in rule.get("ports", ())}
            if not (opened & _DASHBOARD):
                continue
            for peer in rule.get("from", ()):
                if not peer.get("podSelector", {}).get("matchLabels"):
                    yield f"{title(one)}: 8265 is open to {peer}; name the pods that may come"


def _denies_all(spec: Object) -> bool:
    kinds = set(spec.get("policyTypes", ()))
    return spec["podSelector"] == {} and kinds == {"Ingress", "Egress"} and not spec.keys() & {"ingress", "egress"}


def rights_are_least(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        if one["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            yield f"{title(one)}: rights in the whole cluster; a Role is enough"
        for rule in one.get("rules", ()) if one["kind"] in ("Role", "ClusterRole") else ():
            words: list[str] = [*rule.get("apiGroups", ()), *rule.get("resources", ()), *rule.get("verbs", ())]
            if "*" in words:
                yield f"{title(one)}: a rule with *"
            if set(rule.get("resources", ())) & {"secrets", "pods/exec"}:
                yield f"{title(one)}: {', '.join(rule['resources'])}"
    bound = {subject["name"] for one in objects if one["kind"] == "RoleBinding" for subject in one.get("subjects", ())}
    for pod in pods(objects):
        mounted = pod.spec.get("automountServiceAccountToken", True)
        # the head has the account that KubeRay makes for its autoscaler
        if mounted and pod.role != "head" and pod.spec.get("serviceAccountName") not in bound:
            yield f"{pod.name}: has a token for the API server, and nothing to ask it"


def evictions_can_be_counted(objects: list[Object]) -> Iterator[str]:
    """Of pods with a controller that Kubernetes cannot scale, a budget may say only a whole `minAvailable`."""
    for one in objects:
        if one["kind"] == "PodDisruptionBudget" and not isinstance(one["spec"].get("minAvailable"), int):
            yield f"{title(one)}: give a whole minAvailable: {one['spec']}"


def one_worker_on_a_machine(objects: list[Object]) -> Iterator[str]:
    """Where agents meter machines, which a RayCluster's do: with two on one, its energy would count twice."""
    for pod in pods(objects):
        if pod.role != "worker" or not pod.name.startswith("RayCluster/"):
            continue
        rules = pod.spec.get("affinity", {}).get("podAntiAffinity", {})
        apart = rules.get("requiredDuringSchedulingIgnoredDuringExecution", ())
        labels = pod.template["metadata"]["labels"].items()
        if not any(
            rule["topologyKey"] == "kubernetes.io/hostname" and rule["labelSelector"]["matchLabels"].items() <= labels
            for rule in apart
        ):
            yield f"{pod.name}: two of them may be on one machine"


def kueue_decides_alone(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        annotations: dict[str, Any] = one["metadata"].get("annotations", {})
        queued = "kueue.x-k8s.io/queue-name" in one["metadata"].get("labels", {})
        if queued and any(key.startswith("eco-ray.io/") for key in annotations):
            yield f"{title(one)}: a queue of Kueue and annotations of ours; keep one of the two"
        if queued and one["kind"] == "RayJob" and not (one["spec"].get("suspend") and "rayClusterSpec" in one["spec"]):
            yield f"{title(one)}: Kueue admits what is suspended and has a cluster of its own"
        if one["kind"] == "LocalQueue":
            named(objects, "ClusterQueue", one["spec"]["clusterQueue"])
        if one["kind"] == "ClusterQueue":
            flavours = {two["metadata"]["name"] for two in objects if two["kind"] == "ResourceFlavor"}
            for group in one["spec"]["resourceGroups"]:
                for flavour in group["flavors"]:
                    if flavour["name"] not in flavours:
                        yield f"{title(one)}: flavour {flavour['name']} is nowhere"
                    if [row["name"] for row in flavour["resources"]] != group["coveredResources"]:
                        yield f"{title(one)}: {flavour['name']} has other resources than the group covers"


def tokens_secret_is_kuberays(objects: list[Object]) -> Iterator[str]:
    """KubeRay keeps the token of the job API in a Secret with the cluster's name, where none is named."""
    taken = {
        one["metadata"]["name"]
        for one in objects
        if one["kind"] == "RayCluster" and not one["spec"].get("authOptions", {}).get("secretName")
    }
    for one in objects:
        if one["kind"] == "RayCluster" and one["spec"].get("authOptions", {}).get("mode") != "token":
            yield f"{title(one)}: the job API asks nobody for a token"
    for pod in pods(objects):
        text = str(pod.spec)
        for name in taken:
            if f"'secretName': '{name}'" in text or re.search(rf"'secretKeyRef': {{[^}}]*'name': '{name}'", text):
                yield f"{pod.name}: Secret {name} is where KubeRay keeps its token; give yours another name"


#: of whatever is built
RULES: tuple[Rule, ...] = (
    images_are_pinned,
    pods_are_locked_down,
    containers_have_limits,
    servers_have_probes,
    secrets_are_references,
    mounts_have_volumes,
    nothing_is_public,
    network_is_closed,
    rights_are_least,
    evictions_can_be_counted,
    one_worker_on_a_machine,
    kueue_decides_alone,
    tokens_secret_is_kuberays,
)
