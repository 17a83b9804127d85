"""A gate with API keys and the limits of tenants; keys and usage are in memory, and their owner replaces them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from eco_ray.core import limits as rates
from eco_ray.core.footprint import Footprint
from eco_ray.core.keys import ApiKey, Scope, Verdict, decide, parse
from eco_ray.core.limits import Limiter, Spend
from eco_ray.service.gate import TENANT_HEADER, Admission, told_tenant
from eco_ray.service.problems import Header, Problem

_BEARER = b"bearer "
_REALM = b'Bearer realm="eco_ray"'
#: of what an estimate is made: so much the newest request counts
_NEWEST = 0.1
#: one refusal of a key is told in so long [s]
_AUDIT_S = 60.0
_CURE = f"send `Authorization: Bearer eco_...` with a key that is valid, and {TENANT_HEADER} only with its own tenant"


class KeyGate:
    """Lets requests with a valid key pass, as its tenant. In the event loop alone."""

    def __init__(
        self,
        pepper: bytes,
        limiter: Limiter,
        *,
        audit: Callable[[str, Verdict], None] = lambda key_id, verdict: None,
        now: Callable[[], float] = time.time,
        of: str = "",
        infer_reads: bool = True,
    ) -> None:
        """`audit(id, why)` is told of refused keys: of each that is kept, and of all others as one, once a minute.

        It gets no secret, and no id that nobody has. `now`: of the wall clock [s since epoch].
        `of`: what rates are of, where several gates have one limiter. `infer_reads`: whether what may be read is told
        to keys that infer, too; it is where it describes a model.
        """
        self._pepper, self._limiter, self._audit, self._now = pepper, limiter, audit, now
        self._of = of or rates.REQUESTS
        self._infer_reads = infer_reads
        self._keys: Mapping[str, ApiKey] = {}
        self._told_s: dict[str, float] = {}
        self._estimate = Spend()

    def learn(self, keys: Mapping[str, ApiKey]) -> None:
        """Take these keys, by id, in the place of all that were there."""
        self._keys = keys
        self._told_s = {key_id: told_s for key_id, told_s in self._told_s.items() if not key_id or key_id in keys}

    def __call__(self, headers: Mapping[bytes, bytes], scope: Scope) -> Admission:
        """Raises Problem: 400, 401, 403, 429. Descriptions may be read by keys that infer, and are not limited."""
        now_s = self._now()
        shown = parse(_shown(headers))
        key = self._keys.get(shown.id) if shown else None
        verdict = decide(key, shown, self._pepper, scope, now_s)
        if verdict is Verdict.NO_SCOPE and scope is Scope.READ and key is not None and Scope.INFER in key.scopes:
            verdict = Verdict.ALLOWED if self._infer_reads else verdict
        if not verdict:
            self._refused(key, verdict, now_s)
            raise _no_scope(scope) if verdict is Verdict.NO_SCOPE else _no_key()
        assert key is not None  # noqa: S101  # it is allowed
        if told_tenant(headers) not in ("", key.tenant):
            raise Problem(
                403, "wrong tenant", f"the key is of another tenant than {TENANT_HEADER} names; leave that out"
            )
        if scope is not Scope.INFER:
            return Admission(key.tenant)
        return self._limited(key.tenant, now_s)

    def _limited(self, tenant: str, now_s: float) -> Admission:
        estimate = self._estimate
        decision = self._limiter.ask(tenant, now_s, estimate, self._of)
        told: tuple[Header, ...] = tuple(
            (name.lower().encode(), value.encode()) for name, value in rates.headers(decision).items()
        )
        if not decision:
            detail = f"the limit {decision.why!r} of the tenant is used up; come again in {decision.wait_s:.0f} s"
            raise Problem(429, f"limit of {decision.why}", detail, told)

        def settle(footprint: Footprint) -> None:
            actual = Spend(footprint.energy_j, footprint.carbon_g or 0.0)
            self._limiter.settle(tenant, self._now(), estimate, actual)
            energy_j = self._estimate.energy_j + _NEWEST * (actual.energy_j - self._estimate.energy_j)
            carbon_g = self._estimate.carbon_g + _NEWEST * (actual.carbon_g - self._estimate.carbon_g)
            self._estimate = Spend(energy_j, carbon_g)

        return Admission(tenant, told, settle)

    def _refused(self, key: ApiKey | None, verdict: Verdict, now_s: float) -> None:
        key_id = key.id if key else ""
        if now_s - self._told_s.get(key_id, -_AUDIT_S) >= _AUDIT_S:
            self._told_s[key_id] = now_s
            self._audit(key_id, verdict)


def _shown(headers: Mapping[bytes, bytes]) -> str:
    """What is shown as a key. Raises Problem where there are two."""
    bearer, plain = headers.get(b"authorization"), headers.get(b"x-api-key")
    if bearer is not None and plain is not None:
        raise Problem(400, "wrong header", "Authorization and x-api-key are both there; send one of them")
    if bearer is not None:
        plain = bearer[len(_BEARER) :] if bearer[: len(_BEARER)].lower() == _BEARER else b""
    return (plain or b"").decode("latin-1").strip(" ")


def _no_key() -> Problem:
    return Problem(401, "no valid key", _CURE, ((b"www-authenticate", _REALM),))


def _no_scope(scope: Scope) -> Problem:
    told = _REALM + b', error="insufficient_scope", scope="%s"' % scope.value.encode()
    detail = f"the key does not have the scope {scope.value!r}; use one that has, `eco-ray key create` makes it"
    return Problem(403, "no scope", detail, ((b"www-authenticate", told),), code="insufficient_scope")
