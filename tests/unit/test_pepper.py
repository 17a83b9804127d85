"""The pepper of API keys: one file, for the owner alone, the same for all who come first at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.pepper import NAME, find_pepper
from eco_ray.secret_file import keep_secret, read_secret

CHILD = """
import sys
from pathlib import Path
from eco_ray.pepper import find_pepper
print("ready", flush=True)
sys.stdin.readline()
print(find_pepper(None, Path(sys.argv[1]), make=True).hex())
"""


def test_it_is_made_once_for_the_owner_alone(tmp_path):
    state = tmp_path / "new" / "state"
    before = os.umask(0)
    try:
        pepper = find_pepper(None, state, make=True)
    finally:
        os.umask(before)
    assert len(pepper) == 32
    assert find_pepper(None, state, make=True) == find_pepper(None, state, make=False) == pepper
    assert find_pepper(None, tmp_path / "other", make=True) != pepper
    assert stat.S_IMODE((state / NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert [path.name for path in state.iterdir()] == [NAME]


def test_processes_that_come_first_at_once_get_the_same(tmp_path):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "state")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    assert {child.stdout.readline() for child in children} == {"ready\n"}
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    told = {child.communicate(timeout=60)[0] for child in children}
    assert len(told) == 1
    assert told.pop().strip() == find_pepper(None, tmp_path / "state", make=False).hex()
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_who_comes_second_leaves_the_firsts(tmp_path):
    keep_secret(tmp_path / "s", "first", "it")
    keep_secret(tmp_path / "s", "second", "it")
    assert read_secret(tmp_path / "s", "it") == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_file_of_ones_own_is_never_made(tmp_path):
    file = tmp_path / "pepper"
    with pytest.raises(UsageError, match=r"pepper of API keys cannot be read from .*No such file.*; correct the path"):
        find_pepper(file, tmp_path / "state", make=True)
    assert not file.exists()
    file.write_text("5f" * 32 + "\n")
    file.chmod(0o600)
    assert find_pepper(file, tmp_path / "state", make=False) == b"\x5f" * 32
    assert not (tmp_path / "state").exists()


def test_a_lost_one_is_not_replaced_where_there_are_keys(tmp_path):
    with pytest.raises(NotFoundError, match=r"there are API keys, and .*key-pepper: put back .*KEY_PEPPER_FILE"):
        find_pepper(None, tmp_path, make=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "5f" * 31, "5f" * 33, "5g" * 32, "5f " * 32, "\xff" * 64])
def test_what_is_none_is_refused_and_not_shown(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    (tmp_path / NAME).chmod(0o600)
    with pytest.raises(UsageError, match="not 64 hexadecimal digits") as info:
        find_pepper(None, tmp_path, make=True)
    assert not text or text not in str(info.value)


def test_what_others_can_read_is_refused(tmp_path):
    (tmp_path / NAME).write_text("5f" * 32)
    (tmp_path / NAME).chmod(0o640)
    with pytest.raises(UsageError, match=r"others may read the pepper .*\(mode 0640\); run chmod 600"):
        find_pepper(None, tmp_path, make=True)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EcoRayError, match=r"cannot be kept in .*; name a place that you may write"):
        find_pepper(None, tmp_path / "file" / "state", make=True)
