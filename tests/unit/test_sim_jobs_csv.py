"""Jobs of a simulation from CSV: what is read, what is floored, and what each fault says."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from eco_ray import csv_file
from eco_ray.core.jobs import Workers
from eco_ray.errors import UsageError
from eco_ray.sim import jobs_csv
from eco_ray.sim.jobs_csv import read_jobs

SHARED = Path(__file__).parents[3] / "shared/data/jobs"
HEAD = "job_id,arrival_s,duration_s,cpus"
HOUR = 3600


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def jobs(tmp_path):
    """Read the lines as a file of jobs, 5-second ticks, a day long."""

    def read(*lines, **options):
        defaults = {"resolution_s": 5, "zones": ["DE", "FR", "AU-SA"], "span_s": 24 * HOUR}
        return read_jobs(write(tmp_path / "jobs.csv", *lines), **(defaults | options))

    return read


# --- reading


def test_only_three_columns_are_needed(jobs):
    read = jobs("arrival_s,duration_s,cpus", "0,60,1", "10,7200,2.5")
    assert len(read) == 2
    assert list(read.ids) == ["0", "1"]
    assert read.arrival_s.tolist() == [0, 10]
    assert read.length_s.tolist() == read.expected_s.tolist() == [60, 7200]
    assert read.cpus.tolist() == [1, 2.5]
    assert read.gpus.tolist() == [0, 0]
    assert read.max_workers.tolist() == [1, 1]
    assert read.max_wait_s.tolist() == [6 * HOUR, 24 * HOUR]
    assert list(read.zones) == [(), ()]
    assert all(a.dtype == np.int64 for a in (read.arrival_s, read.length_s, read.expected_s, read.max_wait_s))


def test_every_column_in_any_order_with_empty_cells(jobs):
    read = jobs(
        "zones , cpus,job_id,max_workers,duration_s,gpus,arrival_s,expected_duration_s,max_delay_s,deadline_s",
        "FR DE,4,train,8,600,2,100,300,60,",
        ",1,,,600,,100,,,",
        "AU-SA;DE|DE,1,b,, 600 ,0.5,100.0,, ,900",
        knows_duration="no",
    )
    assert list(read.ids) == ["train", "1", "b"]
    assert read.gpus.tolist() == [2, 0, 0.5]
    assert read.max_workers.tolist() == [8, 1, 1]
    assert read.expected_s.tolist() == [300, 0, 0]
    assert read.max_wait_s.tolist() == [60, 6 * HOUR, 200]
    assert list(read.zones) == [(0, 1), (), (0, 2)]


def test_elastic_jobs(jobs):
    read = jobs(
        f"{HEAD},min_workers,max_workers,throughput",
        "a,0,60,1,,3,310;589;850",
        "b,1,60,1,2,,",
        "c,2,60,1,2,4,1 | 1.5|1.5",
        "d,3,60,1,,,7",
        "e,4,60,1,,2,",
    )
    assert read.workers == [
        Workers(1, 3, (1.0, 1.9, pytest.approx(2.741935))),
        Workers(2, 2),
        Workers(2, 4, (1.0, 1.5, 1.5)),
        Workers(),
        Workers(1, 2),
    ]
    assert read.max_workers.tolist() == [3, 2, 4, 1, 2]
    assert read.least_workers.tolist() == [1, 2, 2, 1, 1]
    assert [read.workers_of(job) for job in range(5)] == read.workers


def test_without_a_table_workers_are_no_list(jobs):
    """A year of 100,000 jobs does not need one object for each of them."""
    read = jobs(f"{HEAD},max_workers", "a,0,60,1,4", "b,1,60,1,")
    assert read.workers is None
    assert [read.workers_of(job) for job in range(2)] == [Workers(1, 4), Workers()]


def test_the_least_workers_have_to_fit(jobs):
    head = f"{HEAD},min_workers"
    assert len(jobs(head, "a,0,60,3,2", capacity_cpus=6.0, machines=[(0, 6.0, 0.0)])) == 1
    with pytest.raises(UsageError, match=r"line 2: cpus is '3'; a zone has 5, so that the job can never run"):
        jobs(head, "a,0,60,3,2", capacity_cpus=5.0)
    with pytest.raises(UsageError, match=r"line 2: cpus is '3'; with 0 GPUs it fits on no node"):
        jobs(head, "a,0,60,3,2", machines=[(0, 5.0, 0.0)])


def test_gaias_own_columns_and_a_gzipped_file(tmp_path):
    path = tmp_path / "jobs.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfarrival_time,length,cpus\r\n\r\n0.0,6302.0,1\r\n68.0,1000.0,1\r\n"))
    read = read_jobs(path, resolution_s=5, zones=["DE"], span_s=HOUR)
    assert read.arrival_s.tolist() == [0, 65]
    assert read.length_s.tolist() == [6300, 1000]


def test_times_are_floored_and_a_length_is_at_least_one_tick(jobs):
    read = jobs(HEAD, "a,4.999,0.5,1", "b,5,5,1", "c,9.9,14.99,1", "d,60,61,1")
    assert read.arrival_s.tolist() == [0, 5, 5, 60]
    assert read.length_s.tolist() == [5, 5, 10, 60]


def test_times_in_hours_lose_no_tick_to_rounding(jobs):
    seconds = [115, 119, 123, 229, 230, 7200]
    assert any(int(s / HOUR * HOUR) != s for s in seconds)  # what plain arithmetic makes of it
    read = jobs(
        "arrival_s,duration_s,cpus,max_delay_s,deadline_s,expected_duration_s",
        *(f"{s / HOUR!r},{s / HOUR!r},1,{s / HOUR!r},,{s / HOUR!r}" for s in seconds),
        *(f"{s / HOUR!r},{s / HOUR!r},1,,{3 * s / HOUR!r}," for s in seconds),
        resolution_s=1,
        time_unit_s=3600.0,
        knows_duration="no",
    )
    twice = sorted(seconds * 2)
    assert read.arrival_s.tolist() == read.length_s.tolist() == read.max_wait_s.tolist() == twice
    assert [s for s in read.expected_s.tolist() if s] == seconds


def test_jobs_come_in_order_of_arrival_under_the_names_of_their_rows(jobs):
    read = jobs("arrival_s,duration_s,cpus,zones", "50,5,1,DE", "0,5,2,FR", "50,5,3,", "49,5,4,")
    assert list(read.ids) == ["1", "3", "0", "2"]
    assert read.arrival_s.tolist() == [0, 45, 50, 50]
    assert read.cpus.tolist() == [2, 4, 1, 3]
    assert list(read.zones) == [(1,), (), (0,), ()]
    many = jobs("arrival_s,duration_s,cpus", *(f"{row % 2},5,1" for row in range(100)))
    assert list(many.ids) == [*map(str, range(0, 100, 2)), *map(str, range(1, 100, 2))]


# --- how long a job may wait


@pytest.mark.parametrize(
    ("arrival", "length", "delay", "deadline", "wait"),
    [
        (0, 7199, "", "", 6 * HOUR),
        (0, 7200, "", "", 24 * HOUR),
        (0, 7204, "", "", 24 * HOUR),
        (0, 60, "0", "", 0),
        (0, 60, "99", "", 95),
        (100, 60, "", "160", 0),
        (100, 60, "", "1164", 1000),
        (100, 60, "500", "1160", 500),
        (100, 60, "5000", "1160", 1000),
        (100, 60, "1e300", "1e300", 2**50 // 5 * 5 - 160),
        (3, 97, "", "100", 5),  # 0 + 95 in ticks
        (3, 97, "", "99", 0),  # a second late, but not in ticks
        (0.1, 0.2, "", "0.3", 0),  # 0.1 + 0.2 is a little more than 0.3
        (3, 1, "", "4", 0),  # feasible, but its length is rounded up to a tick
    ],
)
def test_a_job_may_wait_for_the_smaller_of_delay_and_deadline_else_as_its_queue(
    jobs, arrival, length, delay, deadline, wait
):
    read = jobs(f"{HEAD},max_delay_s,deadline_s", f"a,{arrival},{length},1,{delay},{deadline}")
    assert read.max_wait_s.tolist() == [wait]


def test_queues_are_the_callers(jobs):
    read = jobs(
        HEAD, "a,0,50,1", "b,0,100,1", short_max_s=100, max_delay_short_s=12, max_delay_long_s=20, resolution_s=10
    )
    assert read.max_wait_s.tolist() == [10, 20]


# --- what is known of the length


def test_mean_is_gaias_a_length_of_exactly_the_limit_is_in_both(jobs):
    rows = [HEAD, "a,0,101,1", "b,0,201,1", "c,0,7200,1", "d,0,9000,1"]
    read = jobs(*rows, knows_duration="mean")
    short, long = (101 + 201 + 7200) / 3, (7200 + 9000) / 2
    assert read.expected_s.tolist() == [int(short / 5) * 5] * 2 + [int(long / 5) * 5] * 2


def test_a_mean_is_at_least_a_tick_and_exists_for_every_job(jobs):
    assert jobs(HEAD, "a,0,1,1", knows_duration="mean").expected_s.tolist() == [5]
    # one tick is longer than the limit, so the job is long and no length reaches the limit
    read = jobs(HEAD, "a,0,30,1", knows_duration="mean", resolution_s=60, short_max_s=50)
    assert read.expected_s.tolist() == [60]


@pytest.mark.parametrize(("knows", "expected"), [("yes", [600, 300, 300]), ("mean", [50, 400, 5]), ("no", [50, 0, 5])])
def test_an_expected_duration_counts_where_the_length_is_not_known(jobs, knows, expected):
    read = jobs(f"{HEAD},expected_duration_s", "a,0,600,1,52", "b,0,300,1,", "c,0,300,1,2", knows_duration=knows)
    assert read.expected_s.tolist() == expected


# --- rows after the end


def test_rows_after_the_end_are_kept_but_only_their_arrival_is_checked(jobs):
    late = 24 * HOUR
    read = jobs(
        "arrival_s,duration_s,cpus,gpus,max_workers,zones,deadline_s,max_delay_s,job_id,expected_duration_s",
        "0,60,1,,,,,,a,",
        f"{late},-1,999,-3,1.5,MOON,5,x,a,nan",
        f"{late + 3},600,-2,inf,0,,,-1,,",
        f"{late + 9}",
        "1e300,nan,word,,,,,,,,,,,",
        knows_duration="mean",
        capacity_cpus=49,
    )
    assert list(read.ids) == ["a", "a", "2", "3", "4"]
    assert (read.arrival_s[1:] >= late).all()
    assert read.length_s.tolist() == [60, 5, 600, 5, 5]
    assert read.cpus.tolist() == [1, 999, 1, 1, 1]
    assert read.gpus.tolist() == [0, 0, 0, 0, 0]
    assert read.max_workers.tolist() == [1] * 5
    assert (read.max_wait_s >= 0).all()
    assert (read.expected_s == (60 + 600) / 2).all()
    assert list(read.zones) == [()] * 5


# --- faults

C = "arrival_s,duration_s,cpus"
BAD = {
    "unknown column": ([f"{C},gpu", "0,1,1,1"], r"line 1: unknown column 'gpu'; did you mean 'gpus'\?.*; .*rename or"),
    "misspelt column": (["arival_s,duration_s,cpus", "0,1,1"], r"line 1: unknown column 'arival_s'.*'arrival_s'"),
    "unnamed column": ([f",{C}", "0,0,1,1"], r"line 1: unknown column ''.*; .*remove"),
    "semicolons": ([C.replace(",", ";"), "0;1;1"], r"line 1: unknown column 'arrival_s;duration_s;cpus'.*by commas"),
    "missing column": (["arrival_s,cpus", "0,1"], r"line 1: no column duration_s in arrival_s,cpus; .* needed; add it"),
    "column twice": (
        ["arrival_s,arrival_time,length,cpus", "0,0,1,1"],
        r"line 1: column arrival_time repeats arrival_s; each may be there once; remove",
    ),
    "empty file": ([], r"line 1: no job; a header and one row are needed; write arrival_s,duration_s,cpus and"),
    "no row": ([C], r"line 1: no job; "),
    "short row": ([C, "0,1,1", "0,1"], r"line 3: 2 cells; the header has 3; add or remove"),
    "long row": ([C, "0,1,1,4"], r"line 2: 4 cells; the header has 3; add or remove"),
    "empty arrival": ([C, ",1,1"], r"line 2: arrival_s is empty; 0 or more is needed; count it from the start"),
    "arrival no number": ([C, "0,1,1", "noon,1,1"], r"line 3: arrival_s is 'noon'; 0 or more"),
    "arrival NaN": ([C, "nan,1,1"], r"line 2: arrival_s is 'nan'; 0 or more"),
    "arrival infinite": ([C, "inf,1,1"], r"line 2: arrival_s is 'inf'; 0 or more"),
    "arrival negative": (["arrival_time,length,cpus", "-1,1,1"], r"line 2: arrival_time is '-1'; 0 or more"),
    "duration empty": (
        [C, "0,,1"],
        r"line 2: duration_s is empty; more than 0 s and at most 316224000 s is .*; correct",
    ),
    "duration zero": ([C, "0,0,1"], r"line 2: duration_s is '0'; more than 0 s"),
    "duration negative": ([C, "0,-60,1"], r"line 2: duration_s is '-60'; more than 0 s"),
    "duration NaN": ([C, "0,NaN,1"], r"line 2: duration_s is 'NaN'; more than 0 s"),
    "duration infinite": ([C, "0,inf,1"], r"line 2: duration_s is 'inf'; "),
    "duration too long": ([C, "0,1e9,1"], r"line 2: duration_s is '1e9'; .* at most 316224000 s .*unit of the file"),
    "no cpus": ([C, "0,1,0"], r"line 2: cpus is '0'; more than 0 is needed; correct"),
    "cpus NaN": ([C, "0,1,nan"], r"line 2: cpus is 'nan'; more than 0"),
    "cpus infinite": ([C, "0,1,inf"], r"line 2: cpus is 'inf'; more than 0"),
    "more cpus than there are": (
        [C, "0,1,49", "0,1,50"],
        r"line 3: cpus is '50'; a zone has 49, .*; give the job fewer",
    ),
    "gpus negative": ([f"{C},gpus", "0,1,1,-1"], r"line 2: gpus is '-1'; 0 or more is needed; correct it or leave"),
    "gpus NaN": ([f"{C},gpus", "0,1,1,nan"], r"line 2: gpus is 'nan'; 0 or more"),
    "gpus a word": ([f"{C},gpus", "0,1,1,two"], r"line 2: gpus is 'two'; 0 or more"),
    "no workers": ([f"{C},max_workers", "0,1,1,0"], r"line 2: max_workers is '0'; 1 to 100000, whole, .*; correct"),
    "half a worker": ([f"{C},max_workers", "0,1,1,1.5"], r"line 2: max_workers is '1.5'; 1 to 100000, whole"),
    "many workers": ([f"{C},max_workers", "0,1,1,1e300"], r"line 2: max_workers is '1e300'; 1 to 100000"),
    "less than the least workers": (
        [f"{C},min_workers,max_workers", "0,1,1,4,2"],
        r"line 2: max_workers is '2'; min_workers is 4; lower that, or raise this",
    ),
    "no least workers": ([f"{C},min_workers", "0,1,1,0"], r"line 2: min_workers is '0'; 1 to 100000, whole, .*; corr"),
    "throughput of one": (
        [f"{C},max_workers,throughput", "0,1,1,3,1;2"],
        r"line 2: throughput is '1;2'; 3 numbers above 0 that do not fall are needed, one for each .*; correct it or",
    ),
    "throughput that falls": (
        [f"{C},max_workers,throughput", "0,1,1,3,1;2;1.9"],
        r"line 2: throughput is '1;2;1.9'; 3 numbers above 0 that do not fall",
    ),
    "throughput of nothing": ([f"{C},max_workers,throughput", "0,1,1,2,0;1"], r"line 2: throughput is '0;1'; 2 num"),
    "throughput NaN": ([f"{C},max_workers,throughput", "0,1,1,2,1;nan"], r"line 2: throughput is '1;nan'; 2 num"),
    "throughput too long": ([f"{C},throughput", "0,1,1,1;2"], r"line 2: throughput is '1;2'; 1 numbers? above 0"),
    "unknown zone": (
        [f"{C},zones", "0,1,1,DE", "0,1,1,DE AU-S"],
        r"line 3: unknown zone 'AU-S'; did you mean 'AU-SA'\? Allowed: DE, FR, AU-SA; correct it or simulate",
    ),
    "delay negative": ([f"{C},max_delay_s", "0,1,1,-1"], r"line 2: max_delay_s is '-1'; 0 or more is needed; correct"),
    "delay infinite": ([f"{C},max_delay_s", "0,1,1,inf"], r"line 2: max_delay_s is 'inf'; 0 or more"),
    "expected nothing": (
        [f"{C},expected_duration_s", "0,1,1,0"],
        r"line 2: expected_duration_s is '0'; more than 0 s and at most",
    ),
    "deadline NaN": (
        [f"{C},deadline_s", "0,1,1,nan"],
        r"line 2: deadline_s is 'nan'; a number is needed; correct it or",
    ),
    "impossible deadline": (
        [f"{C},deadline_s", "10,60,1,", "10,60,1,64"],
        r"line 3: deadline_s is '64'; at the earliest it ends at 70 s, after its 60 s; give a later deadline",
    ),
    "impossible deadline, whatever the delay": (
        [f"{C},deadline_s,max_delay_s", "10,60,1,-5,900"],
        r"line 2: deadline_s is '-5'; at the earliest",
    ),
    "id twice": (
        [HEAD, "a,0,1,1", "b,0,1,1", "a,9,1,1"],
        r"line 4: job_id is 'a'; line 2 is called 'a', too; give each job its own",
    ),
    "id like a row": ([HEAD, "1,0,1,1", ",0,1,1"], r"line 3: job_id is empty; line 2 is called '1', too"),
    "after blank lines": (["", C, "", "0,1,1", "", "0,0,1"], r"line 6: duration_s is '0'"),
    "open quote": ([C, '0,"1,1'], r"line \d: .*; save the file as plain comma-separated text"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_refused_with_file_line_value_limit_and_cure(jobs, fault):
    lines, message = BAD[fault]
    with pytest.raises(UsageError, match=rf"jobs\.csv, {message}"):
        jobs(*lines, capacity_cpus=49.0)


def test_a_long_cell_is_cut_in_the_message(jobs):
    with pytest.raises(UsageError) as caught:
        jobs(C, f"0,{'9' * 5000}x,1")
    assert len(str(caught.value)) < 400


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    def read(path):
        return read_jobs(path, resolution_s=5, zones=["DE"], span_s=HOUR)

    with pytest.raises(UsageError, match=r"none\.csv: cannot be read \(No such file or directory\); give the path"):
        read(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)"):
        read(tmp_path)
    (tmp_path / "latin.csv").write_bytes(b"t\xe9\n")
    with pytest.raises(UsageError, match=r"latin\.csv: byte 1 is not UTF-8; save the file"):
        read(tmp_path / "latin.csv")
    whole = gzip.compress(b"arrival_s,duration_s,cpus\n0,1,1\n")
    for name, data in {
        "half": whole[:-12],
        "plain": b"arrival_s,duration_s,cpus\n",
        "bad": whole[:20] + bytes(30),
    }.items():
        (tmp_path / f"{name}.csv.gz").write_bytes(data)
        with pytest.raises(UsageError, match=rf"{name}\.csv\.gz: is not a whole gzip file \(.+\); copy it again"):
            read(tmp_path / f"{name}.csv.gz")


def test_too_large_a_file_is_refused_also_once_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "MAX_BYTES", 1000)
    bomb = tmp_path / "bomb.csv.gz"
    bomb.write_bytes(gzip.compress(b"\n" * 100_000))
    assert bomb.stat().st_size < 1000
    large = write(tmp_path / "large.csv", "x" * 1000)
    limits = {bomb: "more than 1000 bytes once unpacked, which is the limit", large: "1001 bytes; the limit is 1000"}
    for path, limit in limits.items():
        with pytest.raises(UsageError, match=rf"line 1: {limit}; split the file"):
            read_jobs(path, resolution_s=5, zones=["DE"], span_s=HOUR)


def test_too_many_jobs_are_refused(jobs, monkeypatch):
    monkeypatch.setattr(jobs_csv, "MAX_JOBS", 2)
    assert len(jobs(C, "0,1,1", "0,1,1")) == 2
    with pytest.raises(UsageError, match=r"line 4: one more job; the limit is 2; split the file"):
        jobs(C, "0,1,1", "0,1,1", "0,1,1", "0,1,1")


# --- the files that the figures of ../shared were made with, where they are there


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not on this machine")
def test_gaias_means_are_gaias():
    read = read_jobs(
        SHARED / "gaia_pai_1k.csv", resolution_s=5, zones=["AU-SA"], span_s=720 * HOUR, knows_duration="mean"
    )
    assert len(read) == 1000
    short = read.length_s < 7200
    assert set(read.expected_s[short] // 5) == {454}
    assert set(read.expected_s[~short] // 5) == {5221}
    assert (read.max_wait_s == np.where(short, 21_600, 86_400)).all()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not on this machine")
def test_a_year_of_100_000_jobs_in_hours_is_read():
    read = read_jobs(
        SHARED / "gaia_pai-100k.csv.gz", resolution_s=5, zones=["DE"], span_s=8760 * HOUR, time_unit_s=3600.0
    )
    assert len(read) == 99_998
    assert read.arrival_s[1] == 2075  # 0.5769444444444503 h: 2077 s
