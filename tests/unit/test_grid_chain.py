"""The chain: asks where and when it may, never raises to the planner, says what is used and why nothing better is."""

from __future__ import annotations

import itertools
import random
import threading
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_cases import HOUR_S, T0, hourly

from eco_ray.core.intensity import SignalKind
from eco_ray.core.ports import LiveGridSource
from eco_ray.errors import EcoRayError, NotFoundError
from eco_ray.grid import Chain, ModelledProfile
from eco_ray.grid.chain import VALUES_S
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.pauses import PAUSES_S
from eco_ray.on_ray.accounts import Accounts
from eco_ray.store import open_store

DAY = 24 * HOUR_S
LIFECYCLE = SignalKind.AVERAGE_LIFECYCLE


class Told:
    """A source in memory that tells what a test puts in, and counts what it is asked."""

    def __init__(self, name: str = "one", values: object = 300.0, forecast: object = 100.0) -> None:
        self.name = name
        self.kind = LIFECYCLE
        self.values, self.coming = values, forecast
        self.asked: list[str] = []

    def zones(self):
        return ("DE", "FR")

    def actual(self, zone, start_s, end_s):
        self.asked.append(f"values {zone}")
        return self._series(zone, self.values, start_s, end_s, None)

    def forecast(self, zone, now_s, end_s):
        self.asked.append(f"forecast {zone}")
        return self._series(zone, self.coming, now_s, end_s, now_s)

    def _series(self, zone, what, start_s, end_s, issued_s):
        if isinstance(what, Exception):
            raise what
        first, last = int(start_s // HOUR_S), int(-(-end_s // HOUR_S))
        values = [what] * max(1, last - first)
        return hourly(
            zone, *values, start_s=first * HOUR_S, issued_s=issued_s, source=f"{self.name} told", kind=self.kind
        )


class World:
    """A chain with its clock in the test's hand."""

    def __init__(self, *sources: Told, folder=None, last=()) -> None:
        self.passed_s = 0.0
        self.sources = sources
        self.chain = Chain(sources, LIFECYCLE, folder, last, random.Random(1), lambda: self.passed_s)

    @property
    def now_s(self) -> float:
        return T0 + self.passed_s

    def refresh(self, zone="DE", after_s=0.0) -> list[str]:
        """What was asked by a refresh so much later, with the source's name."""
        self.passed_s += after_s
        for source in self.sources:
            source.asked.clear()
        self.chain.refresh(zone, self.now_s, self.now_s + 2 * DAY)
        return [f"{source.name} {what}" for source in self.sources for what in source.asked]

    def use(self, zone="DE"):
        return self.chain.use(zone, self.now_s)

    def value(self, zone="DE") -> float:
        return self.chain.forecast(zone, self.now_s, self.now_s + DAY).at(self.now_s)


def a_fault(fault=Fault.UNREACHABLE, text="one: no connection", retry_s=None) -> SourceError:
    return SourceError(text, fault, retry_s)


def test_it_is_a_live_source():
    chain = World(Told()).chain
    assert isinstance(chain, LiveGridSource)
    assert not isinstance(ModelledProfile(), LiveGridSource)
    assert (chain.name, chain.kind, chain.zones()) == ("one", LIFECYCLE, ("DE", "FR"))


def test_before_the_first_answer_it_says_so():
    world = World(Told())
    with pytest.raises(EcoRayError, match=r"nothing is known of the intensity of DE \(one has not been asked yet\)"):
        world.value()
    assert (world.use().rung, world.use().why) == ("nothing", "one has not been asked yet")
    assert World(Told(), last=[ModelledProfile()]).use().rung == "last-resort"


def test_it_asks_at_first_and_then_when_it_is_due():
    world = World(Told())
    assert world.refresh() == ["one values DE", "one values DE", "one forecast DE"]  # of late, and of the weeks before
    assert world.value() == 100
    assert (world.use().rung, world.use().why, world.use().age_s) == ("forecast", "", 0)
    assert world.refresh(after_s=10) == []
    assert world.use().age_s == 10
    assert world.refresh(after_s=VALUES_S) == ["one values DE"]
    assert world.refresh("FR")[0] == "one values FR"


def test_the_next_source_is_asked_only_for_what_is_missing():
    first, second = Told("one", forecast=a_fault(Fault.NO_DATA, "one: no forecasts")), Told("two", forecast=70.0)
    world = World(first, second)
    assert world.refresh() == ["one values DE", "one values DE", "one forecast DE", "two forecast DE"]
    assert world.value() == 70
    assert world.chain.actual("DE", T0 - HOUR_S, T0).source == "one told"


@pytest.mark.parametrize("fault", [Fault.RATE_LIMITED, Fault.NO_KEY])
def test_a_server_that_wants_to_be_left_alone_is_asked_for_no_zone(fault):
    world = World(Told(values=a_fault(fault)), Told("two"))
    assert world.refresh()[:1] == ["one values DE"]
    assert not any(asked.startswith("one") for asked in world.refresh("FR"))
    assert world.value() == 100


@pytest.mark.parametrize("fault", [Fault.UNREACHABLE, Fault.REFUSED, Fault.MALFORMED])
def test_after_three_failures_in_a_row_it_is_the_server(fault):
    world = World(Told(values=a_fault(fault), forecast=a_fault(fault)))
    assert world.refresh() == ["one values DE", "one forecast DE"]
    assert world.refresh("FR") == ["one values FR"]
    assert [world.refresh(f"Z{number}") for number in range(50)] == [[]] * 50


@pytest.mark.parametrize("fault", list(Fault))
def test_one_question_that_always_fails_starves_no_other(fault):
    class Partly(Told):
        def forecast(self, zone, now_s, end_s):
            if zone == "AT":
                self.asked.append("forecast AT")
                raise a_fault(fault)
            return super().forecast(zone, now_s, end_s)

    world = World(Partly())
    counts = dict.fromkeys(["AT", "DE", "FR"], 0)
    zones = deque(counts)
    while world.passed_s < DAY:
        zones.rotate(-1)  # as the controller does, so that it is not always the same one after a pause
        for zone in zones:
            counts[zone] += len([asked for asked in world.refresh(zone) if "forecast" in asked])
        world.passed_s += 5.0
    assert world.use("DE").rung == world.use("FR").rung == "forecast"
    assert world.use("DE").age_s <= 6 * HOUR_S
    assert 10 < counts["DE"] < 150
    assert counts["AT"] < 250


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.NO_DATA, Fault.MALFORMED])
def test_a_fault_of_one_question_does_not_stop_the_others(fault):
    world = World(Told(values=a_fault(fault)))
    assert world.refresh() == ["one values DE", "one forecast DE"]
    assert world.refresh("FR") == ["one values FR", "one forecast FR"]
    assert world.refresh(after_s=60.0) == []


