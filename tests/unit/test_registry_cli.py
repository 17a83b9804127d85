"""The registry from the command line."""

from __future__ import annotations

import getpass
import hashlib
import json
import shutil
import time
import uuid

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from eco_ray.cli.ledger import ledger
from eco_ray.cli.model import model
from eco_ray.cli.progress import transfer_bar
from eco_ray.config import load_settings
from eco_ray.core.ledger import Interval, Sample, Share
from eco_ray.core.units import Nature
from eco_ray.errors import DamagedError, EcoRayError, NotAllowedError, NotFoundError, UnreachableError, UsageError
from eco_ray.store import open_store


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.setenv("ECO_RAY_STATE_DIR", str(tmp_path / "state"))
    save_file({"w": np.arange(4000, dtype=np.float32)}, str(tmp_path / "m.safetensors"))

    def call(*args, raises=None):
        done = CliRunner().invoke(model, [str(arg) for arg in args])
        if raises is not None:
            assert isinstance(done.exception, raises), done.output
            return str(done.exception)
        assert done.exception is None, done.exception
        return done.stdout

    return call


def as_json(text):
    return json.loads(text)


def test_from_push_to_gc(cli, tmp_path):
    file, back = tmp_path / "m.safetensors", tmp_path / "back"
    ends = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
    ends["outputs"] = [{**ends["inputs"][0], "name": "y"}]
    (tmp_path / "s.json").write_text(json.dumps(ends))
    told = ("--metric", "accuracy=0.9", "--metric", "note=x", "--lineage", "job=j-1", "--tag", "t", "--alias", "prod")
    made = as_json(cli("push", file, "m", *told, "--signature", tmp_path / "s.json", "-o", "json"))
    assert (made["reference"], made["metrics"]) == ("m:1", {"accuracy": 0.9, "note": "x"})
    assert (made["lineage"], made["tags"]) == ({"job": "j-1"}, ["t"])
    assert made["signature"] == {**ends, "labels": [], "kind": ""}
    cli("push", file, "m")
    cli("promote", "m:2", "prod", "--why", "newer")
    assert as_json(cli("list", "-o", "json")) == [{"model": "m", "versions": 2, "aliases": "prod=2"}]
    assert [row["aliases"] for row in as_json(cli("list", "m", "-o", "json"))] == [[], ["prod"]]
    assert as_json(cli("show", "m@prod", "-o", "json"))["version"] == 2
    assert as_json(cli("rollback", "m@prod", "-o", "json"))["version"] == 1
    assert [row["why"] for row in as_json(cli("history", "m", "-o", "json"))] == ["", "newer", ""]
    cli("pull", "m@prod", back)
    assert back.read_bytes() == file.read_bytes()
    cli("delete", "m:2")
    assert as_json(cli("gc", "-o", "json"))["kept"] == 1
    assert as_json(cli("verify", "-o", "json"))["ok"] is True
    assert "m:2" in cli("list", "m")
    assert "deleted" in cli("list", "m")


def test_a_key_in_the_settings_seals_and_without_it_nobody_reads(cli, tmp_path, monkeypatch):
    file, back, key = tmp_path / "m.safetensors", tmp_path / "back", tmp_path / "key"
    cli("push", file, "m")
    key.write_text("5f" * 32)
    key.chmod(0o600)
    monkeypatch.setenv("ECO_RAY_REGISTRY_KEY_FILE", str(key))
    sealed = as_json(cli("push", file, "m", "-o", "json"))
    assert sealed["blob"]["base"] is None
    cli("pull", "m:2", back)
    assert back.read_bytes() == file.read_bytes()
    assert as_json(cli("verify", "-o", "json"))["ok"] is True
    monkeypatch.delenv("ECO_RAY_REGISTRY_KEY_FILE")
    assert sealed["blob"]["sealed_with"] in cli("pull", "m:2", back, raises=NotAllowedError)
    assert "1 of 2 versions" in cli("verify", raises=DamagedError)
    monkeypatch.setenv("ECO_RAY_REGISTRY_KEY", "60" * 32)
    assert "the key given is" in cli("pull", "m:2", back, raises=NotAllowedError)
    monkeypatch.setenv("ECO_RAY_REGISTRY_KEY", "too-short")
    assert "too-short" not in cli("pull", "m:2", back, raises=UsageError)


