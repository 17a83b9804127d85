"""Files that hold one secret and that nobody else may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from eco_ray.errors import EcoRayError, NotAllowedError, UsageError
from eco_ray.whole_file import draft_of, sync

#: no file with a secret is larger
MAX_BYTES = 1024


def read_secret(path: Path, what: str) -> str:
    """The text of a file, stripped. `what` it is, for errors, which show none of it.

    Raises UsageError where it cannot be read, is no regular file, or can be read or changed by others.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe would wait for its writer
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_BYTES) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise UsageError(f"{what} cannot be read from {path} ({error.strerror}); correct the path") from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is no regular file; give one that holds {what}")
    if os.name == "posix" and mode & 0o077:
        raise UsageError(f"others may read {what} in {path} (mode {mode & 0o777:04o}); run chmod 600 on it")
    return raw.decode("ascii", errors="replace").strip()


def keep_secret(path: Path, text: str, what: str) -> None:
    """Make a file (0600, its folder 0700) with a secret, unless one is there: of two at once, all read the first's.

    Raises NotAllowedError or EcoRayError where it cannot be made.
    """
    draft = draft_of(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"{text}\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                path.hardlink_to(draft)  # a rename would take the place of another's
            except FileExistsError:
                return
            sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        kind = NotAllowedError if isinstance(error, PermissionError) else EcoRayError
        raise kind(f"{what} cannot be kept in {path} ({error.strerror}); name a place that you may write") from error
