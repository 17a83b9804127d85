"""What served models need, from a CSV file."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from eco_ray.cli.main import cli
from eco_ray.core.cluster import Resources
from eco_ray.core.events import NeededReplica, ServingNeeds
from eco_ray.errors import UsageError
from eco_ray.sim.needs_csv import read_needs

HEADER = "model,start_s,end_s,replicas,cpus"


def read(tmp_path, text, **rest):
    path = tmp_path / "needs.csv"
    path.write_text(text)
    return read_needs(path, **{"zones": ["DE", "FR"], "begin_s": 1000.0, **rest})


def test_rows_are_needs_in_the_order_of_their_times(tmp_path):
    told = read(
        tmp_path,
        "cpus,model,start_s,end_s,replicas,gpus,gpu_memory_gb,p95_ms,zones\n"
        "2,chat,10,20,1,0.5,20,200,FR;DE\n"
        "1,digits,0,5,2,,,,\n",
        time_unit_s=60.0,
    )
    digits = NeededReplica(Resources(1.0))
    chat = NeededReplica(Resources(2.0, 0.5, 0.0, 20.0), (), ("FR", "DE"))
    assert told == (
        (1000.0, ServingNeeds("digits", (digits, digits), 1300.0, None)),
        (1600.0, ServingNeeds("chat", (chat,), 2200.0, 0.2)),
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "line 1: no need; a header and one row are needed; write model,start_s"),
        (HEADER, "line 1: no need"),
        ("model,start_s,end_s,replicas\nm,0,1,1", "no column cpus in .*; add it"),
        (f"{HEADER},watts\nm,0,1,1,1,1", "column 'watts'"),
        (f"{HEADER},cpus\nm,0,1,1,1,1", "column cpus is there twice; each may be there once; remove one"),
        (f"{HEADER}\nm,0,1,1", "line 2: 4 cells; the header has 5; add or remove"),
        (f"{HEADER}\n,0,1,1,1", "model is empty"),
        (f"{HEADER}\nm,-1,1,1,1", "start_s is '-1'; 0 or more is possible; correct it"),
        (f"{HEADER}\nm,0,inf,1,1", "end_s is 'inf'"),
        (f"{HEADER}\nm,5,5,1,1", "end_s is 5 s; start_s is 5 s; let it end later"),
        (f"{HEADER}\nm,0,1,0,1", "replicas is '0'; 1 to 10000 is possible"),
        (f"{HEADER}\nm,0,1,1.5,1", "replicas is 1.5; whole replicas"),
        (f"{HEADER}\nm,0,1,1,0", "cpus is '0'; more than 0 is possible"),
        (f"{HEADER}\nm,0,1,1,nan", "cpus is 'nan'"),
        (f"{HEADER},gpu_memory_gb\nm,0,1,1,1,8", "gpu_memory_gb is 8; gpus is 0; give gpus a share"),
        (f"{HEADER},zones\nm,0,1,1,1,XX", "zone 'XX'"),
        (f"{HEADER}\nm,0,9,1,1\nn,0,9,1,1\nm,8,12,1,1", "line 4: start_s is 8 s; line 2 needs m until then, too; let"),
    ],
)
def test_faults_say_where_what_and_what_to_do(tmp_path, text, what):
    with pytest.raises(UsageError, match=what):
        read(tmp_path, text)


def test_the_command_line_takes_them(tmp_path, monkeypatch):
    """A job of three hours from 0:00 gives way from 1:00 to 3:00, and its resume takes six minutes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.csv").write_text("job_id,arrival_s,duration_s,cpus,max_delay_s\ntrain,0,10800,1,18000\n")
    (tmp_path / "needs.csv").write_text(f"{HEADER},p95_ms\nchat,3600,10800,1,1,200\n")
    rows = [f"2020-06-01T{hour:02}:00Z,100" for hour in range(12)]
    (tmp_path / "ci.csv").write_text("\n".join(["time,DE", *rows]) + "\n")
    words = "simulate --jobs jobs.csv --intensity ci.csv --zones DE --capacity-cpus 1 --interruptible --resume-cost 6m"

    def figures(*more):
        found = CliRunner().invoke(cli, [*words.split(), *more, "-o", "json"])
        assert found.exception is None, repr(found.exception)
        told = json.loads(found.stdout)
        return told["resumes"], told["mean_delay_h"], told["missed_deadlines"]

    assert figures() == (0, 0.0, 0)
    assert figures("--serving", "needs.csv") == (1, pytest.approx(2.1), 0)
