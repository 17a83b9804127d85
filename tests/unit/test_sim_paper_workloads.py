from __future__ import annotations

import csv
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from eco_ray.errors import UsageError
from eco_ray.sim.paper_workloads import lets_wait_awhile_ml, nightly
from eco_ray.sim.workload import Workload

SLOT_S = 1800
DAY_S = 86_400
REFERENCE = Path(__file__).resolve().parents[3] / "shared/reference/lets_wait_awhile_jobs.csv"


def in_slots(workload: Workload) -> list[tuple[str, int, int]]:
    starts, lengths = workload.arrival_s // SLOT_S, workload.length_s // SLOT_S
    return [(name, int(at), int(of)) for name, at, of in zip(workload.ids, starts, lengths, strict=True)]


def test_the_first_jobs_of_seed_0() -> None:
    # 2020-01-01 was a Wednesday: 09:30 (slot 19), 10:30, 11:30 twice, 12:00; lengths 53, 50.5, 34.5, 15 and 22.5 hours
    expected = [("0", 19, 106), ("1", 21, 101), ("2", 23, 69), ("3", 23, 30), ("4", 24, 45)]
    assert in_slots(lets_wait_awhile_ml())[:5] == expected


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no reference: {REFERENCE} is not there")
def test_seed_0_gives_the_jobs_that_the_papers_code_ran() -> None:
    with REFERENCE.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    expected = [(row["id"], int(row["arrival_slot"]), int(row["duration_slots"])) for row in rows]
    assert in_slots(lets_wait_awhile_ml()) == expected


def test_a_seed_decides_the_jobs() -> None:
    assert in_slots(lets_wait_awhile_ml(seed=3)) == in_slots(lets_wait_awhile_ml(seed=3))
    assert in_slots(lets_wait_awhile_ml(seed=3)) != in_slots(lets_wait_awhile_ml(seed=4))


@pytest.mark.parametrize("year", [2020, 2021])
def test_trainings_start_in_working_hours(year: int) -> None:
    made = lets_wait_awhile_ml(seed=1, jobs=500, year=year)
    assert len(made) == 500
    assert np.all(np.diff(made.arrival_s) >= 0)
    days = {date(year, 1, 1) + timedelta(days=int(day)) for day in made.arrival_s // DAY_S}
    assert {day.year for day in days} == {year}
    assert {day.weekday() for day in days} == {0, 1, 2, 3, 4}
    of_day_s = made.arrival_s % DAY_S
    assert (of_day_s.min(), of_day_s.max()) == (9 * 3600, 16.5 * 3600)
    assert made.length_s.min() >= 4 * 3600
    assert made.length_s.max() <= 89.5 * 3600
    assert np.all(made.length_s % SLOT_S == 0)


def test_the_policies_know_the_lengths_and_the_wait() -> None:
    made = lets_wait_awhile_ml(jobs=20, max_wait_s=7200)
    assert np.array_equal(made.expected_s, made.length_s)
    assert set(made.max_wait_s) == {7200}
    assert (set(made.cpus), set(made.gpus), set(made.max_workers), set(made.zones)) == ({1.0}, {0.0}, {1}, {()})
    assert set(lets_wait_awhile_ml(jobs=20).max_wait_s) == {DAY_S}


def test_a_coarser_resolution_floors_arrivals_and_lengths() -> None:
    fine, coarse = lets_wait_awhile_ml(jobs=50), lets_wait_awhile_ml(jobs=50, resolution_s=3600)
    assert np.array_equal(coarse.arrival_s, fine.arrival_s // 3600 * 3600)
    assert np.array_equal(coarse.length_s, fine.length_s // 3600 * 3600)
    assert set(nightly(resolution_s=3600).length_s) == {3600}


def test_every_night_at_one_half_an_hour() -> None:
    made = nightly()
    assert len(made) == 365
    assert in_slots(made)[:2] == [("0", 2, 1), ("1", 50, 1)]
    assert made.arrival_s[-1] == 364 * DAY_S + 3600
    assert np.array_equal(made.expected_s, made.length_s)


def test_more_nights_than_the_year_has_are_refused() -> None:
    assert len(nightly(days=366)) == 366
    with pytest.raises(UsageError, match="366 nightly jobs, but 2021 has 365 nights"):
        nightly(2021, days=366)
