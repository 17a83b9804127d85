"""The runner of benchmarks, with processes that stand for them; each in a runner of its own."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import all as all_of_them
from in_turn import Result
from printed import ROOT, Bar, bars, verdict

RUNNER = """
import sys
sys.path.insert(0, {benchmarks!r})
import in_turn
in_turn.GRACE_S, in_turn.LEFT_S, in_turn._LOOK_S = {grace_s}, 0.3, 0.02
loads = iter({loads})
parts = [in_turn.Part(name, ("-S", script), limit_min) for name, script, limit_min in {parts}]
sys.exit(in_turn.run_all(
    parts, in_turn.Path({folder!r}), again={again}, wait_s={wait_s}, load_now=lambda: next(loads, {loads}[-1])
))
"""
GOOD = "print('ok      lost steps: 0 (bar: <= 0)')"
MISSED = """
print("MISSED  memory: 1.547 GB (bar: <= 1 GB)")
print("ok      lost: 0 (bar: <= 0)")
raise SystemExit(1)
"""
#: says that it has begun, and what it does when it is asked to stop
WAITS = """
import time
print("MISSED  first: 2 (bar: <= 1)")
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("takes its cluster down")
    raise
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"


def code(folder, parts, *, again=False, loads=(0.0,), wait_s=60.0, grace_s=30.0):
    """`parts`: name -> code, or (code, limit [min])."""
    told, benchmarks = [], str(ROOT / "benchmarks")
    for name, one in parts.items():
        text, limit_min = one if isinstance(one, tuple) else (one, 5.0)
        script = folder / f"{name}.py"
        script.write_text(text)
        told.append((name, str(script), limit_min))
    return RUNNER.format(
        benchmarks=benchmarks, parts=told, folder=str(folder), again=again, loads=loads, wait_s=wait_s, grace_s=grace_s
    )


