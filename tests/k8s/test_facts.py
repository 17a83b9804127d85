"""What manifests, units and launcher files name is really there: commands, settings, ports, paths, labels, metrics."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from manifests import BUILDS, K8S, REPOSITORY, WHOLE, Object, build, named, pods, ray_clusters
from policy_rules import SECRETS

from eco_ray.cli.main import cli
from eco_ray.cluster_file import ClusterFile, load_cluster_file
from eco_ray.config import KEYS, PREFIX, Settings
from eco_ray.grid import keys as grid_keys
from eco_ray.on_ray.local_cluster import NODE_LABEL, ZONE_LABEL, cluster_env

CLUSTER = REPOSITORY / "cluster"
#: of eco_ray's environment, what is no setting: where it is read
NOT_SETTINGS = {"ECO_RAY_POWERCAP_DIR": "eco_ray/power/rapl.py"}
#: of what `eco-ray up` sets for its own cluster: paths, ports and addresses of that one machine, and what KubeRay sets
OWN = re.compile(
    r"ECO_RAY_STATE_DIR|PATH|RAY_AUTH_.*|RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER|RAY_SERVE_HAPROXY_(?!RETR|TUNE).*|.*_PORT"
    r"|RAY_health_check_.*"
)


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def settings_of(objects: list[Object]) -> dict[str, str]:
    found: dict[str, str] = named(objects, "ConfigMap", "eco-ray-env")["data"]
    return found


# -- commands ----------------------------------------------------------------------------------------------------------


def command_lines() -> list[tuple[str, str]]:
    """(where, `eco-ray ...`) of all manifests, units and launcher files."""
    found = []
    for name in BUILDS:
        objects = build(name)
        for pod in pods(objects):
            for one in pod.containers(init=True):
                hook = one.get("lifecycle", {}).get("postStart", {}).get("exec", {}).get("command", [])
                words = [*one.get("command", ()), *one.get("args", ())]
                found += [(pod.name, shlex.join(words))] + [(pod.name, word) for word in hook]
        found += [(name, one["spec"]["entrypoint"]) for one in objects if one["kind"] == "RayJob"]
    for path in sorted(CLUSTER.glob("systemd/*.service")):
        found += [
            (path.name, line.partition("=")[2]) for line in path.read_text().splitlines() if line.startswith("Exec")
        ]
    for name in ("aws.yaml", "gcp.yaml"):
        told = yaml.safe_load((CLUSTER / name).read_text())
        found += [(name, line) for line in told["head_start_ray_commands"] + told["worker_start_ray_commands"]]
    for path in (REPOSITORY / "docs/kubernetes.md", REPOSITORY / "docs/operations.md"):
        text = path.read_text()
        found += [(path.name, " ".join(quoted.split())) for quoted in re.findall(r"`(eco-ray [^`]+)`", text)]
        found += [(path.name, line) for line in re.findall(r"(?:^    |-- )(eco-ray .*)$", text, re.MULTILINE)]
    return [
        (where, ours[1].strip())
        for where, line in found
        for ours in re.finditer(r"(?:^|[\s/;])(eco-ray [^;>&\n]*)", line)
    ]


def test_each_command_and_option_exists() -> None:
    lines = command_lines()
    assert {"up", "down", "run", "k8s", "ledger", "key"} <= {shlex.split(line)[1] for _, line in lines}
    for where, line in lines:
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "k8s" and "k8s" not in cli.list_commands(click.Context(cli)):
            continue
        command: click.Command = cli
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words[0])
            assert found is not None, f"{where}: no command {words[0]!r} in {line!r}"
            command, words = found, words[1:]
        try:
            command.make_context("eco-ray", words)
        except click.MissingParameter:
            assert where.endswith(".md"), line  # a text may name a command without all that it takes


def test_the_commands_of_ray_exist() -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for path in [*CLUSTER.glob("systemd/*.service"), CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]:
        for line in path.read_text().splitlines():
            if "ray start" in line:
                used = set(re.findall(r"(--[a-z-]+)", line.partition("ray start")[2]))
                assert used <= known, f"{path.name}: {used - known}"
    params = {key for name in BUILDS for _, spec in ray_clusters(build(name)) for key in start_params(spec)}
    assert {f"--{key}" for key in params} <= known


def start_params(spec: Object) -> set[str]:
    groups = [spec["headGroupSpec"], *spec.get("workerGroupSpecs", ())]
    return {key for group in groups for key in group.get("rayStartParams", {})}


# -- settings ----------------------------------------------------------------------------------------------------------


def environment() -> list[tuple[str, str]]:
    """(where, NAME) of all that is set."""
    found = []
    for name in WHOLE:
        objects = build(name)
        found += [(name, key) for key in settings_of(objects)]
        found += [
            (pod.name, env["name"])
            for pod in pods(objects)
            for one in pod.containers(init=True)
            for env in one.get("env", ())
        ]
    texts = [*CLUSTER.glob("systemd/*"), CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]
    texts += [*K8S.glob("components/*/*.yaml"), REPOSITORY / "docs/kubernetes.md", REPOSITORY / "docs/operations.md"]
    return found + [(path.name, name) for path in texts for name in re.findall(r"ECO_RAY_[A-Z_]+", path.read_text())]


def test_each_setting_exists() -> None:
    known = {PREFIX + key.upper() for key in KEYS} | NOT_SETTINGS.keys()
    sources = {grid_keys.PREFIX + name for name in ("ELECTRICITY_MAPS",)}
    named_here = {name for _, name in environment() if name.startswith(PREFIX)}
    assert {"ECO_RAY_STORE_URL", "ECO_RAY_STATE_DIR", "ECO_RAY_KEY_PEPPER_FILE"} <= named_here
    assert named_here <= known | sources | {"ECO_RAY_REGISTRY_KEY"}
    for name, file in NOT_SETTINGS.items():
        assert name in (REPOSITORY / file).read_text()


def test_the_settings_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in settings_of(build("overlays/single-zone")).items():
        monkeypatch.setenv(key, value)
    found = Settings()
    assert (str(found.state_dir), found.serve_host, found.serve_keys) == ("/var/lib/eco-ray", "0.0.0.0", "required")
    assert (found.checkpoint_url, found.registry_url) == ("/shared/checkpoints", "/shared/models")
    mounts = {mount["mountPath"] for pod in pods(build("overlays/single-zone")) if pod.role in ("head", "worker")
              for mount in pod.containers()[0]["volumeMounts"]}  # fmt: skip
    assert {"/var/lib/eco-ray", "/shared", "/run/eco-ray", "/tmp", "/dev/shm"} <= mounts


def test_ray_is_told_what_our_own_clusters_are_told(tmp_path: Path) -> None:
    own = cluster_env(tmp_path / "token", tmp_path, str(tmp_path))
    told = settings_of(build("overlays/single-zone"))
    expected = {key: value for key, value in own.items() if not OWN.fullmatch(key)}
    assert "RAY_SERVE_ENABLE_HA_PROXY" in expected
    assert {key: told.get(key) for key in expected} == expected


# -- nodes -------------------------------------------------------------------------------------------------------------


def cluster_file(objects: list[Object], folder: Path) -> ClusterFile:
    path = folder / "cluster.yaml"
    path.write_text(named(objects, "ConfigMap", "eco-ray-cluster")["data"]["cluster.yaml"])
    return load_cluster_file(path)


@pytest.mark.parametrize("name", WHOLE)
def test_the_cluster_file_describes_each_worker_group(name: str, tmp_path: Path) -> None:
    objects = build(name)
    described = cluster_file(objects, tmp_path).to_groups()
    groups = named(objects, "RayCluster")["spec"]["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == list(described)
    kinds = set()
    for group in groups:
        node, pod = described[group["groupName"]], group["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert node.zone == group["labels"][ZONE_LABEL] == pod["nodeSelector"]["eco-ray.io/grid-zone"]
        assert node.capacity.cpus == float(limits["cpu"])
        assert node.capacity.gpus == float(limits.get("nvidia.com/gpu", 0))
        assert node.capacity.memory_gb <= float(limits["memory"].removesuffix("Gi")) * 1.073741824
        assert (group["minReplicas"], node.sleeps) == (0, True)
        kinds.add((node.zone, group["labels"].get("accelerator")))
    assert len(kinds) == len(groups)  # one for each zone and accelerator


def test_each_pod_has_a_name_of_its_own_in_ray() -> None:
    for pod in pods([*build("overlays/multi-zone-gpu"), *build("examples/rayservice")]):
        if pod.role in ("head", "worker"):
            env = {one["name"]: one.get("value", "") for one in pod.containers()[0]["env"]}
            labels = json.loads(env["RAY_OVERRIDE_LABELS"])
            assert labels == {NODE_LABEL: "head" if pod.role == "head" else "$(POD_NAME)"}
            assert pod.role == "head" or "POD_NAME" in env


def test_rays_version_is_the_pinned_one() -> None:
    pinned = re.search(r"^ray==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    versions = {spec["rayVersion"] for name in BUILDS for _, spec in ray_clusters(build(name))}
    assert pinned is not None
    assert versions == {pinned[1]}


def test_probes_ask_ports_and_paths_that_ray_answers_without_a_token() -> None:
    from ray._private import ray_constants
    from ray.dashboard import http_server_agent

    head_paths = (Path(http_server_agent.__file__).parent / "http_server_head.py").read_text()
    for name in BUILDS:
        for pod in pods(build(name)):
            if pod.role not in ("head", "worker"):
                continue
            (container,) = pod.containers()
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert ports.get("dashboard", 8265) == ray_constants.DEFAULT_DASHBOARD_PORT
            assert ports.get("serve", 8000) == Settings.model_fields["serve_port"].default
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = container[kind]["httpGet"]
                if pod.role == "head":
                    assert asked["port"] == "dashboard"
                    assert f'"{asked["path"]}"' in head_paths
                else:
                    assert asked["port"] == ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
                    assert asked["path"] in http_server_agent.PUBLIC_EXACT_PATHS


# -- models ------------------------------------------------------------------------------------------------------------


def test_the_service_tells_serve_what_eco_ray_model_deploy_would() -> None:
    from eco_ray.core.deployments import Deployment
    from eco_ray.on_ray.serve_config import ServingConfig, serve_config

    told = yaml.safe_load(named(build("examples/rayservice"), "RayService")["spec"]["serveConfigV2"])
    (app,) = told["applications"]
    wanted = Deployment("digits", 1, registry="/shared/models", min_replicas=1, max_replicas=4)
    config = serve_config([wanted], {}, ServingConfig("0.0.0.0", 8000, Path("/x"), "sqlite://"), router=False)
    (expected,) = config["applications"]
    assert (told["proxy_location"], told["http_options"]) == (config["proxy_location"], config["http_options"])
    assert Deployment.from_json(app["args"].pop("deployment")) == Deployment.from_json(
        expected["args"].pop("deployment")
    )
    for one in (app, expected):  # Serve decides itself how many
        del one["deployments"][0]["autoscaling_config"]
    assert app == expected
    module, _, function = app["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_annotations_of_the_example_are_those_that_are_read() -> None:
    try:
        asks: dict[str, Any] = importlib.import_module("eco_ray.k8s.rayjob").ASKS
    except ModuleNotFoundError:
        pytest.skip("eco_ray.k8s is not here yet")
    annotations = named(build("examples/rayjob-held"), "RayJob")["metadata"]["annotations"]
    assert set(annotations) == set(asks)


# -- metrics -----------------------------------------------------------------------------------------------------------


def exported(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of our series, from the code that exports them, and of Ray's nodes."""
    import ray.util.metrics
    from prometheus_client.parser import text_string_to_metric_families
    from ray.dashboard.modules.reporter import reporter_agent

    from eco_ray.on_ray.signal_metrics import SignalMetrics
    from eco_ray.service import router
    from eco_ray.service.metrics import Metrics

    ours: list[str] = []
    monkeypatch.setattr(ray.util.metrics, "Gauge", lambda name, *_: ours.append(f"ray_{name}"))
    SignalMetrics()
    served = Metrics("m", 1)
    served.answered(200)
    families = list(text_string_to_metric_families(served.text().decode()))
    names = {sample.name for family in families for sample in family.samples}
    # without an inference there is no sample of these, and the library adds _total
    names |= {f"{family.name}_total" for family in families if family.type == "counter"}
    routed = re.search(r'Counter\("(\w+)"', Path(router.__file__).read_text())
    assert routed is not None
    return names | set(ours) | {f"{routed[1]}_total"} | {f"ray_{name}" for name in reporter_agent.METRICS_GAUGES}


