"""`eco-ray job plan` and `job explain` as a person and a program see them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from types import ModuleType

import pytest
from click.testing import CliRunner
from orchestrator_world import DE, FR, NODES, World, suspended
from planning_cases import HOUR_S, T0

from eco_ray.cli.main import cli
from eco_ray.cli.output import print_facts
from eco_ray.core.dry_run import dry_run
from eco_ray.store import open_store

JOB = """
name: train
run: python train.py
carbon: {expected_duration: 2h, max_delay: 8h, suspend: {min_run: 0s, resume_cost: 0s}%s}
"""


def invoke(*args, **env):
    done = CliRunner().invoke(cli, [str(arg) for arg in args], env=env, catch_exceptions=False)
    return done.stdout


# -- explain -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def explain(tmp_path):
    """Runs the command on the job and log of a world, in an SQLite store; the clock stands at the world's time."""

    def run(world, *args, speed=1e-9):
        store = open_store(f"sqlite:///{tmp_path}/eco_ray.db")
        store.save_jobs([world.job()], world.log)
        store.put_meta("clock", {"speed": speed, "wall_origin_s": time.time(), "grid_origin_s": world.now_s})
        store.close()
        return invoke("job", "explain", "j", *args, ECO_RAY_STATE_DIR=str(tmp_path))

    return run


def waiting():
    world = World(DE, FR)
    world.submit(hours=2)
    return world


def test_explain_says_why_until_when_what_would_help_and_the_plan(explain):
    text = explain(waiting())
    assert text == (
        "job      j\n"
        "state    queued\n"
        "reason   WaitingForCleanerWindow\n"
        "why      starts 2026-07-05 13:00 UTC on de-1 in DE, in 2 stretches; saves 20 g (50%) against running now in "
        "the home zone\n"
        "until    2026-07-05 13:00 UTC (now 2026-07-05 12:00 UTC)\n"
        "unblock  it could start now, and running at once in the home zone would emit 20 g more (50%): cancel it and "
        "submit it again with --policy run-now, or an earlier deadline\n"
        "plan     20 g, modelled, made 2026-07-05 12:00 UTC\n"
        "saving   20 g (50%) against 40 g for running at once in the home zone\n"
        "length   2 h (as its owner says)\n"
        "\n"
        "zone  node  start             end    workers\n"
        "DE    de-1  2026-07-05 13:00  14:00  1\n"
        "DE    de-1  2026-07-05 15:00  16:00  1\n"
        "\n"
        "time              event      what\n"
        "2026-07-05 12:00  submitted  deadline 28800 s from now\n"
        "2026-07-05 12:00  planned    starts 2026-07-05 13:00 UTC on de-1 in DE, in 2 stretches; saves 20 g (50%) "
        "against running now in the home zone\n"
    )


def test_explain_as_json_has_stable_keys(explain):
    document = json.loads(explain(waiting(), "-o", "json"))
    assert list(document) == ["id", "state", "reason", "message", "until", "unblock", "plan", "scaling", "events"]
    assert (document["reason"], document["until"]) == ("WaitingForCleanerWindow", "2026-07-05T13:00:00Z")
    assert [segment["start"] for segment in document["plan"]["segments"]] == [
        "2026-07-05T13:00:00Z",
        "2026-07-05T15:00:00Z",
    ]
    assert document["plan"]["saved_g"] == pytest.approx(20)
    assert document["events"][0]["event"] == "submitted"


def test_explain_reads_the_clock_of_the_cluster(explain):
    world = waiting()
    world.now_s += 1.5 * HOUR_S  # nobody told the orchestrator
    text = explain(world)
    assert "until    unknown\n" in text
    assert "unblock  its start was due at 13:00 UTC: it starts as soon as de-1 is there and has room" in text


def test_explain_without_a_plan(explain):
    world = World(DE, FR)
    suspended(world)
    text = explain(world)
    assert "unblock  `eco-ray job resume j` lets it go on from its checkpoint\nplan     none at present\n" in text


def test_explain_a_job_that_has_ended(explain):
    world = World(DE, FR)
    world.running(hours=1, policy="run-now")
    world.exited(0)
    text = explain(world)
    assert "until    -\nunblock  nothing: it is done\n\ntime" in text
    assert json.loads(explain(world, "-o", "json"))["plan"] is None


def test_explain_where_no_intensity_is_known(explain):
    world = World()
    world.submit(hours=1, not_before_s=T0 + HOUR_S)
    text = explain(world)
    assert "plan     unknown g (no intensity), made 2026-07-05 12:00 UTC\n" in text
    assert "saving   unknown against running at once in the home zone\n" in text


