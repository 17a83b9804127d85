"""Things are killed on purpose: nothing submitted is lost, nothing runs twice, no recorded energy is lost."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest
from ledger_checks import assert_ledger_sound
from live_cluster import SPEED, Cluster

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.jobs import AttemptState, JobState
from eco_ray.core.power import PowerCurve
from eco_ray.on_ray import local_cluster

pytestmark = pytest.mark.timeout(240)


def kill_controller(cluster: Cluster) -> None:
    pid = cluster.client.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while cluster.client.status()["pid"] == pid:  # waits for the new one
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_controller_loses_and_repeats_nothing(cluster: Cluster) -> None:
    steps = cluster.folder / "steps-killed"
    running = cluster.client.submit(cluster.script("counts.py", str(steps), "100", zones="CC", name="running"))
    waiting = cluster.client.submit(cluster.job("true", not_before="1h30m", name="waiting"))
    cluster.wait_for(running, lambda j: j.state is JobState.RUNNING)
    kill_controller(cluster)
    launching = cluster.client.submit(cluster.job("sleep 1", zones="BB", name="launching"))
    kill_controller(cluster)  # perhaps between the decision and the launch
    for job_id in (running, waiting, launching):
        ended = cluster.client.wait(job_id, 90)
        assert (ended.state, len(ended.attempts)) == (JobState.SUCCEEDED, 1), (job_id, ended.message)
    done = Counter(line.split()[1] for line in steps.read_text().splitlines())
    assert set(done.values()) == {1}
    assert len(done) == 100
    time.sleep(3.0)  # agents send what they kept meanwhile
    assert cluster.client.store.check_ledger().residual_mj == 0
    assert_ledger_sound(cluster.settings.state_dir, longest_gap_s=0.2 * SPEED)


def test_a_job_whose_node_goes_away_goes_on_elsewhere(cluster: Cluster) -> None:
    spare = Node("ee-1", "EE", Resources(1.0, 0.0, 2.0), PowerCurve((0, 1), (50, 100), "test"))
    record = cluster.client.record
    before = len(record.processes)
    local_cluster.add_node(record, spare, cluster.settings.state_dir)
    raylets = [pid for pid, _ in record.processes[before:]]
    try:
        deadline = time.monotonic() + 20
        while not any(n["name"] == "ee-1" and n["there"] for n in cluster.client.status()["nodes"]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        steps = cluster.folder / "steps-lost"
        job_id = cluster.client.submit(
            cluster.script(
                "counts.py",
                str(steps),
                "80",
                policy="eco",
                zones="EE,CC",
                expected_duration="12s",
                max_delay="20h",
                resume_cost="1s",
            )
        )
        cluster.wait_for(job_id, lambda j: (j.progress or 0) > 0.15)
        assert cluster.client.job(job_id).attempts[0].node == "ee-1"
        energy_before = sum(n.energy_mj for n in cluster.client.store.node_energy() if n.node == "ee-1")
        for pid in raylets:
            os.kill(pid, signal.SIGKILL)
        ended = cluster.client.wait(job_id, 120)
    finally:
        for pid in raylets:
            if local_cluster.start_ticks(pid):
                os.kill(pid, signal.SIGKILL)
    assert ended.state is JobState.SUCCEEDED, ended.message
    assert [a.state for a in ended.attempts] == [AttemptState.LOST, AttemptState.SUCCEEDED]
    assert ended.attempts[1].node != "ee-1"
    lines = [line.split() for line in steps.read_text().splitlines()]
    assert len({step for _, step in lines}) == 80
    twice = [step for step, n in Counter(step for _, step in lines).items() if n > 1]
    assert len(twice) <= 1  # at most the step between its line and its checkpoint
    assert sum(n.energy_mj for n in cluster.client.store.node_energy() if n.node == "ee-1") >= energy_before
    assert cluster.client.store.check_ledger().residual_mj == 0
    spool = cluster.settings.state_dir / "spool" / "ee-1"
    deadline = time.monotonic() + 15
    while list(spool.glob("*.sample.json")):  # what the agent had written down is taken in, up to its last moment
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_killed_agent_comes_back_and_its_samples_count_once(cluster: Cluster) -> None:
    import ray

    name = next(
        a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["name"].startswith("eco_agent:aa")
    )
    agent = ray.get_actor(name, namespace="eco_ray")
    boot = ray.get(agent.ping.remote())
    ray.kill(agent, no_restart=False)
    deadline = time.monotonic() + 30
    while True:
        try:
            if ray.get(agent.ping.remote(), timeout=5) != boot:
                break
        except ray.exceptions.RayError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(2.0)
    assert_ledger_sound(cluster.settings.state_dir, longest_gap_s=0.2 * SPEED)
