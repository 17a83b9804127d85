"""What replicas are told of keys, limits and usage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eco_ray.core.keys import Credential, Scope, new_key, revoked
from eco_ray.core.limits import Limits, TenantLimits, day_start
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.on_ray.access import AccessSource, shared

NOW_S = 1_790_000_000.0


class FakeStore:
    """Keys and hourly rows; or away."""

    def __init__(self):
        self.keys, self.rows, self.away, self.asked = [], [], False, 0

    def list_keys(self, tenant=None):
        self.asked += 1
        if self.away:
            raise EcoRayError("the database is away")
        return list(self.keys)

    def hourly(self, start_s=None, end_s=None):
        if self.away:
            raise EcoRayError("the database is away")
        return [row for row in self.rows if start_s <= row.hour_s < end_s]


class Row:
    def __init__(self, tenant, hour_s, energy_mj, grams=None, kind="model"):
        self.tenant, self.hour_s, self.energy_mj = tenant, hour_s, energy_mj
        self.operational_g, self.owner_kind = grams, kind


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def clock():
    return [NOW_S]


def source(store, clock, tmp_path, text=""):
    path = tmp_path / "limits.yaml"
    path.write_text(text)
    return AccessSource(store, path if text else None, lambda: clock[0])


def test_keys_are_read_again_after_a_second_and_a_revoked_one_is_known(store, clock, tmp_path):
    key = new_key(Credential("a" * 12, "b" * 43), "vision", [Scope.INFER], b"p" * 32, NOW_S, None)
    store.keys = [key]
    access = source(store, clock, tmp_path)
    assert access.access().keys == {key.id: key}
    store.keys = [revoked(key, NOW_S)]
    for _ in range(5):
        assert access.access().keys[key.id].revoked_s is None
    assert store.asked == 1
    clock[0] += 1
    assert access.access().keys[key.id].revoked_s == NOW_S


def test_without_the_database_what_is_known_goes_on(store, clock, tmp_path):
    access = source(store, clock, tmp_path)
    store.away = True
    with pytest.raises(EcoRayError, match="away"):
        access.access()
    store.away = False
    assert access.access().keys == {}
    store.away = True
    clock[0] += 100
    access.look_at_usage()
    assert access.access().keys == {}


def test_usage_is_that_of_the_ledger_for_tenants_with_a_quota(store, clock, tmp_path):
    text = "limits: {tenants: {vision: {energy_j_per_day: 100}, free: {}}, default: {requests_per_s: 5}}"
    day_s = day_start(NOW_S)
    store.rows = [
        Row("vision", day_s, 3000, 0.5),
        Row("vision", day_s - 3600, 2000, None),
        Row("vision", day_s, 9000, 9.0, kind="job"),
        Row("free", day_s, 1000, 1.0),
        Row("other", day_s, 1000, 1.0),
    ]
    usage = source(store, clock, tmp_path, text).access().usage
    assert set(usage) == {"vision"}
    assert (usage["vision"].day.energy_j, usage["vision"].day.carbon_g) == (3.0, 0.5)
    assert usage["vision"].month.energy_j == 5.0


def test_a_file_of_limits_that_is_none_is_refused(store, clock, tmp_path):
    with pytest.raises(UsageError, match="limit"):
        source(store, clock, tmp_path, "limitz: {}")


def test_replicas_share_rates_and_not_quotas():
    one = TenantLimits(10.0, 5, energy_j_per_day=7.0)
    limits = Limits({"a": one, "b": TenantLimits()}, replace(one, burst=1))
    assert shared(limits, 1) is limits
    four = shared(limits, 4)
    assert four.tenants["a"] == replace(one, requests_per_s=2.5, burst=1)
    assert four.tenants["b"] == TenantLimits()
    assert four.default.burst == 1
