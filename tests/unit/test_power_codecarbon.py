"""The cross-check with the real CodeCarbon: beside ours, once per machine, silent, and never in the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from eco_ray.core.ports import Reading
from eco_ray.core.units import Nature
from eco_ray.power import codecarbon_check
from eco_ray.power.codecarbon_check import CodeCarbonCheck, SecondOpinion, Unavailable

OURS = Reading(20_000, 5_000, Nature.MODELLED, "modelled: by hand", 0.4)


@pytest.fixture
def quiet_place(tmp_path, monkeypatch):
    """A working directory whose configuration would have CodeCarbon write, send and print."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".codecarbon.config").write_text(
        "[codecarbon]\noutput_methods=csv,logger\nsave_to_file=true\nlog_level=debug\n"
        "emissions_endpoint=http://127.0.0.1:1/\nco2_signal_api_token=x\nallow_multiple_runs=false\n"
    )
    return tmp_path


def test_real_codecarbon_beside_ours(quiet_place, capfd, monkeypatch):
    def refuse(*_args):
        raise AssertionError("CodeCarbon went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    check = CodeCarbonCheck(quiet_place / "lock")
    check.start()
    time.sleep(1.2)
    opinion = check.stop()
    assert isinstance(opinion, SecondOpinion), opinion
    assert 1 < opinion.seconds < 30
    assert opinion.energy_j == opinion.cpu_j + opinion.gpu_j + opinion.ram_j > 0
    assert opinion.source.startswith("CodeCarbon 3.")
    ratio = opinion.ratio_to(OURS, 2.0)  # ours: 10 W
    assert ratio == pytest.approx(opinion.power_w / 10)
    why = opinion.why_they_differ(OURS)
    assert "memory as a constant" in why
    assert why.endswith("Ours is modelled, +-40 %: modelled: by hand.")
    assert sorted(path.name for path in quiet_place.iterdir()) == [".codecarbon.config", "lock"]
    assert capfd.readouterr() == ("", "")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert check.stop() == Unavailable("the cross-check has been stopped")


def test_one_tracker_per_machine_and_the_next_one_may_after_it(tmp_path, monkeypatch):
    trackers = []

    def tracker():
        data = SimpleNamespace(cpu_energy=1e-6, gpu_energy=0.0, ram_energy=1e-6, duration=2.0, codecarbon_version="0")
        made = SimpleNamespace(start=lambda: None, stop=lambda: 0.0, final_emissions_data=data)
        trackers.append(made)
        return made

    monkeypatch.setattr(codecarbon_check, "_tracker", tracker)
    first, second = CodeCarbonCheck(tmp_path / "lock"), CodeCarbonCheck(tmp_path / "lock")
    first.start()
    second.start()
    refused = second.stop()
    assert isinstance(refused, Unavailable)
    assert "another CodeCarbon tracker of eco_ray runs" in refused.reason
    assert isinstance(first.stop(), SecondOpinion)
    second.start()
    assert second.stop() == SecondOpinion(2.0, pytest.approx(3.6), 0.0, pytest.approx(3.6), "CodeCarbon 0: ")
    assert len(trackers) == 2


def failing(*_args):
    raise RuntimeError("no such machine")


@pytest.mark.parametrize(
    ("tracker", "reason"),
    [
        (SimpleNamespace(start=failing), "could not start: RuntimeError: no such machine"),
        (SimpleNamespace(start=lambda: None, stop=failing), "could not stop: RuntimeError: no such machine"),
        (SimpleNamespace(start=lambda: None, stop=lambda: None), "gave no figures"),
        *(
            (
                SimpleNamespace(
                    start=lambda: None,
                    stop=lambda: None,
                    final_emissions_data=SimpleNamespace(
                        cpu_energy=kwh, gpu_energy=0.0, ram_energy=0.0, duration=seconds, codecarbon_version="0"
                    ),
                ),
                "which cannot be",
            )
            for kwh, seconds in [(float("nan"), 1.0), (-1.0, 1.0), (float("inf"), 1.0), (1.0, 0.0), (1.0, -2.0)]
        ),
    ],
)
def test_whatever_fails_is_a_reason_and_frees_the_place(tmp_path, monkeypatch, tracker, reason):
    monkeypatch.setattr(codecarbon_check, "_tracker", lambda: tracker)
    check = CodeCarbonCheck(tmp_path / "lock")
    for _ in range(2):
        check.start()
        result = check.stop()
        assert isinstance(result, Unavailable)
        assert reason in result.reason


def test_without_codecarbon_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    check = CodeCarbonCheck(tmp_path / "lock")
    check.start()
    assert check.stop() == Unavailable("codecarbon is not installed: `pip install codecarbon`")


def test_never_started_is_a_reason(tmp_path):
    assert CodeCarbonCheck(tmp_path / "lock").stop() == Unavailable("the cross-check was not started")


def test_command_shows_both_and_why(quiet_place):
    done = subprocess.run(
        [sys.executable, "-m", "eco_ray.cli.main", "power", "sample", "--seconds", "1", "--cross-check", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TMPDIR": str(quiet_place)},
    )
    assert done.stderr == ""
    shown = json.loads(done.stdout)
    other = shown["cross_check"]
    assert other["available"], other
    assert other["ratio"] == pytest.approx(other["power_w"] / shown["power_w"], rel=0.01)
    assert "CodeCarbon takes" in other["why_they_differ"]
    assert not (quiet_place / "emissions.csv").exists()
