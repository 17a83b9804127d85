"""Files that others write: whatever they are, the reader goes on."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eco_ray.json_file import MAX_DEPTH, read_json, read_stamped

LIMIT = 1000


def a_link(path: Path) -> None:
    path.with_name("other").write_text("[1]")
    path.symlink_to("other")


def a_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    socket.socket(socket.AF_UNIX).bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def text(content: str | bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


#: what may lie where a file is to be
BAD: dict[str, Callable[[Path], Any]] = {
    "nested far too deep": text("[" * 999),
    "nested and whole": text("[" * 499 + "]" * 499),
    "nested a little too deep": text("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)),
    "objects": text('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1)),
    "too large": text("1" * (LIMIT + 1)),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link": a_link,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": a_socket,
    "no JSON": text("{"),
    "empty": text(""),
    "bytes": text(b"\xff\xfe\x00"),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_small_flat_regular_file_is_a_value_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    BAD[name](path)
    with pytest.raises(ValueError):
        read_json(path, LIMIT)


def test_a_recursion_error_of_the_parser_is_one_too(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" * 60_000)
    with pytest.raises(ValueError, match="nested too deep"):
        read_json(path, 65_536)


def test_a_sound_file_is_read_with_its_time_and_one_that_is_gone_is_an_os_error(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH)
    content, changed_ns = read_stamped(path, LIMIT)
    for _ in range(MAX_DEPTH):
        (content,) = content
    assert (content, changed_ns) == (1, path.stat().st_mtime_ns)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_json(path, LIMIT)
