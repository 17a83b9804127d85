from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eco_ray.config import KEYS, config_files, load_settings, mask_url, origin, shown
from eco_ray.errors import UsageError


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        monkeypatch.delenv(f"ECO_RAY_{key.upper()}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "config" / "eco_ray").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_defaults(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.state_dir == tmp_path / "state" / "eco_ray" / "current"
    assert settings.store_url == f"sqlite:///{tmp_path}/state/eco_ray/current/eco_ray.db"
    assert (settings.address, settings.output, settings.serve_port, settings.max_package_mb) == (
        None,
        "table",
        8000,
        100,
    )
    assert (settings.default_max_delay_s, settings.slot_s, settings.horizon_s) == (86_400, 900, 345_600)
    assert (settings.pause_timeout_s, settings.sample_period_s) == (30, 1)
    assert set(origin(settings).values()) == {"default"}


def test_home_without_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings().state_dir == tmp_path / ".local" / "state" / "eco_ray" / "current"


def test_precedence_and_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = tmp_path / "config" / "eco_ray" / "eco-ray.toml"
    here = tmp_path / "work" / "eco-ray.toml"
    user.write_text('slot = "1m"\nhorizon = "2d"\nserve_port = 1\nmax_package_mb = 7\n')
    here.write_text('slot = "2m"\nhorizon = "3d"\nserve_port = 2\n')
    monkeypatch.setenv("ECO_RAY_SLOT", "3m")
    monkeypatch.setenv("ECO_RAY_HORIZON", "4d")
    monkeypatch.setenv("ECO_RAY_JOB_ID", "not a setting")
    monkeypatch.setenv("ECO_RAY_OUTPUT", "")
    monkeypatch.setenv("SERVE_PORT", "3")
    settings = load_settings({"slot": "4m", "output": None})
    assert config_files() == [here, user]
    assert (settings.slot_s, settings.horizon_s, settings.serve_port, settings.max_package_mb) == (240, 345_600, 2, 7)
    assert settings.output == "table"
    origins = origin(settings)
    assert origins["slot"] == "flag"
    assert origins["horizon"] == "env ECO_RAY_HORIZON"
    assert origins["serve_port"] == f"eco-ray.toml:{here}"
    assert origins["max_package_mb"] == f"eco-ray.toml:{user}"
    assert origins["output"] == "default"
    assert list(origins) == list(shown(settings)) == list(KEYS)


def test_shown_is_what_a_file_would_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ECO_RAY_STORE_URL", "postgresql://eco:s3cr3t@db:5432/eco")
    monkeypatch.setenv("ECO_RAY_SLOT", "PT90M")
    settings = load_settings()
    assert settings.store_url == "postgresql://eco:s3cr3t@db:5432/eco"
    values = shown(settings)
    assert values["store_url"] == "postgresql://eco:***@db:5432/eco"
    registry = shown(load_settings({"registry_url": "s3://key:hunter2@bucket/models"}))["registry_url"]
    assert registry == "s3://key:***@bucket/models"
    assert values["slot"] == "1h30m"
    assert "s3cr3t" not in f"{settings!r} {settings!s} {values}"
    text = "\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items() if v is not None)
    monkeypatch.delenv("ECO_RAY_SLOT")
    (tmp_path / "work" / "eco-ray.toml").write_text(text)
    assert load_settings().slot_s == 5_400


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("postgresql://db/eco", "postgresql://db/eco"),
        ("postgresql://u@db/eco", "postgresql://u@db/eco"),
        ("postgresql+pg8000://u:p@db/eco", "postgresql+pg8000://u:***@db/eco"),
        ("postgresql://u:p/w@d:x@db/eco", "postgresql://u:***@db/eco"),
        ("postgresql://:p@db/eco", "postgresql://:***@db/eco"),
        ("postgresql://db/eco?user=u&password=p&a=1", "postgresql://db/eco?user=u&password=***&a=1"),
    ],
)
def test_passwords_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_a_directory_of_checkpoints_is_the_same_wherever_a_node_looks(tmp_path: Path) -> None:
    assert load_settings().checkpoint_url is None
    assert load_settings({"checkpoint_url": "s3://bucket/c"}).checkpoint_url == "s3://bucket/c"
    given = load_settings({"checkpoint_url": "c"}).checkpoint_url
    assert given == str(Path.cwd() / "c")


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('slto = "3m"\n', ["unknown setting 'slto'", "did you mean 'slot'?", "Allowed: state_dir"]),
        ("slot = 3\n", ["slot (from eco-ray.toml:", "3 has no unit", "3m"]),
        ("slot = 3m\n", ["line 1", 'slot = "15m"']),
        ('pause_timeout = "2h"\n', ["2h is outside 0.1s to 1h"]),
        ('checkpoint_url = "s3://me:hunter2@bucket/c"\n', ["s3://me:***@bucket/c", "Ray shows", "AWS_"]),
        ("serve_port = 70000\n", ["70000 is above 65535", "from 1 to 65535"]),
        ('output = "xml"\n', ["'xml'", "'table', 'json' or 'yaml'"]),
        ("max_package_mb = 0\n", ["0 is below 1", "from 1 to 10000"]),
        ("[planner]\nslot = 3\n", ["unknown setting 'planner'"]),
        ("address = 5\n", ["5 is not text", "quotes"]),
        ("state_dir = 5\n", ["5 is not a path"]),
        ("#" * (1 << 20) + "\n", ["larger than 1 MiB"]),
    ],
)
def test_bad_files(tmp_path: Path, toml: str, words: list[str]) -> None:
    path = tmp_path / "work" / "eco-ray.toml"
    path.write_text(toml)
    with pytest.raises(UsageError) as error:
        load_settings()
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_bad_environment_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown option 'slto'; did you mean 'slot'"):
        load_settings({"slto": 1})
    with pytest.raises(UsageError, match=r"slot \(from flag\): 'x' is not a duration"):
        load_settings({"slot": "x"})
    monkeypatch.setenv("ECO_RAY_SERVE_PORT", "http")
    with pytest.raises(UsageError, match=r"serve_port \(from env ECO_RAY_SERVE_PORT\): 'http' is not a whole number"):
        load_settings()


def test_state_dir_keeps_its_symlink_and_expands_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "real").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "real")
    assert load_settings({"state_dir": "~/current"}).state_dir == tmp_path / "current"


def test_importing_settings_loads_nothing_heavy() -> None:
    heavy = "{'ray', 'numpy', 'torch', 'sqlalchemy'}"
    code = f"import sys, eco_ray.config, eco_ray.job_file; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
