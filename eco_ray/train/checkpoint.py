"""Checkpoints of a job: one file each (see checkpoint_file.py), in a directory or under an fsspec URL.

In CHECKPOINT_DIR:

    ckpt-<attempt>-<n>.safetensors   a complete checkpoint; the newest has the highest (attempt, n)
    latest                           JSON about the newest, for who does not want to look inside:
                                     {"file", "sha256", "bytes", "attempt", "time_s", "done", "metrics"}
    damaged-ckpt-...                 one that failed its check when it was read, put aside

A file is written under another name, synced and renamed: it is there whole or not at all. Where there were checkpoints
and none can be read, that is an error: nothing begins anew by itself.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eco_ray.errors import DamagedError, EcoRayError, UsageError
from eco_ray.train import checkpoint_file
from eco_ray.train.checkpoint_file import Damaged, Encoded, encode
from eco_ray.train.storage import Storage, open_storage

__all__ = ["KEEP", "Checkpoint", "CheckpointError", "CheckpointStore"]

#: how many complete checkpoints are kept; the older ones stand in for a damaged newest one
KEEP = 2
_FILE_NAME = re.compile(r"ckpt-(\d+)-(\d+)\.safetensors")
_DRAFT_NAME = re.compile(r"ckpt-(\d+)-\d+\.safetensors\.part-\d+")
_ASIDE = "damaged-"
_LATEST = "latest"


class CheckpointError(EcoRayError):
    """A checkpoint could not be written; the previous one is intact."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A restored checkpoint."""

    state: dict[Any, Any]
    #: what the session keeps beside the state: {"attempt", "time_s", "done", "metrics"}
    about: dict[str, Any]
    #: name of its file
    name: str


class CheckpointStore:
    """The checkpoints of one job, as one attempt writes and reads them.

    `read_only`: for the ranks that read the same checkpoints as the one that writes them; nothing is put aside.
    """

    def __init__(
        self,
        place: Storage | str | Path,
        attempt: int,
        warn: Callable[[str], None],
        *,
        keep: int = KEEP,
        read_only: bool = False,
    ) -> None:
        if keep < 1:
            raise UsageError(f"keep={keep} checkpoints leaves none to go on from; keep 1 or more, {KEEP} as a rule")
        self.storage = open_storage(place) if isinstance(place, str | Path) else place
        self._attempt = attempt
        self._warn = warn
        self._keep = keep
        self._read_only = read_only
        self._next: int | None = None

    def save(self, state: dict[Any, Any], about: dict[str, Any], still_allowed: Callable[[], None]) -> int:
        """Write a state, as `write` does."""
        return self.write(encode(state, copy=False), about, still_allowed)

    def write(self, encoded: Encoded, about: dict[str, Any], still_allowed: Callable[[], None]) -> int:
        """Write the next checkpoint; returns its size [bytes].

        `still_allowed` raises if a newer attempt has taken over while it was written.
        """
        storage = self.storage
        try:
            if self._next is None:
                self._next = 1 + max(
                    (n for a, n, _ in _complete(self.storage.names()) if a == self._attempt), default=0
                )
                self._sweep()  # before it needs the room
            name = f"ckpt-{self._attempt}-{self._next}.safetensors"
            with storage.writing(name, still_allowed) as file:
                digest = checkpoint_file.write(file, encoded, about)
                size = file.tell()
            self._next += 1
            storage.write_text(_LATEST, json.dumps({"file": name, "sha256": digest, "bytes": size, **about}))
        except OSError as error:
            raise CheckpointError(
                f"a checkpoint of {encoded.nbytes} bytes could not be written to {storage.url}: "
                f"{error.strerror or error}; the last complete one is intact; free space there or give another "
                "checkpoint directory"
            ) from error
        self._prune()
        return size

    def _prune(self) -> None:
        """Remove all but the newest checkpoints."""
        with contextlib.suppress(OSError):  # a file too many is no reason to stop a training run
            for _, _, name in _complete(self.storage.names())[self._keep :]:
                self.storage.remove(name)

    def _sweep(self) -> None:
        """Remove what a killed writer of this or an earlier attempt left half-written."""
        with contextlib.suppress(OSError):
            for draft in filter(None, map(_DRAFT_NAME.fullmatch, self.storage.names())):
                if int(draft[1]) <= self._attempt:
                    self.storage.remove(draft[0])

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None: none was ever written here.

        Raises DamagedError where there were some and none can be read.
        """
        try:
            names = self.storage.names()
        except OSError as error:
            raise EcoRayError(
                f"the checkpoints in {self.storage.url} cannot be looked for: {error.strerror or error}; make the "
                "place reachable, or give another one"
            ) from error
        lost = [f"{name}: damaged, put aside earlier" for name in sorted(names) if name.startswith(f"{_ASIDE}ckpt-")]
        reasons: list[str] = []
        for _, _, name in _complete(names):
            try:
                with self.storage.reading(name) as (file, size):
                    state, about = checkpoint_file.read(file, size)
            except (Damaged, OSError) as error:
                reasons.append(self._give_up(name, error))
            else:
                return Checkpoint(state, about, name)
        if reasons or lost or _LATEST in names:
            said = "; ".join([*reasons, *lost][:3]) or f"{_LATEST!r} tells of one, but its file is gone"
            raise DamagedError(
                f"no checkpoint in {self.storage.url} can be read ({said}), and the work does not begin anew by "
                "itself; put a whole one back, or, to begin anew, submit the job again or empty this place"
            )
        return None

    def _give_up(self, name: str, error: Exception) -> str:
        """Tell that a checkpoint is of no use, and put it aside if it is damaged; returns why."""
        if not isinstance(error, Damaged):
            self._warn(f"checkpoint {self.storage.url}/{name} cannot be read ({error}); trying the one before")
            return f"{name} cannot be read: {error}"
        self._warn(
            f"checkpoint {self.storage.url}/{name} is damaged ({error}); kept as {_ASIDE}{name}, trying the one before"
        )
        if not self._read_only:
            with contextlib.suppress(OSError):
                self.storage.rename(name, f"{_ASIDE}{name}")
        return f"{name} is damaged: {error}"


def _complete(names: Iterable[str]) -> list[tuple[int, int, str]]:
    """(attempt, n, name) of the complete checkpoints, newest first."""
    matches = map(_FILE_NAME.fullmatch, names)
    return sorted(((int(m[1]), int(m[2]), m[0]) for m in matches if m), reverse=True)
