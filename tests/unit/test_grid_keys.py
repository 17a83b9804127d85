"""Keys: where they are found, what is refused, how they are handed over, and that they do not show."""

from __future__ import annotations

import base64
import gc
import logging
import os
import stat
import time
from pathlib import Path

import pytest

from eco_ray.errors import UsageError
from eco_ray.grid import keys
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.keys import MAX_BYTES, Secret, find, hand_over, hide, variable

KEY = "s3cret-Key/42"
NAME = "ECO_RAY_KEY_ELECTRICITY_MAPS"


def a_file(path: Path, text: str | bytes = KEY, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


# --- where it is found


def test_the_variable_has_the_name_of_the_source():
    assert variable("electricity-maps") == NAME


def test_in_the_environment():
    secret = find("electricity-maps", None, {NAME: f" {KEY}\n"})
    assert secret.reveal() == KEY
    assert secret.origin == f"environment variable {NAME}"


def test_in_the_file_that_a_variable_names(tmp_path):
    path = a_file(tmp_path / "key", f"{KEY}\n")
    secret = find("electricity-maps", None, {f"{NAME}_FILE": str(path)})
    assert secret.reveal() == KEY
    assert str(path) in secret.origin


def test_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    a_file(tmp_path / "key")
    assert find("electricity-maps", None, {f"{NAME}_FILE": "~/key"}).reveal() == KEY


def test_in_the_folder_of_keys_that_were_handed_over(tmp_path):
    a_file(tmp_path / "electricity-maps")
    assert find("electricity-maps", tmp_path, {}).reveal() == KEY


def test_the_environment_comes_first_then_the_named_file(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    a_file(folder / "electricity-maps", "from-folder")
    named = {f"{NAME}_FILE": str(a_file(tmp_path / "key", "from-file"))}
    assert find("electricity-maps", folder, {NAME: "from-environment", **named}).reveal() == "from-environment"
    assert find("electricity-maps", folder, named).reveal() == "from-file"


@pytest.mark.parametrize("environ", [{}, {NAME: ""}, {NAME: "  "}, {f"{NAME}_FILE": ""}, {"ECO_RAY_KEY_OTHER": KEY}])
def test_there_is_none(environ, tmp_path):
    assert find("electricity-maps", None, environ) is None
    assert find("electricity-maps", tmp_path, environ) is None


# --- what is refused


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o601, 0o777])
def test_a_file_that_is_open_to_everybody(tmp_path, mode):
    path = a_file(tmp_path / "key", mode=mode)
    with pytest.raises(UsageError, match=rf"everybody \(mode {mode:04o}\); run chmod 600") as caught:
        find("electricity-maps", None, {f"{NAME}_FILE": str(path)})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o660])
def test_a_file_of_its_owner_or_group(tmp_path, mode):
    assert find("electricity-maps", None, {f"{NAME}_FILE": str(a_file(tmp_path / "key", mode=mode))}).reveal() == KEY


def test_a_link_to_a_file_as_kubernetes_mounts_secrets(tmp_path):
    a_file(tmp_path / "data")
    (tmp_path / "key").symlink_to("data")
    assert find("electricity-maps", None, {f"{NAME}_FILE": str(tmp_path / "key")}).reveal() == KEY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"abc", "has 3 characters; keys have 4 to"),
        (b"x" * (MAX_BYTES + 2), "longer than"),
        (b"x" * 10_000_000, "longer than"),
        ("schlüssel".encode(), "characters that no key has"),
        (b"one\ntwo", "characters that no key has"),
        (b"one\x00two", "characters that no key has"),
        (b"\xff\xfekey", "characters that no key has"),
    ],
)
def test_a_file_without_a_sound_key(tmp_path, text, says):
    path = a_file(tmp_path / "key", text)
    with pytest.raises(UsageError, match=says) as caught:
        find("electricity-maps", None, {f"{NAME}_FILE": str(path)})
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_longest_key_with_its_newline(tmp_path):
    path = a_file(tmp_path / "key", b"x" * MAX_BYTES + b"\n")
    assert len(find("electricity-maps", None, {f"{NAME}_FILE": str(path)}).reveal()) == MAX_BYTES


@pytest.mark.parametrize("value", ["one\ntwo", "schlüssel", "abc", "x" * (MAX_BYTES + 1)])
def test_a_variable_without_a_sound_key(value):
    with pytest.raises(UsageError, match=NAME) as caught:
        find("electricity-maps", None, {NAME: value})
    assert value not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be read \(No such file or directory\); correct the path"):
        find("electricity-maps", None, {f"{NAME}_FILE": str(tmp_path / "none")})


def test_a_folder_or_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UsageError, match=r"no regular file|Is a directory"):
            find("electricity-maps", None, {f"{NAME}_FILE": str(path)})


# --- handed over


