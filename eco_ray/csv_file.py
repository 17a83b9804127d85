"""Reading a CSV file, plain or gzipped (NAME.gz), row by row, never more of it than a limit.

Every fault is a UsageError with file, line, value, limit and cure.
"""

from __future__ import annotations

import csv
import gzip
import io
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from eco_ray.errors import UsageError

#: of the text: of a .gz once unpacked
MAX_BYTES = 200_000_000


def csv_rows(path: Path, cut: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row that is not blank; `cut` says how a file that is too large is made smaller."""
    try:
        with io.TextIOWrapper(_open(path, cut), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                for row in reader:
                    if row:
                        yield reader.line_num, row
            except UnicodeDecodeError as error:  # its own count begins anew with each piece that is decoded
                byte = file.buffer.tell() - len(error.object) + error.start
                raise UsageError(f"{path}: byte {byte} is not UTF-8; save the file as plain CSV in UTF-8") from error
            except csv.Error as error:
                raise UsageError(
                    f"{path}, line {reader.line_num}: {error}; save the file as plain comma-separated text"
                ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}: is not a whole gzip file ({error}); copy it again or unpack it") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give the path of a CSV file") from error


def _open(path: Path, cut: str) -> IO[bytes]:
    """The bytes of the file, or those that a .gz unpacks to, after checking that they are not too many."""
    status = path.stat()
    size = status.st_size
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # a pipe or a device has no size
        with path.open("rb") as endless:
            data = endless.read(MAX_BYTES + 1)
        size = len(data)
        if size <= MAX_BYTES:
            return io.BytesIO(data)
    if size > MAX_BYTES:
        raise UsageError(f"{path}, line 1: {size} bytes; the limit is {MAX_BYTES}; {cut}")
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    with gzip.open(path) as packed:
        data = packed.read(MAX_BYTES + 1)  # a small .gz may unpack to anything
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}, line 1: more than {MAX_BYTES} bytes once unpacked, which is the limit; {cut}")
    return io.BytesIO(data)