def test_what_moved_is_told(cli, tmp_path):
    url = f"memory://{uuid.uuid4().hex}"
    file, back = tmp_path / "m.safetensors", tmp_path / "back"
    made = as_json(cli("push", file, "m", "--registry", url, "-o", "json"))
    size = sum(part["size"] for part in made["blob"]["parts"])
    assert made["moved"] == {"remote": True, "sent_bytes": size, "received_bytes": 0, "reused_bytes": 0}
    shutil.rmtree(tmp_path / "state/cache")  # another machine
    for received in (size, 0):
        found = as_json(cli("pull", "m:1", back, "--registry", url, "-o", "json"))
        assert found["moved"] == {
            "remote": True,
            "sent_bytes": 0,
            "received_bytes": received,
            "reused_bytes": size - received,
        }
    assert len(list((tmp_path / "state/cache/models").iterdir())) == 1
    assert cli("pull", "m:1", back, "--registry", url).split()[-2:] == ["0", str(size)]
    rows = as_json(CliRunner().invoke(ledger, ["transfers", "-o", "json"]).stdout)
    assert [(row["direction"], row["moved_bytes"], row["place"]) for row in rows] == [
        ("push", size, url), ("pull", size, url), ("pull", 0, url), ("pull", 0, url)
    ]  # fmt: skip


def test_the_joules_and_grams_of_the_training_come_from_the_ledger(cli, tmp_path):
    file = tmp_path / "m.safetensors"
    assert "no database" in cli("push", file, "m", "--job", "train-1", raises=UnreachableError)
    (tmp_path / "state").mkdir()
    store = open_store(str(tmp_path / "state" / "eco_ray.db"))
    sample = Sample("n1", "boot", 1, 1e9, 1e9 + 60, 7_200_000, 0, Nature.MEASURED, "rapl", 0.1)
    signal = {"intensity_kind": "average-lifecycle", "intensity_nature": Nature.MODELLED, "intensity_age_s": 0.0}
    share = Share("job", "train-1", 1, 3_600_000, "vision")
    store.add_intervals([Interval(sample, "DE", 1.5, (share,), 400.0, "profile", **signal)])
    store.close()
    cli("push", file, "m", "--job", "train-1", "--lineage", "data=mnist")
    shown = as_json(cli("show", "m:1", "-o", "json"))
    assert shown["lineage"] == {"data": "mnist", "job": "train-1"}
    assert shown["training"] == {
        "energy_j": 3600.0, "operational_g": pytest.approx(0.6), "nature": "modelled", "source": "ledger, rapl"
    }  # fmt: skip
    assert "no job 'none'" in cli("push", file, "m", "--job", "none", raises=NotFoundError)
    assert "m:2" not in cli("list", "m")


def test_a_ledger_that_cannot_be_written_is_told_and_holds_nothing_up(cli, tmp_path, caplog):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "eco_ray.db").write_text("no database")
    done = CliRunner().invoke(model, ["push", str(tmp_path / "m.safetensors"), "m", "-o", "json"])
    assert (done.exception, as_json(done.stdout)["reference"]) == (None, "m:1")
    assert "what was moved is not in the ledger: " in caplog.text  # without other handlers it goes to stderr


