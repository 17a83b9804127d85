"""How much of the service a tenant may use: requests per second, and energy and carbon per day and month (UTC).

A rate is a token bucket: it holds `burst` tokens, gains `requests_per_s` of them each second, and a request takes one.
A quota lets a request in while anything of it is left, so it is exceeded by one request's estimate at most; that is
charged at once, and what the request really cost is settled afterwards. A refused request costs nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

DAY_S = 86_400.0
#: the policy of the token bucket in headers
REQUESTS = "requests"
#: tenants (and their buckets) in memory
MOST = 10_000
#: structured fields hold no larger integer (RFC 9651, 3.3.1)
_MOST_INTEGER = 999_999_999_999_999

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What one tenant may use; None: without limit."""

    #: gained by the bucket [1/s], > 0
    requests_per_s: float | None = None
    #: held by the bucket when full, >= 1
    burst: int = 1
    energy_j_per_day: float | None = None
    energy_j_per_month: float | None = None
    carbon_g_per_day: float | None = None
    carbon_g_per_month: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What every tenant may use."""

    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)
    #: of each tenant that is not named
    default: TenantLimits = TenantLimits()

    def of(self, tenant: str) -> TenantLimits:
        """The limits of a tenant."""
        return self.tenants.get(tenant, self.default)


@dataclass(frozen=True, slots=True)
class Spend:
    """What requests use, or one is expected to use."""

    energy_j: float = 0.0
    carbon_g: float = 0.0

    def plus(self, other: Spend, sign: int = 1) -> Spend:
        """The sum, or with -1 the difference; nothing in it is negative."""
        return Spend(max(0.0, self.energy_j + sign * other.energy_j), max(0.0, self.carbon_g + sign * other.carbon_g))

    def most(self, other: Spend) -> Spend:
        """The larger of both, each by itself."""
        return Spend(max(self.energy_j, other.energy_j), max(self.carbon_g, other.carbon_g))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant used so far, in the day and in the month that began at these instants [s since epoch]."""

    day_s: float = 0.0
    month_s: float = 0.0
    day: Spend = Spend()
    month: Spend = Spend()

    @classmethod
    def of(cls, now_s: float, day: Spend, month: Spend) -> Usage:
        """What was used in the day and in the month of an instant, as from the ledger."""
        return cls(day_start(now_s), month_start(now_s), day, month)

    def at(self, now_s: float) -> Usage:
        """With nothing in a period that has begun since. A clock that goes back gives nothing back."""
        day_s = day_start(now_s)
        if day_s <= self.day_s:
            return self
        month_s = month_start(now_s)
        month = (self.month_s, self.month) if month_s <= self.month_s else (month_s, Spend())
        return Usage(day_s, month[0], Spend(), month[1])

    def most(self, other: Usage) -> Usage:
        """The larger of both, period by period; of an older period nothing."""
        latest = Usage(max(self.day_s, other.day_s), max(self.month_s, other.month_s))
        for one in (self, other):
            if one.day_s == latest.day_s:
                latest = replace(latest, day=latest.day.most(one.day))
            if one.month_s == latest.month_s:
                latest = replace(latest, month=latest.month.most(one.month))
        return latest

    def plus(self, spend: Spend, sign: int = 1) -> Usage:
        """With what a request uses, or with -1 without it."""
        return replace(self, day=self.day.plus(spend, sign), month=self.month.plus(spend, sign))


@dataclass(frozen=True, slots=True)
class Bucket:
    """The tokens of one rate."""

    tokens: float
    #: when there were so many [s since epoch]
    at_s: float

    def at(self, now_s: float, limits: TenantLimits) -> Bucket:
        """Filled up to now. A clock that goes back gives no tokens twice."""
        gained = max(0.0, now_s - self.at_s) * (limits.requests_per_s or 0.0)
        return Bucket(min(float(limits.burst), self.tokens + gained), max(self.at_s, now_s))