@pytest.mark.parametrize("fault", list(Fault))
def test_pauses_double_up_to_a_limit_and_end_with_the_first_answer(fault):
    source = Told(values=a_fault(fault), forecast=a_fault(fault))
    world = World(source)
    first_s, longest_s = PAUSES_S[fault]
    times = []
    while world.passed_s < 3 * DAY:
        if any("values" in asked for asked in world.refresh()):
            times.append(world.passed_s)
        world.passed_s += 15.0
    pauses = np.diff(times)
    assert first_s <= pauses[0] <= 1.2 * first_s + 15
    assert longest_s <= pauses[-1] <= 2.4 * longest_s + 15  # the server's pause may end within the question's
    assert all(later >= 0.8 * sooner for sooner, later in itertools.pairwise(pauses))
    source.values, source.coming = 300.0, 100.0
    world.refresh(after_s=1.3 * longest_s)
    world.refresh(after_s=0)
    assert world.use().rung == "forecast"
    source.values = a_fault(fault)
    world.refresh(after_s=VALUES_S)
    world.refresh(after_s=1.2 * first_s + 1)  # again after the first pause, not the longest
    assert source.asked


def test_what_the_server_asks_for_is_kept_to():
    world = World(Told(values=a_fault(Fault.RATE_LIMITED, retry_s=7200.0)))
    world.refresh()
    assert world.refresh(after_s=7199.0) == []
    assert world.refresh(after_s=2.0)


def test_a_zone_that_a_source_does_not_know_is_no_fault():
    world = World(Told(values=NotFoundError("no zone")), Told("two", forecast=a_fault(Fault.NO_DATA, "none")))
    world.refresh()
    assert world.refresh("FR", after_s=1)[0] == "one values FR"


def test_what_is_known_is_used_while_a_source_fails():
    source = Told()
    world = World(source)
    world.refresh()
    source.values = source.coming = a_fault(text="one: HTTP 503")
    world.refresh(after_s=HOUR_S)
    assert (world.use().rung, world.use().age_s) == ("forecast", HOUR_S)
    world.refresh(after_s=30 * HOUR_S)
    assert world.use().rung == "own-forecast"
    assert "one: HTTP 503" in world.use().why
    world.refresh(after_s=30 * DAY)
    assert world.use().rung == "nothing"
    assert "one: HTTP 503" in world.use().why


