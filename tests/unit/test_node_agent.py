"""The agent as a plain class: what it samples, what it remembers, and what it says of the time without one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eco_ray.core.clock import Clock
from eco_ray.core.ports import CpuUse, GpuReading, Reading
from eco_ray.core.power import PowerCurve
from eco_ray.core.standing import Spent, Standing
from eco_ray.core.units import Nature
from eco_ray.on_ray import node_agent
from eco_ray.on_ray.gpu_use import Holding, gpu_samples
from eco_ray.on_ray.last_seen import LONGEST_S, LastSeen, forget_all
from eco_ray.on_ray.node_agent import AGENT_AWAY, AgentConfig, NodeAgent
from eco_ray.on_ray.owners import Owner, OwnerFinder
from eco_ray.train.standing import read_standing

CURVE = PowerCurve((0.0, 1.0), (50.0, 100.0), "test")
SPEED = 60.0
CLOCK = Clock(SPEED, time.time(), 0.0)


class Meter:
    """Counts 10 J a second, on a node with whatever GPUs it is given."""

    name = "test"

    def __init__(self, gpus: tuple[GpuReading, ...] = ()) -> None:
        self.gpus = gpus

    def read(self, use: CpuUse) -> Reading:
        return Reading(10_000 * use.wall_s + 1000, 5_000 * use.wall_s, Nature.MEASURED, "test", 0.05, (), self.gpus)


class Controller:
    """Takes samples, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.got: list[dict[str, Any]] = []

    def __call__(self, node: str, batch: dict[str, Any]) -> None:
        if self.away:
            raise ConnectionError("the controller is away")
        self.got += batch["samples"]


def an_agent(folder: Path, controller: Controller, meter: Meter | None = None) -> NodeAgent:
    config = AgentConfig("de-1", 2.0, CURVE, CLOCK, folder / "spool", folder / "run")
    return NodeAgent(config, controller, meter or Meter(), root_pid=os.getpid())


def keep(agent: NodeAgent) -> None:
    agent._keep(agent.sample())


def test_samples_wait_on_disk_while_the_controller_is_away_and_are_sent_once(tmp_path: Path) -> None:
    controller = Controller()
    controller.away = True
    first = an_agent(tmp_path, controller)
    for _ in range(3):
        keep(first)
    assert first.ship() is False
    controller.away = False
    second = an_agent(tmp_path, controller)  # the first one was killed
    assert second.ship() is True
    seqs = [(one["boot_id"], one["seq"]) for one in controller.got]
    assert seqs == [(first.boot_id, 1), (first.boot_id, 2), (first.boot_id, 3), (second.boot_id, 1)]
    assert second.ship() is True
    assert len(controller.got) == 4


def test_the_time_without_an_agent_is_accounted_as_idle_and_said_to_be_so(tmp_path: Path) -> None:
    controller = Controller()
    first = an_agent(tmp_path, controller)
    keep(first)
    ended_wall_s = first._last_wall_s
    time.sleep(0.2)
    second = an_agent(tmp_path, controller)
    second.ship()
    away = controller.got[-1]
    gap_s = second._last_wall_s - ended_wall_s
    assert away["flags"] == (AGENT_AWAY,)
    assert (away["nature"], away["error_rel"]) == (Nature.ASSUMED, 1.0)  # up to full load, 100 W
    assert away["end_s"] - away["start_s"] == pytest.approx(gap_s * SPEED, rel=1e-6)
    assert away["energy_mj"] == away["idle_mj"] == round(50_000 * gap_s * SPEED)
    assert away["usages"] == ()
    keep(second)
    second.ship()
    assert controller.got[-1]["start_s"] == pytest.approx(away["end_s"], abs=1e-3)  # no hole, no overlap


def test_what_attempts_hold_is_theirs_also_without_an_agent(tmp_path: Path) -> None:
    first = an_agent(tmp_path, Controller())
    first.expect("train", 1, "train-a1", 1.0)
    keep(first)
    (_, away) = an_agent(tmp_path, Controller())._unsent
    assert [(use.owner_id, use.cpu_s, use.reserved_cpus) for use in away.usages] == [("train", 0.0, 1.0)]


def test_an_agent_that_ended_before_it_noted_its_last_sample_counts_that_time_once(tmp_path: Path) -> None:
    first = an_agent(tmp_path, Controller())
    keep(first)
    time.sleep(0.05)
    first._spool.put(first.sample())  # and then it was killed
    time.sleep(0.05)
    last, away = an_agent(tmp_path, Controller())._unsent[-2:]
    assert away.flags == (AGENT_AWAY,)
    assert away.start_s == pytest.approx(last.end_s, abs=1e-3)


