"""When a source may be asked what: when there can be news, and after a fault the later the more often it fails.

Counted by a clock that no time service can turn back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from eco_ray.grid.http import Fault

_HOUR_S = 3600.0
#: first and longest pause after a fault, doubled from time to time [s]; a refused key may be mended by its owner
PAUSES_S: dict[Fault, tuple[float, float]] = {
    Fault.NO_KEY: (60.0, 600.0),
    Fault.REFUSED: (600.0, _HOUR_S),
    Fault.RATE_LIMITED: (60.0, _HOUR_S),
    Fault.UNREACHABLE: (30.0, 900.0),
    Fault.NO_DATA: (600.0, _HOUR_S),
    Fault.MALFORMED: (120.0, _HOUR_S),
}
#: faults of the server, not of one question: nothing is asked until the pause is over
_OF_THE_SERVER = (Fault.NO_KEY, Fault.RATE_LIMITED)
#: so many failures one after the other, of whatever question, are the server's, too
_IN_A_ROW = 3
#: pauses are spread by so much, so that a thousand controllers do not come back at once
_SPREAD = 0.2


@dataclass(frozen=True, slots=True)
class Pause:
    """Until when something is not asked, and why."""

    until_s: float
    failures: int = 0
    #: what it answered; empty: it answered well
    error: str = ""


class Pauses:
    """The pauses of one source. A question is a zone and what of it."""

    def __init__(self, chance: random.Random, monotonic_s: Callable[[], float]) -> None:
        self._chance = chance
        self._monotonic_s = monotonic_s
        self._server: Pause | None = None
        self._of: dict[tuple[str, str], Pause] = {}
        self._in_a_row = 0

    def paused(self, zone: str, question: str) -> Pause | None:
        """Why it is not asked now; None: it may be asked."""
        now_s = self._monotonic_s()
        for pause in (self._server, self._of.get((zone, question))):
            if pause is not None and now_s < pause.until_s:
                return pause
        return None

    def answered(self, zone: str, question: str, period_s: float) -> None:
        """It answered well; there can be news after `period_s`."""
        self._server, self._in_a_row = None, 0
        self._of[zone, question] = Pause(self._monotonic_s() + period_s * self._chance.uniform(1 - _SPREAD, 1))

    def unknown(self, zone: str, question: str, error: str) -> None:
        """It does not have the zone, which is no fault."""
        self._of[zone, question] = Pause(self._monotonic_s() + 24 * _HOUR_S, 0, error)

    def failed(self, zone: str, question: str, error: str, fault: Fault, retry_after_s: float | None) -> float | None:
        """It failed; returns the pause [s] where that is news, None where it had failed before."""
        self._in_a_row += fault is not Fault.NO_DATA
        before = self._of.get((zone, question))
        pause = self._after(before, error, fault, retry_after_s)
        if fault in _OF_THE_SERVER or self._in_a_row >= _IN_A_ROW:
            before = self._server
            self._server = self._after(before, error, fault, retry_after_s)
        if self._in_a_row < _IN_A_ROW:  # else it is not the question's fault
            self._of[zone, question] = pause
        news = before is None or not before.error
        return pause.until_s - self._monotonic_s() if news else None

    def errors(self, zone: str) -> list[str]:
        """What it answered last instead of what was asked, to questions of this zone or to all."""
        of_zone = [self._of.get((zone, question)) for question in ("forecast", "values")]
        return [pause.error for pause in (self._server, *of_zone) if pause is not None and pause.error]

    def was_asked(self, zone: str) -> bool:
        """Whether anything was asked of this zone."""
        return self._server is not None or any((zone, question) in self._of for question in ("forecast", "values"))

    def _after(self, before: Pause | None, error: str, fault: Fault, retry_after_s: float | None) -> Pause:
        failures = before.failures + 1 if before is not None else 1
        first_s, longest_s = PAUSES_S[fault]
        pause_s = min(longest_s, first_s * 2.0 ** min(failures - 1, 20)) * self._chance.uniform(1, 1 + _SPREAD)
        return Pause(self._monotonic_s() + max(pause_s, retry_after_s or 0.0), failures, error)
