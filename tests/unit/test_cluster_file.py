from __future__ import annotations

import re
from pathlib import Path

import pytest

from eco_ray.cluster_file import ClusterFile, load_cluster_file
from eco_ray.config import load_settings
from eco_ray.core.clock import Clock
from eco_ray.core.cluster import Resources
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.times import parse_instant

REPOSITORY = Path(__file__).parents[2]
NODE = "  - {name: a, zone: DE, num_cpus: 1, memory_gb: 1, power: {tdp_w: 10}}\n"
MINIMAL = f"name: c\nhome_zone: DE\nnodes:\n{NODE}"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def load(folder: Path, text: str) -> ClusterFile:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return load_cluster_file(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as error:
        load(folder, text)
    return str(error.value)


def with_power(power: str) -> str:
    return MINIMAL.replace("{tdp_w: 10}", power)


def test_the_laptop_is_three_nodes_in_three_zones() -> None:
    cluster = load_cluster_file(REPOSITORY / "cluster" / "laptop.yaml")
    nodes = cluster.to_nodes()
    assert [(node.name, node.zone) for node in nodes] == [("de-1", "DE"), ("fr-1", "FR"), ("gb-1", "GB")]
    assert (cluster.home_zone, cluster.zones, cluster.head.num_cpus) == ("DE", ("DE", "FR", "GB"), 0)
    for node in nodes:
        assert (node.capacity, node.pue) == (Resources(1, 0, 2), 1.0)
        assert 0 < node.power.idle_w < node.power.power_w(1) < 150
        assert node.power.nature == Nature.MODELLED
        assert "Cloud Carbon Footprint" in node.power.source


@pytest.mark.parametrize("path", sorted((REPOSITORY / "cluster").glob("*.yaml")), ids=lambda path: path.name)
def test_the_example_clusters_load(path: Path) -> None:
    cluster = load_cluster_file(path)
    assert len(cluster.to_nodes()) + len(cluster.to_groups()) == len(cluster.nodes)


def test_a_group_is_no_node_and_tells_what_its_nodes_are_like(tmp_path: Path) -> None:
    group = NODE.replace("{name: a", "{name: gpus, group: true").replace("zone: DE", "zone: FR")
    cluster = load(tmp_path, MINIMAL + group)
    assert [node.name for node in cluster.to_nodes()] == ["a"]
    assert {name: node.zone for name, node in cluster.to_groups().items()} == {"gpus": "FR"}
    assert cluster.zones == ("DE", "FR")


def test_defaults(tmp_path: Path) -> None:
    cluster = load(tmp_path, MINIMAL)
    assert (cluster.planner.slot_s, cluster.planner.horizon_s, cluster.planner.default_max_delay_s) == (
        900,
        345_600,
        86_400,
    )
    assert (cluster.pause_timeout_s, cluster.sample_period_s, cluster.serve.port) == (30, 1, 8000)
    assert (cluster.grid.source, cluster.grid.file) == ("profile", None)
    assert cluster.clock.to_clock(100.0) == Clock(1.0, 100.0, 100.0)


def test_clock(tmp_path: Path) -> None:
    clock = load(tmp_path, MINIMAL + "clock: {speed: 600, start: 2026-11-22T08:00Z}\n").clock
    start_s = parse_instant("2026-11-22T08:00Z")
    assert clock.to_clock(100.0) == Clock(600.0, 100.0, start_s)
    assert clock.to_clock(100.0, speed=60).speed == 60


def test_settings_fill_what_the_file_leaves_out_and_only_explicit_ones_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MINIMAL + "planner: {slot: 10m}\nserve: {port: 9000}\n"
    (tmp_path / "eco-ray.toml").write_text('slot = "20m"\nhorizon = "48h"\nserve_port = 7000\n')
    cluster = load(tmp_path, text)
    assert (cluster.planner.slot_s, cluster.planner.horizon_s, cluster.serve.port) == (600, 172_800, 9000)
    monkeypatch.setenv("ECO_RAY_SLOT", "30m")
    cluster = load_cluster_file(tmp_path / "cluster.yaml", load_settings({"serve_port": 6000}))
    assert (cluster.planner.slot_s, cluster.serve.port) == (1_800, 6000)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clusters"
    folder.mkdir()
    (folder / "trace.csv").touch()
    (folder / "fc.csv").touch()
    text = MINIMAL + "grid: {source: trace, file: trace.csv, forecasts: {DE: fc.csv}}\n"
    monkeypatch.chdir(tmp_path)
    (folder / "cluster.yaml").write_text(text)
    grid = load_cluster_file("clusters/cluster.yaml").grid
    assert grid.file == (folder / "trace.csv").resolve()
    assert grid.forecasts == {"DE": (folder / "fc.csv").resolve()}


@pytest.mark.parametrize(
    ("power", "watts"),
    [
        ("{idle_w: 30, max_w: 120, source: wall meter}", (30, 75, 120)),
        ("{curve: [[0, 30], [0.5, 100], [1, 120]], source: SPECpower}", (30, 100, 120)),
        ("{tdp_w: 100}", (12, 75, 102)),
        ("{cpu: cascade-lake, vcpus: 10, memory_gb: 0}", (6.39, 23.03, 39.67)),
    ],
)
def test_power_forms(tmp_path: Path, power: str, watts: tuple[float, ...]) -> None:
    (node,) = load(tmp_path, with_power(power)).to_nodes()
    assert [node.power.power_w(load) for load in (0, 0.5, 1)] == pytest.approx(watts)
    assert node.power.source


GPU_NODE = MINIMAL.replace(
    "memory_gb: 1,",
    "num_gpus: 4, memory_gb: 1, gpu_memory_gb: 320, gpu_power: {idle_w: 55, busy_w: 400, source: nvidia-smi}, "
    "sleeps: true, wake_wh: 2.5,",
)


def test_gpus_and_a_node_that_sleeps(tmp_path: Path) -> None:
    (node,) = load(tmp_path, GPU_NODE).to_nodes()
    assert node.capacity == Resources(1, 4, 1, 320)
    assert (node.gpu_idle_w, node.gpu_busy_w, node.sleeps, node.wake_j) == (55, 400, True, 9_000)
    assert node.power_source.endswith("; GPUs: nvidia-smi")
    (plain,) = load(tmp_path, MINIMAL).to_nodes()
    assert plain.capacity == Resources(1, 0, 1)
    assert (plain.gpu_idle_w, plain.gpu_busy_w, plain.sleeps, plain.wake_j) == (0, 0, False, 0)
    assert plain.power_source == plain.power.source
    assert load(tmp_path, MINIMAL.replace("memory_gb: 1", "memory_gb: 1, sleeps: true")).to_nodes()[0].sleeps


def with_embodied(embodied: str) -> str:
    return MINIMAL.replace("memory_gb: 1,", f"memory_gb: 1, embodied: {embodied},")


def test_embodied_by_table_by_own_figure_or_unknown(tmp_path: Path) -> None:
    text = "{devices: [{device: nvidia-h100-sxm, count: 8}, {device: generic-server}], share: 0.25, lifetime_years: 5}"
    (node,) = load(tmp_path, with_embodied(text)).to_nodes()
    assert node.embodied is not None
    assert (node.embodied.gpus_kg, node.embodied.host_kg, node.embodied.lifetime_years) == (328, 250, 5)
    assert node.embodied.nature is Nature.ASSUMED
    (node,) = load(tmp_path, with_embodied("{kg: 1200, source: data sheet, mass_kg: 28, share: 0.5}")).to_nodes()
    assert node.embodied is not None
    assert (node.embodied.kg, node.embodied.mass_g, node.embodied.source) == (600, 14_000, "data sheet")
    assert (node.embodied.lifetime_years, node.embodied.nature) == (4, Nature.MODELLED)
    (node,) = load(tmp_path, MINIMAL).to_nodes()
    assert node.embodied is None


def test_the_laptop_knows_what_making_its_machines_is_assumed_to_have_emitted() -> None:
    cluster = load_cluster_file(REPOSITORY / "cluster" / "laptop.yaml")
    for node in cluster.to_nodes():
        assert node.embodied is not None
        assert (node.embodied.kg, node.embodied.nature) == (pytest.approx(166.7), Nature.ASSUMED)
        assert node.embodied.use_g(3600.0, 1.0, None) == pytest.approx(4.76, abs=0.01)


def test_market_based_intensity(tmp_path: Path) -> None:
    cluster = load(tmp_path, MINIMAL + "market_g_per_kwh: {DE: {g_per_kwh: 30, source: wind contract}}\n")
    assert cluster.market_g_per_kwh["DE"].model_dump() == {"g_per_kwh": 30, "source": "wind contract"}
    assert load(tmp_path, MINIMAL).market_g_per_kwh == {}
    head = MINIMAL + "head: {zone: SE, power: {tdp_w: 5}, embodied: {kg: 20, source: x}}\n"
    cluster = load(tmp_path, head + "market_g_per_kwh: {SE: {g_per_kwh: 0, source: hydro}}\n")
    assert cluster.to_head().embodied.kg == 20  # type: ignore[union-attr]


# (file, what the message must hold)
BAD = [
    (with_embodied("{}"), ["nodes[0].embodied: kg, source missing", "one of {devices"]),
    (with_embodied("{kg: 5}"), ["source missing", "where the figure comes from"]),
    (with_embodied("{kg: -5, source: x}"), ["embodied.kg: -5 is below 0"]),
    (with_embodied("{devices: []}"), ["embodied.devices", "add one"]),
    (with_embodied("{devices: [{device: tpu}]}"), ["unknown device 'tpu'", "nvidia-h100-sxm", "or give kg and source"]),
    (with_embodied("{devices: [{device: rack-case}], kg: 3}"), ["kg does not go with devices"]),
    (with_embodied("{devices: [{device: rack-case, count: 0}]}"), ["0 is below 1"]),
    (with_embodied("{kg: 5, source: x, share: 0}"), ["embodied.share: 0 is not above 0"]),
    (with_embodied("{kg: 5, source: x, share: 1.5}"), ["embodied.share: 1.5 is above 1"]),
    (with_embodied("{kg: 5, source: x, lifetime_years: 0}"), ["lifetime_years: 0 is not above 0"]),
    (MINIMAL + "market_g_per_kwh: {FR: {g_per_kwh: 3, source: x}}\n", ["no node is in 'FR'", "the zones are DE"]),
    (MINIMAL + "market_g_per_kwh: {DE: 30}\n", ["market_g_per_kwh.DE: 30 is not a mapping"]),
    (MINIMAL + "market_g_per_kwh: {DE: {g_per_kwh: 30}}\n", ["source: is missing"]),
    (
        GPU_NODE.replace("num_gpus: 4", "num_gpus: 0"),
        ["line 4: nodes[0]: gpu_memory_gb", "num_gpus 0", "give num_gpus"],
    ),
    (GPU_NODE.replace("num_gpus: 4, memory_gb: 1, gpu_memory_gb: 320", "memory_gb: 1"), ["gpu_power has no effect"]),
    (GPU_NODE.replace("busy_w: 400", "busy_w: 50"), ["nodes[0].gpu_power: busy_w 50 is below idle_w 55", "exchange"]),
    (GPU_NODE.replace(", source: nvidia-smi", ""), ["nodes[0].gpu_power.source: is missing; add it"]),
    (GPU_NODE.replace("idle_w: 55, ", ""), ["nodes[0].gpu_power.idle_w: is missing; add it"]),
    (GPU_NODE.replace("idle_w: 55", "idle_w: -1"), ["-1 is below 0", "from 0 to 100000"]),
    (GPU_NODE.replace("gpu_memory_gb: 320", "gpu_memory_gb: -1"), ["nodes[0].gpu_memory_gb: -1 is below 0"]),
    (
        GPU_NODE.replace("sleeps: true", "sleeps: false"),
        ["wake_wh 2.5 has no effect with sleeps false", "sleeps: true"],
    ),
    (GPU_NODE.replace("wake_wh: 2.5", "wake_wh: -2.5"), ["nodes[0].wake_wh: -2.5 is below 0"]),
    (GPU_NODE.replace("sleeps: true", "sleeps: perhaps"), ["'perhaps' is not true or false"]),
    (MINIMAL + NODE, ["'a' is there 2 times", "its own"]),
    (MINIMAL.replace("home_zone: DE", "home_zone: FR"), ["'FR' has no node", "zones: DE"]),
    ("name: c\nhome_zone: DE\nnodes: []\n", ["nodes: 0 entries are below 1", "add one"]),
    ("name: c\nhome_zone: DE\n", ["nodes: is missing; add it"]),
    (MINIMAL.replace("name: a", "name: A_1"), ["line 4: nodes[0].name: 'A_1'", "'a-1'"]),
    (MINIMAL.replace("num_cpus: 1", "num_cpus: 0"), ["0 is below 1", "whole number from 1"]),
    (MINIMAL.replace("num_cpus: 1", "num_cpus: 0.5"), ["0.5 is not a whole number", "from 1"]),
    (MINIMAL.replace("memory_gb: 1", "memory_gb: 0"), ["0 is not above 0", "above 0"]),
    (MINIMAL.replace("memory_gb: 1", "memory_gb: 1, pue: 0.9"), ["0.9 is below 1", "from 1 to 10"]),
    (MINIMAL.replace("memory_gb: 1", "memory_gb: 1, gpu: 1"), ["nodes[0].gpu", "'num_gpus'", "Allowed: name, zone"]),
    (MINIMAL.replace("zone: DE,", "zone: '',"), ["nodes[0].zone: ''", "US-CAL-CISO"]),
    (MINIMAL.replace(", power: {tdp_w: 10}", ""), ["nodes[0].power: is missing"]),
    (MINIMAL + "home: DE\n", ["unknown key 'home'", "'home_zone'"]),
    (MINIMAL + "head: {num_cpus: -1}\n", ["head.num_cpus: -1 is below 0"]),
    (MINIMAL + "grid: {source: live}\n", ["'live'", "give one of profile, trace, electricity-maps"]),
    (MINIMAL + "grid: {source: trace}\n", ["source trace needs file"]),
    (MINIMAL + "grid: {file: x.csv}\n", ["no effect with source profile", "source: trace"]),
    (MINIMAL + "grid: {source: trace, file: x.csv}\n", ["line 5: grid.file: no file", "x.csv", "relative to"]),
    (MINIMAL + "clock: {speed: 0}\n", ["0 is not above 0", "at most 100000"]),
    (MINIMAL + "clock: {start: 5h}\n", ["'5h'", "ISO 8601", "or now"]),
    (MINIMAL + "clock: {start: 5}\n", ["5 is not an instant", "or now"]),
    (MINIMAL + "planner: {slot: 0.5s}\n", ["0.5s is outside 1s to 1d"]),
    (MINIMAL + "planner: {slot: 1s, horizon: 30d}\n", ["horizon 30d", "1 to 10000", "change slot or horizon"]),
    (MINIMAL + "planner: 3\n", ["3 is not a mapping", "slot, horizon, default_max_delay"]),
    (MINIMAL + "pause_timeout: 2h\n", ["2h is outside 0.1s to 1h"]),
    (MINIMAL + "sample_period: 1\n", ["1 has no unit", "1s"]),
    (MINIMAL + "serve: {port: 70000}\n", ["70000 is above 65535", "1 to 65535"]),
    (with_power("{}"), ["no key is no power profile", "{tdp_w}"]),
    (with_power("{source: x}"), ["source is no power profile", "{cpu, vcpus, memory_gb}"]),
    (with_power("{cpu: cascde-lake, vcpus: 3, memory_gb: 1}"), ["cascde-lake", "cascade-lake?"]),
    (with_power("{cpu: cascade-lake}"), ["cpu also needs vcpus, memory_gb"]),
    (with_power("{idle_w: 5, max_w: 7}"), ["idle_w also needs source", "wall meter"]),
    (with_power("{max_w: 7}"), ["max_w also needs idle_w, source"]),
    (with_power("{idle_w: 9, max_w: 7, source: x}"), ["[9.0, 7.0]", "do not fall"]),
    (with_power("{curve: [[0, 30], [0.9, 120]], source: x}"), ["[0.0, 0.9]", "0 to 1"]),
    (with_power("{curve: [], source: x}"), ["two or more"]),
    (with_power("{tdp_w: 5, idle_w: 1}"), ["idle_w does not go with tdp_w", "one of"]),
    (with_power("{tdp_w: -5}"), ["-5 is not above 0"]),
    (with_power("{tpd_w: 5}"), ["'tpd_w'", "'tdp_w'"]),
    (MINIMAL + "grid: {source: profile\n", ["line 6, column 1"]),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_errors_hold_place_value_limit_and_cure(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refusal(tmp_path, text)
    for word in [str(tmp_path / "cluster.yaml"), *words]:
        assert word in message
    assert len(message.splitlines()) == 1


def test_errors_of_settings_name_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO_RAY_SLOT", "0.1s")
    assert "slot (from env ECO_RAY_SLOT): 0.1s is outside 1s to 1d" in refusal(tmp_path, MINIMAL)


TWO_ZONES = MINIMAL.replace("nodes:", "nodes:\n  - {name: b, zone: FR, num_cpus: 1, memory_gb: 1, power: {tdp_w: 10}}")


def test_ways_between_zones_are_told_once_and_hold_both_ways(tmp_path: Path) -> None:
    assert load(tmp_path, TWO_ZONES).to_ways() == {}
    told = load(tmp_path, TWO_ZONES + "rtt_ms: {FR: {DE: 12.5, FR: 1}}\n")
    assert told.to_ways() == {"DE": {"FR": 12.5}, "FR": {"DE": 12.5, "FR": 1.0}}
    twice = load(tmp_path, TWO_ZONES + "rtt_ms: {FR: {DE: 12}, DE: {FR: 12}}\n")
    assert twice.to_ways() == {"DE": {"FR": 12.0}, "FR": {"DE": 12.0}}


@pytest.mark.parametrize(
    ("ways", "why"),
    [
        ("{FR: {DE: 12}, DE: {FR: 13}}", r"FR to DE is 12 and DE to FR 13; .* give it once"),
        ("{FR: {GB: 12}}", "no node is in 'GB'"),
        ("{GB: {FR: 12}}", "no node is in 'GB'"),
        ("{FR: {DE: -1}}", "rtt_ms"),
        ("{FR: {DE: 10001}}", "rtt_ms"),
        ("{FR: {DE: .inf}}", "rtt_ms"),
        ("{FR: 12}", "rtt_ms"),
    ],
)
def test_ways_that_cannot_be_are_refused(tmp_path: Path, ways: str, why: str) -> None:
    assert re.search(why, refusal(tmp_path, TWO_ZONES + f"rtt_ms: {ways}\n"))
