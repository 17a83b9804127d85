"""Where checkpoints lie: a directory, or wherever fsspec reaches by URL. A file is there whole or not at all.

All errors are OSError, whatever lies behind.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

from eco_ray.errors import UsageError
from eco_ray.storage_url import credentials, open_file_system, without, without_credentials
from eco_ray.whole_file import sync


class Storage(Protocol):
    """Files by name, without folders below."""

    #: as it may be shown: without credentials
    url: str

    @property
    def path(self) -> Path | None:
        """The directory; None: not on this machine."""
        ...

    def names(self) -> list[str]:
        """All that is there; none where nothing has been written yet."""
        ...

    def writing(self, name: str, still_allowed: Callable[[], None]) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A seekable file that takes its place at the end of the block, unless that or `still_allowed` raises."""
        ...

    def reading(self, name: str) -> contextlib.AbstractContextManager[tuple[IO[bytes], int]]:
        """A file, and its size [bytes]."""
        ...

    def read_text(self, name: str) -> str | None:
        """A small file of ASCII; None: it is not there."""
        ...

    def write_text(self, name: str, text: str) -> None:
        """Replace a small file."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name."""
        ...

    def remove(self, name: str) -> None:
        """Take a file away; no error if it is gone."""
        ...


def open_storage(place: str | Path) -> Storage:
    """A directory, which is made, or an fsspec URL (file://, s3://, gs://, az://, memory://). Raises UsageError."""
    protocol, separator, rest = str(place).partition("://")
    if not separator:
        return Folder(Path(place))
    if protocol in ("file", "local"):
        return Folder(Path(rest))
    return Remote(str(place))


class Folder:
    """A directory of this machine, or one that it shares with others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)
        make_directory(path)

    def names(self) -> list[str]:
        return [path.name for path in self.path.iterdir()]

    @contextlib.contextmanager
    def writing(self, name: str, still_allowed: Callable[[], None]) -> Iterator[IO[bytes]]:
        part = self.path / f"{name}.part-{os.getpid()}"
        with _removed_on_error(part):
            with part.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            still_allowed()
            part.rename(self.path / name)
        sync(self.path)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        with (self.path / name).open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size

    def read_text(self, name: str) -> str | None:
        try:
            return (self.path / name).read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return None

    def write_text(self, name: str, text: str) -> None:
        write_atomically(self.path / name, text)

    def rename(self, old: str, new: str) -> None:
        (self.path / old).rename(self.path / new)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


class Remote:
    """An object store behind fsspec. That an object is there whole or not at all is the store's own promise."""

    path: Path | None = None

    def __init__(self, url: str) -> None:
        self.url = without_credentials(url)
        self._secret = credentials(url)
        self._fs, root = open_file_system(url, "checkpoints in")
        self._root = root.rstrip("/")

    def names(self) -> list[str]:
        with self._errors():
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._root, detail=False)
            except FileNotFoundError as error:
                if "bucket does not exist" in str(error):  # S3 and those that speak as it does
                    raise
                return []
            return [str(one).rstrip("/").rpartition("/")[2] for one in found]

    @contextlib.contextmanager
    def writing(self, name: str, still_allowed: Callable[[], None]) -> Iterator[IO[bytes]]:
        # put together on this machine, so that a large one is never in memory a second time
        with tempfile.NamedTemporaryFile(prefix="eco-ray-checkpoint-") as file:
            yield file
            file.flush()
            still_allowed()
            with self._errors():
                self._fs.put_file(file.name, f"{self._root}/{name}")

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        with tempfile.NamedTemporaryFile(prefix="eco-ray-checkpoint-") as file:
            with self._errors():
                self._fs.get_file(f"{self._root}/{name}", file.name)
            yield file, os.fstat(file.fileno()).st_size

    def read_text(self, name: str) -> str | None:
        with self._errors():
            try:
                data: bytes = self._fs.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
        return data.decode("ascii", errors="replace")

    def write_text(self, name: str, text: str) -> None:
        with self._errors():
            self._fs.pipe_file(f"{self._root}/{name}", text.encode())

    def rename(self, old: str, new: str) -> None:
        with self._errors():
            self._fs.mv(f"{self._root}/{old}", f"{self._root}/{new}")

    def remove(self, name: str) -> None:
        with self._errors(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each store has errors of its own
            raise OSError(f"{type(error).__name__}: {without(self._secret, error)}") from None


def make_directory(path: Path) -> None:
    """Make a directory that only its owner can look into, if it is not there. Raises UsageError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be made ({error.strerror}); give a directory that can be written") from error


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file so that a reader sees the old or the new text, never a part."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    with _removed_on_error(part):
        part.write_text(text, encoding="utf-8")
        part.rename(path)


@contextlib.contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
