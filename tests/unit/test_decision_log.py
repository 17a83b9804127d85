"""What the live parts decide is written down with all that it was decided from; decided again, it is the same."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_consolidator import CONFIG, LOOK_S
from test_consolidator import World as Nodes
from test_mixer import MIXED
from test_mixer import World as Versions
from test_zone_deployer import MNIST, Routers, ZonesServing, deploy

from eco_ray.core.consolidation import Drain
from eco_ray.core.decision_log import differences, record_from_json, record_to_json
from eco_ray.core.replica_counts import ReplicaDecision, ReplicaLoad, Scaling, next_replicas
from eco_ray.core.scaling_log import ScalingRecord
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.on_ray.serving.consolidator import Consolidator
from eco_ray.on_ray.serving.decision_file import DecisionFile
from eco_ray.on_ray.serving.mixer import Mixer
from eco_ray.sim.recorded import decide_again
from eco_ray.store.memory import MemoryStore

grams = st.sampled_from([20.0, 50.0, 380.0, 600.0, 900.0, None, math.nan, -1.0])


def records(folder, kind):
    lines = (folder / "decisions" / f"{kind}.jsonl").read_text().splitlines()
    return [record_from_json(json.loads(line)) for line in lines]


def written(folder):
    """Keeps each decision."""
    clock = iter(range(0, 10**9, 1000))
    return DecisionFile(folder / "decisions", now_s=lambda: float(next(clock)))


def same(folder):
    """How many decisions there are of each kind; all of them are decided alike again."""
    found = decide_again(folder)
    assert [one.different for one in found] == [()] * len(found)
    return {one.kind: one.decisions for one in found}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(grams, grams, st.sampled_from([1, 20, 40])), min_size=1, max_size=12))
def test_nodes(tmp_path_factory, flaps):
    folder = tmp_path_factory.mktemp("n")
    values = {}
    world = Nodes(lambda name, _s: values[name])
    consolidator = Consolidator(MemoryStore(), world, CONFIG, decisions=written(folder))
    looks = 0
    for dirty, green, count in flaps:
        values |= {"dirty": dirty, "green": green}
        for _ in range(count):
            looks += consolidator.look().did in ("nothing", "would drain", "draining")
            world.pass_s(LOOK_S)
    asked = [one for one in records(folder, "drain") if one.decision.node]
    assert [one.decision.node for one in asked] == [name for _, name in world.asked]
    assert 1 <= same(folder)["drain"] <= looks


def test_traffic(tmp_path, store, deployer, serving):
    deploy(deployer, MNIST)
    routers = Routers(store, serving, deployer)
    routers.planner._decisions = written(tmp_path)
    for intensity in (100.0, 900.0, None, 100.0):
        serving.intensity = {"AA": 300.0, "BB": intensity, "CC": None}
        routers.pass_on(320)
    routers.away = ("BB",)
    routers.pass_on(20)
    told = records(tmp_path, "traffic")
    assert len({one.decision.routes.shares for one in told}) > 1
    assert same(tmp_path) == {"traffic": len(told)}


def test_variants(tmp_path):
    world = Versions()
    mixer = Mixer(MemoryStore(), lambda: [MIXED], world.fact, world.rooms, lambda: world.now_s, written(tmp_path))
    for world.intensity in (500.0, 100.0, None, 900.0):
        for _ in range(3):
            mixer.look()
            world.now_s += 400.0
    assert {one.decision.small_share for one in records(tmp_path, "mix")} == {0.0, 0.3}
    assert same(tmp_path) == {"mix": 12}


@pytest.fixture
def store():
    made = MemoryStore()
    made.put_meta("cluster", {"home_zone": "AA"})
    made.put_meta("clock", {"speed": 1.0, "wall_origin_s": 0.0, "grid_origin_s": 0.0})
    return made


@pytest.fixture
def serving():
    return ZonesServing()


@pytest.fixture
def deployer(store, serving):
    from test_deployer import CONFIG as SERVING

    from eco_ray.on_ray.deployer import Deployer

    return Deployer(store, serving, lambda _one: 1, SERVING, pause=lambda _s: None)


def a_record(tmp_path):
    Consolidator(MemoryStore(), Nodes(), CONFIG, decisions=written(tmp_path)).look()
    (one,) = records(tmp_path, "drain")
    return one


def test_a_decision_that_is_another_one_now_is_told(tmp_path):
    one = a_record(tmp_path)
    told = record_to_json(one)
    told["decision"]["why"] = "because"
    (different,) = differences([record_from_json(told)])
    assert (different.kind, different.about, different.again) == ("drain", "nodes", one.decision)
    assert isinstance(different.decided, Drain)
    (tmp_path / "decisions" / "drain.jsonl").write_text(json.dumps(told) + "\n")
    (again,) = decide_again(tmp_path)
    assert (again.decisions, len(again.different)) == (1, 1)


def test_decisions_on_replicas_are_decided_again_beside_the_others(tmp_path):
    load, scaling = ReplicaLoad(0.0, 3.0, 3, 1, 1, 0.1), Scaling(0, 4, 0.2)
    right = ScalingRecord("model.m", load, None, scaling, next_replicas(load, None, scaling)[0])
    wrong = ScalingRecord("model.m", load, None, scaling, ReplicaDecision(9, "so"))
    (tmp_path / "scaling").mkdir()
    lines = [json.dumps(one.to_json()) for one in (right, wrong)]
    (tmp_path / "scaling" / "model.m.jsonl").write_text("\n".join([*lines, '{"app": "mod']))  # it was being written
    (found,) = decide_again(tmp_path)
    assert (found.kind, found.decisions, [one.decided.replicas for one in found.different]) == ("scaling", 2, [9])


def test_what_is_no_record_is_an_error_with_its_line(tmp_path):
    with pytest.raises(UsageError, match="no decisions are written down there"):
        decide_again(tmp_path)
    file = tmp_path / "decisions" / "drain.jsonl"
    file.parent.mkdir()
    whole = json.dumps(record_to_json(a_record(tmp_path)))
    for line in ("{", "[]", '{"kind": "x"}', '{"kind": "drain"}', whole.replace('"now_s":', '"now":')):
        file.write_text(f"{whole}\n{line}\n")
        with pytest.raises(UsageError, match=r"drain\.jsonl, line 2: no record of a decision"):
            decide_again(tmp_path)
    with pytest.raises(EcoRayError, match="record of kind 'x' is not known"):
        record_from_json({"kind": "x"})


@pytest.mark.parametrize("most_lines", [1000, 10])
def test_what_changes_nothing_is_written_every_half_minute_and_files_do_not_grow_forever(tmp_path, most_lines):
    one, now_s = a_record(tmp_path / "a"), [0.0]
    most_bytes = most_lines * len(json.dumps(record_to_json(one)))
    file = DecisionFile(tmp_path, most_bytes, lambda: now_s[0])
    for second in range(120):
        now_s[0] = float(second)
        file.note(one, "x" if second < 100 else second)
    files = sorted(tmp_path.glob("*.jsonl"))
    lines = sum(len(each.read_text().splitlines()) for each in files)
    assert max(each.stat().st_size for each in files) <= most_bytes
    if most_lines > 100:
        assert lines == 4 + 20  # at 0, 30, 60 and 90 s, then each
    else:
        assert [each.name for each in files] == ["drain.1.jsonl", "drain.jsonl"]
        assert 10 <= lines < 24


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path, caplog):
    one = a_record(tmp_path / "a")
    (tmp_path / "full").write_text("")
    DecisionFile(tmp_path / "full" / "decisions").note(one, 1)
    assert "decisions are not written down" in caplog.text
