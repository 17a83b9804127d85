"""What reading any CSV file has in common; what is in it is for its readers' tests."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path

import pytest

from eco_ray import csv_file
from eco_ray.csv_file import csv_rows
from eco_ray.errors import UsageError


def rows(path: Path) -> list[tuple[int, list[str]]]:
    return list(csv_rows(path, "cut it"))


TEXT = b'\xef\xbb\xbfa,b\r\n\r\n1,"x\ny"\n\n2,z'


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "T.CSV.GZ"])
def test_rows_come_with_the_line_in_which_they_end_and_without_blank_ones(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(TEXT) if name.lower().endswith("gz") else TEXT)
    assert rows(path) == [(1, ["a", "b"]), (4, ["1", "x\ny"]), (6, ["2", "z"])]


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"a\n1\n",))
    writer.start()
    assert rows(path) == [(1, ["a"]), (2, ["1"])]
    writer.join()


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\xc3\xa9"])
@pytest.mark.parametrize("lines", [0, 1, 2047, 2048, 50_000])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_byte_that_is_not_utf8_is_counted_from_the_start(
    tmp_path: Path, before: bytes, lines: int, name: str
) -> None:
    data = before + b"1,2\n" * lines
    path = tmp_path / name
    whole = data + b"\xe9\n" + b"3,4\n" * 5_000
    path.write_bytes(gzip.compress(whole) if name.endswith("gz") else whole)
    with pytest.raises(UsageError, match=rf"{name}: byte {len(data)} is not UTF-8; save the file as plain CSV"):
        rows(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"x" * 10_001, "t.csv, line 1: 10001 bytes; the limit is 10000; cut it"),
        ("t.csv.gz", gzip.compress(b"x" * 10_001, mtime=0), "line 1: more than 10000 bytes once unpacked, which is "),
        ("t.csv.gz", b"a,b\n", r"t.csv.gz: is not a whole gzip file \(Not a gzipped file.*\); copy it again"),
        ("t.csv.gz", gzip.compress(b"a,b\n", mtime=0)[:-3], r"is not a whole gzip file \(Compressed file ended.*\)"),
        ("t.csv", b'a\n"b\n', "t.csv, line 2: unexpected end of data; save the file as plain comma-separated"),
        ("", b"", r"cannot be read \(Is a directory\); give the path of a CSV file"),
    ],
)  # fmt: skip
def test_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, message: str) -> None:
    monkeypatch.setattr(csv_file, "MAX_BYTES", 10_000)
    if name:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=message):
        rows(tmp_path / name)