def run(folder, parts, **options):
    """Exit code, and what was printed."""
    command = [sys.executable, "-c", code(folder, parts, **options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    return done.returncode, done.stdout


def rows(out):
    """The cells of the table at the end."""
    lines = out.rpartition("\n\n")[2].splitlines()[2:]
    return [re.split(r"\s{2,}", line) for line in lines]


def kept(folder, name):
    (file,) = folder.glob(f"{name}-*.txt")
    assert file.name == f"{name}-{datetime.now(UTC):%Y-%m-%d}.txt"
    return file.read_text()


def test_each_bar_has_a_row_and_each_part_that_shows_none(tmp_path):
    parts = {
        "good": GOOD,
        "missed": MISSED,
        "plain": "print('a table')",
        "skipped": "print('skipped: MiniLM is missing')",
        "broken": f"{GOOD}; 1 / 0",
        "ended": "import os; os.kill(os.getpid(), 9)",
    }
    done, out = run(tmp_path, parts)
    assert done == 1
    assert rows(out)[:4] == [
        ["good: lost steps", "0", "<= 0", "met"],
        ["missed: memory", "1.547 GB", "<= 1 GB", "MISSED"],
        ["missed: lost", "0", "<= 0", "met"],
        ["plain", "no bar"],
    ]
    assert rows(out)[4:6] == [
        ["skipped: not run: MiniLM is missing", "not run"],
        ["broken: lost steps", "0", "<= 0", "met"],
    ]
    told = [" | ".join(row) for row in rows(out)[6:]]
    assert re.fullmatch(r"broken: exit code 1 after \d+ s \| not complete", told[0])
    assert re.fullmatch(r"ended: ended by SIGKILL after \d+ s \| not complete", told[1])
    assert "ZeroDivisionError" in kept(tmp_path, "broken")
    assert f"{datetime.now(UTC):%Y-%m-%d}" in kept(tmp_path, "good").splitlines()[2]
    assert "cores" in kept(tmp_path, "good")


def test_all_bars_met_is_success(tmp_path):
    assert run(tmp_path, {"good": GOOD})[0] == 0


def test_a_crash_after_a_missed_bar_is_no_result(tmp_path):
    parts = {"broken": "print('MISSED  memory: 2 GB (bar: <= 1 GB)'); 1 / 0"}
    for _ in range(2):
        done, out = run(tmp_path, parts)
        assert (done, "has a result" in out, "exit code 1" in rows(out)[-1][0]) == (1, False, True)


def test_what_has_a_result_of_today_is_run_again_only_if_asked(tmp_path):
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x'); "
    parts = {"good": count + GOOD, "missed": count + MISSED, "broken": count + "1 / 0"}
    for again, times in ((False, 3), (False, 4), (True, 7)):
        _, out = run(tmp_path, parts, again=again)
        assert len((tmp_path / "count").read_text()) == times
        assert [row[0].partition(":")[0] for row in rows(out)] == ["good", "missed", "missed", "broken"]
    assert kept(tmp_path, "good").count("exit code 0") == 2  # nothing that was there is lost


def test_a_result_that_a_benchmark_has_written_by_itself_is_kept_and_none_of_this(tmp_path):
    file = tmp_path / f"good-{datetime.now(UTC):%Y-%m-%d}.txt"
    file.write_text("by hand\nok      lost: 9 (bar: <= 9)\n")
    assert Result.of(file) == Result()
    _, out = run(tmp_path, {"good": GOOD})
    assert rows(out) == [["good: lost steps", "0", "<= 0", "met"]]
    assert kept(tmp_path, "good").startswith("by hand\nok      lost: 9")


def test_a_part_ends_at_its_limit_and_the_next_one_runs(tmp_path):
    done, out = run(tmp_path, {"stubborn": (STUBBORN, 0.005), "good": GOOD}, grace_s=0.5)
    assert done == 1
    (how, result), good = rows(out)
    assert re.fullmatch(r"stubborn: ended at its limit of 0\.005 min after \d+ s", how)
    assert (result, good) == ("not complete", ["good: lost steps", "0", "<= 0", "met"])
    assert kept(tmp_path, "stubborn").splitlines()[-1] == f"-- {how.removeprefix('stubborn: ')}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_part_and_keeps_what_is_done(tmp_path, number, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    parts = {"good": GOOD, "waits": WAITS, "never": GOOD}
    command = [sys.executable, "-c", code(tmp_path, parts)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as runner:
        until_s, seen = time.monotonic() + 60, False
        while not seen and time.monotonic() < until_s:
            seen = any("MISSED" in file.read_text() for file in tmp_path.glob("waits-*"))  # as soon as it is printed
            time.sleep(0.02)
        runner.send_signal(number)
        out = runner.communicate(timeout=60)[0]
    assert seen
    assert runner.returncode == 128 + number
    text = kept(tmp_path, "waits")
    assert "takes its cluster down" in text
    assert re.fullmatch(rf"-- stopped by {number.name} after \d+ s", text.splitlines()[-1])
    assert not list(tmp_path.glob("never-*"))
    assert [row[-1] for row in rows(out)] == ["met", "MISSED", "not complete", "not run"]
    assert rows(out)[1] == ["waits: first", "2", "<= 1", "MISSED"]
    # it goes on where it was
    done, out = run(tmp_path, {**parts, "waits": GOOD})
    assert (done, "good: has a result of today" in out) == (0, True)
    assert kept(tmp_path, "waits").startswith(text)


def test_a_part_waits_until_the_machine_is_idle_and_that_is_told(tmp_path):
    done, out = run(tmp_path, {"good": GOOD}, loads=(3.0, 2.0, 0.1))
    assert (done, out.count("waits for a load average below 0.7; it is 3.0")) == (0, 1)


def test_a_machine_that_is_never_idle_is_told_instead_of_wrong_figures(tmp_path):
    done, out = run(tmp_path, {"good": GOOD}, loads=(3.0,), wait_s=0.3)
    assert done == 1
    assert rows(out) == [["good: not run: load average 3.0, not below 0.7 within 0.005 min", "not run"]]
    assert not list(tmp_path.glob("good-*"))


def test_what_a_part_leaves_behind_is_ended_and_told(tmp_path):
    left = "import subprocess; one = subprocess.Popen(['sleep', '60'], start_new_session=True); print('left', one.pid)"
    _, out = run(tmp_path, {"leaves": left})
    pid = int(re.search(r"left (\d+)", kept(tmp_path, "leaves"))[1])
    assert f"it left sleep ({pid}), killed" in kept(tmp_path, "leaves")
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert rows(out) == [["leaves", "no bar"]]


@given(
    what=st.from_regex(r"[a-z](?:[a-z0-9,:/% ]{0,30}[a-z])?", fullmatch=True),
    value=st.floats(),
    bar=st.floats(allow_nan=False),
    unit=st.sampled_from(["", " GB", " %", " points", "s"]),
)
def test_what_is_printed_of_a_bar_is_found_again(what, value, bar, unit):
    with redirect_stdout(io.StringIO()) as out:
        out.write("a table: of (something)\n")
        holds = verdict(what, value, bar, unit)
    assert bars(out.getvalue()) == [Bar(what, f"{value:.4g}{unit}", f"<= {bar:g}{unit}", holds)]


def test_parts_are_scripts_with_the_tables_that_they_are_asked_for(capsys):
    parts = [part for parts in all_of_them.PARTS.values() for part in parts]
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        script, *options = part.command
        text = "".join(file.read_text() for file in (ROOT / "benchmarks").glob(f"{Path(script).stem.split('_')[0]}_*"))
        assert (ROOT / script).exists()
        assert '"--no-save"' in (ROOT / script).read_text()
        assert options[-1] == "--no-save"
        for table in options[1].split(",") if "--only" in options else ():
            assert f'"{table}": ' in text
    with pytest.raises(SystemExit):
        all_of_them.main(["--only", "training_sessions"])
    assert "no part is called training_sessions; there are green-serving-casper" in capsys.readouterr().err
    assert all_of_them.main(["--issue", "11", "--list"]) == 0
    assert "benchmarks/training_async.py --only ray --no-save" in capsys.readouterr().out
