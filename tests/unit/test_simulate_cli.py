"""`eco-ray simulate` on tiny files: what it prints and writes, and what it says about files that are wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from eco_ray.cli.main import cli
from eco_ray.core.replica_counts import ReplicaLoad, Scaling, next_replicas
from eco_ray.core.scaling_log import ScalingRecord
from eco_ray.errors import EcoRayError
from eco_ray.sim.simulate import POLICIES

START = datetime(2020, 6, 1, tzinfo=UTC)  # a Monday
KEYS = [
    "policy",
    "jobs",
    "truncated",
    "carbon_g",
    "baseline_carbon_g",
    "saved_pct",
    "mean_delay_h",
    "p95_delay_h",
    "peak_cpus",
    "missed_deadlines",
    "resumes",
    "plan_changes_per_job",
    "cpu_s",
    "decisions_per_s",
    "nature",
    "source",
]
#: g/kWh by the hour: DE is cleanest from 5 to 7, FR from 2 to 3
DE = [300, 280, 260, 220, 150, 90, 80, 120, 200, 250, 300, 320]
FR = [60, 55, 20, 50, 60, 62, 64, 66, 68, 70, 72, 74]
JOBS = ["job_id,arrival_s,duration_s,cpus", "train,0,7200,2", "tune,5400,3600,1"]


def csv_rows(columns, start=START, step_h=1):
    """Lines of a trace: time and one column per zone."""
    lines = [",".join(["time", *columns])]
    for hour, values in enumerate(zip(*columns.values(), strict=True)):
        time = (start + timedelta(hours=hour * step_h)).strftime("%Y-%m-%dT%H:%MZ")
        lines.append(",".join([time, *map(str, values)]))
    return lines


@pytest.fixture
def files(tmp_path, monkeypatch):
    """An empty folder to be in; `write` puts lines into a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("ECO_RAY_OUTPUT", "ECO_RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def write(name, lines):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    write("jobs.csv", JOBS)
    write("ci.csv", csv_rows({"DE": DE, "FR": FR}))
    return write


DEFAULTS = {"jobs": "jobs.csv", "intensity": "ci.csv", "zones": "DE", "policy": "lowest-window"}


def command(*more, **options):
    """Arguments of `eco-ray simulate`; an option that is None is left out."""
    given = {**DEFAULTS, **options}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
    return ["simulate", *more, *words]


def run(*more, **options):
    return CliRunner().invoke(cli, [*command(*more, **options), "-o", "json"])


def figures(*more, **options):
    result = run(*more, **options)
    assert result.exception is None, repr(result.exception)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def refused(*more, **options):
    """The message of the error with which it ends; `eco_ray.cli.options.run` prints it and exits with its code."""
    result = run(*more, **options)
    assert isinstance(result.exception, EcoRayError), result.exception
    assert result.exception.exit_code == 2
    assert result.stdout == ""
    return str(result.exception)


def same(one, two):
    """Whether two results are the same but for the time that they took."""
    return {**one, "cpu_s": 0, "decisions_per_s": 0} == {**two, "cpu_s": 0, "decisions_per_s": 0}


# -- what it prints --------------------------------------------------------------------------------------------------


def test_the_keys_of_the_contract_and_the_figures_by_hand(files):
    found = figures()
    assert list(found) == KEYS
    # train: 90 + 80 from 5 to 7 instead of 300 + 280; tune, which may start at 1:30, 2:30, ...: 0.5 * (90 + 80) from
    # 5:30 on instead of 0.5 * (280 + 260)
    assert found["carbon_g"] == pytest.approx((2 * 170 + 85) / 1000)
    assert found["baseline_carbon_g"] == pytest.approx((2 * 580 + 270) / 1000)
    assert found["saved_pct"] == pytest.approx(100 * (1 - 425 / 1430))
    # 5 h and 4 h
    assert found["mean_delay_h"] == pytest.approx(4.5)
    assert found["p95_delay_h"] == pytest.approx(4 + 0.95)
    assert found["peak_cpus"] == 3
    assert {key: found[key] for key in ("policy", "jobs", "truncated", "missed_deadlines", "resumes", "nature")} == {
        "policy": "lowest-window",
        "jobs": 2,
        "truncated": 0,
        "missed_deadlines": 0,
        "resumes": 0,
        "nature": "assumed",
    }
    assert found["source"] == "ci.csv x 1 W per CPU"
    assert found["plan_changes_per_job"] == 0
    assert found["cpu_s"] > 0
    assert found["decisions_per_s"] > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_says_the_same_twice(files, policy):
    first, second = figures(policy=policy), figures(policy=policy)
    assert list(first) == KEYS
    assert same(first, second)
    assert (first["policy"], first["jobs"], first["truncated"]) == (policy, 2, 0)
    assert first["carbon_g"] <= first["baseline_carbon_g"]
    if policy == "bound":
        assert [key for key, value in first.items() if value is None] == [
            "mean_delay_h",
            "p95_delay_h",
            "missed_deadlines",
            "resumes",
            "plan_changes_per_job",
        ]


def test_no_policy_emits_less_than_the_bound(files):
    carbon_g = {policy: figures(policy=policy, zones="DE,FR")["carbon_g"] for policy in POLICIES}
    assert min(carbon_g.values()) >= carbon_g["bound"] - 1e-12


def test_the_schedule(files, tmp_path):
    first, second = tmp_path / "one.csv", tmp_path / "two.csv"
    for path in (first, second):
        figures(policy="wait-awhile", schedule=path)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().decode() == (
        "job_id,segment,zone,start,end,workers\n"
        "train,0,DE,2020-06-01T05:00:00Z,2020-06-01T07:00:00Z,1\n"
        "tune,0,DE,2020-06-01T06:00:00Z,2020-06-01T07:00:00Z,1\n"
    )


def test_a_full_disk_is_told_and_the_old_schedule_stays(files, tmp_path):
    assert "No space left on device" in refused(schedule="/dev/full")
    old = tmp_path / "s.csv"
    old.write_text("old\n")
    # a limit on the size of files stands for a disk that fills up while the file is written
    words = [str(sys.executable), "-m", "eco_ray.cli.main", *command(schedule=old)]
    small = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20)); "
        "os.environ['PYTHONDONTWRITEBYTECODE'] = '1'; os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", small, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be written (File too large); give another --schedule" in done.stderr
    assert old.read_text() == "old\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ci.csv", "jobs.csv", "s.csv"]


