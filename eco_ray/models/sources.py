"""Where containers are read from: bytes in memory, or a regular file that several threads read at once."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Self

from eco_ray.errors import DamagedError, EcoRayError, NotFoundError, UsageError


class BytesSource:
    """Bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self.size = len(self._data)

    def read(self, start: int, size: int) -> memoryview:
        """A view of exactly `size` bytes; DamagedError if they are not there."""
        if not 0 <= size <= self.size - start:
            raise DamagedError(f"{size} bytes at {start} are asked of {self.size}")
        return self._data[start : start + size]

    def close(self) -> None:
        """Nothing to close."""


class FileSource:
    """A regular file. Raises NotFoundError, UsageError (no regular file) or EcoRayError (not readable)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            # without O_NONBLOCK, opening a pipe would wait for whoever writes to it
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"no file {str(self.path)!r}") from None
        except OSError as error:
            raise EcoRayError(f"{str(self.path)!r} cannot be read: {error.strerror}") from None
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise UsageError(f"{str(self.path)!r} is no regular file; copy it into one")
        self.size = found.st_size

    def read(self, start: int, size: int) -> memoryview:
        """Exactly `size` bytes; DamagedError if they are not there, before any memory is taken for them."""
        if not 0 <= size <= self.size - start:
            raise DamagedError(f"{size} bytes at {start} are asked of {self.size}")
        parts, left = [], size
        while left:  # a read may return less, and at most 2 GiB
            try:
                part = os.pread(self._descriptor, left, start + size - left)
            except OSError as error:
                raise EcoRayError(f"{str(self.path)!r} cannot be read: {error.strerror}") from None
            if not part:
                raise DamagedError(f"it became shorter than {self.size} bytes while it was read")
            parts.append(part)
            left -= len(part)
        return memoryview(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
