"""Objects under paths, on this machine or wherever fsspec reaches: what the registry is kept in.

Two promises hold everywhere: an object is there whole or not at all, and `put_new` never replaces one. Both make the
registry safe without locks: of two writers one gets the place, and the other is told.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from eco_ray.errors import DamagedError, EcoRayError, NotAllowedError, NotFoundError, UnreachableError, UsageError
from eco_ray.storage_url import credentials, open_file_system, without, without_credentials
from eco_ray.whole_file import sync

Data = bytes | memoryview

#: without O_NONBLOCK, opening a pipe would wait for whoever writes to it
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_DRAFT = re.compile(r"\.[0-9a-f]{32}\.tmp")
#: where drafts may lie, besides the root itself
_FOLDERS = ("blobs", "models", "pushes", "sealed")
#: object that is there to be not created a second time
_PROBE = "probe"
_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*(/[A-Za-z0-9][A-Za-z0-9._@+-]*)*")


class ObjectStore(Protocol):
    """Paths are relative, of letters, digits and `._@+-`, with `/` between names that begin with a letter or digit."""

    url: str
    #: whether what is read and written goes over a network
    remote: bool

    def read(self, path: str, most_bytes: int) -> bytes:
        """An object. Raises NotFoundError; DamagedError if it is larger than `most_bytes`."""
        ...

    def put_new(self, path: str, data: bytes) -> bool:
        """Write an object that is not there yet; False, and nothing is changed, if one is."""
        ...

    def put(self, path: str, data: Data) -> None:
        """Write an object; one that is there is replaced by the whole new one."""
        ...

    def names(self, path: str, *, links: bool = True) -> list[str]:
        """Names right below a path that paths may have, sorted; none where nothing is.

        `links`: False passes symbolic links over, and gives nothing of a path that is one.
        """
        ...

    def size(self, path: str) -> int | None:
        """Bytes of an object; None: it is not there."""
        ...

    def md5(self, path: str) -> str | None:
        """MD5 of an object as the store itself knows it, in hexadecimal; None: it is not there, or tells none."""
        ...

    def written_s(self, path: str) -> float | None:
        """When an object was written, by the clock of the store [s]; None where nobody knows, or it is gone."""
        ...

    def remove(self, path: str) -> None:
        """Take an object away; no error if it is gone."""
        ...

    def sweep(self, before_s: float) -> None:
        """Take away what writers left half-written before that time, by the clock of the store [s]."""
        ...


def open_store(url: str) -> ObjectStore:
    """The store of a directory or an fsspec URL (s3://, gs://, az://, memory://).

    Raises UsageError for a protocol that no installed package speaks.
    """
    protocol, separator, rest = url.partition("://")
    if not separator:
        return LocalStore(Path(url))
    if protocol in {"file", "local"}:
        return LocalStore(Path(rest))
    filesystem, root = open_file_system(url, "registry")
    return FsspecStore(url, filesystem, root)


def checked(path: str) -> str:
    """The path, if it stays below the root. Raises UsageError."""
    if not _PATH.fullmatch(path) or len(path) > 500:
        raise UsageError(f"{path[:120]!r} is no path of the registry")
    return path


class LocalStore:
    """A directory. What a crash leaves are drafts, whose names begin with a dot and which nobody reads."""

    remote = False

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(self.root)

    def read(self, path: str, most_bytes: int) -> bytes:
        with self._errors(path):
            descriptor = os.open(f"{self.root}/{checked(path)}", _READ)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise DamagedError(f"{self.root / path} is no regular file; it is nothing that we wrote")
                data, most = b"", min(status.st_size, most_bytes) + 1  # takes no memory beyond what is there
                while part := os.read(descriptor, most - len(data)):
                    data += part
            finally:
                os.close(descriptor)
        if len(data) > most_bytes:
            raise DamagedError(f"{self.root / path} is larger than {most_bytes} bytes; it is nothing that we wrote")
        return data

    def put_new(self, path: str, data: bytes) -> bool:
        target = self.root / checked(path)
        with self._errors(path), self._draft(target) as draft:
            _write(draft, data)
            try:
                os.link(draft, target)  # unlike a rename, it fails where something is
            except FileExistsError:
                return False
            sync(target.parent)
        return True

    def put(self, path: str, data: Data) -> None:
        target = self.root / checked(path)
        with self._errors(path), self._draft(target) as draft:
            _write(draft, data)
            draft.replace(target)
            sync(target.parent)

    def names(self, path: str, *, links: bool = True) -> list[str]:
        with self._errors(path):
            folder = self.root / checked(path)
            if not links and folder.is_symlink():
                return []
            try:
                with os.scandir(folder) as found:
                    return sorted(
                        one.name for one in found if _PATH.fullmatch(one.name) and (links or not one.is_symlink())
                    )
            except (FileNotFoundError, NotADirectoryError):
                return []

    def size(self, path: str) -> int | None:
        try:
            return (self.root / checked(path)).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def md5(self, path: str) -> None:
        """A file system knows none: who wants to know reads the file."""

    def written_s(self, path: str) -> float | None:
        try:
            return (self.root / checked(path)).stat().st_mtime
        except FileNotFoundError:
            return None

    def remove(self, path: str) -> None:
        with self._errors(path):
            (self.root / checked(path)).unlink(missing_ok=True)

    def sweep(self, before_s: float) -> None:
        """Links are not followed, and what others left lies in other folders, or has other names."""
        tops = [top for top in (self.root / name for name in _FOLDERS) if not top.is_symlink()]
        folders = [self.root, *(Path(one) for top in tops for one, _, _ in os.walk(top))]
        for draft in (one for folder in folders for one in folder.glob(".*.tmp") if _DRAFT.fullmatch(one.name)):
            with contextlib.suppress(FileNotFoundError):
                if draft.lstat().st_mtime < before_s:
                    draft.unlink()

    @contextlib.contextmanager
    def _draft(self, target: Path) -> Iterator[Path]:
        _make_folder(target.parent, 0o700)
        draft = target.with_name(_draft_name(uuid.uuid4().hex))
        try:
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotFoundError(f"{self.root / path} is not there") from None
        except PermissionError as error:
            raise NotAllowedError(f"{self.root / path}: {error.strerror}; ask for the right to write there") from None
        except OSError as error:
            raise EcoRayError(f"{self.root / path}: {error.strerror or error}") from None


class FsspecStore:
    """An object store behind fsspec. That an object is there whole or not at all is the store's own promise."""

    remote = True

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self.url = without_credentials(url)
        self._secret = credentials(url)
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._is_exclusive = False

    def read(self, path: str, most_bytes: int) -> bytes:
        with self._errors(path):
            data: bytes = self._read(self._at(path), most_bytes + 1)
        if len(data) > most_bytes:
            raise DamagedError(f"{self.url}/{path} is larger than {most_bytes} bytes; it is nothing that we wrote")
        return data

    def _read(self, path: str, most_bytes: int) -> bytes:
        try:
            data: bytes = self._fs.cat_file(path, start=0, end=most_bytes)
        except OSError:
            if self._fs.size(path) == 0:  # S3 has no range of nothing
                return b""
            raise
        return data

    def put_new(self, path: str, data: bytes) -> bool:
        with self._errors(path):
            if not self._is_exclusive:
                self._prove()
            return self._create(self._at(path), data)

    def _create(self, path: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def _prove(self) -> None:
        """Raise UsageError where an object is created twice: not all that fsspec opens, nor all of S3, heeds `mode`."""
        if self._create(self._at(_PROBE), b"created once") and self._create(self._at(_PROBE), b"created twice"):
            raise UsageError(
                f"{self.url} puts an object in the place of another one where it shall not (no conditional puts), so "
                "of two who write in one moment one would be lost; use a store that has them, as S3, GCS and Azure do"
            )
        self._is_exclusive = True

    def put(self, path: str, data: Data) -> None:
        with self._errors(path):
            self._fs.pipe_file(self._at(path), bytes(data))

    def names(self, path: str, *, links: bool = True) -> list[str]:
        with self._errors(path):
            try:
                self._fs.invalidate_cache()
                found = self._fs.ls(self._at(path), detail=False)
            except FileNotFoundError as error:
                if "bucket does not exist" in str(error):  # S3 and those that speak as it does
                    raise NotFoundError(f"there is no bucket for {self.url}; make it, or name another one") from None
                return []
        return sorted({name for one in found if _PATH.fullmatch(name := one.rstrip("/").rpartition("/")[2])})

    def size(self, path: str) -> int | None:
        with self._errors(path):
            try:
                return int(self._fs.size(self._at(path)))
            except FileNotFoundError:
                return None

    def md5(self, path: str) -> str | None:
        with self._errors(path):
            try:
                self._fs.invalidate_cache()
                tag = str(self._fs.info(self._at(path)).get("ETag", "")).strip('"')
            except FileNotFoundError:
                return None
        # of an object of S3 that was sent whole; other tags are not of this form, or are no MD5 and match nothing
        return tag if _MD5.fullmatch(tag) else None

    def written_s(self, path: str) -> float | None:
        with self._errors(path):
            try:
                return float(self._fs.modified(self._at(path)).timestamp())
            except (FileNotFoundError, NotImplementedError):  # some file systems of fsspec keep no times
                return None

    def remove(self, path: str) -> None:
        with self._errors(path), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(path))

    def sweep(self, before_s: float) -> None:
        """Nothing is half-written there."""

    def _at(self, path: str) -> str:
        return f"{self._root}/{checked(path)}"

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except EcoRayError:
            raise
        except FileNotFoundError:
            raise NotFoundError(f"{self.url}/{path} is not there") from None
        except PermissionError as error:
            raise NotAllowedError(f"{self.url}/{path}: {self._said(error)}; check the credentials") from None
        except Exception as error:  # each store has errors of its own
            raise UnreachableError(f"{self.url}/{path}: {type(error).__name__}: {self._said(error)}") from None

    def _said(self, error: Exception) -> str:
        return without(self._secret, error)


def _make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a directory, and those that it lies in, so that they outlive a power cut with what is written to them."""
    try:
        folder.mkdir(mode=mode)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_folder(folder.parent)
        _make_folder(folder, mode)
        return
    sync(folder.parent)


def _draft_name(stem: str) -> str:
    return f".{stem}.tmp"


def _write(draft: Path, data: Data) -> None:
    with draft.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