def test_keys_are_handed_over_in_files_of_their_owner(tmp_path):
    folder = tmp_path / "deep" / "keys"
    named = a_file(tmp_path / "key", "ann:password\n")
    names = hand_over(
        folder,
        {NAME: KEY, "ECO_RAY_KEY_WATTTIME_FILE": str(named), "ECO_RAY_KEY_ENTSOE": "", "HOME": "/root", "KEY": "x"},
    )
    assert sorted(names) == [NAME, "ECO_RAY_KEY_ENTSOE", "ECO_RAY_KEY_WATTTIME_FILE"]
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "electricity-maps": KEY,
        "watttime": "ann:password",
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert find("watttime", folder, {}).reveal() == "ann:password"


def test_what_was_handed_over_before_is_gone_and_the_folder_is_closed(tmp_path):
    hand_over(tmp_path, {NAME: KEY, "ECO_RAY_KEY_WATTTIME": "ann:password"})
    tmp_path.chmod(0o755)
    hand_over(tmp_path, {NAME: "another-key"})
    assert [path.name for path in tmp_path.iterdir()] == ["electricity-maps"]
    assert find("electricity-maps", tmp_path, {}).reveal() == "another-key"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_with_one_bad_key_nothing_changes(tmp_path):
    hand_over(tmp_path, {NAME: KEY})
    with pytest.raises(UsageError, match="ECO_RAY_KEY_WATTTIME"):
        hand_over(tmp_path, {NAME: "another-key", "ECO_RAY_KEY_WATTTIME": "no\nkey"})
    assert find("electricity-maps", tmp_path, {}).reveal() == KEY


@pytest.mark.parametrize("name", ["ECO_RAY_KEY_", "ECO_RAY_KEY__FILE", "ECO_RAY_KEY_../X", "ECO_RAY_KEY_A/B"])
def test_a_variable_that_names_no_source(tmp_path, name):
    with pytest.raises(UsageError, match="names no grid source"):
        hand_over(tmp_path / "keys", {name: KEY})
    assert not (tmp_path / "X").exists()


# --- it does not show


def test_it_prints_as_stars():
    secret = Secret(KEY, "test")
    shown = f"{secret} {secret!r} %s {[secret]}" % secret
    assert KEY not in shown
    assert not hasattr(secret, "__dict__")


def test_a_held_key_is_hidden_in_every_error_of_a_source_and_afterwards_no_more():
    # parts of its own: other tests may still hold theirs
    secret = Secret("uma@held.example:0nly-her/word", "test")
    coded = base64.b64encode(b"uma@held.example:0nly-her/word").decode()
    text = f"a {secret.reveal()} b {coded} c 0NLY-HER/WORD d 0nly-her%2fword e"
    clean = "a *** b *** c *** d *** e"
    assert hide(text, 200) == clean
    assert str(SourceError(text, Fault.REFUSED)) == clean
    del secret
    gc.collect()
    assert hide(text, 200) == text


def test_a_text_is_searched_and_shown_up_to_a_length_and_no_key_is_cut_in_half():
    secret = Secret("k3y" * 1_000, "test")
    escaped = "".join(f"%{ord(char):02x}" for char in secret.reveal())
    for form in (secret.reveal(), escaped):
        for before in range(0, 40_000, 1_999):
            for text in ("x" * before + form, "x" * before + form * 9, form * 20 + "x" * before):
                shown = hide(text, 300)
                assert len(shown) <= 300
                assert set(shown) <= {"x", "*"}


def test_a_huge_text_costs_nothing():
    secret = Secret(KEY, "test")
    escaped = "".join(f"%{ord(char):02x}" for char in KEY) + " "
    huge = escaped * (3_900_000 // len(escaped))
    begin = time.thread_time()  # other processes may have the machine
    assert str(SourceError(huge, Fault.REFUSED)) == "***"
    assert time.thread_time() - begin < 1
    assert 0 < len(str(SourceError("x" * 3_900_000, Fault.REFUSED))) <= 2_000
    begin = time.thread_time()
    assert secret.cut_out_of(huge) == "*** " * huge.count(" ")
    assert time.thread_time() - begin < 8


def test_what_is_no_key_is_left_as_it_is():
    secret = Secret(KEY, "test")
    for text in ("", "50% & more \\ than &amp; %41", "s3cret", KEY[:-1]):
        assert hide(text, 200) == text
    assert secret.cut_out_of(f"%41{KEY}%41&amp;{KEY}") == "%41***%41&amp;***"


def test_short_parts_do_not_spoil_texts():
    assert Secret("a:b", "test").cut_out_of("a banana") == "a banana"


def test_no_log_line_of_ours_holds_it(caplog):
    caplog.set_level(logging.DEBUG)
    find("electricity-maps", None, {NAME: KEY})
    assert KEY not in caplog.text
    assert keys.PREFIX == "ECO_RAY_KEY_"