def test_segments_zones_and_workers_in_the_schedule(files, tmp_path):
    files(
        "jobs.csv",
        ["job_id,arrival_s,duration_s,cpus,max_workers,zones", '"a, b",0,10800,1,2,FR', "c,0,7200,1,,DE FR"],
    )
    figures(policy="carbon-scaler", zones="DE,FR", schedule=tmp_path / "s.csv", max_delay_long="4h")
    assert (tmp_path / "s.csv").read_text().splitlines()[1:] == [
        # 3 h of work: two workers at 20, the rest at 50
        '"a, b",0,FR,2020-06-01T02:00:00Z,2020-06-01T03:00:00Z,2',
        '"a, b",1,FR,2020-06-01T03:00:00Z,2020-06-01T04:00:00Z,1',
        "c,0,FR,2020-06-01T02:00:00Z,2020-06-01T04:00:00Z,1",
    ]


def test_times_of_the_schedule_are_whole_seconds(files, tmp_path):
    """4000 s of work: two workers take 2000 s of the hour at 80, three would take 1333.3 s."""
    files("jobs.csv", ["arrival_s,duration_s,cpus,max_workers", "0,4000,1,3", "0,10000,1,3"])
    figures(policy="carbon-scaler", schedule=tmp_path / "s.csv", resolution="1s", max_delay_long="12h")
    assert [line.split(",")[3:] for line in (tmp_path / "s.csv").read_text().splitlines()[1:]] == [
        ["2020-06-01T06:00:00Z", "2020-06-01T06:33:20Z", "2"],
        ["2020-06-01T06:00:00Z", "2020-06-01T06:55:33Z", "3"],
    ]


