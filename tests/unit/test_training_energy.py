"""Joules of a training: laps are not cut by checkpoints, and attempts add up."""

from __future__ import annotations

import os

import pytest

from eco_ray import training
from eco_ray.core.ports import WorkEnergy
from eco_ray.core.standing import Spent, Standing
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.train.energy import TrainingEnergy
from eco_ray.train.standing import write_standing


class Meter:
    """One joule more each time."""

    def __init__(self, source="rapl", nature=Nature.MEASURED):
        self.source, self.nature, self.count = source, nature, 0

    def lap(self):
        self.count += 1
        return WorkEnergy(float(self.count), 0.5, 2.0, self.nature, self.source, 0.1)


def test_a_checkpoint_does_not_cut_a_lap():
    energy = TrainingEnergy(Meter())
    assert energy.total is None
    assert energy.lap().energy_j == 1
    energy.state_dict()
    assert energy.lap().energy_j == 2 + 3
    assert energy.total is not None
    assert (energy.total.energy_j, energy.total.cpu_s, energy.total.wall_s) == (6, 1.5, 6)


def test_attempts_add_up_and_are_as_sure_as_the_weakest():
    first = TrainingEnergy(Meter())
    kept = first.state_dict()
    second = TrainingEnergy(Meter("model", Nature.MODELLED))
    second.load_state_dict(kept)
    assert second.lap().energy_j == 1  # of this attempt alone
    total = second.total
    assert total is not None
    assert (total.energy_j, total.nature, total.source) == (2, Nature.MODELLED, "rapl | model")
    assert total.error_rel == pytest.approx(0.1)
    assert TrainingEnergy(Meter()).state_dict().keys() == kept.keys()


def test_the_ledgers_figures_count_more_than_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ECO_RAY_RUN_DIR", str(tmp_path))
    energy = TrainingEnergy(Meter())
    energy.lap()
    own = training.what_it_took(energy.total)
    assert (own.energy_j, own.operational_g, own.nature, own.source) == (1, None, Nature.MEASURED, "rapl")
    write_standing(tmp_path, Standing(1.0, 2.0))
    assert training.what_it_took(energy.total) == own  # the ledger has nothing yet
    write_standing(tmp_path, Standing(1.0, 2.0, Spent(7.0, 0.5, Nature.MODELLED, "ledger, model")))
    told = training.what_it_took(energy.total)
    assert (told.energy_j, told.operational_g, told.nature, told.source) == (7, 0.5, Nature.MODELLED, "ledger, model")


def test_what_nobody_measured_is_unknown(monkeypatch):
    monkeypatch.delenv("ECO_RAY_RUN_DIR", raising=False)
    took = training.what_it_took()
    assert (took.energy_j, took.source) == (None, "not measured")


@pytest.mark.parametrize(("given", "most"), [("1", 1), ("0.5", 1), ("1000", None), ("", None)])
def test_a_job_takes_no_more_threads_than_it_holds_cpus(monkeypatch, given, most):
    monkeypatch.setattr(training, "_own_gpus", list)
    monkeypatch.setenv("ECO_RAY_CPUS", given)
    power = training.power_limits(say=[].append)
    assert max(power._knob.settings()) == (most or len(os.sched_getaffinity(0)))


def test_cpus_that_are_no_number_are_told(monkeypatch):
    monkeypatch.setenv("ECO_RAY_CPUS", "many")
    with pytest.raises(UsageError, match="is not a number of CPUs"):
        training.energy()


def test_a_node_with_gpus_gets_the_highest_limit_for_zeus_and_without_a_driver_it_is_told(monkeypatch):
    told = []
    monkeypatch.setattr(training, "_own_gpus", lambda: ["GPU-none"])
    with training.power_limits(say=told.append) as power:
        power.step()
    assert len(told) == 1
    assert told[0].startswith("power_limit_w stays as it was: ")
