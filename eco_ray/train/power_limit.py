"""Let a training find the power limit, or the number of threads, that suits its owner, in its first steps.

    with training.power_limits(goal=ZeusCost(eta=0.5)) as power:      # eco_ray.training puts the parts together
        for batch in batches:
            train(batch)
            power.step(len(batch), left=samples - done)

Each setting of the knob is tried for some steps, the fastest first, after some steps that do not count. Then the best
by the goal is kept (core/power_limits.py). Where the intensities up to a deadline are known (`ahead`), it is chosen
anew every minute: slower while the grid is dirty, as far as the deadline allows.

A knob that cannot be turned, for want of privilege say, is told once, and the training goes on without it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from eco_ray.core.ports import Knob, LapMeter, WorkEnergy
from eco_ray.core.power_limits import Goal, Stretch, Trial, ZeusCost, choose, choose_ahead, fastest, known
from eco_ray.errors import EcoRayError, UsageError

#: how often the choice is looked at again where the intensities ahead are known [s]
AGAIN_S = 60.0
#: part of the work that is held back, as no throughput stays what it was
MARGIN = 0.05


def say(message: str) -> None:
    """Tell who reads the output of the script."""
    print(f"eco_ray: {message}", file=sys.stderr, flush=True)  # noqa: T201  # the script's own stderr


class PowerLimitOptimizer:
    """Turns a knob, measures each setting by its steps, and keeps the best. Use it from one thread."""

    def __init__(
        self,
        knob: Knob,
        meter: LapMeter,
        goal: Goal | None = None,
        *,
        warm_up_steps: int = 5,
        steps: int = 20,
        at_least_s: float = 1.0,
        ahead: Callable[[], Sequence[Stretch]] | None = None,
        again_s: float = AGAIN_S,
        synchronize: Callable[[], object] = lambda: None,
        say: Callable[[str], None] = say,
    ) -> None:
        """Each trial takes `steps` steps and `at_least_s` seconds, after `warm_up_steps` that do not count.

        `ahead`: wall time from now to the deadline with its intensities, empty where they are unknown; `synchronize`:
        waits until the device has done its work, as torch.cuda.synchronize does. The goal is by default Zeus's with
        eta 0.5. Raises UsageError for trials that have no steps.
        """
        if steps < 1 or warm_up_steps < 0 or not at_least_s >= 0:
            raise UsageError(
                f"a trial of {steps} steps and {at_least_s} s after {warm_up_steps}: give 1 step or more, 0 s or more"
            )
        self._knob, self._meter, self._goal = knob, meter, goal or ZeusCost()
        self._warm_up_steps, self._steps, self._at_least_s = warm_up_steps, steps, at_least_s
        self._ahead, self._again_s = ahead, again_s
        self._synchronize, self._say = synchronize, say
        #: what was seen of each setting so far
        self.trials: list[Trial] = []
        #: what it is turned to; None: not by us
        self.setting: float | None = None
        #: how the energy was measured; None: not yet
        self.energy: WorkEnergy | None = None
        self._to_try: list[float] = []
        self._on = False
        #: whether a choice was made, and not only tried
        self._chosen = False
        self._step = 0
        self._samples = 0.0
        self._began_s = 0.0
        self._next_look_s = 0.0

    @property
    def searching(self) -> bool:
        """Whether settings are still being tried."""
        return self._on and bool(self._to_try)

    @property
    def metrics(self) -> dict[str, float]:
        """What the knob is turned to, for `session.progress`."""
        return {} if self.setting is None else {self._knob.name: self.setting}

    def __enter__(self) -> Self:
        """Begin with the first trial, or with the choice of an earlier attempt on the same hardware."""
        tried = {trial.setting for trial in self.trials}
        try:
            # the next ones are taken from the end
            self._to_try = [one for one in reversed(self._knob.settings()) if one not in tried]
            self._knob.__enter__()
        except EcoRayError as error:
            self._give_up(error)
            return self
        self._on = True
        if self._to_try:
            self._try_next()
        else:
            self._settle(None)
        return self

    def __exit__(self, *error: object) -> None:
        """Give everything back."""
        if self._on:
            self._on = False
            self._knob.__exit__(*error)

    def step(self, samples: float = 1.0, left: float | None = None) -> None:
        """One step of the training was done, with so many samples; so many are left, if that is known."""
        if not self._on:
            return
        if not self._to_try:
            if self._ahead is not None and time.monotonic() >= self._next_look_s:
                self._settle(left)
            return
        self._step += 1
        if self._step > self._warm_up_steps:
            self._samples += samples
        elif self._step == self._warm_up_steps:
            self._begin()
        if self._step < self._warm_up_steps + self._steps or time.monotonic() - self._began_s < self._at_least_s:
            return
        self._synchronize()
        used = self._meter.lap()
        self.energy = used
        trial = Trial(self._to_try.pop(), used.energy_j / used.wall_s, self._samples / used.wall_s)
        self.trials.append(trial)
        if known(self.trials) and trial not in self._goal.allowed(known(self.trials)):
            self._to_try = []  # what comes next is slower still
        if self._to_try:
            self._try_next()
        else:
            self._settle(left)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: what the next attempt need not try again."""
        return {
            "hardware": self._knob.hardware,
            "knob": self._knob.name,
            "trials": [[t.setting, t.power_w, t.throughput_per_s] for t in self.trials],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier attempt saw, before the block is entered; that of other hardware does not count."""
        if (state["hardware"], state["knob"]) != (self._knob.hardware, self._knob.name):
            self._say(
                f"{self._knob.name} is tried again: it was tried on {state['hardware']}, and this is "
                f"{self._knob.hardware}"
            )
            return
        self.trials = [Trial(*map(float, each)) for each in state["trials"]]

    # -- one trial after the other -------------------------------------------------------------------------------------

    def _try_next(self) -> None:
        if self._turn(self._to_try[-1]):
            self._step, self._samples = 0, 0.0
            if self._warm_up_steps == 0:
                self._begin()

    def _begin(self) -> None:
        """From here on the steps count."""
        self._synchronize()
        self._meter.lap()
        self._began_s = time.monotonic()

    def _settle(self, left: float | None) -> None:
        """Turn to the best setting."""
        self._next_look_s = time.monotonic() + self._again_s
        ahead = self._ahead() if self._ahead is not None and left is not None else ()
        best: Trial | None
        if ahead and left is not None:
            plan = choose_ahead(self.trials, self._goal, ahead, left * (1 + MARGIN))
            best = plan[0] if plan else fastest(self.trials, self._goal)
        else:
            best = choose(self.trials, self._goal)
        if best is None:
            self._give_up("nothing is known of the energy of any setting")
        elif best.setting == self.setting and self._chosen:
            return
        elif best.setting == self.setting or self._turn(best.setting):
            self._chosen = True
            self._say(
                f"{self._knob.name} is {best.setting:g}: {best.power_w:.4g} W and {best.throughput_per_s:.4g} samples "
                f"per second, by {len(self.trials)} trials{self._how()}"
            )

    def _how(self) -> str:
        return f" ({self.energy.nature} by {self.energy.source})" if self.energy is not None else ""

    def _turn(self, setting: float) -> bool:
        try:
            self._knob.turn(setting)
        except EcoRayError as error:
            self._give_up(error)
            return False
        self.setting = setting
        return True

    def _give_up(self, why: object) -> None:
        """Give back what was changed; the training goes on without us."""
        self._say(f"{self._knob.name} stays as it was: {why}")
        self._to_try, self.setting = [], None
        if self._on:
            self._on = False
            with contextlib.suppress(EcoRayError):  # what could not be given back is in the journal
                self._knob.__exit__(None, None, None)
