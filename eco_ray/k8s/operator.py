"""The controller as kopf runs it: it lists and watches RayJobs, logs in, posts events; `keeper` decides and acts.

kopf only observes here (`on.event`): its other handlers, timers and daemons would write annotations and finalizers
of their own onto the RayJobs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import kopf

from eco_ray.core.ports import GridSource
from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.k8s.api import RayJobsApi
from eco_ray.k8s.decision import Act, Decision, Rules
from eco_ray.k8s.keeper import Keeper, Tell
from eco_ray.k8s.signal import Signal

log = logging.getLogger("eco_ray.suspend")

COMPONENT = "eco-ray-suspend-controller"
#: a round that takes longer is taken to be stuck [s]
_STUCK_S = 600.0
_EVENT_REASONS = {Act.HOLD: "Held", Act.RELEASE: "Released"}


@dataclass(frozen=True, slots=True)
class Options:
    """How the controller runs."""

    #: False: nothing is written
    apply: bool = False
    #: empty: all
    namespaces: Sequence[str] = ()
    interval_s: float = 60.0
    #: http://0.0.0.0:PORT/PATH; None: no liveness probe
    liveness_url: str | None = None
    #: once it has a result, the controller ends; any thread may set it
    stop: Future[str] = field(default_factory=Future)


def run(grid: GridSource, rules: Rules, options: Options, show: Tell) -> None:
    """Run until a signal ends it. Raises UnreachableError where no API server lets it in."""
    try:
        asyncio.run(_Operator(grid, rules, options, show).run())
    except (kopf.LoginError, aiohttp.ClientError) as error:
        raise UnreachableError(
            f"no API server lets the controller in ({error}); run it in a pod with a service account, or set KUBECONFIG"
        ) from error


class _Operator:
    def __init__(self, grid: GridSource, rules: Rules, options: Options, show: Tell) -> None:
        self._options = options
        self._show = show
        #: what kopf gives those who log in
        self._given: Mapping[str, Any] = {}
        self._api = RayJobsApi(self._login)
        self._keeper = Keeper(
            self._api,
            Signal(grid, rules.planner.horizon_s),
            rules,
            self._tell,
            time.time,
            apply=options.apply,
            interval_s=options.interval_s,
        )
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._began_s = 0.0

    async def run(self) -> None:
        """kopf, and within it the keeper; the first that fails ends both."""
        registry, options = kopf.OperatorRegistry(), self._options
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()  # of this loop: kopf would wait for others in a thread that never ends
        options.stop.add_done_callback(lambda _: loop.call_soon_threadsafe(stop.set))
        kopf.on.login(registry=registry)(self._logs_in)
        kopf.on.cleanup(registry=registry)(self._ends)
        kopf.on.probe(registry=registry, id="round_age_s")(self._round_age_s)
        kopf.on.event("ray.io", "v1", "rayjobs", registry=registry)(self._sees)
        await kopf.operator(
            registry=registry,
            settings=_settings(options),
            standalone=True,
            clusterwide=not options.namespaces,
            namespaces=list(options.namespaces),
            liveness_endpoint=options.liveness_url,
            stop_flag=stop,
        )
        if self._failure is not None:
            raise EcoRayError("the controller's loop failed, as its log says; start it again") from self._failure

    def _logs_in(self, **given: Any) -> Any:
        self._given = given
        return self._login()

    def _login(self) -> Any:
        info = kopf.login_with_service_account(**self._given) or kopf.login_with_kubeconfig(**self._given)
        if info is None:
            raise kopf.LoginError("neither a service account nor a kubeconfig file was found")
        return info

    def _over(self, task: asyncio.Task[None]) -> None:
        """The keeper never ends by itself: without it nothing would be released, and a new process has to try."""
        if not task.cancelled() and not self._options.stop.done():
            self._failure = task.exception()
            log.error("the controller's loop failed", exc_info=self._failure)
            self._options.stop.set_result("its loop failed")

    async def _ends(self, **_given: Any) -> None:
        if self._task is not None:
            self._task.cancel()  # kopf would wait for it
        await self._api.close()

    async def _sees(self, event: Mapping[str, Any], **_given: Any) -> None:
        self._keeper.seen(event["type"], event["object"])
        if self._task is None:
            # not before the first RayJob: kopf posts events only for what was started in one of its handlers
            self._began_s = time.time()
            self._task = asyncio.create_task(self._keeper.run(), name="keeper")
            self._task.add_done_callback(self._over)

    def _round_age_s(self, **_given: Any) -> float:
        """For the liveness probe, which fails where rounds have stopped."""
        if self._task is None:
            return 0.0
        age_s = time.time() - (self._keeper.last_round_s or self._began_s)
        if age_s > max(_STUCK_S, 3 * self._options.interval_s):
            raise kopf.PermanentError(f"the last round ended {age_s:.0f} s ago")
        return round(age_s, 1)

    def _tell(self, body: Mapping[str, Any], decision: Decision, done: bool) -> None:
        self._show(body, decision, done)
        if self._options.apply:
            reason = _EVENT_REASONS.get(decision.act, str(decision.reason))
            kind = "Warning" if decision.act is Act.REFUSE else "Normal"
            kopf.event(body, type=kind, reason=reason, message=decision.message)


def _settings(options: Options) -> Any:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # no watching of CRDs and namespaces: two rights less
    settings.posting.enabled = options.apply
    settings.posting.reporting_component = COMPONENT
    settings.posting.event_name_prefix = "eco-ray-"
    settings.networking.request_timeout = 30.0
    return settings
