"""Each rule, seen to fail: a manifest that is broken in one place, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import policy_rules
import pytest
from manifests import Object, build, named, ray_spec
from ray_rules import CEL, CRDS, cel_errors, cluster_errors, job_errors, schema_errors, service_errors

Break = Callable[[list[Object]], object]


def cluster(objects: list[Object]) -> Object:
    return named(objects, "RayCluster")["spec"]


def head(objects: list[Object]) -> Object:
    return cluster(objects)["headGroupSpec"]["template"]["spec"]


def worker(objects: list[Object]) -> Object:
    return cluster(objects)["workerGroupSpecs"][0]["template"]["spec"]


def box(objects: list[Object]) -> Object:
    """The container of the head."""
    return head(objects)["containers"][0]


def policy(objects: list[Object], name: str) -> Object:
    return named(objects, "NetworkPolicy", name)["spec"]


def drop(objects: list[Object], kind: str, name: str) -> None:
    objects.remove(named(objects, kind, name))


#: rule, what is broken, and a part of what is said
POLICY: list[tuple[policy_rules.Rule, Break, str]] = [
    (policy_rules.images_are_pinned, lambda o: box(o).update(image="x/eco-ray:latest"), "has no version"),
    (policy_rules.images_are_pinned, lambda o: box(o).update(image="host:5000/eco-ray"), "has no version"),
    (policy_rules.images_are_pinned, lambda o: worker(o)["initContainers"][0].pop("image"), "has no version"),
    (policy_rules.pods_are_locked_down, lambda o: box(o)["securityContext"].update(privileged=True), "privileged"),
    (policy_rules.pods_are_locked_down, lambda o: box(o)["securityContext"].pop("allowPrivilegeEscalation"), "Escal"),
    (policy_rules.pods_are_locked_down, lambda o: box(o)["securityContext"].pop("readOnlyRootFilesystem"), "written"),
    (policy_rules.pods_are_locked_down, lambda o: box(o)["securityContext"].update(runAsUser=0), "root"),
    (policy_rules.pods_are_locked_down, lambda o: box(o)["securityContext"].update(runAsNonRoot=False), "root"),
    (policy_rules.pods_are_locked_down, lambda o: box(o)["securityContext"].pop("capabilities"), "capabilities"),
    (policy_rules.pods_are_locked_down, lambda o: box(o)["ports"][0].update(hostPort=6379), "hostPort"),
    (policy_rules.pods_are_locked_down, lambda o: head(o).update(hostPID=True), "hostPID"),
    (policy_rules.pods_are_locked_down, lambda o: head(o)["securityContext"].pop("seccompProfile"), "seccomp"),
    (policy_rules.pods_are_locked_down, lambda o: cluster(o)["autoscalerOptions"].pop("securityContext"), "autoscaler"),
    (policy_rules.containers_have_limits, lambda o: box(o).pop("resources"), "no limits of cpu, memory"),
    (policy_rules.containers_have_limits, lambda o: worker(o)["initContainers"][0].pop("resources"), "pepper"),
    (policy_rules.containers_have_limits, lambda o: box(o)["resources"]["limits"].pop("memory"), "limits of memory"),
    (policy_rules.containers_have_limits, lambda o: cluster(o)["autoscalerOptions"].pop("resources"), "autoscaler"),
    (policy_rules.servers_have_probes, lambda o: box(o).pop("livenessProbe"), "livenessProbe"),
    (
        policy_rules.servers_have_probes,
        lambda o: named(o, "StatefulSet")["spec"]["template"]["spec"]["containers"][0].pop("readinessProbe"),
        "readinessProbe",
    ),
    (
        policy_rules.secrets_are_references,
        lambda o: o.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "stringData": {}}),
        "Secret",
    ),
    (
        policy_rules.secrets_are_references,
        lambda o: box(o)["env"].append({"name": "REDIS_PASSWORD", "value": "hunter2"}),
        "REDIS_PASSWORD is in clear",
    ),
    (
        policy_rules.secrets_are_references,
        lambda o: box(o)["env"].append({"name": "X", "value": "postgresql://me:pw@db/x"}),
        "X is in clear",
    ),
    (
        policy_rules.secrets_are_references,
        lambda o: named(o, "ConfigMap", "eco-ray-env")["data"].update(ECO_RAY_KEY_WATTTIME="abc"),
        "ECO_RAY_KEY_WATTTIME",
    ),
    (
        policy_rules.secrets_are_references,
        lambda o: cluster(o)["gcsFaultToleranceOptions"].update(redisPassword={"value": "x"}),
        "redisPassword",
    ),
    (policy_rules.mounts_have_volumes, lambda o: head(o)["volumes"].pop(0), "no volume"),
    (policy_rules.mounts_have_volumes, lambda o: box(o)["volumeMounts"].pop(0), "mounted nowhere"),
    (
        policy_rules.mounts_have_volumes,
        lambda o: head(o)["volumes"][0].update(hostPath={"path": "/etc"}),
        "hostPath /etc",
    ),
    (
        policy_rules.mounts_have_volumes,
        lambda o: next(v for v in head(o)["volumes"] if v["name"] == "tmp").update(emptyDir={}),
        "sizeLimit",
    ),
    (policy_rules.references_are_there, lambda o: drop(o, "ConfigMap", "eco-ray-cluster"), "eco-ray-cluster"),
    (policy_rules.references_are_there, lambda o: drop(o, "PersistentVolumeClaim", "eco-ray-state"), "eco-ray-state"),
    (policy_rules.references_are_there, lambda o: drop(o, "ServiceAccount", "eco-ray-worker"), "eco-ray-worker"),
    (
        policy_rules.references_are_there,
        lambda o: box(o)["env"][1]["valueFrom"]["secretKeyRef"].update(name="other"),
        "Secret other",
    ),
    (policy_rules.nothing_is_public, lambda o: named(o, "Service")["spec"].update(type="NodePort"), "NodePort"),
    (
        policy_rules.nothing_is_public,
        lambda o: cluster(o)["headGroupSpec"].update(serviceType="LoadBalancer"),
        "job API",
    ),
    (
        policy_rules.nothing_is_public,
        lambda o: o.append({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "x"}}),
        "public",
    ),
    (policy_rules.network_is_closed, lambda o: drop(o, "NetworkPolicy", "default-deny"), "no NetworkPolicy denies"),
    (policy_rules.network_is_closed, lambda o: policy(o, "default-deny").update(ingress=[{}]), "anybody may come in"),
    (policy_rules.network_is_closed, lambda o: policy(o, "head")["ingress"][0].pop("from"), "anybody may come in"),
    (
        policy_rules.network_is_closed,
        lambda o: policy(o, "head")["ingress"][0]["from"].append({"ipBlock": {"cidr": "0.0.0.0/0"}}),
        "8265 is open",
    ),
    (
        policy_rules.network_is_closed,
        lambda o: policy(o, "head")["ingress"][2]["ports"].append({"port": 8265}),
        "8265 is open",
    ),
    (policy_rules.rights_are_least, lambda o: named(o, "Role")["rules"][0].update(verbs=["*"]), "with *"),
    (policy_rules.rights_are_least, lambda o: named(o, "Role")["rules"][0].update(resources=["secrets"]), "secrets"),
    (policy_rules.rights_are_least, lambda o: named(o, "Role").update(kind="ClusterRole"), "whole cluster"),
    (policy_rules.rights_are_least, lambda o: worker(o).pop("automountServiceAccountToken"), "has a token"),
    (
        policy_rules.evictions_can_be_counted,
        lambda o: named(o, "PodDisruptionBudget")["spec"].update(minAvailable="50%"),
        "whole minAvailable",
    ),
    (policy_rules.one_worker_on_a_machine, lambda o: worker(o).pop("affinity"), "one machine"),
    (
        policy_rules.kueue_decides_alone,
        lambda o: named(o, "RayJob")["metadata"].update(annotations={"eco-ray.io/deadline": "6h"}),
        "keep one of the two",
    ),
    (policy_rules.kueue_decides_alone, lambda o: named(o, "RayJob")["spec"].pop("suspend"), "is suspended"),
    (policy_rules.kueue_decides_alone, lambda o: drop(o, "ResourceFlavor", "de-cpu"), "flavour de-cpu"),
    (
        policy_rules.kueue_decides_alone,
        lambda o: named(o, "ClusterQueue")["spec"]["resourceGroups"][0]["coveredResources"].append("nvidia.com/gpu"),
        "other resources",
    ),
    (policy_rules.tokens_secret_is_kuberays, lambda o: cluster(o).pop("authOptions"), "asks nobody"),
    (
        policy_rules.tokens_secret_is_kuberays,
        lambda o: box(o)["env"][1]["valueFrom"]["secretKeyRef"].update(name="eco-ray"),
        "give yours another name",
    ),
    (
        policy_rules.tokens_secret_is_kuberays,
        lambda o: next(v for v in head(o)["volumes"] if "secret" in v)["secret"].update(secretName="eco-ray"),
        "give yours another name",
    ),
]


def said(rule: policy_rules.Rule, objects: list[Object]) -> str:
    return "\n".join(rule(objects))


@pytest.mark.parametrize(("rule", "broken", "part"), POLICY, ids=lambda one: getattr(one, "__name__", "x"))
def test_a_broken_manifest_is_told_of(rule: policy_rules.Rule, broken: Break, part: str) -> None:
    objects = build("overlays/kueue")
    assert said(rule, objects) == ""
    broken(objects)
    assert part in said(rule, objects)


def test_each_rule_was_seen_to_fail() -> None:
    assert {rule for rule, _, _ in POLICY} == {*policy_rules.RULES, policy_rules.references_are_there}


def spec_of(kind: str) -> Callable[[list[Object]], Object]:
    return lambda objects: named(objects, kind)["spec"]


RAY_JOB, SERVICE = spec_of("RayJob"), spec_of("RayService")
Check = Callable[[Object], Iterator[str]]


def inner(kind: str) -> Callable[[list[Object]], Object]:
    """The cluster in the object of a kind."""
    return lambda objects: ray_spec(named(objects, kind)) or {}


def groups(objects: list[Object]) -> list[Object]:
    return cluster(objects)["workerGroupSpecs"]


def upgrade(objects: list[Object]) -> Object:
    return SERVICE(objects)["upgradeStrategy"]


#: check, where it stands, what is broken, and a part of what is said
RAY: list[tuple[Check, str, str, Break, str]] = [
    # the schema: unknown fields and wrong types at any depth
    (schema_errors, "single-zone", "RayCluster", lambda o: cluster(o).update(enableAutoscaling=True), "enableAutosc"),
    (schema_errors, "single-zone", "RayCluster", lambda o: groups(o)[0].update(minReplica=0), "minReplica"),
    (schema_errors, "single-zone", "RayCluster", lambda o: box(o).update(imagePullPolcy="Always"), "imagePullPolcy"),
    (schema_errors, "single-zone", "RayCluster", lambda o: groups(o)[0].update(maxReplicas="8"), "'8'"),
    (schema_errors, "single-zone", "RayCluster", lambda o: cluster(o)["authOptions"].update(mode="tokens"), "tokens"),
    (schema_errors, "single-zone", "RayCluster", lambda o: cluster(o)["autoscalerOptions"].update(version="v3"), "v3"),
    (schema_errors, "single-zone", "RayCluster", lambda o: cluster(o).pop("headGroupSpec"), "headGroupSpec"),
    (schema_errors, "rayservice", "RayService", lambda o: upgrade(o).update(kind="NewCluster"), "kind"),
    (
        schema_errors,
        "rayservice",
        "RayService",
        lambda o: upgrade(o)["clusterUpgradeOptions"].pop("stepSizePercent"),
        "st",
    ),
    (schema_errors, "rayjob", "RayJob", lambda o: RAY_JOB(o).update(suspended=True), "suspended"),
    # rules of the schema in CEL
    (cel_errors, "single-zone", "RayCluster", lambda o: cluster(o).update(managedBy="me"), "managedBy"),
    (cel_errors, "rayjob", "RayJob", lambda o: RAY_JOB(o).update(managedBy="me"), "managedBy"),
    (cel_errors, "rayjob", "RayJob", lambda o: RAY_JOB(o).update(deletionStrategy={"onSuccess": {}}), "BOTH"),
    (
        cel_errors,
        "rayjob",
        "RayJob",
        lambda o: RAY_JOB(o).update(deletionStrategy={"onSuccess": {}, "onFailure": {}, "deletionRules": []}),
        "cannot be used together",
    ),
    (
        cel_errors,
        "rayjob",
        "RayJob",
        lambda o: RAY_JOB(o).update(deletionStrategy={"deletionRules": [{"condition": {}}]}),
        "requires either",
    ),
    (
        cel_errors,
        "rayjob",
        "RayJob",
        lambda o: RAY_JOB(o).update(
            deletionStrategy={
                "deletionRules": [{"condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}]
            }
        ),
        "cannot be used together",
    ),
    # what both let pass
    (cluster_errors, "single-zone", "RayCluster", lambda o: groups(o)[0].update(minReplicas=9), "are not from"),
    (cluster_errors, "single-zone", "RayCluster", lambda o: groups(o)[0].update(replicas=9), "are not from"),
    (cluster_errors, "single-zone", "RayCluster", lambda o: groups(o).append(groups(o)[0]), "2 groups"),
    (cluster_errors, "single-zone", "RayCluster", lambda o: groups(o)[0].update(groupName="DE_cpu"), "no name"),
    (cluster_errors, "single-zone", "RayCluster", lambda o: groups(o)[0].update(suspend=True), "suspended"),
    (cluster_errors, "single-zone", "RayCluster", lambda o: cluster(o)["autoscalerOptions"].pop("version"), "v2"),
    (
        cluster_errors,
        "single-zone",
        "RayCluster",
        lambda o: groups(o)[0]["rayStartParams"].update(labels="a=b"),
        "beside",
    ),
    (cluster_errors, "single-zone", "RayCluster", lambda o: box(o).pop("image"), "no image"),
    (cluster_errors, "single-zone", "RayCluster", lambda o: head(o).update(containers=[]), "no container"),
    (
        cluster_errors,
        "single-zone",
        "RayCluster",
        lambda o: cluster(o)["gcsFaultToleranceOptions"].pop("redisAddress"),
        "redisAddress",
    ),
    (
        cluster_errors,
        "rayservice",
        "RayService",
        lambda o: inner("RayService")(o)["workerGroupSpecs"][0].update(maxReplicas=0),
        "from",
    ),
    (job_errors, "rayjob-held", "RayJob", lambda o: RAY_JOB(o).pop("shutdownAfterJobFinishes"), "shutdownAfter"),
    (
        job_errors,
        "rayjob-held",
        "RayJob",
        lambda o: RAY_JOB(o).update(clusterSelector={"a": "b"}),
        "or a rayClusterSpec",
    ),
    (job_errors, "rayjob-held", "RayJob", lambda o: RAY_JOB(o).update(submissionMode="HTTP"), "is unknown"),
    (job_errors, "rayjob-held", "RayJob", lambda o: RAY_JOB(o).update(submissionMode="HTTPMode"), "K8sJobMode alone"),
    (job_errors, "rayjob-held", "RayJob", lambda o: RAY_JOB(o).pop("entrypoint"), "no entrypoint"),
    (job_errors, "rayjob", "RayJob", lambda o: RAY_JOB(o).update(suspend=True), "cannot be suspended"),
    (job_errors, "rayjob", "RayJob", lambda o: RAY_JOB(o).update(ttlSecondsAfterFinished=60), "ttlSeconds"),
    (
        job_errors,
        "rayjob",
        "RayJob",
        lambda o: RAY_JOB(o)["submitterPodTemplate"]["spec"].update(restartPolicy="Always"),
        "restartPolicy",
    ),
    (service_errors, "rayservice", "RayService", lambda o: upgrade(o).update(type="Incremental"), "is unknown"),
    (service_errors, "rayservice", "RayService", lambda o: upgrade(o).update(type="NewCluster"), "go with"),
    (service_errors, "rayservice", "RayService", lambda o: upgrade(o).pop("clusterUpgradeOptions"), "go with"),
    (
        service_errors,
        "rayservice",
        "RayService",
        lambda o: upgrade(o)["clusterUpgradeOptions"].update(stepSizePercent=101),
        "percents",
    ),
    (
        service_errors,
        "rayservice",
        "RayService",
        lambda o: upgrade(o)["clusterUpgradeOptions"].update(gatewayClassName=""),
        "gateway's class",
    ),
    (
        service_errors,
        "rayservice",
        "RayService",
        lambda o: inner("RayService")(o).pop("enableInTreeAutoscaling"),
        "needs enableInTreeAutoscaling",
    ),
    (
        service_errors,
        "rayservice",
        "RayService",
        lambda o: SERVICE(o).update(serveConfigV2="applications: {"),
        "serveConf",
    ),
    (service_errors, "rayservice", "RayService", lambda o: SERVICE(o).update(serveConfigV2="apps: []"), "applications"),
    (
        service_errors,
        "rayservice",
        "RayService",
        lambda o: SERVICE(o).update(
            serveConfigV2=SERVICE(o)["serveConfigV2"].replace("min_replicas: 1", "min_replicas: 9")
        ),
        "min_replicas",
    ),
]


@pytest.mark.parametrize(
    ("check", "where", "kind", "broken", "part"), RAY, ids=lambda one: getattr(one, "__name__", "x")
)
def test_a_broken_object_of_kuberay_is_told_of(check: Check, where: str, kind: str, broken: Break, part: str) -> None:
    objects = build(f"overlays/{where}" if where == "single-zone" else f"examples/{where}")
    assert list(check(named(objects, kind))) == []
    broken(objects)
    assert part in "\n".join(check(named(objects, kind)))


def test_each_rule_of_the_crds_is_in_the_table() -> None:
    if not CRDS.exists():
        pytest.skip(f"no CRDs of KubeRay at {CRDS}")
    found = {
        line.partition("rule:")[2].strip().strip("'\"")
        for path in CRDS.glob("ray.io_ray*.yaml")
        if "cron" not in path.name
        for line in path.read_text().splitlines()
        if line.strip().startswith(("rule:", "- rule:"))
    }
    assert found
    short = {"".join(rule.split()).replace("''", "'") for rule in CEL}
    # a long rule goes over several lines of the file
    assert all(any(rule.startswith("".join(one.split()).replace("''", "'")) for rule in short) for one in found)


@pytest.mark.parametrize(
    ("broken", "part"),
    [
        (lambda o: named(o, "PersistentVolumeClaim")["spec"].update(acessModes=[]), "acessModes"),
        (lambda o: named(o, "Deployment")["spec"].update(replicas="one"), "one"),
        (lambda o: policy(o, "head")["ingress"][0]["ports"][0].update(prt=1), "prt"),
        (lambda o: named(o, "Deployment")["spec"].pop("selector"), "selector"),
    ],
)
def test_a_broken_core_object_is_told_of(broken: Break, part: str) -> None:
    if find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed; the extra dev brings it")
    import kubernetes_validate

    objects = build("overlays/single-zone")
    broken(objects)
    said = []
    for one in objects:
        if "ray.io/" not in one["apiVersion"]:
            try:
                kubernetes_validate.validate(one, "1.37", strict=True)
            except kubernetes_validate.ValidationError as error:
                said.append(str(error))
    (only,) = said
    assert part in only
