"""Who may use what is served: keys, limits and usage, from the store to the replicas."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from eco_ray.core.keys import ApiKey
from eco_ray.core.limits import Limits, Spend, TenantLimits, Usage, day_start, month_start
from eco_ray.core.store_port import Store
from eco_ray.core.units import MJ_PER_J
from eco_ray.errors import EcoRayError
from eco_ray.limits_file import load_limits

#: how old an answer may be: keys that are revoked are refused so long at most, and a second more [s]
_KEYS_S = 1.0
#: the ledger is asked so often for what tenants used [s], and at most a tenth of the time
_USAGE_S, _SPARING = 10.0, 9.0


@dataclass(frozen=True)
class Access:
    """What a replica's gate has to know."""

    #: by id
    keys: Mapping[str, ApiKey]
    limits: Limits
    #: of tenants with a quota
    usage: Mapping[str, Usage] = field(default_factory=dict)


class AccessSource:
    """Reads the store for all replicas. Threads may share it."""

    def __init__(self, store: Store, limits_file: Path | None, now: Callable[[], float] = time.time) -> None:
        """Raises UsageError for a file of limits that is none."""
        self._store, self._file, self._now = store, limits_file, now
        self._limits = load_limits(limits_file) if limits_file else Limits()
        self._lock = threading.Lock()
        self._keys: tuple[float, Mapping[str, ApiKey]] | None = None
        self._usage: Mapping[str, Usage] = {}
        self._quotas = any(map(_has_quota, [*self._limits.tenants.values(), self._limits.default]))
        if self._quotas:
            self.look_at_usage()

    def access(self) -> Access:
        """What holds now. Raises EcoRayError where the store is away and nothing is known yet."""
        now_s = self._now()
        with self._lock:
            if self._keys is None or now_s - self._keys[0] >= _KEYS_S:
                try:
                    self._keys = now_s, {key.id: key for key in self._store.list_keys()}
                except EcoRayError:
                    if self._keys is None:
                        raise
            return Access(self._keys[1], self._limits, self._usage)

    def follow_usage(self) -> None:
        """Look at the ledger again and again, if there are quotas; it may take seconds, so that nobody waits for it."""

        def run() -> None:
            while True:
                began_s = time.monotonic()
                self.look_at_usage()
                time.sleep(max(_USAGE_S, _SPARING * (time.monotonic() - began_s)))

        if self._quotas:
            threading.Thread(target=run, name="usage", daemon=True).start()

    def look_at_usage(self) -> None:
        """Take what tenants used from the ledger."""
        self._usage = self._used(self._now())

    def _used(self, now_s: float) -> Mapping[str, Usage]:
        """By the ledger, of tenants with a quota; a store that is away leaves what was known."""
        day_s = day_start(now_s)
        day: dict[str, Spend] = {}
        month: dict[str, Spend] = {}
        try:
            rows = self._store.hourly(month_start(now_s), now_s)
        except EcoRayError:
            return self._usage
        for row in rows:
            if row.owner_kind == "model" and row.tenant and _has_quota(self._limits.of(row.tenant)):
                spent = Spend(row.energy_mj / MJ_PER_J, row.operational_g or 0.0)
                month[row.tenant] = month.get(row.tenant, Spend()).plus(spent)
                if row.hour_s >= day_s:
                    day[row.tenant] = day.get(row.tenant, Spend()).plus(spent)
        return {tenant: Usage.of(now_s, day.get(tenant, Spend()), used) for tenant, used in month.items()}


def shared(limits: Limits, replicas: int) -> Limits:
    """The limits of one of so many replicas, which get about the same number of requests: rates are divided.

    Quotas are not: what others used comes from the ledger.
    """
    if replicas <= 1:
        return limits

    def part(one: TenantLimits) -> TenantLimits:
        if one.requests_per_s is None:
            return one
        return replace(one, requests_per_s=one.requests_per_s / replicas, burst=max(1, one.burst // replicas))

    return Limits({tenant: part(one) for tenant, one in limits.tenants.items()}, part(limits.default))


def _has_quota(one: TenantLimits) -> bool:
    quotas = one.energy_j_per_day, one.energy_j_per_month, one.carbon_g_per_day, one.carbon_g_per_month
    return any(quota is not None for quota in quotas)
