"""What one request cost: parts of a row that sum to it, and what is not known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_cases import T0_S, all_counted, counted, row_of, take_of

from eco_ray.core.units import grams
from eco_ray.core.usage import Found, State, Usage, settle

#: of all sizes, and nothing
WEIGHTS_S = st.lists(
    st.one_of(st.just(0.0), st.floats(0.0, 10.0), st.floats(0.0, 1e-12), st.floats(0.0, 1e9)), min_size=2, max_size=30
)


@given(WEIGHTS_S, st.integers(0, 10**15), st.data())
def test_parts_sum_to_their_rows_in_whatever_order_they_are_asked_for(
    weights_s: list[float], energy_mj: int, data: st.DataObject
) -> None:
    requests = all_counted(weights_s)
    cut = data.draw(st.integers(1, len(requests) - 1))
    sums = []
    for group, start_s in ((requests[:cut], T0_S), (requests[cut:], T0_S + 1)):
        take = take_of(group, start_s)
        rows = [row_of(take, energy_mj)]
        parts = {}
        for one in data.draw(st.permutations(group)):
            usage = settle(Found(one, take, False), rows)
            assert (usage.state, usage.row) == (State.SETTLED, rows[0])
            parts[one.ordinal] = usage.energy_mj
        assert all(part is not None and part >= 0 for part in parts.values())
        sums.append(sum(part or 0 for part in parts.values()))
    assert sums == [energy_mj, energy_mj]


def test_parts_are_by_weight_and_alike_where_nothing_was_used() -> None:
    def parts(weights_s: list[float]) -> list[int | None]:
        requests = all_counted(weights_s)
        take = take_of(requests)
        return [settle(Found(one, take, False), [row_of(take, 1_000)]).energy_mj for one in requests]

    assert parts([1.0, 0.0, 3.0]) == [250, 0, 750]
    assert parts([0.0, 0.0, 0.0]) == [333, 333, 334]
    assert parts([1.0, 1.0, 1.0]) == [333, 333, 334]


@pytest.mark.parametrize("by", [-1e-12, 1e-12])
def test_bounds_that_were_added_up_in_another_order_change_nothing_of_the_sum(by: float) -> None:
    requests = all_counted([5.0, 0.0, 0.1, 0.1, 0.1, 0.0])[1:]
    take = take_of(requests)
    near = take._replace(weight_before_s=5.0 * (1 - by), weight_after_s=take.weight_after_s * (1 + by))
    parts = [settle(Found(one, near, False), [row_of(near, 10**15)]).energy_mj for one in requests]
    assert None not in parts
    assert sum(part or 0 for part in parts) == 10**15
    assert [round((part or 0) / 10**15, 6) for part in parts] == [0.0, 0.333333, 0.333333, 0.333333, 0.0]
    assert min(part or 0 for part in parts) >= 0


def _settle(change: str) -> Usage:
    requests = all_counted([1.0, 1.0])
    take = take_of(requests)
    row = row_of(take)
    later = row_of(take, start_s=T0_S + 1, end_s=T0_S + 2)
    found = Found(requests[0], take, False)
    match change:
        case "not taken":
            return settle(found._replace(take=None), [])
        case "taken, not booked":
            return settle(found, [row_of(take, start_s=T0_S - 1), row_of(take, part="r2")])
        case "skipped":
            return settle(found._replace(take=None, passed=True), [])
        case "never booked":
            return settle(found, [later])
        case "of unknown requests":
            return settle(found, [row_of(take, requests=None, tenant="")])
        case "of other requests":
            return settle(found, [row_of(take, requests=3)])
        case "of another tenant":
            return settle(found, [row_of(take, tenant="text")])
        case "weight before":
            return settle(found._replace(take=take._replace(weight_before_s=0.5)), [row])
        case "weight after":
            return settle(found._replace(take=take._replace(weight_after_s=0.5)), [row])
        case "weights fall":
            return settle(found._replace(counted=counted(1, 1.5, 1.0)), [row])
        case "ordinal":
            return settle(found._replace(counted=counted(3, 1.0, 2.0)), [row])
    raise AssertionError(change)


@pytest.mark.parametrize("change", ["not taken", "taken, not booked"])
def test_what_is_not_yet_in_the_ledger_is_an_estimate(change: str) -> None:
    usage = _settle(change)
    assert (usage.state, usage.reason, usage.row) == (State.ESTIMATE, None, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("skipped", "lost"),
        *[(change, "does not count it") for change in ("never booked", "of unknown requests", "of other requests")],
        ("of another tenant", "does not count it"),
        *[(change, "contradict") for change in ("weight before", "weight after", "weights fall", "ordinal")],
    ],
)
def test_what_nobody_can_know_is_unknown_and_says_why(change: str, reason: str) -> None:
    usage = _settle(change)
    assert usage.state is State.UNKNOWN
    assert reason in (usage.reason or "")
    told = usage.to_json()
    assert (told["energy_joules"], told["carbon_g_co2eq"], told["nature"], told["source"]) == (None,) * 4
    assert told["estimate"] == {"energy_joules": 1.23, "carbon_g_co2eq": 0.0123}


def test_a_settled_document_has_three_digits_of_the_row_it_is_part_of() -> None:
    requests = all_counted([1.0, 2.0])
    take = take_of(requests)
    told = settle(Found(requests[1], take, False), [row_of(take, 37_037)]).to_json()
    assert told == {
        "request_id": "id-2",
        "model": "m:1",
        "state": "settled",
        "reason": None,
        "energy_joules": 24.7,
        "energy_kwh": 6.86e-06,
        "carbon_g_co2eq": float(f"{grams(24_692, 400.0, 1.5):.3g}"),
        "nature": "measured",
        "source": "rapl",
        "attribution_method": "service-time",
        "boundary": "operational",
        "grid_zone": "DE",
        "intensity_gco2e_per_kwh": 400.0,
        "interval": {"start": "2025-11-22T08:00:00.000+00:00", "end": "2025-11-22T08:00:01.000+00:00"},
        "estimate": {"energy_joules": 1.23, "carbon_g_co2eq": 0.0123},
    }
    unknown = settle(Found(requests[1], take, False), [row_of(take, intensity_g_per_kwh=None)]).to_json()
    assert (unknown["state"], unknown["carbon_g_co2eq"], unknown["intensity_gco2e_per_kwh"]) == ("settled", None, None)


def test_an_estimate_tells_what_the_answer_told() -> None:
    told = _settle("not taken").to_json()
    assert (told["state"], told["energy_joules"], told["carbon_g_co2eq"]) == ("estimate", 1.23, 0.0123)
    assert (told["nature"], told["attribution_method"], told["interval"]) == ("modelled", "cpu-time", None)
    with_gpus = Usage(counted(method="cpu-time and gpu-power"), State.ESTIMATE)
    assert with_gpus.to_json()["attribution_method"] == "cpu-time and gpu-power"