def test_with_a_full_disk_the_time_of_what_only_memory_had_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = an_agent(tmp_path, Controller())
    keep(first)
    noted_s = first._last_wall_s
    monkeypatch.setattr(first._spool, "put", lambda _sample: False)
    time.sleep(0.05)
    keep(first)
    second = an_agent(tmp_path, Controller())
    kept, away = second._unsent
    assert away.start_s == pytest.approx(kept.end_s, abs=1e-3)
    assert second._last_wall_s - noted_s == pytest.approx((away.end_s - away.start_s) / SPEED, abs=1e-3)


def test_what_the_controller_took_from_memory_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller()
    first = an_agent(tmp_path, controller)
    keep(first)
    monkeypatch.setattr(first._spool, "put", lambda _sample: False)
    keep(first)
    first.ship()
    (away,) = an_agent(tmp_path, controller)._unsent
    assert away.start_s == pytest.approx(controller.got[-1]["end_s"], abs=1e-3)


def test_what_memory_could_not_hold_is_sent_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_agent, "_MEMORY_LIMIT", 5)
    controller = Controller()
    controller.away = True
    agent = an_agent(tmp_path, controller)
    for _ in range(12):
        keep(agent)
    controller.away = False
    while agent._unsent:
        agent.ship()
    assert sorted(one["seq"] for one in controller.got) == list(range(1, 13))
    assert list((tmp_path / "spool").glob("*.sample.json")) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no earlier agent"),
        ("", "torn"),
        ("[1", "torn"),
        ('["x", "boot"]', "no number"),
        ("[NaN, BOOT]", "no number"),
        ("[NOW, BOOT]", "nothing passed"),
        ("[AHEAD, BOOT]", "the clock went back"),
        ("[OLD, BOOT]", "too long ago"),
        ('[AGO, "another boot"]', "the machine was off"),
    ],
)
def test_a_gap_is_not_filled_where_nobody_knows_what_was(tmp_path: Path, content: str | None, why: str) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("this boot\n")
    seen, now_s = LastSeen(tmp_path, boot_id), 1_000_000.0
    seen.keep(now_s - 5.0)
    (file,) = tmp_path.glob("*.json")
    assert seen.since(now_s) == now_s - 5.0
    times = {"NOW": now_s, "AHEAD": now_s + 9, "OLD": now_s - LONGEST_S - 1, "AGO": now_s - 5}
    if content is None:
        file.unlink()
    else:
        for name, value in times.items():
            content = content.replace(name, str(value))
        file.write_text(content.replace("BOOT", json.dumps("this boot")))
    assert seen.since(now_s) is None, why


@pytest.mark.parametrize(("days_of_grid_time", "filled"), [(365.0, [(AGENT_AWAY,)]), (367.0, [])])
def test_a_gap_is_filled_as_far_as_the_ledger_takes_it_in_one_row(tmp_path: Path, days_of_grid_time, filled) -> None:
    (tmp_path / "spool").mkdir()
    LastSeen(tmp_path / "spool").keep(time.time() - days_of_grid_time * 86_400 / SPEED)
    assert [one.flags for one in an_agent(tmp_path, Controller())._unsent] == filled


def test_a_cluster_that_went_down_in_order_has_no_gap(tmp_path: Path) -> None:
    controller = Controller()
    keep(an_agent(tmp_path, controller))
    forget_all(tmp_path)
    assert [one.flags for one in an_agent(tmp_path, controller)._unsent] == [()]


def test_what_ray_holds_is_known_to_the_next_agent(tmp_path: Path) -> None:
    first = an_agent(tmp_path, Controller())
    first.expect("train", 2, "train-a2", 1.5, 2.0)
    second = an_agent(tmp_path, Controller())
    (usage,) = second.sample().usages
    assert (usage.owner_id, usage.attempt, usage.reserved_cpus, usage.cpu_s) == ("train", 2, 1.5, 0.0)
    second.clean_up("train", 2, "train-a2")
    assert second.sample().usages == ()


# -- GPUs --------------------------------------------------------------------------------------------------------------

A, B = Owner("job", "a", 1), Owner("job", "b", 3)


def a_gpu(index: int, busy_s: dict[int, float], energy_mj: float = 100_000.4) -> GpuReading:
    return GpuReading(f"GPU-{index}", index, energy_mj, 40_000.0, busy_s)


def owners(**of: Owner) -> Any:
    return {int(pid[1:]): owner for pid, owner in of.items()}.get