def test_any_exception_of_a_plug_in_is_a_fault():
    world = World(Told(values=ZeroDivisionError("secret detail")))
    world.refresh()
    assert "ZeroDivisionError" in world.chain._why("DE")
    assert "secret" not in world.chain._why("DE")


def test_another_kind_is_refused():
    source = Told()
    source.kind = SignalKind.MARGINAL
    world = World(source)
    world.refresh()
    assert world.use().rung == "nothing"
    assert "one told: it is marginal, not average-lifecycle" in world.use().why


def test_a_wall_clock_that_jumps_changes_no_pause():
    world = World(Told(values=a_fault(), forecast=a_fault()))
    asked = world.refresh()
    world.chain.refresh("DE", T0 + 400 * DAY, T0 + 401 * DAY)
    world.chain.refresh("DE", T0 - 400 * DAY, T0 - 399 * DAY)
    assert asked == [f"one {what}" for what in world.sources[0].asked]
    assert world.refresh(after_s=40.0)


BAD_SERIES = {
    "not a number": {"values_g_per_kwh": np.array([np.nan])},
    "negative": {"values_g_per_kwh": np.array([-500.0])},
    "absurd": {"values_g_per_kwh": np.array([1e9])},
    "infinite": {"values_g_per_kwh": np.array([np.inf])},
    "no value": {"values_g_per_kwh": np.empty(0)},
    "no step": {"step_s": 0.0},
    "no time": {"start_s": np.nan},
    "another zone": {"zone": "FR"},
    "a quantile of another length": {"quantiles_g_per_kwh": {0.1: np.array([1.0, 2.0])}},
}


@pytest.mark.parametrize("bad", BAD_SERIES)
def test_nothing_unsound_is_taken_from_any_source(bad, tmp_path):
    class PlugIn(Told):
        def _series(self, zone, what, start_s, end_s, issued_s):
            good = hourly(zone, 5.0, start_s=T0, issued_s=issued_s)
            return replace(good, **BAD_SERIES[bad])

    world = World(PlugIn(), folder=tmp_path)
    assert not world.chain.refresh("DE", T0, T0 + DAY)
    assert world.use().rung == "nothing"
    assert "it is not used" in world.use().why
    with pytest.raises(EcoRayError):
        world.value()
    assert list(tmp_path.iterdir()) == []


def test_estimates_are_replaced_within_an_hour():
    source = Told(values=900.0)
    world = World(source)
    world.refresh()
    source.values = 300.0
    for _ in range(15):
        world.refresh(after_s=300.0)
    series = world.chain.actual("DE", T0 - 20 * HOUR_S, T0)
    assert set(series.values_g_per_kwh) == {300.0}


def test_what_was_missed_in_an_outage_is_asked_for_later():
    world = World(Told())
    world.refresh()
    world.refresh(after_s=4 * DAY)
    world.refresh(after_s=6 * HOUR_S)
    assert world.chain._of("DE")[0].history.first_gap is None


def test_a_source_that_answers_with_old_values_does_not_keep_the_next_one_from_being_asked():
    class Lagging(Told):
        def actual(self, zone, start_s, end_s):
            return super().actual(zone, start_s - DAY, end_s - 20 * HOUR_S)

        def forecast(self, zone, now_s, end_s):
            return replace(super().forecast(zone, now_s, end_s), issued_s=now_s - 60 * HOUR_S)

    world = World(Lagging(), Told("two", 77.0, 66.0))
    world.refresh()
    assert world.value() == 66
    assert world.chain.actual("DE", T0 - HOUR_S, T0).source == "two told"


def test_the_ledger_reads_what_is_new_at_once():
    source = Told(values=a_fault(Fault.NO_DATA), forecast=a_fault(Fault.NO_DATA))
    world = World(source, last=[ModelledProfile()])
    accounts = Accounts(open_store("memory://"), world.chain)
    world.refresh()
    assert "modelled profile" in accounts._series("DE", T0, T0 + 1).source
    for value in (116.0, 777.0):
        source.values = value
        world.refresh(after_s=2 * HOUR_S)
        assert accounts._series("DE", world.now_s - 1, world.now_s).at(world.now_s - 1) == value


