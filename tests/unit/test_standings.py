"""Running attempts are told how their jobs stand, and spent budgets are found, by the ledger."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from orchestrator_world import World
from planning_cases import HOUR_S, T0, hourly

from eco_ray.core.clock import Clock
from eco_ray.core.events import JobAccounted
from eco_ray.core.ledger import HourlyEnergy
from eco_ray.core.units import Nature
from eco_ray.on_ray import standings as module
from eco_ray.on_ray.standings import Standings, tell


def row(job_id, mj, g, attempt=1):
    return HourlyEnergy(
        *(T0, "de-1", "DE", "job", job_id, attempt, "vision", "", Nature.MEASURED, "rapl"),
        *("average-lifecycle", Nature.MODELLED, 1.0, mj, g, 0.0, None, 0.0, T0, T0 + 1, T0, T0 + 1),
    )


class Ledger:
    def __init__(self, *rows):
        self.rows, self.asked = rows, []

    def hourly(self, start_s=None, end_s=None):
        self.asked.append(start_s)
        return list(self.rows)


@pytest.fixture
def world():
    world = World(hourly("DE", *range(100, 140)))
    world.running(hours=3, deadline_h=30, zones=("DE",), budget_g=40.0)
    return world


def test_an_attempt_is_told_its_deadline_its_forecast_and_what_the_ledger_has(world):
    store = Ledger(row("j", 2000, 1.5), row("j", 3000, 2.0, attempt=2), row("other", 9000, 9.0))
    told, accounted = Standings(store, Clock()).look(world.core.book, T0 + 600)
    standing = told["de-1"]["j-a1"]
    assert standing.time_s == T0 + 600
    assert standing.deadline_s == world.job().spec.deadline_s
    assert standing.ahead[:2] == ((T0, 100.0), (T0 + HOUR_S, 101.0))
    spent = standing.spent
    assert (spent.energy_j, spent.operational_g, spent.nature, spent.source) == (
        5.0, 3.5, Nature.MODELLED, "ledger, rapl",
    )  # fmt: skip
    assert accounted == [JobAccounted("j", 5.0, 3.5)]
    assert store.asked == [T0]


def test_what_the_ledger_does_not_have_is_unknown(world):
    told, accounted = Standings(Ledger(), Clock()).look(world.core.book, T0)
    assert told["de-1"]["j-a1"].spent is None
    assert accounted == []
    told, accounted = Standings(Ledger(row("j", 1000, None)), Clock()).look(world.core.book, T0)
    assert told["de-1"]["j-a1"].spent.operational_g is None
    assert accounted == [JobAccounted("j", 1.0, None)]


def test_only_jobs_with_budgets_are_accounted():
    world = World(hourly("DE", *[300] * 40))
    world.running(hours=1)
    told, accounted = Standings(Ledger(row("j", 1000, 1.0)), Clock()).look(world.core.book, T0)
    assert told
    assert accounted == []


def test_the_ledger_is_asked_seldom_and_the_more_so_the_longer_it_takes(world, monkeypatch):
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.s))
    store = Ledger()
    standings = Standings(store, Clock())
    ask, took_s = store.hourly, 0.01
    store.hourly = lambda start_s: (ask(start_s), setattr(now, "s", now.s + took_s))[0]

    def asked_until(end_s):
        before = len(store.asked)
        while now.s < end_s:
            standings.look(world.core.book, T0)
            now.s += 0.5
        return len(store.asked) - before

    assert asked_until(100) == pytest.approx(20, abs=1)
    took_s = 1.0
    assert asked_until(300) == pytest.approx(4, abs=1)


def test_nothing_is_asked_where_nothing_runs():
    store = Ledger()
    assert Standings(store, Clock()).look(World().core.book, T0) == ({}, [])
    assert store.asked == []


def test_a_node_that_does_not_answer_keeps_nobody_else_from_being_told(world, caplog):
    told = {"gone": {}, "away": {}, "de-1": {"j-a1": "standing"}}
    heard = []
    agent = SimpleNamespace(tell=SimpleNamespace(remote=heard.append))

    def call(node, method):
        if node == "away":
            raise ConnectionError("it does not answer")
        method(agent)

    tell(told, {"away": "away", "de-1": "de-1"}, call)
    assert heard == [{"j-a1": "standing"}]
    assert "the attempts on gone were not told" in caplog.text
    assert "the attempts on away were not told" in caplog.text
