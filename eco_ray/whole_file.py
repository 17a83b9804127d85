"""Writing a file so that a reader, a crash or a full disk meets the old one or the new one, never a half."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from eco_ray.errors import EcoRayError


def draft_of(path: Path, suffix: str = ".tmp") -> Path:
    """A name beside a file that no other writer uses: not another thread, nor a pod where each process is number 1."""
    # 40 characters are 160 bytes at most, and a name may have 255
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}{suffix}")


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that is too long for one, for which pathlib raises OSError, names none."""
    try:
        return path.is_file()
    except OSError:
        return False


def check_place(path: Path) -> None:
    """Raise OSError where `path` cannot be made a file, missing directories included. Nothing is left of the try."""
    folder = there = path.parent.resolve()
    while not there.exists():
        there = there.parent
    with tempfile.TemporaryDirectory(prefix=".", dir=there) as made:
        tried = Path(made) / folder.relative_to(there) / path.name
        tried.parent.mkdir(parents=True, exist_ok=True)
        tried.touch()
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


@contextmanager
def whole_file(path: Path, mode: int = 0o666) -> Iterator[TextIO]:
    """A text file to write in pieces: it takes its place at the end of the block, and not after an error.

    `mode`: permissions of a new one, less the umask.
    """
    if path.exists() and not path.is_file():
        with path.open("w", newline="", encoding="utf-8") as file:
            yield file
        return
    draft = draft_of(path)
    try:
        opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(opened, "w", newline="", encoding="utf-8") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Write UTF-8 text; a device or a pipe is written to, never replaced. Raises OSError, and leaves no draft."""
    with whole_file(path, mode) as file:
        file.write(text)


@contextmanager
def whole_binary_file(path: Path, *, durable: bool = True) -> Iterator[tuple[BinaryIO, Path]]:
    """A binary file to write in pieces, and where its draft lies; it takes its place at the end of the block, on disk.

    After an error the old file, or none, is there. `durable`: False for a file that need not outlive this process.
    Raises OSError.
    """
    draft = draft_of(path)
    try:
        with draft.open("wb") as file:
            yield file, draft
            file.flush()
            if durable:
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Raise what the system says of a file, or of another that it names, as an EcoRayError with the cure."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = error.filename if isinstance(error.filename, str) else str(path)
        cure = "make room there" if full else "name another file"
        raise EcoRayError(f"{where[:200]!r}: {error.strerror or error}; {cure}") from None
