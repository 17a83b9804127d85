"""`eco-ray k8s suspend-controller`: what it needs, and what it says where that is missing."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from rayjob_cases import T0, a_rayjob

import eco_ray.cli.k8s as command
from eco_ray.cli.main import cli
from eco_ray.config import Settings
from eco_ray.core.jobs import Reason
from eco_ray.errors import UsageError
from eco_ray.k8s.decision import Act, Decision


def call(*arguments: str):
    CliRunner().invoke(cli, ["k8s", "suspend-controller", *arguments], catch_exceptions=False, standalone_mode=False)


def test_without_kopf_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"pip install 'eco-ray\[k8s\]'"):
        call("--zone", "DE")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--zone is missing"),
        (["--zone", "DE", "--interval", "0s"], "--interval 0s: it is outside 1s to 1h"),
        (["--zone", "DE", "--launch-time", "2d"], "--launch-time 2d: it is outside 0s to 1d"),
        (["--zone", "DE", "--source", "profil"], "nearest: profile"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(monkeypatch, arguments, words):
    monkeypatch.setattr(command, "find_spec", lambda _name: True)
    pytest.importorskip("kopf", reason="kopf is not installed: pip install 'eco-ray[k8s]'")
    with pytest.raises(UsageError, match=words):
        call(*arguments)


@pytest.mark.parametrize(("done", "words"), [(True, ": released: "), (False, ": would release: ")])
def test_a_line_for_each_decision(capsys, done, words):
    decision = Decision(Act.RELEASE, Reason.SIGNAL_STALE, "starts at once")
    command._show(Settings())(a_rayjob(), decision, done)
    assert f"default/train{words}starts at once" in capsys.readouterr().out


def test_an_object_for_each_decision(capsys):
    decision = Decision(Act.HOLD, Reason.WAITING_FOR_CLEANER_WINDOW, "starts later", T0)
    command._show(Settings(output="json"))(a_rayjob(), decision, False)
    told = json.loads(capsys.readouterr().out)
    assert told.pop("time").endswith("Z")
    assert told == {
        "rayjob": "default/train",
        "act": "hold",
        "done": False,
        "reason": "WaitingForCleanerWindow",
        "message": "starts later",
        "until": "2026-11-22T00:00:00Z",
    }
