"""What devices were set to before we changed them, on disk, so that a crash can be undone.

One JSON file per node; each change of it is one atomic, synced replacement under a lock. An entry is written before its
device is changed and removed after it was given back, so a crash at any moment leaves either an entry whose device
needs nothing, or one that says what it needs.

A journal of an earlier boot is dropped: drivers forget power limits and locked clocks at a reboot, and what the
machine's own start-up set since then is not ours to undo.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eco_ray.errors import EcoRayError, NotAllowedError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Entry(BaseModel):
    """One device before the first change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: limit to give back [W]; None: it was not changed
    limit_w: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    #: clocks to unlock
    clocks: bool = False
    #: `pid:token` of the process that must undo it, see `Lease`; None: set by hand, a person undoes it
    owner: str | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    boot_id: str
    devices: dict[str, Entry]


class Journal:
    """The journal of this node."""

    def __init__(self, path: Path, boot_id: str | None = None) -> None:
        """`boot_id` is that of the running kernel when not given."""
        self.path = path
        self._boot_id = boot_id or _BOOT_ID.read_text().strip()

    @contextlib.contextmanager
    def locked(self) -> Iterator[dict[str, Entry]]:
        """The entries, by device, for one process at a time; `write` keeps what was changed in them."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise NotAllowedError(
                f"{self.path.parent} cannot hold the journal of power limits ({error.strerror}), and without one "
                "nothing is changed: run as the user who owns it, or give another with --journal"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read()
        finally:
            os.close(lock)

    def write(self, entries: dict[str, Entry]) -> None:
        """Replace the file; on return it is on disk. Without entries there is no file."""
        if entries:
            temporary = self.path.with_suffix(".tmp")
            with temporary.open("w", encoding="utf-8") as file:
                file.write(_File(boot_id=self._boot_id, devices=entries).model_dump_json(indent=2))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self) -> dict[str, Entry]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            file = _File.model_validate_json(content)
        except ValidationError as error:
            raise EcoRayError(
                f"{self.path} is damaged ({error.errors()[0]['msg']}): compare `nvidia-smi -q -d POWER,CLOCK` with "
                "what you want, set it by `nvidia-smi -pl` and `-rgc`, then remove the file"
            ) from error
        return file.devices if file.boot_id == self._boot_id else {}


class Lease:
    """What shows that an owner of changes still runs: a lock that the kernel drops when its process ends, in any way.

    Unlike a process id it means the same to all containers of a node that share the journal's folder.
    """

    def __init__(self, journal: Path) -> None:
        """Hold a new one beside the journal. Raises NotAllowedError where that folder cannot be written."""
        self.owner = f"{os.getpid()}:{secrets.token_hex(8)}"
        self._path = _lease_path(journal, self.owner)
        try:
            journal.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise NotAllowedError(
                f"{journal.parent} cannot hold the lease of power limits ({error.strerror}), and without one "
                "nothing is changed: run as the user who owns it, or give another with --journal"
            ) from error
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def end(self) -> None:
        """Give it back."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def is_alive(journal: Path, owner: str) -> bool:
    """Whether the owner still runs; the lease of one that was killed is removed."""
    path = _lease_path(journal, owner)
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # of another user: nobody knows, so it stays
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(file)


def _lease_path(journal: Path, owner: str) -> Path:
    token = "".join(one if one.isalnum() else "-" for one in owner[:64])
    return journal.with_name(f"{journal.stem}.{token}.lease")
