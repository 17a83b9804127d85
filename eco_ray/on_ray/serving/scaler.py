"""How many replicas Ray Serve keeps of a deployment: `core.replica_counts`, asked in the loop of Serve's controller.

It reads what lies there, decides, and leaves what it decided; it waits for nothing, and raises nothing. Without a
snapshot from the deployer it decides by requests alone, and the last replica stays. Whatever goes wrong, as many
replicas stay as there are, and at least one while requests wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from eco_ray.core.replica_counts import Scaling, next_replicas
from eco_ray.core.scaling_log import ScalingRecord
from eco_ray.on_ray.serving.exchange import EXCHANGE, Exchange, Last
from eco_ray.on_ray.serving.placing import install
from eco_ray.on_ray.serving.sight import Memory, amount, look

log = logging.getLogger("eco_ray.serving")

#: of the policy in Serve's dictionary of its state
_KEY = "eco_ray"
#: a decision that changes nothing is written down so often [s]
_LOG_S = 30.0
#: between two complaints [s]
_COMPLAIN_S = 60.0


class Scaler:
    """Serve calls it several times a second, with what it sees of the deployment."""

    def __init__(
        self,
        reference: str,
        service_s: float = 0.0,
        slo_p95_s: float | None = None,
        steady: Mapping[str, float] | None = None,
        exchange: Exchange = EXCHANGE,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`reference`: name:VERSION. `service_s`: of its smoke request. `steady`: fields of `Scaling`."""
        self._reference, self._service_s, self._slo_p95_s = reference, service_s, slo_p95_s
        self._steady = dict(steady or {})
        self._exchange, self._now_s = exchange, now_s
        self._complained_s = float("-inf")

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """The number of replicas from now, and what to remember."""
        try:
            return self._decide(ctx)
        except Exception as error:  # one that is raised leaves this and other applications stuck (2.60)
            self._complain(error)
            return _as_it_is(ctx)

    def _decide(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        now_s = self._now_s()
        remembered = ctx.policy_state.get(_KEY)
        sight = look(ctx, remembered if isinstance(remembered, Memory) else None, self._service_s, now_s)
        snapshot = self._exchange.snapshot()
        facts = snapshot.facts.get(ctx.app_name) if snapshot else None
        scaling = Scaling(
            min_replicas=max(0, int(ctx.capacity_adjusted_min_replicas)),
            max_replicas=max(0, int(ctx.capacity_adjusted_max_replicas)),
            slo_p95_s=self._slo_p95_s,
            cold=facts.cold if facts else None,
            **self._steady,
        )
        load, memory = sight.load, sight.memory
        decision, state = next_replicas(load, memory.state, scaling)
        record = None
        if decision.replicas != load.replicas or now_s >= memory.logged_s + _LOG_S:
            record = ScalingRecord(ctx.app_name, load, memory.state, scaling, decision)
        none_why = "" if decision.replicas else memory.none_why if not load.replicas else decision.why
        shown = replace(decision, why=none_why or decision.why)  # that there are no requests explains little by itself
        nodes = dict(sight.nodes)
        last = Last(ctx.app_name, self._reference, now_s, shown, memory.running, nodes, memory.start, load.work_s)
        self._exchange.tell(last, record)
        logged_s = now_s if record else memory.logged_s
        memory = replace(memory, state=state, replicas=decision.replicas, none_why=none_why, logged_s=logged_s)
        return decision.replicas, {**ctx.policy_state, _KEY: memory}

    def _complain(self, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s > self._complained_s + _COMPLAIN_S:
            self._complained_s = now_s
            log.exception("replicas of %s stay as they are: %r", self._reference, error)


def begin() -> None:
    """In Serve's controller: exchange with the deployer, and have the scheduler ask."""
    EXCHANGE.start()
    install(EXCHANGE)


def _as_it_is(ctx: Any) -> tuple[int, dict[str, Any]]:
    """As many as there are, and one while requests wait, or nobody knows whether any do."""
    try:
        replicas = max(0, int(ctx.target_num_replicas))
    except Exception:
        replicas = 1
    try:
        waiting = amount(ctx.total_num_requests) > 0
    except Exception:
        waiting = True
    try:
        state = dict(ctx.policy_state)
    except Exception:
        state = {}
    return max(replicas, int(waiting)), state