def test_explain_does_not_import_ray(explain, tmp_path):
    explain(waiting())
    code = (
        "import sys; from eco_ray.cli.main import cli; cli(['job', 'explain', 'j'], standalone_mode=False); "
        "sys.exit(3 if 'ray' in sys.modules else 0)"
    )
    env = {**os.environ, "ECO_RAY_STATE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "until    " in done.stdout


def test_facts_are_wrapped_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", Terminal())
    print_facts({"why": "saves 60 g (75%) against running now in the home zone", "until": "-"})
    assert sys.stdout.getvalue() == "why    saves 60 g (75%) against running\n       now in the home zone\nuntil  -\n"


# -- plan --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(monkeypatch, tmp_path):
    """Runs the command against the book of a world, in the place of a controller."""
    path = tmp_path / "train.yaml"
    path.write_text(JOB % "")

    class Client:
        world = World(DE, FR)

        def __init__(self, settings):
            pass

        def plan(self, job):
            spec = job.to_spec(T0, 1.0, 8 * HOUR_S)
            return self.changed(dry_run(spec, self.world.core, T0))

        def changed(self, document):
            return document

    module = ModuleType("eco_ray.on_ray.client")
    module.Client = Client
    monkeypatch.setitem(sys.modules, "eco_ray.on_ray.client", module)

    def run(*args, carbon="", world=None, changed=None):
        path.write_text(JOB % carbon)
        if world is not None:
            Client.world = world
        if changed is not None:
            monkeypatch.setattr(Client, "changed", lambda _self, document: changed(document))
        return invoke("job", "plan", path, *args)

    return run


def test_plan_shows_the_runners_up_and_why(plan):
    assert plan() == (
        "reason  WaitingForCleanerWindow\n"
        "plan    starts 2026-07-05 13:00 UTC on de-1 in DE, in 2 stretches; saves 20 g (50%) against running now in "
        "the home zone\n"
        "why     saves 20 g (50%) against running now in DE; the runner-up, now (DE at once), emits 20 g more\n"
        "\n"
        "               where  start             end    stretches  carbon g  more\n"
        "the plan       DE     2026-07-05 13:00  16:00  2          20        -\n"
        "now            DE     2026-07-05 12:00  14:00  1          40        +20 g, +100%\n"
        "elsewhere      FR     2026-07-05 12:00  14:00  1          80        +60 g, +300%\n"
        "later          DE     2026-07-05 14:00  16:00  1          40        +20 g, +100%\n"
        "run-now in DE  -      -                 -      -          40        +20 g, +100%\n"
        "\n"
        "stretches of the plan\n"
        "zone  node  start             end    workers\n"
        "DE    de-1  2026-07-05 13:00  14:00  1\n"
        "DE    de-1  2026-07-05 15:00  16:00  1\n"
    )


def test_plan_takes_another_policy_than_the_files(plan):
    assert "plan    starts now on de-1 in DE\nwhy     emits as much as running now in DE; " in plan(
        "--policy", "run-now"
    )


def test_plan_as_json(plan):
    document = json.loads(plan("-o", "json"))
    assert [other["what"] for other in document["alternatives"]] == ["now", "elsewhere", "later"]
    assert set(document["alternatives"][0]) == {"what", "segments", "carbon_g", "added_g", "more_g", "more_added_g"}


def with_workers(document):
    """As for an elastic job, with a runner-up that the two figures put in another order."""
    segments = [{**segment, "workers": count} for segment, count in zip(document["segments"], (1, 4), strict=True)]
    rival = {**document["alternatives"][0], "what": "more workers", "carbon_g": 19.99, "added_g": 11.0}
    rival |= {"more_g": -0.01, "more_added_g": 1.0, "segments": [{**segments[0], "workers": 5}]}
    return {**document, "segments": segments, "alternatives": [rival], "same_order": False}


def test_plan_shows_workers_and_both_figures_where_they_disagree(plan):
    lines = plan(changed=with_workers).splitlines()
    table = lines[lines.index("") + 1 :]
    assert [line.split("  ")[0] for line in table[:4]] == ["", "the plan", "more workers", "run-now in DE"]
    assert " ".join(table[0].split()) == "where start end stretches workers carbon g more added g more added"
    assert table[1].split()[-6:] == ["2", "1-4", "20", "-", "10", "-"]
    assert table[2].split()[-8:] == ["19.99", "-0.01", "g,", "-0.05%", "11", "+1", "g,", "+10%"]
    assert "carbon g: the job's share in the ledger. added g: what it adds to its nodes, which decides." in lines


def test_plan_of_a_job_that_would_be_late_says_what_would_help(plan):
    world = World(DE, FR)
    world.running("other", hours=8, policy="run-now", zones=("DE",))
    text = plan(carbon=", zones: [DE]", world=world)
    assert text.startswith("reason   DeadlineInfeasible\nplan     starts 2026-07-05 20:00 UTC on de-1 in DE, when a ")
    assert "; it ends 2 h after its deadline: nothing is free in time\n" in text
    assert "unblock  it would be in time with every zone (FR at once, 80 g) or with a deadline a day later (DE" in text
    assert "\nwith every zone              FR     2026-07-05 12:00  14:00  1          80        +20 g, +33%\n" in text


def test_plan_names_those_that_would_give_way(plan):
    world = World(DE, nodes={"de-1": NODES["de-1"]})
    world.submit("loose", hours=7, deadline_h=30, not_before_s=T0 + HOUR_S)
    text = plan(world=world)
    assert text.endswith(
        "\nwould give way, and none of them is late for it\n"
        "job    name   state   from                           to\n"
        "loose  train  queued  DE, 2026-07-05 13:00 to 20:00  DE, 2026-07-05 14:00 to 22:00 in 2 stretches\n"
    )


def test_plan_names_nobody_where_nobody_gives_way(plan):
    assert "give way" not in plan()
    assert json.loads(plan("-o", "json"))["gives_way"] == []