def test_each_query_of_the_dashboard_names_a_metric_that_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard = json.loads((K8S / "overlays/monitoring/eco-ray.json").read_text())
    known = exported(monkeypatch)
    assert {"ray_eco_signal_rung", "eco_requests_total", "eco_energy_joules_total"} <= known
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    asked = set()
    for panel in panels:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            names = set(re.findall(r"\b((?:ray|eco)_[a-z0-9_]+)\b", re.sub(r"by \([^)]*\)", "", target["expr"])))
            assert names, target["expr"]
            assert names <= known, f"{panel['title']}: {names - known}"
            asked |= names
    ours = {name for name in known if name.startswith(("ray_eco_", "eco_"))}
    assert {name for name in ours if not name.endswith(("_sum", "_count", "_created"))} <= asked  # none is forgotten


# -- image and packages ------------------------------------------------------------------------------------------------


def test_the_image_installs_extras_that_exist_and_files_that_are_sent() -> None:
    dockerfile, extras = (
        (REPOSITORY / "Dockerfile").read_text(),
        tomllib.loads((REPOSITORY / "pyproject.toml").read_text()),
    )
    wanted = re.search(r"'\.\[([a-z0-9,]+)\]'", dockerfile)
    assert wanted is not None
    missing = set(wanted[1].split(",")) - extras["project"]["optional-dependencies"].keys()
    assert missing <= {"k8s"}
    sent = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for line in dockerfile.splitlines()
        if line.startswith("COPY") and "--from" not in line
        for word in line.split()[1:-1]
        if not word.startswith("--")
    }
    assert copied <= sent
    assert all((REPOSITORY / path).exists() for path in sent)


def test_each_secret_is_made_in_the_documentation() -> None:
    text = (REPOSITORY / "docs/kubernetes.md").read_text()
    told = json.dumps([build(name) for name in BUILDS])
    keys = set(re.findall(r'"secretKeyRef": \{"key": "([\w-]+)"', told)) | {"key-pepper"}
    assert keys == {"redis-password", "key-pepper", "store-url"}
    for word in SECRETS | keys:
        assert f"`{word}`" in text, word
