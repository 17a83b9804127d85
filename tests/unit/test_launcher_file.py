"""Files of Ray's cluster launcher: valid for Ray, and cluster files of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from eco_ray.cluster_file import ClusterFile, load_cluster_file
from eco_ray.core.cluster import Resources
from eco_ray.errors import UsageError

CLUSTER = Path(__file__).parents[2] / "cluster"
LAUNCHER = """\
cluster_name: here
provider: {type: local, head_ip: 10.0.0.1}
head_node_type: head
available_node_types:
  head: {resources: {CPU: 2}, node_config: {}}
  gpus:
    resources: {CPU: 16, GPU: 2, memory: 60000000000}
    labels: {grid_zone: FR}
    node_config: {}
metadata:
  eco_ray:
    home_zone: FR
    nodes:
      gpus:
        gpu_memory_gb: 48
        power: {tdp_w: 200}
"""


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def load(folder: Path, text: str) -> ClusterFile:
    path = folder / "launcher.yaml"
    path.write_text(text)
    return load_cluster_file(path)


def test_each_worker_type_is_a_group_with_what_ray_and_we_say_of_it(tmp_path: Path) -> None:
    cluster = load(tmp_path, LAUNCHER)
    assert (cluster.name, cluster.home_zone, cluster.head.num_cpus) == ("here", "FR", 2)
    (gpus,) = cluster.to_groups().values()
    assert (gpus.name, gpus.zone, gpus.capacity) == ("gpus", "FR", Resources(16, 2, 60, 48))
    assert cluster.to_nodes() == []


def test_what_we_say_of_a_type_wins(tmp_path: Path) -> None:
    (gpus,) = load(tmp_path, LAUNCHER.replace("gpu_memory_gb: 48", "memory_gb: 50")).to_groups().values()
    assert gpus.capacity == Resources(16, 2, 50)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  eco_ray:", "  theirs:", "metadata.eco_ray is missing"),
        ("metadata:", "auth:", "metadata is missing"),
        ("      gpus:", "      cpus:", "line 14: metadata.eco_ray.nodes: 'cpus' is no worker"),
        ("    labels: {grid_zone: FR}\n", "", "nodes[0].zone"),
        ("GPU: 2", "GPU: -2", "line 7: nodes[0].num_gpus: -2 is below 0"),
        ("tdp_w: 200", "tdp: 200", "line 16: nodes[0].power.tdp: unknown key 'tdp'"),
        ("cluster_name: here", "cluster_name: Here!", "line 1: name"),
        ("home_zone: FR", "home_zone: DE", "home_zone 'DE' has no node"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_in_the_launchers_file(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(UsageError) as error:
        load(tmp_path, LAUNCHER.replace(old, new))
    assert said in str(error.value)


def launcher(name: str) -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return told


def check_by_ray(told: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(told)


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_examples_are_valid_for_ray_and_say_the_same_of_zones(name: str) -> None:
    told = launcher(name)
    check_by_ray(told)
    cluster = load_cluster_file(CLUSTER / name)
    types = told["available_node_types"]
    assert set(cluster.to_groups()) == set(types) - {"head"}
    assert {one["labels"]["grid_zone"] for one in types.values()} == set(cluster.zones)
    # spot machines, and none that stays on
    assert all(one["min_workers"] == 0 for kind, one in types.items() if kind != "head")
    assert "spot" in str(types) or "preemptible" in str(types)
    assert told["head_start_ray_commands"][-1].endswith(f"--cluster ~/eco_ray/cluster/{name}")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda told: told.update(eco_ray={}), "Additional properties"),
        (lambda told: told["available_node_types"]["head"].update(power={}), "Additional properties"),
        (lambda told: told["available_node_types"]["head"]["resources"].update(CPU="two"), "is not of type 'integer'"),
        (lambda told: told.pop("provider"), "'provider' is a required property"),
        (lambda told: told.pop("head_node_type"), "head_node_type"),
    ],
)
def test_ray_refuses_a_broken_one(broken: Any, said: str) -> None:
    """Also why our keys stand below `metadata`."""
    told = launcher("aws.yaml")
    broken(told)
    with pytest.raises(Exception, match=said):
        check_by_ray(told)


def test_profiles_have_a_source_for_each_figure_and_the_example_clusters_use_them() -> None:
    profiles = load_cluster_file(CLUSTER / "profiles.yaml").to_groups()
    assert set(profiles) == {"dgx-h100", "dgx-a100", "l4", "cpu"}
    for node in profiles.values():
        assert node.power.source
        assert node.gpu_source or not node.capacity.gpus
        assert 0 < node.power.idle_w < node.power.full_w
    (dgx, *_) = load_cluster_file(CLUSTER / "onprem.yaml").to_nodes()
    told = profiles["dgx-h100"]
    assert (dgx.power.watts, dgx.gpu_idle_w, dgx.gpu_busy_w) == (told.power.watts, told.gpu_idle_w, told.gpu_busy_w)
    for name, kind in (("aws.yaml", "de-l4"), ("gcp.yaml", "nl-l4")):
        l4 = load_cluster_file(CLUSTER / name).to_groups()[kind]
        assert (l4.gpu_idle_w, l4.gpu_busy_w) == (profiles["l4"].gpu_idle_w, profiles["l4"].gpu_busy_w)