def test_busy_time_goes_to_the_owners_of_the_processes_and_the_rest_to_nobody() -> None:
    (gpu,) = gpu_samples([a_gpu(0, {1: 0.2, 2: 0.3, 3: 0.1, 4: 0.05})], owners(p1=A, p2=B, p3=A), {}, SPEED)
    assert [(use.owner_id, use.attempt, use.busy_s) for use in gpu.uses] == [
        ("a", 1, pytest.approx(0.3)), ("b", 3, pytest.approx(0.3))]  # fmt: skip
    assert gpu.system_busy_s == 0.05
    assert (gpu.energy_mj, gpu.idle_mj) == (6_000_024, 2_400_000)


@pytest.mark.parametrize(
    ("holding", "expected"),
    [
        (Holding(0.5, ("0",)), [0.5, 0.0]),  # a half of one device
        (Holding(2.0, ("0", "1")), [1.0, 1.0]),
        (Holding(1.0, ("GPU-1",)), [0.0, 1.0]),  # held, though at work on the other
        (Holding(2.0), [1.0, 0.0]),  # not told which: where it works
        (Holding(0.25), [0.25, 0.0]),
        (Holding(1.0, ("MIG-GPU-1/7/0",)), [0.0, 1.0]),
        (Holding(2.0, ("0", "GPU-1", "1")), [1.0, 1.0]),  # two names of one
        (Holding(1.0, ("MIG-5c",)), [1.0, 0.0]),  # names no GPU: where it works
        (Holding(1.0, ("-1",)), [1.0, 0.0]),
    ],
)
def test_a_reservation_is_of_the_devices_that_ray_gave(holding: Holding, expected: list[float]) -> None:
    gpus = gpu_samples([a_gpu(0, {1: 0.2}), a_gpu(1, {})], owners(p1=A), {A: holding}, 1.0)
    assert [sum(use.reserved for use in gpu.uses) for gpu in gpus] == expected


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("GPU-abc", [1.0, 0.0]),
        ("MIG-GPU-abc/1/0", [1.0, 0.0]),
        ("GPU-abd22", [0.0, 1.0]),
        ("GPU-ab", [0.0, 1.0]),  # of two: where it works
        ("GPU-", [0.0, 1.0]),
    ],
)
def test_a_shortened_uuid_is_the_one_device_that_begins_so(device: str, expected: list[float]) -> None:
    readings = [GpuReading(f"GPU-{uuid}", 3 + n, 1.0, 0.0, {n: 0.1}) for n, uuid in enumerate(["abc11", "abd22"])]
    gpus = gpu_samples(readings, owners(p1=A), {A: Holding(1.0, (device,))}, 1.0)
    assert [sum(use.reserved for use in gpu.uses) for gpu in gpus] == expected


def test_a_child_that_sees_one_device_does_not_take_the_others_from_its_job() -> None:
    seen = {1: "0,1", 2: "1", 3: "", 4: "GPU-x, 1"}
    table: Any = SimpleNamespace(
        environ_of=lambda process, _names: {
            "ECO_RAY_JOB_ID": "j", "ECO_RAY_ATTEMPT": "1", "CUDA_VISIBLE_DEVICES": seen[process.pid]
        }
    )  # fmt: skip
    finder = OwnerFinder(table)
    for pid in seen:
        process: Any = SimpleNamespace(pid=pid)
        finder(process)
    assert finder.devices == {Owner("job", "j", 1): ("0", "1", "GPU-x")}


def test_an_attempt_that_holds_a_gpu_and_sleeps_is_there(tmp_path: Path) -> None:
    (gpu,) = gpu_samples([a_gpu(0, {})], owners(), {A: Holding(1.0, ("0",))}, 1.0)
    assert [(use.owner_id, use.busy_s, use.reserved) for use in gpu.uses] == [("a", 0.0, 1.0)]


def test_a_node_without_gpus_that_are_metered_has_none(tmp_path: Path) -> None:
    assert an_agent(tmp_path, Controller()).sample().gpus == ()
    agent = an_agent(tmp_path, Controller(), Meter((a_gpu(0, {os.getpid(): 0.5}, 500.0),)))
    (gpu,) = agent.sample().gpus
    assert (gpu.energy_mj, gpu.system_busy_s) == (30_000, 0.5)


def test_an_attempt_is_told_how_its_job_stands_and_one_that_has_ended_hinders_nobody(tmp_path: Path) -> None:
    agent = an_agent(tmp_path, Controller())
    standing = Standing(1.0, 2.0, Spent(3.0, None, Nature.MODELLED, "ledger, test"))
    agent.expect("j", 1, "j-a1", 1.0)
    agent.tell({"ended-a1": standing, "j-a1": standing})
    assert read_standing(tmp_path / "run" / "j-a1") == standing
    assert not (tmp_path / "run" / "ended-a1").exists()
