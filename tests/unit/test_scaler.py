"""The policy in Serve's controller: as the core decides, never an exception or a wait, a safe number on any doubt."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from eco_ray.core.cluster import Resources
from eco_ray.core.replica_counts import ColdStart, ReplicaLoad, Scaling, next_replicas
from eco_ray.core.replica_facts import ReplicaFacts
from eco_ray.core.scaling_log import ScalingRecord, replay
from eco_ray.on_ray.serve_config import _AT_ONCE
from eco_ray.on_ray.serving.exchange import FRESH_S, Exchange, Snapshot
from eco_ray.on_ray.serving.scaler import Scaler
from eco_ray.on_ray.serving.sight import Memory, look

APP = "model.mnist"
DEPLOYMENT = DeploymentID("replica", APP)
COLD = ColdStart(3.0, 60.0, 2.0, 300.0)
FACTS = ReplicaFacts(Resources(1.0), ("fr", "de"), COLD, (0.0, 1.0, 2.0))


class Clock:
    def __init__(self):
        self.s = 1000.0

    def __call__(self):
        return self.s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def exchange(clock):
    return Exchange(lambda _news: Snapshot((), {APP: FACTS}), clock)


def told(requests, worked_s=0.0, p95_s=-1.0, start_s=2.0):
    return {
        **{"requests": requests, "worked_s": worked_s, "p95_s": p95_s, "p95_of": 100.0 if p95_s >= 0 else 0.0},
        **{"start_s": start_s, "start_j": 60.0, "idle_w": 2.0, "node": 0.0, "running_requests": 1.0},
    }


def context(ongoing=0.0, target=1, running=None, state=None, stats=None, least=0, most=8):
    """`stats`: what each replica tells, by its name."""
    running = target if running is None else running
    ids = [ReplicaID(name, DEPLOYMENT) for name in (stats or {})] or [
        ReplicaID(str(n), DEPLOYMENT) for n in range(running)
    ]
    raw = {}
    for replica, one in zip(ids, (stats or {}).values(), strict=False):
        for name, value in one.items():
            raw.setdefault(name, {})[replica] = [TimeStampedValue(0.0, 0.0), TimeStampedValue(1.0, value)]
    return AutoscalingContext(
        **{"deployment_id": DEPLOYMENT, "deployment_name": "replica", "app_name": APP},
        **{"current_num_replicas": running, "target_num_replicas": target, "running_replicas": ids},
        **{"total_num_requests": lambda: ongoing, "total_queued_requests": lambda: 0.0},
        **{"aggregated_metrics": dict, "raw_metrics": lambda: raw},
        **{"capacity_adjusted_min_replicas": least, "capacity_adjusted_max_replicas": most},
        **{"policy_state": dict(state or {}), "last_scale_up_time": None, "last_scale_down_time": None},
        **{"current_time": 0.0, "config": AutoscalingConfig(min_replicas=least, max_replicas=most, **_AT_ONCE)},
    )


def test_it_decides_as_the_core_does(exchange, clock):
    scaler = Scaler("mnist:1", 0.05, 0.2, {"down_hold_s": 5.0}, exchange, clock)
    scaling = Scaling(0, 8, 0.2, COLD, down_hold_s=5.0)
    state, remembered, replicas, requests = {}, None, 1, 0
    for ongoing in [0.0, 7.0, 9.0, 30.0, 30.0, 3.0, 1.0, *[0.0] * 60]:
        clock.s += 1.0
        exchange.once()
        requests += int(ongoing)
        stats = {str(n): told(requests if not n else 0.0) for n in range(replicas)}
        ctx = context(ongoing, replicas, state=state, stats=stats)
        load = ReplicaLoad(clock.s, ongoing, look(ctx, state.get("eco_ray"), 0.05, clock.s).load.requests, replicas,
                           replicas, 0.05)  # fmt: skip
        expected, remembered = next_replicas(replace(load, work_s=None), remembered, scaling)
        seen, state = scaler(ctx)
        assert seen == expected.replicas
        replicas = seen
    assert replicas == 0  # a minute without requests, and waiting had taken as much as a start after 30 s


def test_what_it_decided_is_told_and_can_be_replayed(clock):
    news = []
    exchange = Exchange(lambda one: (news.append(one), Snapshot((), {APP: FACTS}))[1], clock)
    scaler, state, replicas = Scaler("mnist:1", 0.05, 0.2, exchange=exchange, now_s=clock), {}, 1
    for step in range(200):
        clock.s += 1.0
        ongoing = 9.0 if 20 < step < 60 else 0.0
        replicas, state = scaler(context(ongoing, replicas, state=state, stats={"a": told(step, step * 0.01, 0.3)}))
        exchange.once()
    (last,) = news[-1].last
    assert (last.app, last.reference, last.nodes, last.start.start_j) == (APP, "mnist:1", {0: 1}, 60.0)
    records = [record for one in news for record in one.records]
    assert 5 < len(records) < 30  # changes, and every 30 s
    kept = [ScalingRecord.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False))) for one in records]
    assert kept == records
    assert replay(kept) == [one.decision for one in records]


def test_without_a_snapshot_it_goes_by_the_requests_and_keeps_the_last_replica(exchange, clock):
    scaler = Scaler("mnist:1", 0.05, 0.2, exchange=exchange, now_s=clock)
    assert scaler(context(7.0))[0] == 4
    state = {}
    for _ in range(300):
        clock.s += 1.0
        replicas, state = scaler(context(0.0, 1, state=state, stats={"a": told(3)}))
    assert replicas == 1
    exchange.once()
    for _ in range(90):
        clock.s += 1.0
        if clock.s % 20 == 0:
            exchange.once()
        replicas, state = scaler(context(0.0, replicas, state=state))
    assert replicas == 0


def test_an_old_snapshot_is_not_believed(exchange, clock):
    exchange.once()
    clock.s += FRESH_S
    assert exchange.snapshot()
    clock.s += 1.0
    assert exchange.snapshot() is None


def test_a_deployer_that_hangs_or_fails_holds_up_nothing(clock):
    hangs = threading.Event()
    hung = Exchange(lambda _news: hangs.wait(60.0))
    hung.start()
    scaler = Scaler("mnist:1", exchange=hung)
    began_s, state = time.perf_counter(), {}
    for _ in range(500):
        replicas, state = scaler(context(3.0, 2, state=state))
    assert replicas == 2
    assert time.perf_counter() - began_s < 2.0  # 4 ms each, of which a tenth is expected
    hangs.set()

    def fails(_news):
        raise ValueError("away")

    failed = Exchange(fails, clock)
    for step in range(2500):
        Scaler("mnist:1", exchange=failed, now_s=clock)(context(3.0, 1 + step % 2))
    for _ in range(2):
        with pytest.raises(ValueError, match="away"):
            failed.once()
    assert len(failed._records) <= 1000
    seen = []
    failed._ask = lambda news: seen.append(news) or Snapshot()
    failed.once()
    assert 0 < len(seen[0].records) <= 1000  # those of the time when nobody answered


def test_serve_wakes_it_and_it_knows_who_waited(exchange, clock):
    """Serve asks for nothing while there is no replica and requests wait; the policy sees the first one there."""
    exchange.once()
    serve = _apply_autoscaling_config(Scaler("mnist:1", exchange=exchange, now_s=clock))
    replicas, state = 1, {}
    for _ in range(70):
        clock.s += 1.0
        if clock.s % 20 == 0:
            exchange.once()
        replicas, state = serve(context(0.0, replicas, replicas, state))
    assert replicas == 0
    exchange._ask = lambda news: seen.append(news) or Snapshot((), {APP: FACTS})
    for _ in range(3):
        seen = []
        replicas, state = serve(context(0.0, 0, 0, state))
        exchange.once()
        assert "none (a cold start takes" in seen[0].last[0].decision.why  # and goes on to be told
    replicas, state = serve(context(9.0, 0, 0, state))
    assert replicas == 1
    clock.s += 4.0
    replicas, state = serve(context(9.0, 1, 0, state))
    assert replicas == 1
    clock.s += 0.5
    replicas, state = serve(context(9.0, 1, 1, state))  # it has not told anything yet
    replicas, state = serve(context(9.0, replicas, 1, state, {"a": told(9.0)}))
    memory = state["eco_ray"]
    assert replicas > 1
    assert memory.state.waited == 9
    assert memory.requests == 9
    assert memory.woke_s == pytest.approx(4.5)
    assert memory.start.start_s == pytest.approx(4.5)  # as who waited for it has seen it
    clock.s += 1.0
    _, state = serve(context(3.0, 2, 2, state, {"a": told(12.0), "b": told(1.0)}))
    assert state["eco_ray"].requests == 13  # and none twice
    assert state["eco_ray"].state.waited == 9


def test_counts_of_replicas_that_end_or_tell_late_stay_right(clock):
    sight = look(context(1.0, 2, stats={"a": told(1000.0, 10.0)}), None, 0.0, 0.0)
    sight = look(context(1.0, 2, stats={"a": told(1002.0, 10.02), "b": told(500.0, 5.0)}), sight.memory, 0.0, 1.0)
    assert sight.load.requests == 2  # `b` counted the others before the controller started
    for now_s, requests in enumerate(range(1003, 1033, 5), start=10):
        stats = {"a": told(float(requests), requests / 100)}
        sight = look(context(1.0, 1, stats=stats), sight.memory, 0.0, float(now_s))
    assert sight.load.requests == 28
    assert sight.load.work_s == pytest.approx(0.01, rel=0.05)
    again = look(context(1.0, 1, stats={"c": told(3.0)}), sight.memory, 0.0, 30.0)
    assert again.load.requests == 31
    assert again.memory.told == {"c": (3.0, 0.0)}


def test_the_p95_is_of_all_answers():
    stats = {"a": told(1.0, p95_s=0.1), "b": told(1.0, p95_s=0.3), "c": told(1.0)}
    assert look(context(stats=stats), None, 0.0, 0.0).load.p95_s == pytest.approx(0.2)
    assert look(context(stats={"c": told(1.0)}), None, 0.0, 0.0).load.p95_s is None


_NAN = [SimpleNamespace(value=float("nan"))]
odd = st.one_of(
    *(st.none(), st.booleans(), st.integers(-5, 10**30), st.floats(), st.sampled_from(["", "x", "3"]), st.just([])),
    *(st.just({"a": 1}), st.just({"requests": {"a": [1]}}), st.just({"worked_s": {"a": _NAN}})),
    *(st.just({"eco_ray": Memory(0.0, 0.0, replicas=0)}), st.just({"eco_ray": 3})),
)


@settings(deadline=None)
@example({"capacity_adjusted_max_replicas": -1.0})
@given(st.dictionaries(st.sampled_from([*vars(context()), "raw_metrics", "total_num_requests", "policy_state"]), odd))
def test_whatever_serve_shows_a_number_comes_back(fields):
    if isinstance(fields.get("policy_state"), dict) and "eco_ray" in fields["policy_state"]:
        fields["policy_state"] = dict(fields["policy_state"])
    shown = SimpleNamespace(**{"raw_metrics": {}, "total_num_requests": 2.0, **vars(context()), **fields})
    replicas, state = Scaler("mnist:1")(shown)
    assert type(replicas) is int
    assert replicas >= 0
    assert isinstance(state, dict)


def test_on_an_error_what_is_there_stays_and_one_wakes(caplog):
    class Broken:
        target_num_replicas = 3

        def __getattr__(self, name):
            raise RuntimeError(name)

    scaler = Scaler("mnist:1")
    assert [scaler(Broken())[0] for _ in range(50)] == [3] * 50
    assert len(caplog.records) == 1
    waits = SimpleNamespace(target_num_replicas=0, total_num_requests=1.0)
    assert scaler(waits)[0] == 1
    assert scaler(SimpleNamespace(target_num_replicas=0, total_num_requests=0.0))[0] == 0
    assert scaler(SimpleNamespace())[0] == 1


def test_serve_can_take_the_policy_as_it_is_told():
    """By an import path and JSON, pickled by value in the process that is told, loaded in another one."""
    told_json = {
        "policy_function": "eco_ray.on_ray.serving.policy:GreenPolicy",
        "policy_kwargs": {"reference": "mnist:1", "service_s": 0.05, "slo_p95_s": None, "steady": {}},
    }
    policy = AutoscalingPolicy(**json.loads(json.dumps(told_json)))
    again = AutoscalingPolicy.from_serialized_policy_def(told_json, policy.get_serialized_policy_def())
    loaded = again.get_policy()
    assert issubclass(loaded, Scaler)
    assert b"_records" not in policy.get_serialized_policy_def()  # the exchange is that of the other process
