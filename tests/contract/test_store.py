"""The contract of core.store_port.Store, the same on every adapter."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import T0_S, a_job, a_series, an_interval

from eco_ray.core.intensity import SignalKind
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobState, Reason
from eco_ray.core.ledger import MAX_G_PER_KWH, Share
from eco_ray.core.store_port import LogEntry, Store
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.store import open_store

BIG = 2**31 + 12345
ODD_FLOATS = [0.1 + 0.2, 1 / 3, 5e-324, sys.float_info.max, T0_S + 1e-6, -0.0]


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url)
    yield opened
    opened.close()


# --- meta


def test_meta_keeps_json_values_and_the_last_one_wins(store: Store) -> None:
    assert store.get_meta("clock") is None
    for value in [{"speed": 600.5, "zones": ["DE", None, True]}, [], "ü", 0.1 + 0.2, 2**70, None]:
        store.put_meta("clock", value)
        assert store.get_meta("clock") == value
    assert store.get_meta("other") is None


def test_meta_refuses_what_json_cannot_hold(store: Store) -> None:
    with pytest.raises(EcoRayError, match=r"meta clock cannot be stored: .*set.*; keep numbers"):
        store.put_meta("clock", {1, 2})


# --- jobs


def test_a_job_comes_back_whole(store: Store) -> None:
    store.save_jobs([a_job()])
    assert store.get_job("train-1") == a_job()
    assert store.load_jobs() == [a_job()]
    assert store.get_job("none") is None


texts = st.text(max_size=12)
numbers = st.floats(allow_nan=False) | st.integers(-(2**40), 2**40).map(float)
attempts = st.builds(
    Attempt,
    number=st.integers(0, 2**40),
    submission_id=texts,
    node=texts,
    zone=texts,
    state=st.sampled_from(AttemptState),
    created_s=numbers,
    started_s=st.none() | numbers,
    exit_code=st.none() | st.integers(-255, 255),
    message=texts,
)
jobs = st.builds(
    lambda spec, **fields: a_job(spec=replace(a_job().spec, **spec), **fields),
    spec=st.fixed_dictionaries({"name": texts, "tenant": texts, "deadline_s": numbers, "max_intensity": numbers}),
    state=st.sampled_from(JobState),
    reason=st.sampled_from(Reason),
    message=texts,
    submitted_s=numbers,
    attempts=st.lists(attempts, max_size=3).map(tuple),
    progress=st.none() | numbers,
    finished_s=st.none() | numbers,
    held=st.booleans(),
    metrics=st.dictionaries(texts, numbers | texts | st.booleans(), max_size=3),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(job=jobs)
def test_any_job_comes_back_exactly(store: Store, job: Job) -> None:
    store.save_jobs([job])
    assert store.get_job(job.id) == job
    line = store.list_jobs()[0]
    assert (line.submitted_s, line.deadline_s, line.progress) == (job.submitted_s, job.spec.deadline_s, job.progress)
    assert (line.state, line.reason, line.attempts) == (job.state, job.reason, len(job.attempts))


def test_text_that_a_database_cannot_hold_is_shown_with_a_mark_and_kept_in_the_record(store: Store) -> None:
    job = a_job(message="exit\0 \ud800")
    store.save_jobs([job], [LogEntry(1.0, job.id, "exited", "a\0b")])
    assert store.get_job(job.id) == job
    assert store.list_jobs()[0].message == "exit\N{REPLACEMENT CHARACTER} ?"
    assert store.job_log(job.id)[0].message == "a\N{REPLACEMENT CHARACTER}b"


def test_jobs_load_in_order_of_submission_and_list_newest_first(store: Store) -> None:
    store.save_jobs([a_job("b"), a_job("c")])
    store.save_jobs([a_job("a")])
    # a job that is saved again is replaced and keeps its place
    store.save_jobs([a_job("b", state=JobState.RUNNING), a_job("b", state=JobState.SUCCEEDED)])
    assert [job.id for job in store.load_jobs()] == ["b", "c", "a"]
    assert [line.id for line in store.list_jobs()] == ["a", "c", "b"]
    assert [line.id for line in store.list_jobs(limit=2)] == ["a", "c"]
    assert store.list_jobs(limit=0) == []
    assert [line.id for line in store.list_jobs([JobState.SUCCEEDED, JobState.FAILED])] == ["b"]
    assert [job.id for job in store.load_jobs([JobState.QUEUED])] == ["c", "a"]
    assert [job.id for job in store.load_jobs(limit=2)] == ["c", "a"]  # the newest, oldest first
    assert [job.id for job in store.load_jobs([JobState.QUEUED], 1)] == ["a"]
    assert [job.id for job in store.load_jobs(limit=9)] == ["b", "c", "a"]
    assert store.load_jobs([]) == store.list_jobs([]) == store.load_jobs(limit=0) == []
    for load in (store.list_jobs, store.load_jobs):
        with pytest.raises(UsageError, match="limit is -1, must be >= 0"):
            load(limit=-1)


def test_the_log_is_kept_by_job_oldest_first(store: Store) -> None:
    entries = [LogEntry(T0_S + i / 3, "a", "started", f"step {i}") for i in range(5)]
    store.save_jobs([], [*entries[2:], LogEntry(1.0, "b", "submitted", "")])
    store.save_jobs([], entries[:2])
    assert store.job_log("a") == entries
    assert store.job_log("none") == []


def test_a_bad_job_or_log_entry_keeps_nothing_of_the_call(store: Store) -> None:
    bad: list[tuple[list[Job], list[LogEntry], str]] = [
        ([a_job("b", metrics={"x": object()})], [], "job b cannot be stored"),
        ([a_job("b", submitted_s=math.nan)], [], "submitted_s of job 'b' is NaN"),
        ([a_job("")], [], "job id is '': give it at least one character"),
        ([a_job("b\0")], [], "job id is 'b.x00'"),
        ([], [LogEntry(math.inf, "a", "started", "")], "time_s of a log entry of job a is inf"),
    ]
    for jobs_given, log, message in bad:
        with pytest.raises(EcoRayError, match=message):
            store.save_jobs([a_job("a"), *jobs_given], [LogEntry(1.0, "a", "submitted", ""), *log])
        assert store.load_jobs() == []
        assert store.job_log("a") == []


# --- ledger


def test_an_interval_is_counted_once_however_often_it_is_sent(store: Store) -> None:
    first = [an_interval(0), an_interval(1), an_interval(0)]
    assert store.add_intervals(first) == 2
    assert store.add_intervals(first) == 0
    # the one that was first stays; a new boot and another node count on their own
    again = [an_interval(1, energy_mj=99_000), an_interval(2), an_interval(0, boot_id="x"), an_interval(0, node="n2")]
    assert store.add_intervals(again) == 3
    assert store.add_intervals([]) == 0
    assert [(n.node, n.energy_mj) for n in store.node_energy()] == [("n1", 200_000), ("n2", 50_000)]
    assert len(store.owner_intervals("job", "a")) == 5
    assert store.check_ledger().residual_mj == 0


def test_energy_sums_in_integers_beyond_32_bits(store: Store) -> None:
    share = Share("job", "a", BIG, BIG * 1000 + 1)
    store.add_intervals(an_interval(BIG + i, energy_mj=BIG * 1000 + 3, shares=(share,), idle_mj=BIG) for i in range(7))
    (node,) = store.node_energy()
    assert (node.energy_mj, node.attributed_mj, node.unallocated_mj) == (7 * (BIG * 1000 + 3), 7 * (BIG * 1000 + 1), 14)
    assert all(type(value) is int for value in (node.energy_mj, node.attributed_mj, store.check_ledger().residual_mj))
    part = store.owner_intervals()[0]
    assert (part.attempt, part.energy_mj) == (BIG, BIG * 1000 + 1)


def test_the_grams_of_a_node_are_energy_times_intensity_times_pue(store: Store) -> None:
    store.add_intervals([an_interval(0, intensity=300.0, pue=1.2), an_interval(1, intensity=100.0, pue=1.0)])
    (node,) = store.node_energy()
    assert node.operational_g == pytest.approx((50_000 * 300 * 1.2 + 50_000 * 100) / 3.6e9, rel=1e-12)
    assert node.unallocated_g == pytest.approx((25_000 * 300 * 1.2 + 25_000 * 100) / 3.6e9, rel=1e-12)
    # one unknown intensity: the grams of this node are unknown, not those of another
    store.add_intervals([an_interval(2, intensity=None), an_interval(0, node="m")])
    other, node = store.node_energy()
    assert (node.operational_g, node.unallocated_g, node.energy_mj) == (None, None, 150_000)
    assert other.operational_g is not None


def test_nodes_are_in_the_order_of_names_with_their_latest_zone(store: Store) -> None:
    assert store.node_energy() == []
    names = ["n10", "n2", "N3", "a_b", "a-c"]
    store.add_intervals(an_interval(0, node=name) for name in names)
    store.add_intervals([an_interval(9, node="n2", zone="FR"), an_interval(5, node="n2", zone="GB")])
    assert [node.node for node in store.node_energy()] == sorted(names)
    assert {node.node: node.zone for node in store.node_energy()}["n2"] == "FR"


def test_shares_come_with_their_interval_in_order_of_time(store: Store) -> None:
    late = an_interval(7, node="n1", intensity=None, zone="FR")
    early = [an_interval(3, node="n2"), an_interval(3, node="n1")]
    store.add_intervals([late, *early])
    parts = store.owner_intervals()
    assert [(p.start_s - T0_S, p.node, p.owner_kind) for p in parts] == [
        (start_s, node, kind) for start_s, node in [(3, "n1"), (3, "n2"), (7, "n1")] for kind in ("job", "model")
    ]
    first, last = parts[0], parts[-1]
    assert (first.end_s, first.energy_mj, first.intensity_g_per_kwh, first.pue) == (T0_S + 4, 20_000, 300.0, 1.2)
    assert (first.owner_id, first.attempt, first.nature, first.source) == ("a", 1, Nature.MODELLED, "modelled")
    assert (last.owner_id, last.zone, last.intensity_g_per_kwh) == ("mnist:1", "FR", None)
    assert isinstance(first.nature, Nature)
    assert len(store.owner_intervals("model")) == len(store.owner_intervals(owner_id="a")) == 3
    last_ones = [part for part in parts if part.start_s >= parts[-1].start_s]
    assert 0 < len(last_ones) < len(parts)
    assert store.owner_intervals(start_s=parts[-1].start_s) == last_ones
    assert store.owner_intervals(end_s=parts[-1].start_s) == parts[: -len(last_ones)]
    assert store.owner_intervals("model", "a") == store.owner_intervals("job", "none") == []


def test_floats_of_the_ledger_are_exact(store: Store) -> None:
    odd = [value for value in ODD_FLOATS if 0 <= value <= MAX_G_PER_KWH]
    assert len(odd) == 4
    for seq, value in enumerate(odd):
        store.add_intervals([an_interval(seq, start_s=seq + 1 / 3, intensity=value, pue=1 + abs(value) % 1)])
    parts = store.owner_intervals("job")
    assert [p.intensity_g_per_kwh for p in parts] == odd
    assert [p.pue for p in parts] == [1 + value % 1 for value in odd]
    assert [p.start_s for p in parts] == [seq + 1 / 3 for seq in range(len(odd))]


BAD_INTERVALS: list[tuple[dict[str, Any], str]] = [
    ({"energy_mj": -1, "shares": ()}, r"energy of interval 1 of node 'n1' is -1 mJ, limits 0 to \d+ mJ: check the"),
    ({"energy_mj": 2**53, "shares": ()}, "is 9007199254740992 mJ, limits 0 to 9007199254740991 mJ"),
    ({"energy_mj": 1.5, "shares": ()}, "is 1.5, must be an integer: round it"),
    ({"idle_mj": -5}, "idle energy of interval 1 of node 'n1' is -5 mJ"),
    ({"start_s": math.nan}, "start_s of interval 1 of node 'n1' is nan, must be finite"),
    ({"length_s": math.inf}, "end_s of interval 1 of node 'n1' is inf, must be finite"),
    ({"length_s": 0.0}, r"ends at \S+ s, not after its start at \S+ s: check the clock"),
    ({"length_s": -1.0}, "not after its start"),
    ({"start_s": 1e15}, "start_s of interval 1 of node 'n1' is 1e[+]15 s since 1970, limits 0 to 253402300799"),
    ({"start_s": -1.0, "length_s": 2.0}, "start_s of interval 1 of node 'n1' is -1 s since 1970, limits 0 to"),
    ({"start_s": 253_402_300_790.0, "length_s": 10.0}, "end_s of interval 1 .* is 2.53402e[+]11 s since 1970"),
    ({"length_s": 366 * 86_400 + 1.0}, "is 3.16224e[+]07 s long, limit 31622400 s .366 days.: check the clock"),
    ({"error_rel": 1001.0}, "error_rel of interval 1 .* is 1001.0, limit >= 0 and <= 1000"),
    ({"intensity": 100_001.0}, "intensity of interval 1 .* is 100001.0, limit >= 0 and <= 100000"),
    ({"kind": "bogus"}, "interval 1 .* is of kind 'bogus': give one of average-lifecycle, average-direct, marginal"),
    ({"shares": (Share("bogus", "a", 1, 1),)}, "owner kind in interval 1 .* is 'bogus': give one of job, model"),  # type: ignore[arg-type]
    ({"pue": 10.5}, "PUE of interval 1 .* is 10.5, limit >= 1 and <= 10: mend `pue`"),
    ({"energy_mj": 24_999}, "shares of .* sum to 25000 mJ, limit 24999 mJ, the energy of the node: attribute"),
    ({"shares": (Share("job", "a", 1, -1),)}, "share of job a in interval 1 .* is -1 mJ"),
    ({"shares": (Share("job", "", 1, 1),)}, "owner id in interval 1 .* is ''"),
    ({"pue": 0.9}, "PUE of interval 1 .* is 0.9, limit >= 1 and <= 10: mend `pue`"),
    ({"pue": math.inf}, "PUE .* must be finite"),
    ({"intensity": math.nan}, "intensity of interval 1 .* is nan, must be finite"),
    ({"system_cpu_s": math.inf}, "system_cpu_s .* must be finite"),
    ({"seq": 2**63, "start_s": 1.0}, "seq of interval .* is 9223372036854775808, limits 0 to 9223372036854775807"),
    ({"node": "n\0"}, "node name is"),
]


@pytest.mark.parametrize(("change", "message"), BAD_INTERVALS, ids=[m[:25] for _, m in BAD_INTERVALS])
def test_a_bad_interval_is_refused_and_nothing_of_its_batch_is_kept(
    store: Store, change: dict[str, Any], message: str
) -> None:
    bad = an_interval(**{"seq": 1, **change})
    with pytest.raises(EcoRayError, match=message):
        store.add_intervals([an_interval(0), bad, an_interval(2)])
    assert store.node_energy() == store.owner_intervals() == []
    assert store.add_intervals([an_interval(0)]) == 1


def test_zero_energy_and_no_shares_are_fine(store: Store) -> None:
    assert store.check_ledger().residual_mj == 0
    assert store.add_intervals([an_interval(0, energy_mj=0, idle_mj=0, shares=()), an_interval(1, shares=())]) == 2
    (node,) = store.node_energy()
    assert (node.energy_mj, node.unallocated_mj, store.check_ledger().residual_mj) == (50_000, 50_000, 0)


# --- series


def test_series_keeps_the_steps_that_were_there_first(store: Store) -> None:
    assert store.series("DE") == store.signal_sources() == []
    store.add_series(a_series([100.0, 0.1 + 0.2]))
    store.add_series(a_series([1.0, 2.0, 3.0], source="trace", nature=Nature.MEASURED))
    store.add_series(a_series([7.0], zone="FR", start_s=T0_S + 7200))
    store.add_series(a_series([], zone="GB"))
    assert store.series("DE") == [(T0_S, 100.0), (T0_S + 3600, 0.1 + 0.2), (T0_S + 7200, 3.0)]
    assert store.series("FR") == [(T0_S + 7200, 7.0)]
    kind = "average-lifecycle"
    end_s = T0_S + 10800
    assert [dict(row) for row in store.signal_sources()] == [
        {"zone": "DE", "source": "trace", "kind": kind, "nature": "measured", "step_s": 3600.0, "updated_s": end_s},
        {
            "zone": "FR",
            "source": "profile DE",
            "kind": kind,
            "nature": "modelled",
            "step_s": 3600.0,
            "updated_s": end_s,
        },
    ]


def test_series_of_another_kind_or_with_a_hole_are_refused(store: Store) -> None:
    store.add_series(a_series([100.0]))
    with pytest.raises(EcoRayError, match=r"zone DE has average-lifecycle .* now gets marginal: kinds are never mixed"):
        store.add_series(a_series([1.0, 2.0], kind=SignalKind.MARGINAL))
    with pytest.raises(EcoRayError, match="step 1 of the intensity series of zone 'DE' is nan, must be finite"):
        store.add_series(a_series([1.0, math.nan, 3.0]))
    with pytest.raises(EcoRayError, match="step of the intensity series of zone 'DE' is 0 s, limit > 0"):
        store.add_series(a_series([1.0], step_s=0.0))
    assert store.series("DE") == [(T0_S, 100.0)]


def test_a_long_series_and_many_jobs_go_in_one_call(store: Store) -> None:
    store.add_series(a_series([float(i) for i in range(8760)]))
    assert [value for _, value in store.series("DE")] == list(range(8760))
    store.save_jobs(a_job(f"j{i}") for i in range(2500))
    assert [job.id for job in store.load_jobs()] == [f"j{i}" for i in range(2500)]
    assert store.add_intervals(an_interval(i) for i in range(2500)) == 2500
    assert (len(store.owner_intervals()), store.check_ledger().residual_mj) == (5000, 0)
