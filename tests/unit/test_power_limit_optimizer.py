"""A training that looks for the best setting in its first steps: with a pretended machine, and with real threads."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from eco_ray.core.ports import WorkEnergy
from eco_ray.core.power_limits import MaxSlowdown, Stretch, ZeusCost
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotAllowedError, UsageError
from eco_ray.train.power_limit import PowerLimitOptimizer
from eco_ray.train.threads import CpuThreads

# setting -> (W, samples/s); a sample takes 5.45, 4.67, 4.00 and 5.00 J
MACHINE = {400.0: (360.0, 66.0), 300.0: (280.0, 60.0), 200.0: (180.0, 45.0), 100.0: (100.0, 20.0)}


class Machine:
    """A knob and a meter of the same pretended machine; a step of warming up takes far longer than others."""

    name = "power_limit_w"
    hardware = "1 x Test"

    def __init__(self, allowed=True, machine=MACHINE):
        self.machine, self.allowed = machine, allowed
        self.now = 0.0
        self.energy_j = 0.0
        self.lapped = (0.0, 0.0)
        self.setting = None
        self.turned = []
        self.entered = 0

    def settings(self):
        return list(self.machine)

    def turn(self, setting):
        if not self.allowed:
            raise NotAllowedError("only by root")
        self.setting = setting
        self.turned.append(setting)
        self.cold = 3

    def __enter__(self):
        self.entered += 1
        return self

    def __exit__(self, *_):
        self.entered -= 1
        self.setting = None

    def work(self, samples):
        watts, rate = self.machine[self.setting]
        seconds = samples / rate * (10 if self.cold > 0 else 1)
        self.cold -= 1
        self.now += seconds
        self.energy_j += watts * seconds

    def lap(self):
        (then, before_j), self.lapped = self.lapped, (self.now, self.energy_j)
        return WorkEnergy(self.energy_j - before_j, 0.0, self.now - then, Nature.MEASURED, "test", 0.05)


def optimizer(machine, goal=None, **how):
    how = {"warm_up_steps": 3, "steps": 4, "at_least_s": 0, "say": [].append, **how}
    return PowerLimitOptimizer(machine, machine, goal, **how)


def train(power, machine, steps, **step):
    for _ in range(steps):
        machine.work(8)
        power.step(8, **step)


@pytest.mark.parametrize(
    ("goal", "setting"),
    [(ZeusCost(1.0), 200), (ZeusCost(0.5), 300), (ZeusCost(0.0), 400), (MaxSlowdown(1.1), 300), (None, 300)],
)
def test_each_setting_is_tried_and_the_best_is_kept(goal, setting):
    machine = Machine()
    with optimizer(machine, goal) as power:
        train(power, machine, 40)
        assert not power.searching
        assert machine.setting == power.setting == setting
        assert power.metrics == {"power_limit_w": setting}
        for trial in power.trials:  # the steps of warming up are in none of them
            assert (trial.power_w, trial.throughput_per_s) == pytest.approx(MACHINE[trial.setting])
    assert machine.setting is None
    assert machine.entered == 0


def test_what_is_slower_than_the_owner_allows_is_not_tried_further():
    machine = Machine()
    with optimizer(machine, MaxSlowdown(1.05)) as power:
        train(power, machine, 40)
        assert machine.turned == [400, 300, 400]


def test_an_error_gives_everything_back():
    machine, power = Machine(), None

    def fails():
        nonlocal power
        with optimizer(machine) as power:
            train(power, machine, 5)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert (machine.entered, machine.setting) == (0, None)
    power.step(8)  # after the block it is no error, and does nothing
    assert machine.setting is None


def test_a_knob_that_may_not_be_turned_is_told_once_and_hinders_nothing():
    machine, told = Machine(allowed=False), []
    with optimizer(machine, say=told.append) as power:
        for _ in range(100):
            power.step(8)
        assert (power.setting, power.metrics, power.searching) == (None, {}, False)
    assert told == ["power_limit_w stays as it was: only by root"]
    assert machine.entered == 0


def test_a_knob_that_fails_later_gives_back_what_was_set():
    machine, told = Machine(), []
    with optimizer(machine, say=told.append) as power:
        train(power, machine, 8)
        machine.allowed = False
        for _ in range(6):
            machine.work(8)
            power.step(8)
        assert (machine.entered, power.setting) == (0, None)
        power.step(8)
    assert len(told) == 1


@pytest.mark.parametrize("energy_j", [0.0, math.nan])
def test_without_energy_nothing_is_chosen(energy_j):
    machine, told = Machine(), []
    machine.lap = lambda: WorkEnergy(energy_j, 0.0, 1.0, Nature.ASSUMED, "broken", 1.0)
    with optimizer(machine, say=told.append) as power:
        for _ in range(40):
            power.step(8)
        assert power.setting is None
    assert told == ["power_limit_w stays as it was: nothing is known of the energy of any setting"]


def test_the_next_attempt_begins_with_what_the_first_one_found():
    machine = Machine()
    with optimizer(machine) as power:
        train(power, machine, 16)  # two of four settings
        kept = power.state_dict()
    second = optimizer(again := Machine())
    second.load_state_dict(kept)
    with second:
        assert again.turned == [200]
        train(second, again, 20)
        assert again.turned == [200, 100, 300]
        kept = second.state_dict()
    third = optimizer(last := Machine())
    third.load_state_dict(kept)
    with third:
        assert last.turned == [300]


def test_what_was_seen_on_other_hardware_does_not_count():
    machine, told = Machine(), []
    power = optimizer(machine, say=told.append)
    power.load_state_dict({"hardware": "1 x Other", "knob": "power_limit_w", "trials": [[100, 1, 1000]]})
    assert power.trials == []
    assert "tried again: it was tried on 1 x Other, and this is 1 x Test" in told[0]


def test_a_dirty_grid_has_a_lower_limit_as_far_as_the_deadline_allows():
    machine, ahead = Machine(), []
    with optimizer(machine, ahead=lambda: ahead, again_s=0) as power:
        train(power, machine, 40, left=100)
        assert machine.setting == 300  # the grid is not known: the goal alone
        ahead[:] = [Stretch(100, 500), Stretch(100, 100)]
        train(power, machine, 1, left=4500)
        assert machine.setting == 100  # it can be made good later
        train(power, machine, 1, left=8200)
        assert machine.setting == 200
        train(power, machine, 1, left=66 * 200)  # with the margin, too much for any: the fastest
        assert machine.setting == 400
        ahead[:] = [Stretch(100, 100), Stretch(100, 500)]
        train(power, machine, 1, left=8200)
        assert machine.setting == 400
        train(power, machine, 1)  # how much is left is not known: the goal alone
        assert machine.setting == 300


@pytest.mark.parametrize("how", [{"steps": 0}, {"warm_up_steps": -1}, {"at_least_s": math.nan}])
def test_trials_without_steps_are_refused(how):
    with pytest.raises(UsageError):
        optimizer(Machine(), **how)


def test_settings_that_cannot_be_asked_for_hinder_nothing():
    class Broken(Machine):
        def settings(self):
            raise EcoRayError("no driver")

    told = []
    with optimizer(Broken(), say=told.append) as power:
        power.step()
    assert told == ["power_limit_w stays as it was: no driver"]


# -- real threads


def affinities():
    return {int(task.name): os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()}


def test_threads_and_their_cpus_are_set_and_given_back():
    import torch

    # each test process ends with it, and what was there before is put back
    cpus, count = os.sched_getaffinity(0), torch.get_num_threads()
    torch.rand(500, 500) @ torch.rand(500, 500)  # torch's own threads are there
    before = affinities()
    knob = CpuThreads()
    assert knob.settings()[0] == len(cpus)

    def fails():
        with knob:
            for setting in knob.settings():
                knob.turn(setting)
                assert torch.get_num_threads() == setting
                # of all threads, those of torch's pool too
                assert {len(allowed) for allowed in affinities().values()} == {setting}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert torch.get_num_threads() == count
    after = affinities()
    assert {thread: after[thread] for thread in before if thread in after} == {
        thread: before[thread] for thread in before if thread in after
    }


def test_threads_stay_within_the_cpus_of_the_process():
    with pytest.raises(UsageError, match="give 1 to"):
        CpuThreads(10_000)
    assert CpuThreads(1).settings() == [1.0]


def test_many_threads_are_tried_in_powers_of_two(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(48)))
    assert CpuThreads().settings() == [48, 32, 16, 8, 4, 3, 2, 1]
    assert CpuThreads(16).settings() == [16, 8, 4, 3, 2, 1]