def test_with_a_capacity_nothing_overlaps(files, tmp_path):
    found = figures(policy="run-now", capacity_cpus=2, schedule=tmp_path / "s.csv")
    assert found["peak_cpus"] == 2
    assert [line.split(",")[3:5] for line in (tmp_path / "s.csv").read_text().splitlines()[1:]] == [
        ["2020-06-01T00:00:00Z", "2020-06-01T02:00:00Z"],
        ["2020-06-01T02:00:00Z", "2020-06-01T03:00:00Z"],
    ]
    assert found["mean_delay_h"] == pytest.approx(0.25)


def test_the_window_ends_at_the_earlier_of_hours_and_the_file(files):
    # train ends at 2:00, tune at 2:30
    assert figures(policy="run-now", hours=2)["truncated"] == 1
    assert figures(policy="run-now", hours=1.9)["truncated"] == 2
    assert figures(policy="run-now", hours=2.5)["truncated"] == 0
    assert figures(policy="run-now", hours=9999)["truncated"] == 0
    # of 12 hours, 3 are left
    late = figures(policy="run-now", hours=9999, start="2020-06-01T09:00Z")
    assert (late["truncated"], late["carbon_g"]) == (0, pytest.approx((2 * 550 + 0.5 * (300 + 320)) / 1000))


def test_rows_that_are_not_needed_are_not_checked(files):
    broken = csv_rows({"DE": DE, "FR": FR})
    broken[9:] = ["2020-06-01T08:00Z,nan,x"]
    files("ci.csv", broken)
    assert figures(start="2020-06-01T00:00Z", hours=8)["truncated"] == 0
    assert "line 10: column DE is nan" in refused()


def test_a_zone_may_be_another_column(files, tmp_path):
    files("ci.csv", csv_rows({"direct": DE, "FR": FR}))
    aliased = figures(zones="DE=direct", schedule=tmp_path / "s.csv")
    assert ",DE," in (tmp_path / "s.csv").read_text()
    files("ci.csv", csv_rows({"DE": DE, "FR": FR}))
    assert same(aliased, figures())


def test_the_first_zone_is_home(files):
    at_home, away = figures(policy="run-now", zones="DE,FR"), figures(policy="run-now", zones="FR,DE")
    assert at_home["carbon_g"] == at_home["baseline_carbon_g"] == pytest.approx(1.43)
    assert away["carbon_g"] == pytest.approx((2 * 115 + 0.5 * 75) / 1000)
    assert figures(zones="DE,FR")["carbon_g"] == pytest.approx((2 * 70 + 0.5 * (20 + 50)) / 1000)


def test_watts_times_the_unit_of_times(files):
    files("hours.csv", ["arrival_s,duration_s,cpus", "0,2,2", "1.5,1,1"])
    one = figures(jobs="hours.csv", time_unit="h", watts_per_cpu=10)
    assert one["carbon_g"] == pytest.approx(4.25)


# -- forecasts -------------------------------------------------------------------------------------------------------


def forecast_file(files, name="forecast.csv"):
    """Issued at midnight and 2:00: both take 3:00 for the cleanest hour."""
    values = [9, 8, 7, 1, 5, 6, 7, 8, 9, 9, 9, 9]
    later = [*values[2:], 9, 9]
    heading = ",".join(["issue_utc", *(f"h{hour}" for hour in range(12))])
    rows = [f"2020-06-01T00:00,{','.join(map(str, values))}", f"2020-06-01T02:00,{','.join(map(str, later))}"]
    return files(name, [heading, *rows])


def test_a_forecast_chooses_and_the_truth_pays(files):
    files("jobs.csv", ["arrival_s,duration_s,cpus", "0,3600,1", "7200,3600,1"])
    forecast_file(files)
    found = figures(forecast="forecast.csv", max_delay_short="6h")
    assert found["carbon_g"] == pytest.approx(2 * 0.220)  # both from 3 to 4
    assert same(found, figures(forecast="DE=forecast.csv", max_delay_short="6h"))
    assert figures(max_delay_short="6h")["carbon_g"] == pytest.approx(2 * 0.080)  # as the oracle knows