# -- kept on disk ------------------------------------------------------------------------------------------------------


def test_a_restart_knows_what_was_told(tmp_path):
    World(Told(), folder=tmp_path).refresh()
    again = World(Told(values=a_fault(), forecast=a_fault()), folder=tmp_path)
    assert again.value() == 100
    again.passed_s = 30 * HOUR_S
    assert again.use().rung == "own-forecast"
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0


DAMAGE = {
    "empty": b"",
    "half": b'{"format": 1, "history": {"start_s"',
    "no json": b"\x00\xff\x00",
    "nan": b'{"format":1,"history":{"start_s":1e9,"step_s":3600,"values":[NaN],"source":"s","nature":"measured"}}',
    "negative": b'{"format":1,"history":{"start_s":1e9,"step_s":3600,"values":[-5],"source":"s","nature":"measured"}}',
    "huge": b'{"format":1,"history":{"start_s":1e9,"step_s":3600,"values":[1e9],"source":"s","nature":"measured"}}',
    "no step": b'{"format":1,"history":{"start_s":1e9,"step_s":0,"values":[5],"source":"s","nature":"measured"}}',
    "another version": b'{"format": 2, "history": null}',
    "a list": b"[1]",
    "only gaps": b'{"format":1,"forecast":{"start_s":1.7e9,"step_s":3600,"values":[null],"source":"s",'
    b'"nature":"modelled","issued_s":1.7e9}}',
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_as_good_as_none(tmp_path, damage):
    World(Told(), folder=tmp_path).refresh()
    (file,) = tmp_path.iterdir()
    file.write_bytes(DAMAGE[damage])
    world = World(Told(values=a_fault(), forecast=a_fault()), folder=tmp_path)
    assert world.use().rung == "nothing"
    assert world.refresh()
    World(Told(), folder=tmp_path).refresh()
    assert World(Told(), folder=tmp_path).value() == 100


def test_a_disk_that_takes_nothing_costs_nothing_else(tmp_path, caplog):
    (tmp_path / "grid").write_text("a file where the folder should be")
    world = World(Told(), folder=tmp_path / "grid")
    world.refresh()
    assert world.value() == 100
    assert "is not kept on disk" in caplog.text


def test_zones_with_odd_names_stay_in_the_folder(tmp_path):
    world = World(Told(), folder=tmp_path / "grid")
    world.refresh("../../etc/passwd")
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "grid"]


def test_nothing_of_a_failing_source_is_written(tmp_path):
    world = World(Told(values=a_fault(), forecast=a_fault()), folder=tmp_path)
    world.refresh()
    assert list(tmp_path.iterdir()) == []


# -- always ------------------------------------------------------------------------------------------------------------

outcomes = st.one_of(
    st.floats(0, 900),
    st.sampled_from([a_fault(f) for f in Fault]),
    st.just(NotFoundError("no")),
    st.just(KeyError("x")),
)


@given(st.lists(st.tuples(outcomes, outcomes, st.floats(0, 2 * DAY)), min_size=1, max_size=12))
@settings(deadline=None)
def test_whatever_sources_do_the_planner_gets_a_sound_series_or_an_error_with_a_reason(steps):
    source = Told()
    world = World(source, Told("two", a_fault(), a_fault()))
    for values, coming, passed_s in steps:
        source.values, source.coming = values, coming
        world.refresh(after_s=passed_s)
        use = world.use()
        try:
            series = world.chain.forecast("DE", world.now_s, world.now_s + DAY)
        except EcoRayError:
            assert (use.rung, bool(use.why)) == ("nothing", True)
        else:
            assert series.covers(world.now_s, world.now_s)
            assert np.isfinite(series.values_g_per_kwh).all()
            assert (series.values_g_per_kwh >= 0).all()
            assert use.source == series.source or use.rung == "forecast"


def test_answers_never_wait_for_a_slow_source():
    started, go_on = threading.Event(), threading.Event()

    class Slow(Told):
        def actual(self, zone, start_s, end_s):
            started.set()
            go_on.wait(30)
            return super().actual(zone, start_s, end_s)

    world = World(Slow(), last=[ModelledProfile()])
    asking = threading.Thread(target=world.refresh)
    asking.start()
    try:
        assert started.wait(10)
        assert world.chain.forecast("DE", T0, T0 + DAY).nature == "modelled"
        assert world.use().rung == "last-resort"
    finally:
        go_on.set()
        asking.join()
    assert world.use().rung == "forecast"