def test_the_cache_can_be_switched_off(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("ECO_RAY_REGISTRY_CACHE_GB", "0")
    url = f"memory://{uuid.uuid4().hex}"
    cli("push", tmp_path / "m.safetensors", "m", "--registry", url)
    cli("pull", "m:1", tmp_path / "back", "--registry", url)
    assert not (tmp_path / "state/cache").exists()


def test_a_bar_is_drawn_on_a_terminal_only(monkeypatch, capfd):
    for terminal, output in ((False, "table"), (True, "json"), (True, "table")):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        with transfer_bar(load_settings({"output": output})) as show:
            show(5, 10, "sending")
        said = capfd.readouterr()
        assert said.out == ""
        assert ("sending" in said.err) == (terminal and output == "table")


def test_damage_is_an_exit_code_and_a_row(cli, tmp_path):
    cli("push", tmp_path / "m.safetensors", "m")
    (blob,) = (tmp_path / "state/models/blobs").glob("*/*")
    blob.write_bytes(b"x")
    assert "1 of 1 versions are damaged" in cli("verify", raises=DamagedError)


def test_wrong_words_are_told(cli, tmp_path):
    assert "KEY=VALUE" in cli("push", tmp_path / "m.safetensors", "m", "--metric", "accuracy", raises=UsageError)
    assert "NAME@ALIAS" in cli("rollback", "m:1", raises=UsageError)
    (tmp_path / "m.pt").write_bytes(b"x")
    assert "--allow-pickle" in cli("push", tmp_path / "m.pt", "m", raises=NotAllowedError)
    assert cli("list") == ""
    (tmp_path / "s.json").write_text("[")
    assert "s.json cannot be read as a signature" in cli(
        "push", tmp_path / "m.safetensors", "m", "--signature", tmp_path / "s.json", raises=UsageError
    )


@pytest.fixture
def pickled(tmp_path):
    file = tmp_path / "m.pkl"
    file.write_bytes(b"run me")
    return file


def test_a_pickle_is_written_down_on_its_way_in_and_out(cli, tmp_path, pickled):
    url = f"{tmp_path}/models"
    done = hashlib.sha256(b"run me").hexdigest()
    told = ("--registry", url, "--allow-pickle")
    cli("push", tmp_path / "m.safetensors", "m", *told)
    cli("push", pickled, "m", *told)
    cli("promote", "m:2", "prod", "--registry", url)
    cli("pull", "m@prod", tmp_path / "back", *told)
    cli("pull", "m:1", tmp_path / "back", *told)
    rows = open_store(str(tmp_path / "state/eco_ray.db"), create=False).audit()
    detail = f"sha256 {done}, registry {url}"
    assert [(row.action, row.object, row.detail) for row in rows] == [
        ("push-pickle", "m:2", detail), ("pull-pickle", "m:2", detail),
    ]  # fmt: skip
    assert {row.actor for row in rows} == {getpass.getuser()}
    assert all(abs(row.time_s - time.time()) < 60 for row in rows)


def test_a_pickle_that_cannot_be_written_down_goes_nowhere(cli, tmp_path, pickled, monkeypatch):
    cli("push", pickled, "m", "--allow-pickle")
    (tmp_path / "file").touch()
    monkeypatch.setenv("ECO_RAY_STORE_URL", f"sqlite:///{tmp_path}/file/eco_ray.db")
    back = tmp_path / "back"
    assert "no pull of the pickle m:1: it is written into the audit log first, and that failed: cannot make" in cli(
        "pull", "m:1", back, "--allow-pickle", raises=NotAllowedError
    )
    assert not back.exists()
    assert "no push of the pickle m:2" in cli("push", pickled, "m", "--allow-pickle", raises=NotAllowedError)
    assert len(as_json(cli("list", "m", "-o", "json"))) == 1
    # what runs no code needs no audit log
    cli("push", tmp_path / "m.safetensors", "m", "--allow-pickle")


def test_no_credential_of_the_registry_is_written_down(cli, tmp_path, pickled):
    cli("push", pickled, "m", "--allow-pickle", "--registry", "memory://ann:hunter2@bucket/x?token=hunter3")
    (row,) = open_store(str(tmp_path / "state/eco_ray.db"), create=False).audit()
    assert row.detail.endswith("registry memory://bucket/x")


def test_a_push_without_a_signature_says_why(cli, tmp_path):
    done = CliRunner().invoke(model, ["push", str(tmp_path / "m.safetensors"), "m"])
    assert "m:1 has no signature: m.safetensors holds weights alone" in done.stderr
    assert "--signature FILE" in done.stderr
    assert as_json(cli("show", "m:1", "-o", "json"))["signature"] is None


def test_what_was_deleted_is_told_by_whom_when_and_why(cli, tmp_path):
    cli("push", tmp_path / "m.safetensors", "m")
    gone = as_json(cli("delete", "m:1", "--why", "GDPR", "-o", "json"))
    assert (gone["model"], gone["version"], gone["why"], gone["by"]) == ("m", 1, "GDPR", getpass.getuser())
    assert as_json(cli("delete", "m:1", "--why", "again", "-o", "json")) == gone
    told = {key: gone[key] for key in ("at", "by", "why")}
    assert as_json(cli("show", "m:1", "-o", "json"))["deleted"] == told
    assert as_json(cli("list", "m", "-o", "json"))[0]["deleted"] == told
    (row,) = as_json(cli("history", "m", "-o", "json"))
    assert row == {**gone, "alias": "", "number": None, "back": None, "action": "delete", "problem": ""}
    assert "GDPR" in cli("history", "m")
    assert "GDPR" in cli("show", "m:1")


def test_damaged_records_are_marked_and_the_rest_is_shown(cli, tmp_path):
    for _ in range(2):
        cli("push", tmp_path / "m.safetensors", "m", "--alias", "prod")
    where = tmp_path / "state/models/models/m"
    (where / "aliases/canary").mkdir()
    (where / "aliases/canary/1.json").write_bytes(b"")
    (where / "versions/3.json").write_bytes(b"{")
    assert "prod=2 canary=?" in cli("list")
    assert cli("list", "m").splitlines()[-1].replace("-", "").split() == ["m:3", "damaged"]
    *rows, lost = as_json(cli("list", "m", "-o", "json"))
    assert [(row["reference"], row["problem"]) for row in rows] == [("m:1", ""), ("m:2", "")]
    assert (lost["reference"], "versions/3.json is damaged" in lost["problem"]) == ("m:3", True)
    assert as_json(cli("show", "m@prod", "-o", "json"))["version"] == 2
    assert [row["action"] for row in as_json(cli("history", "m", "-o", "json"))] == ["damaged", "promote", "promote"]
    cli("pull", "m@prod", tmp_path / "back")
    done = CliRunner().invoke(model, ["verify", "m:2", "-o", "json"])
    assert isinstance(done.exception, DamagedError)
    (record,) = as_json(done.stdout)["records"]
    assert record["record"] == "models/m/aliases/canary/1.json"
    cli("promote", "m:2", "canary")
    cli("delete", "m:3")
    assert "1 records of aliases" in cli("verify", raises=DamagedError)  # what was cured stays damaged


def test_an_alias_is_taken_away(cli, tmp_path):
    cli("push", tmp_path / "m.safetensors", "m", "--alias", "prod")
    assert as_json(cli("unalias", "m@prod", "--why", "unused", "-o", "json"))["action"] == "remove"
    assert "NAME@ALIAS" in cli("unalias", "m:1", raises=UsageError)
    assert "was removed" in cli("show", "m@prod", raises=NotFoundError)
    cli("rollback", "m@prod")
    assert as_json(cli("show", "m@prod", "-o", "json"))["version"] == 1


def test_a_push_whose_alias_cannot_be_moved_says_that_it_was_pushed(cli, tmp_path):
    assert "alias name 'a b'" in cli("push", tmp_path / "m.safetensors", "m", "--alias", "a b", raises=UsageError)
    assert as_json(cli("list", "-o", "json")) == []
    where = tmp_path / "state/models/models/m/aliases/prod"
    where.mkdir(parents=True)
    (where / "999999999.json").touch()
    said = cli("push", tmp_path / "m.safetensors", "m", "--alias", "prod", raises=EcoRayError)
    assert said.startswith("m:1 was pushed, but m@prod does not mean it: ")


def test_what_is_not_there_has_the_exit_code_of_that(cli, tmp_path):
    assert "no registry in" in cli("verify", raises=NotFoundError)
    cli("push", tmp_path / "m.safetensors", "m")
    assert "no model nosuch" in cli("list", "nosuch", raises=NotFoundError)


@pytest.mark.parametrize("metric", ["NaN", "Infinity", "-Infinity"])
def test_a_metric_that_is_no_number_is_refused_before_anything_is_sent(cli, tmp_path, metric):
    cli("push", tmp_path / "m.safetensors", "m", "--metric", f"loss={metric}", raises=UsageError)
    assert not (tmp_path / "state/models").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--tag", "\x1b[31mred"),
        ("--metric", "a\x1b=1"),
        ("--metric", "a=\u202etxt"),
        ("--lineage", "data=a\nb"),
        ("--lineage", "a\x07=b"),
        ("--framework", "\x9b2J"),
    ],
)
def test_what_would_move_a_terminal_is_refused(cli, tmp_path, words):
    cli("push", tmp_path / "m.safetensors", "m", *words, raises=UsageError)
    assert not (tmp_path / "state/models").exists()
    cli("push", tmp_path / "m.safetensors", "m", "--tag", "schön 日本")
    for what in (("promote", "m:1", "prod"), ("delete", "m:1")):
        cli(*what, "--why", words[1], raises=UsageError)


def test_an_empty_key_is_no_key_and_a_model_that_was_sealed_is_not_opened_silently(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("ECO_RAY_REGISTRY_KEY", "5f" * 32)
    cli("push", tmp_path / "m.safetensors", "m")
    monkeypatch.setenv("ECO_RAY_REGISTRY_KEY", " ")
    assert "ECO_RAY_REGISTRY_KEY is set and empty" in cli("push", tmp_path / "m.safetensors", "m", raises=UsageError)
    monkeypatch.delenv("ECO_RAY_REGISTRY_KEY")
    done = CliRunner().invoke(model, ["push", str(tmp_path / "m.safetensors"), "m"])
    assert "m:1 is sealed, and what is pushed now is not" in done.stderr
    done = CliRunner().invoke(model, ["push", str(tmp_path / "m.safetensors"), "m"])
    assert "is sealed" not in done.stderr