@pytest.mark.parametrize("forecast", ["oracle", "profile", "persistence", "week-mean"])
def test_looking_ahead_without_a_file(files, forecast):
    files("ci.csv", csv_rows({"DE": DE * 8, "FR": FR * 8}))
    found = figures(forecast=forecast, start="2020-06-03T00:00Z")
    assert found["truncated"] == 0
    if forecast != "profile":  # every day of the file is the same half day, twice
        assert found["carbon_g"] == pytest.approx(0.425)


def test_a_zone_each(files):
    forecast_file(files, "de.csv")
    both = ["--forecast", "DE=de.csv", "--forecast", "FR=oracle"]
    assert figures(*both, zones="DE,FR")["truncated"] == 0
    assert "names a zone twice" in refused("--forecast", "DE=de.csv", "--forecast", "DE=oracle", zones="DE,FR")
    assert "has no file" in refused(forecast="DE=")


def test_one_forecast_file_for_two_zones(files):
    forecast_file(files)
    message = refused(forecast="forecast.csv", zones="DE,FR")
    assert "one file for the zones DE, FR" in message
    assert "say whose it is: ZONE=forecast.csv" in message


def test_a_forecast_for_a_zone_that_is_not_there(files):
    assert "'FR', which is not one of the zones DE" in refused(forecast="FR=oracle")


def test_a_forecast_file_that_is_wrong(files):
    files("forecast.csv", ["issue_utc,h0,h1", "2020-06-01T00:00,5,nan"])
    assert "forecast.csv, line 2: column h1 is nan" in refused(forecast="forecast.csv")
    files("forecast.csv", ["issue_utc,h0,h2", "2020-06-01T00:00,5,6"])
    assert "forecast.csv, line 1: column 3 of the header is 'h2'; h1 is needed" in refused(forecast="forecast.csv")
    assert "missing.csv: cannot be read" in refused(forecast="missing.csv")


# -- scenarios -------------------------------------------------------------------------------------------------------

SCENARIO = ["jobs: jobs.csv", "intensity: ci.csv", "zones: [DE, FR]", "policy: wait-awhile", "max_delay_long: 5h"]
NODES = [
    "nodes:",
    "  - {name: de-1, zone: DE, num_cpus: 4, memory_gb: 8, power: {idle_w: 0, max_w: 4, source: test}}",
    "  - {name: fr-1, zone: FR, num_cpus: 4, memory_gb: 8, power: {idle_w: 0, max_w: 4, source: test}}",
]
WITHOUT = dict.fromkeys(("jobs", "intensity", "zones", "policy"))