@dataclass(frozen=True, slots=True)
class PolicyState:
    """How one limit stands, for headers."""

    #: requests, energy-day, energy-month, carbon-day, carbon-month
    policy: str
    #: of quota and rest
    unit: str
    quota: float
    #: in which the quota is there once [s]
    window_s: float
    left: float
    #: until all of it is there again [s]
    reset_s: float
    #: until something of it is there [s]; 0: now
    wait_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request is let in; true where it is."""

    allowed: bool
    #: until it would be let in, if nobody else asks [s]; 0 where it is
    wait_s: float
    #: the limit that it waits longest for; empty where it is let in
    why: str
    #: of every limit, after this request
    states: tuple[PolicyState, ...]

    def __bool__(self) -> bool:
        return self.allowed


#: policy, what is spent, its name in TenantLimits, period, unit in headers, units in one J or g
_QUOTAS = tuple(
    (f"{what}-{period}", amount, f"{amount}_per_{period}", period, unit, scale)
    for what, amount, unit, scale in (("energy", "energy_j", "joule", 1.0), ("carbon", "carbon_g", "mg-co2e", 1000.0))
    for period in ("day", "month")
)


def day_start(now_s: float) -> float:
    """When the UTC day began [s since epoch]."""
    return now_s // DAY_S * DAY_S


def month_start(now_s: float, later: int = 0) -> float:
    """When the UTC month began [s since epoch], or with `later` = 1 the next one begins."""
    now = datetime.fromtimestamp(now_s, UTC)
    months = now.year * 12 + now.month - 1 + later
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp()


def decide(
    limits: TenantLimits, bucket: Bucket, usage: Usage, estimate: Spend, now_s: float
) -> tuple[Decision, Bucket, Usage]:
    """Whether a request is let in, and what bucket and usage are then."""
    bucket, usage = bucket.at(now_s, limits), usage.at(now_s)
    states = _states(limits, bucket, usage, now_s)
    refusing = [state for state in states if state.wait_s > 0]
    if refusing:
        longest = max(refusing, key=lambda state: state.wait_s)
        return Decision(False, longest.wait_s, longest.policy, states), bucket, usage
    if limits.requests_per_s is not None:
        bucket = replace(bucket, tokens=bucket.tokens - 1)
    usage = usage.plus(estimate)
    return Decision(True, 0.0, "", _states(limits, bucket, usage, now_s)), bucket, usage


def headers(decision: Decision) -> dict[str, str]:
    """The fields of draft-ietf-httpapi-ratelimit-headers-10, and Retry-After (RFC 9110, 10.2.3) for who is refused.

    Amounts are whole numbers of their unit, rounded up: a rest of 0 is nothing.
    """
    told: dict[str, str] = {}
    if decision.states:
        told["RateLimit-Policy"] = ", ".join(
            f'"{one.policy}";q={_whole(one.quota)};w={_whole(one.window_s)}'
            + ("" if one.unit == REQUESTS else f';qu="{one.unit}"')
            for one in decision.states
        )
        told["RateLimit"] = ", ".join(
            f'"{one.policy}";r={_whole(one.left)};t={_whole(one.reset_s)}' for one in decision.states
        )
    if not decision.allowed:
        told["Retry-After"] = str(max(1, _whole(decision.wait_s)))
    return told


class Limiter:
    """Buckets and usage of the tenants that were there last; for one thread."""

    def __init__(
        self, limits: Limits, usage_of: Callable[[str], Usage] = lambda _tenant: Usage(), most: int = MOST
    ) -> None:
        """`usage_of`: what a tenant used so far, asked where it is not in memory. `most`: so many stay there."""
        self._limits = limits
        self._usage_of = usage_of
        self._buckets: _Recent[tuple[str, str], Bucket] = _Recent(most)
        self._usage: _Recent[str, Usage] = _Recent(most)
        #: latest use of a bucket that is forgotten
        self._forgotten_s: float | None = None

    def ask(self, tenant: str, now_s: float, estimate: Spend = Spend(), what: str = REQUESTS) -> Decision:
        """Let a request in, and charge its estimate, or refuse it. `what`: rates of different things do not mix."""
        limits = self._limits.of(tenant)
        bucket = self._buckets.get((tenant, what)) or self._new_bucket(limits, now_s)
        usage = self._usage.get(tenant) or self._usage_of(tenant)
        decision, bucket, usage = decide(limits, bucket, usage, estimate, now_s)
        self._usage.put(tenant, usage)
        dropped = self._buckets.put((tenant, what), bucket)
        if dropped is not None:
            self._forgotten_s = max(dropped.at_s, self._forgotten_s or 0.0)
        return decision

    def settle(self, tenant: str, now_s: float, estimate: Spend, actual: Spend) -> None:
        """Put what a request that was let in has cost in the place of its estimate."""
        usage = self._usage.get(tenant)
        if usage is not None:  # otherwise it is asked for again, and holds what the ledger knows
            self._usage.put(tenant, usage.at(now_s).plus(estimate, -1).plus(actual))

    def learn(self, tenant: str, usage: Usage) -> None:
        """Take what a tenant used so far from elsewhere: other servers let it in too.

        It may be older than what this one has let in since, so the larger of both holds.
        """
        known = self._usage.get(tenant)
        self._usage.put(tenant, usage if known is None else known.most(usage))

    def _new_bucket(self, limits: TenantLimits, now_s: float) -> Bucket:
        """Full; once buckets are forgotten, this may have been one: it was empty then, for all that is known."""
        if self._forgotten_s is None:
            return Bucket(float(limits.burst), now_s)
        return Bucket(0.0, self._forgotten_s).at(now_s, limits)


class _Recent(Generic[K, V]):
    """A dictionary of bounded size: what was not used for longest goes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        return self._kept.get(key)

    def put(self, key: K, value: V) -> V | None:
        """Keep a value as the newest; returns what had to go, if anything."""
        self._kept[key] = value
        self._kept.move_to_end(key)
        return self._kept.popitem(last=False)[1] if len(self._kept) > self._most else None


def _states(limits: TenantLimits, bucket: Bucket, usage: Usage, now_s: float) -> tuple[PolicyState, ...]:
    states: list[PolicyState] = []
    rate = limits.requests_per_s
    if rate is not None:
        burst, tokens = float(limits.burst), bucket.tokens
        wait_s = max(0.0, (1 - tokens) / rate)
        # a whole token is needed, so only whole ones are told as left
        left = float(math.floor(tokens))
        states.append(PolicyState(REQUESTS, REQUESTS, burst, burst / rate, left, (burst - tokens) / rate, wait_s))
    for policy, amount, name, period, unit, scale in _QUOTAS:
        limit: float | None = getattr(limits, name)
        if limit is None:
            continue
        spent: float = getattr(getattr(usage, period), amount)
        start_s = usage.day_s if period == "day" else usage.month_s
        end_s = start_s + DAY_S if period == "day" else month_start(start_s, later=1)
        left, reset_s = max(0.0, limit - spent), end_s - now_s
        wait_s = 0.0 if left > 0 else reset_s
        states.append(PolicyState(policy, unit, limit * scale, end_s - start_s, left * scale, reset_s, wait_s))
    return tuple(states)


def _whole(value: float) -> int:
    return min(_MOST_INTEGER, math.ceil(value))
