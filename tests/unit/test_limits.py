"""Rates and quotas of tenants: what is never exceeded, what a refusal costs, and what headers say."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.core.limits import DAY_S, Decision, Limiter, Limits, Spend, TenantLimits, Usage, headers, month_start

#: 2025-11-22T08:00Z
T0 = 1_763_798_400.0

rates = st.floats(0.01, 1000)
bursts = st.integers(1, 20)
#: bursts, pauses, and a clock that is set back
gaps = st.one_of(st.just(0.0), st.floats(0, 0.5), st.floats(0, 100), st.floats(-5, 0))
spends = st.builds(Spend, st.floats(0, 50), st.floats(0, 5))


def limited(default: TenantLimits, **more) -> Limiter:
    return Limiter(Limits(default=default), **more)


# -- rates -------------------------------------------------------------------------------------------------------------


def most_in_any_span(times_s, rate, burst):
    """By how many requests the worst span of time exceeds what the bucket may let through."""
    return max(
        (end - start + 1 - (burst + rate * (times_s[end] - times_s[start])))
        for start in range(len(times_s))
        for end in range(start, len(times_s))
    ) if times_s else 0.0  # fmt: skip


asks = st.tuples(gaps, st.sampled_from("abcd"), st.sampled_from(["requests", "x"]))


@given(rates, bursts, st.lists(asks, max_size=60), st.sampled_from([1, 2, 100]))
def test_no_span_lets_through_more_than_burst_and_rate(rate, burst, asked, most):
    limiter, now_s, passed = limited(TenantLimits(rate, burst), most=most), T0, defaultdict(list)
    latest_s: dict[tuple[str, str], float] = defaultdict(float)  # a bucket's clock never goes back
    for gap_s, tenant, what in asked:
        now_s += gap_s
        latest_s[tenant, what] = max(latest_s[tenant, what], now_s)
        if limiter.ask(tenant, now_s, what=what):
            passed[tenant, what].append(latest_s[tenant, what])
    for times_s in passed.values():
        assert most_in_any_span(times_s, rate, burst) <= 1e-6 * (1 + rate)


@given(rates, bursts)
def test_a_new_tenant_has_its_burst_and_then_its_rate(rate, burst):
    limiter = limited(TenantLimits(rate, burst))
    assert all(limiter.ask("a", T0) for _ in range(burst))
    refused = limiter.ask("a", T0)
    assert (refused.allowed, refused.why) == (False, "requests")
    assert refused.wait_s == pytest.approx(1 / rate)
    assert limiter.ask("b", T0)
    assert limiter.ask("a", T0, what="other")


@given(rates, bursts, st.lists(gaps.filter(lambda gap_s: gap_s >= 0), max_size=40))
def test_who_waits_as_long_as_told_is_let_in(rate, burst, waits):
    limiter, now_s = limited(TenantLimits(rate, burst)), T0
    for gap_s in waits:
        now_s += gap_s
        decision = limiter.ask("a", now_s)
        if not decision:
            assert decision.wait_s > 0
            now_s += decision.wait_s * (1 + 1e-9) + 1e-6
            assert limiter.ask("a", now_s)


def test_a_clock_that_is_set_back_gives_and_takes_nothing():
    limiter = limited(TenantLimits(1.0, 1))
    assert limiter.ask("a", T0)
    assert not limiter.ask("a", T0 - 5)
    assert not limiter.ask("a", T0)
    assert limiter.ask("a", T0 + 1)
    december_s = month_start(T0, 1)
    for name in ("energy_j_per_day", "energy_j_per_month"):
        limiter = limited(TenantLimits(**{name: 10.0}))
        assert limiter.ask("a", december_s, Spend(energy_j=10))
        assert not limiter.ask("a", december_s - 5)
        assert not limiter.ask("a", december_s + 5)


def test_without_limits_everything_is_let_in_and_nothing_told():
    limiter = limited(TenantLimits())
    decisions = [limiter.ask("a", T0, Spend(1e9, 1e9)) for _ in range(100)]
    assert all(decisions)
    assert headers(decisions[-1]) == {}


def test_limits_of_a_named_tenant_are_its_own():
    limiter = Limiter(Limits({"a": TenantLimits(1.0, 3)}, TenantLimits(1.0, 1)))
    assert [sum(bool(limiter.ask(tenant, T0)) for _ in range(9)) for tenant in "abc"] == [3, 1, 1]


def test_memory_is_bounded_and_who_was_forgotten_gets_no_second_burst():
    limiter = limited(TenantLimits(1.0, 5), most=10)
    for number in range(1000):
        limiter.ask(f"t{number}", T0 + number / 1000)
    assert len(limiter._buckets._kept) == len(limiter._usage._kept) == 10
    # t0 has gained 2 since the last one was forgotten, for all that is known
    assert sum(bool(limiter.ask("t0", T0 + 2.995)) for _ in range(9)) == 2


# -- quotas ------------------------------------------------------------------------------------------------------------

NAMES = [f"{what}_per_{period}" for what in ("energy_j", "carbon_g") for period in ("day", "month")]
quotas = st.builds(TenantLimits, **{name: st.none() | st.floats(0, 200) for name in NAMES})
long_gaps = st.one_of(st.just(0.0), st.floats(0, 1000), st.floats(0, 3 * DAY_S), st.floats(-DAY_S, 0))


@given(quotas, st.lists(st.tuples(long_gaps, spends), max_size=60), st.sampled_from([1, 100]))
def test_a_quota_is_exceeded_by_one_estimate_at_most(limits, asked, most):
    """Also where a tenant is forgotten after each request: its usage is then asked for."""
    kept, total, now_s, latest_s = Usage(), defaultdict(float), T0, 0.0
    limiter = limited(limits, most=most, usage_of=lambda tenant: kept if tenant == "a" else Usage())
    worst: dict[str, float] = defaultdict(float)
    for gap_s, estimate in asked:
        now_s += gap_s
        latest_s = max(latest_s, now_s)
        if limiter.ask("a", now_s, estimate):
            kept = kept.at(now_s).plus(estimate)
            moment = datetime.fromtimestamp(latest_s, UTC)
            for amount in ("energy_j", "carbon_g"):
                value = getattr(estimate, amount)
                worst[amount] = max(worst[amount], value)
                total[f"{amount}_per_day", moment.date()] += value
                total[f"{amount}_per_month", (moment.year, moment.month)] += value
        limiter.ask("b", now_s)
    for (name, _), used in total.items():
        limit = getattr(limits, name)
        assert limit is None or used <= limit + worst[name.split("_per_")[0]] + 1e-6


@given(st.builds(TenantLimits, st.none() | rates, bursts, *[st.none() | st.floats(0, 200)] * 4),
       st.lists(st.tuples(long_gaps.filter(lambda gap_s: gap_s >= 0), spends), max_size=40))  # fmt: skip
def test_refused_requests_cost_nothing(limits, asked):
    tried, polite, now_s = limited(limits), limited(limits), T0
    for gap_s, estimate in asked:
        now_s += gap_s
        decision = tried.ask("a", now_s, estimate)
        if decision:
            again = polite.ask("a", now_s, estimate)  # has not seen those that were refused
            assert again.allowed
            for one, other in zip(again.states, decision.states, strict=True):
                assert (one.policy, one.left) == (other.policy, pytest.approx(other.left))
        else:
            assert tried.ask("a", now_s, estimate) == decision


def test_a_quota_ends_with_its_period_in_utc():
    limiter = limited(TenantLimits(energy_j_per_day=10, carbon_g_per_month=3))
    assert limiter.ask("a", T0, Spend(energy_j=10))
    refused = limiter.ask("a", T0)
    assert (refused.allowed, refused.why, refused.wait_s) == (False, "energy-day", 16 * 3600)
    assert limiter.ask("a", T0 + 16 * 3600, Spend(carbon_g=4))
    refused = limiter.ask("a", T0 + 17 * 3600)
    assert (refused.why, refused.wait_s) == ("carbon-month", 7 * DAY_S + 23 * 3600)
    assert limiter.ask("a", T0 + 17 * 3600 + refused.wait_s)


def test_months_of_every_length():
    at = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC).timestamp()
    assert month_start(at) == datetime(2024, 2, 1, tzinfo=UTC).timestamp()
    assert month_start(at, 1) == datetime(2024, 3, 1, tzinfo=UTC).timestamp()
    at = datetime(2025, 12, 31, tzinfo=UTC).timestamp()
    assert month_start(at, 1) == datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def test_what_a_request_cost_takes_the_place_of_its_estimate():
    limiter = limited(TenantLimits(energy_j_per_day=10))
    assert limiter.ask("a", T0, Spend(energy_j=10))
    assert not limiter.ask("a", T0)
    limiter.settle("a", T0, Spend(energy_j=10), Spend(energy_j=4))
    assert limiter.ask("a", T0, Spend(energy_j=5))
    limiter.settle("a", T0, Spend(energy_j=5), Spend(energy_j=6))
    assert not limiter.ask("a", T0)
    # a new day owes nothing for an estimate of yesterday
    limiter.settle("a", T0 + DAY_S, Spend(energy_j=5), Spend())
    assert limiter.ask("a", T0 + DAY_S).states[0].left == 10
    limiter.settle("stranger", T0, Spend(1), Spend(1))


def test_what_other_servers_let_in_counts():
    used = Usage.of(T0, Spend(energy_j=9), Spend(energy_j=9))
    assert (used.day_s, used.month_s) == (T0 - 8 * 3600, month_start(T0))
    limiter = limited(TenantLimits(energy_j_per_day=10), usage_of=lambda tenant: used if tenant == "a" else Usage())
    assert limiter.ask("a", T0, Spend(energy_j=1))
    assert not limiter.ask("a", T0)
    assert limiter.ask("b", T0, Spend(energy_j=1))
    limiter.learn("b", used.plus(Spend(energy_j=1)))
    assert not limiter.ask("b", T0)


# -- headers -----------------------------------------------------------------------------------------------------------


def test_the_headers():
    limits = TenantLimits(50.0, 100, energy_j_per_day=1e6, carbon_g_per_day=500, carbon_g_per_month=0.0012)
    limiter = limited(limits)
    assert headers(limiter.ask("a", T0, Spend(12.4, 0.0007))) == {
        "RateLimit-Policy": '"requests";q=100;w=2, "energy-day";q=1000000;w=86400;qu="joule", '
        '"carbon-day";q=500000;w=86400;qu="mg-co2e", "carbon-month";q=2;w=2592000;qu="mg-co2e"',
        "RateLimit": '"requests";r=99;t=1, "energy-day";r=999988;t=57600, "carbon-day";r=500000;t=57600, '
        '"carbon-month";r=1;t=748800',
    }
    assert limiter.ask("a", T0, Spend(12.4, 0.0007))
    refused = headers(limiter.ask("a", T0))
    assert refused["Retry-After"] == "748800"
    assert refused["RateLimit"].endswith('"carbon-month";r=0;t=748800')


@pytest.mark.parametrize(("wait_s", "told"), [(0.001, "1"), (1.0, "1"), (1.2, "2")])
def test_who_is_refused_waits_whole_seconds(wait_s, told):
    assert headers(Decision(False, wait_s, "requests", ())) == {"Retry-After": told}


@given(st.builds(TenantLimits, st.none() | st.floats(1e-9, 1e9), st.integers(1, 10**18),
                 *[st.none() | st.floats(0, 1e300)] * 4), spends, st.floats(0, 4e9))  # fmt: skip
def test_every_number_is_one_that_structured_fields_hold(limits, estimate, now_s):
    for value in headers(limited(limits).ask("a", now_s, estimate)).values():
        for item in value.split(", "):
            numbers = [part.partition("=")[2] for part in item.split(";")[1:]]
            assert all(0 <= int(number) <= 999_999_999_999_999 for number in numbers if not number.startswith('"'))


@given(st.builds(TenantLimits, rates, bursts, *[st.none() | st.floats(0, 50)] * 4), st.lists(spends, max_size=30))
def test_a_rest_of_nothing_is_told_exactly_where_the_next_is_refused(limits, asked):
    limiter = limited(limits)
    for estimate in asked:
        decision = limiter.ask("a", T0, estimate)
        nothing_left = any(";r=0;" in item for item in headers(decision)["RateLimit"].split(", "))
        assert nothing_left == (not limiter.ask("a", T0, Spend()).allowed)
        assert math.isfinite(decision.wait_s)


def test_what_was_let_in_is_not_forgotten_for_a_ledger_that_lags():
    limiter = Limiter(Limits(default=TenantLimits(energy_j_per_day=100.0)))
    let_in = 0
    for second in range(40):
        limiter.learn("a", Usage.of(second, Spend(), Spend()))  # the ledger has none of it yet
        let_in += bool(limiter.ask("a", second, Spend(10.0)))
    assert let_in == 10
    limiter.learn("a", Usage.of(DAY_S + 1, Spend(5.0), Spend(105.0)))
    assert sum(bool(limiter.ask("a", DAY_S + 1, Spend(10.0))) for _ in range(40)) == 10


def test_the_larger_of_two_usages_holds_period_by_period():
    earlier, later = (
        Usage.of(10.0, Spend(9.0, 1.0), Spend(50.0, 2.0)),
        Usage.of(DAY_S + 10, Spend(1.0), Spend(40.0, 3.0)),
    )
    assert earlier.most(later) == later.most(earlier)
    assert earlier.most(later) == Usage(DAY_S, 0.0, Spend(1.0), Spend(50.0, 3.0))
    assert earlier.most(Usage.of(20.0, Spend(3.0, 4.0), Spend())).day == Spend(9.0, 4.0)