def test_a_scenario_gives_the_same_as_its_options(files, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("jobs.csv", "ci.csv"):
        (tmp_path / name).rename(folder / name)
    (folder / "s.yaml").write_text("\n".join(SCENARIO))
    from_file = figures("elsewhere/s.yaml", **WITHOUT)
    options = {"jobs": folder / "jobs.csv", "intensity": folder / "ci.csv", "zones": "DE,FR", "max_delay_long": "5h"}
    assert same(from_file, figures(**{**options, "policy": "wait-awhile"}))
    # options win
    over = figures("elsewhere/s.yaml", **{**WITHOUT, "policy": "run-now", "zones": "FR"})
    assert same(over, figures(**{**options, "policy": "run-now", "zones": "FR"}))


@pytest.mark.parametrize("policy", ["run-now", "lowest-window", "wait-awhile", "eco"])
def test_nodes_that_draw_a_watt_per_cpu_are_a_capacity(files, policy):
    files("s.yaml", [*SCENARIO, *NODES])
    with_nodes = figures("s.yaml", **{**WITHOUT, "policy": policy})
    by_options = figures(policy=policy, zones="DE,FR", max_delay_long="5h", capacity_cpus=4)
    assert (by_options.pop("nature"), with_nodes.pop("nature")) == ("assumed", "modelled")
    assert with_nodes.pop("source").startswith("ci.csv x the power curve of each node (")
    assert by_options.pop("source") == "ci.csv x 1 W per CPU"
    assert same(with_nodes, by_options)


def test_nodes_have_power_curves_and_a_pue(files):
    files(
        "s.yaml",
        [
            *SCENARIO[:2],
            "zones: [DE]",
            "nodes: [{name: n, zone: DE, num_cpus: 4, memory_gb: 8, pue: 1.5, "
            "power: {idle_w: 100, max_w: 300, source: test}}]",
        ],
    )
    found = figures("s.yaml", **{**WITHOUT, "policy": "run-now"})
    # 75 W per CPU, of which 25 are its share of idling, at a PUE of 1.5
    assert found["carbon_g"] == pytest.approx(1.43 * 75 * 1.5)
    assert found["baseline_carbon_g"] == pytest.approx(found["carbon_g"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*SCENARIO, "polciy: eco"], "s.yaml, line 6: polciy: unknown key 'polciy'; did you mean 'policy'?"),
        ([*SCENARIO[:3], "hours: -1"], "s.yaml, line 4: hours: -1"),
        (SCENARIO[1:], "needs jobs (a CSV file) or workload (a name), and not both"),
        ([*SCENARIO, "workload: nightly"], "needs jobs (a CSV file) or workload (a name), and not both"),
        ([*SCENARIO, *NODES[:2]], "no node in zone FR; add one, or leave the zone out"),
        ([*SCENARIO, *NODES, "capacity_cpus: 8"], "the nodes have a capacity; leave capacity_cpus out"),
        ([*SCENARIO, "resume_cost: 1500ms"], "s.yaml, line 6: resume_cost"),
        ([*SCENARIO, "resume_cost: 1.5s"], "resume_cost 1.5 s: whole seconds are needed"),
        ([*SCENARIO, "forecast: {UK: oracle}"], "forecast for 'UK', which is not one of the zones DE, FR"),
        ([*SCENARIO[:2], "zones: []"], "zones"),
    ],
)
def test_a_scenario_that_is_wrong(files, lines, message):
    files("s.yaml", lines)
    assert message in refused("s.yaml", **WITHOUT)


# -- what is wrong ---------------------------------------------------------------------------------------------------


def with_line(number, line, rows):
    """The rows with that line (the header is 1) replaced; None: left out."""
    return [*rows[: number - 1], *([] if line is None else [line]), *rows[number:]]


CI = csv_rows({"DE": DE, "FR": FR})


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (with_line(6, None, CI), ("line 6: a gap: 2020-06-01T05:00:00Z follows 2020-06-01T03:00:00Z", "3600 s", "add")),
        ([*CI[:5], CI[4], *CI[5:]], ("line 6: time 2020-06-01T03:00:00Z is there twice", "must increase", "keep one")),
        ([*CI[:4], CI[5], CI[4], *CI[6:]], ("line 6", "comes after 2020-06-01T04:00:00Z", "sort the file")),
        (with_line(4, "2020-06-01T02:00Z,nan,20", CI), ("line 4: column DE is nan", "0 to 100000", "correct it")),
        (with_line(4, "2020-06-01T02:00Z,-260,20", CI), ("line 4: column DE is -260", "0 to 100000", "correct it")),
        (with_line(4, "2020-06-01T02:00Z,inf,20", CI), ("line 4: column DE is inf", "0 to 100000", "correct it")),
        (with_line(4, "2020-06-01T02:00Z,x,20", CI), ("line 4: column DE is 'x'", "gCO2e/kWh", "correct it")),
        (with_line(4, "2020-06-01T02:00Z,,20", CI), ("line 4: column DE is empty", "line 5", "fill the gap")),
        (with_line(4, "2020-06-01T02:00Z,260", CI), ("line 4: 2 cells", "the header has 3", "add or remove")),
        (with_line(4, "two o'clock,260,20", CI), ('line 4: "two o\'clock" is not a time', "ISO 8601", "write it as")),
        (
            csv_rows({"DE": [value * 20 for value in DE], "FR": FR}),
            ("line 2: column DE has a mean of 4283.33", "3000 is the limit", "g/MWh are divided by 1000"),
        ),
        (CI[:1], ("line 1: no row", "at least one", "add it")),
        ([""], ("line 1: the file is empty", "a header and two rows are needed", "write time,ZONE")),
        (with_line(1, "time,UK,FR", CI), ("line 1: no column 'DE' for zone DE", "UK, FR", "DE=COLUMN")),
    ],
)
def test_an_intensity_file_that_is_wrong(files, lines, told):
    files("ci.csv", lines)
    message = refused(policy="run-now")
    assert message.startswith("ci.csv, ")
    assert [part for part in told if part not in message] == [], message


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (with_line(2, "train,-1,7200,2", JOBS), ("line 2: arrival_s is '-1'", "0 or more is needed", "count it from")),
        (with_line(2, "train,nan,7200,2", JOBS), ("line 2: arrival_s is 'nan'", "0 or more", "count it from")),
        (with_line(3, "tune,0,0,1", JOBS), ("line 3: duration_s is '0'", "more than 0 s", "correct it")),
        (with_line(3, "tune,0,,1", JOBS), ("line 3: duration_s is empty", "more than 0 s", "correct it")),
        (with_line(3, "tune,0,60,0", JOBS), ("line 3: cpus is '0'", "more than 0 is needed", "correct it")),
        (with_line(3, "train,0,60,1", JOBS), ("line 3: job_id is 'train'", "line 2 is called", "give each job its")),
        (with_line(3, "tune,0,60", JOBS), ("line 3: 3 cells", "the header has 4", "add or remove")),
        (with_line(1, "job,arrival_s,duration_s,cpus", JOBS), ("line 1", "'job'", "rename or remove the column")),
        (with_line(1, "job_id,arrival_s,duration_s,gpus", JOBS), ("line 1: no column cpus", "are needed", "add it")),
        (JOBS[:1], ("line 1: no job", "a header and one row are needed", "write ")),
        (
            [f"{JOBS[0]},deadline_s", "train,600,7200,2,7500"],
            ("line 2: deadline_s is '7500'", "at the earliest it ends at 7800 s", "give a later deadline"),
        ),
        (
            [f"{JOBS[0]},zones", "train,0,7200,2,UK"],
            ("line 2: unknown zone 'UK'", "DE", "correct it or simulate that zone"),
        ),
        ([f"{JOBS[0]},max_workers", "train,0,7200,2,0"], ("line 2: max_workers is '0'", "1 to 100000", "correct it")),
        ([f"{JOBS[0]},max_delay_s", "train,0,7200,2,-5"], ("line 2: max_delay_s is '-5'", "0 or more", "correct it")),
    ],
)
def test_a_jobs_file_that_is_wrong(files, lines, told):
    files("jobs.csv", lines)
    message = refused(policy="run-now")
    assert message.startswith("jobs.csv, ")
    assert [part for part in told if part not in message] == [], message


def test_a_job_that_no_zone_has_room_for(files):
    message = refused(policy="run-now", capacity_cpus=1.5)
    assert message.startswith("jobs.csv, line 2: cpus is '2'; a zone has 1.5, so that the job can never run; give")
    files("s.yaml", [*SCENARIO, *(line.replace("num_cpus: 4", "num_cpus: 1") for line in NODES)])
    assert "jobs.csv, line 2: cpus is '2'; with 0 GPUs it fits on no node" in refused("s.yaml", **WITHOUT)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"policy": "greenest"}, ("policy 'greenest' is not known", "run-now, lowest-slot")),
        ({"policy": "bound", "schedule": "s.csv"}, ("--schedule with a bound", "name it with --policy")),
        ({"compare": "eco,bound", "schedule": "s.csv"}, ("--schedule with --compare", "name it with --policy")),
        ({"html": "page.html"}, ("--html page.html: the page compares policies", "--compare P,P,...")),
        ({"schedule": "nowhere/s.csv"}, ("nowhere/s.csv: cannot be written", "give another --schedule")),
        ({"start": "2020-05-31T23:00Z"}, ("start 2020-05-31T23:00:00Z is outside the file", "choose a start inside")),
        ({"start": "2020-06-01T12:00Z"}, ("no time in the span", "ask for a time in it")),
        ({"start": "2021-06-01T00:00Z"}, ("no time in the span", "2020-06-01T11:00:00Z", "ask for a time in it")),
        ({"start": "yesterday"}, ("'yesterday' is not a date and time", "2026-11-22T08:00Z")),
        ({"hours": 0}, ("--hours: 0.0 is not above 0", "give a number above 0")),
        ({"hours": "nan"}, ("--hours: nan", "give a number above 0")),
        ({"resolution": "7m"}, ("resolution 420 s: zone DE has steps of 3600 s", "choose a resolution that divides")),
        ({"resolution": "0s"}, ("--resolution",)),
        ({"max_delay_short": "soon"}, ("--max-delay-short", "soon")),
        ({"max_delay_short": "6"}, ("--max-delay-short", "6h")),
        ({"zones": "UK"}, ("no column 'UK' for zone UK", "the columns are DE, FR", "UK=COLUMN")),
        ({"zones": "DE,DE"}, ("a zone is there twice", "ZONE[=COLUMN]")),
        ({"zones": "DE,"}, ("a zone is empty", "ZONE[=COLUMN]")),
        ({"zones": None}, ("zones: is missing", "add it")),
        ({"intensity": None}, ("intensity: is missing", "add it")),
        ({"intensity": "missing.csv"}, ("missing.csv: cannot be read", "give the path of a CSV file")),
        ({"jobs": None}, ("needs jobs (a CSV file) or workload (a name)",)),
        ({"jobs": "missing.csv"}, ("missing.csv: cannot be read", "give the path of a CSV file")),
        ({"workload": "weekly", "jobs": None}, ("weekly", "lets-wait-awhile-ml")),
        ({"watts_per_cpu": 0}, ("--watts-per-cpu: 0.0 is not above 0",)),
        ({"min_saving_pct": 101}, ("--min-saving-pct: 101.0 is above 100",)),
    ],
)
def test_options_that_mean_nothing(files, options, told):
    message = refused(**options)
    assert [part for part in told if part not in message] == [], message


def test_quirks_with_a_capacity(files):
    assert "the published code has no capacity" in refused("--published-quirks", policy="wait-awhile", capacity_cpus=8)


def test_an_option_that_is_not_there(files):
    result = run("--polcy", "eco")
    assert result.exit_code == 2
    assert "--polcy" in result.stderr


def test_the_program_ends_with_2_and_one_line(files, tmp_path):
    """Through `main`, as it is installed."""
    program = [sys.executable, "-m", "eco_ray.cli.main", *command(policy="greenest")]
    ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("Error: policy 'greenest' is not known; choose among run-now,")


def test_what_a_cluster_decided_is_decided_again(tmp_path):
    load, scaling = ReplicaLoad(0.0, 3.0, 3, 1, 1, 0.1), Scaling(0, 4, 0.2)
    decision, _ = next_replicas(load, None, scaling)
    file = tmp_path / "scaling" / "model.m.jsonl"
    file.parent.mkdir()
    file.write_text(json.dumps(ScalingRecord("model.m", load, None, scaling, decision).to_json()) + "\n")
    done = CliRunner().invoke(cli, ["simulate", "--replay", str(tmp_path), "-o", "json"])
    row = {"kind": "scaling", "file": str(file), "decisions": 1, "different": 0}
    assert json.loads(done.stdout) == {"logs": [row], "differences": []}
    file.write_text(file.read_text().replace(f'"why": "{decision.why}"', '"why": "so"'))
    done = CliRunner().invoke(cli, ["simulate", "--replay", str(tmp_path), "-o", "json"])
    assert isinstance(done.exception, EcoRayError)
    assert "1 decisions are other ones now; the first, of model.m" in str(done.exception)
    assert json.loads(done.stdout)["logs"][0]["different"] == 1
