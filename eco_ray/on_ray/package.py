"""Snapshot of a work directory, so that a job that starts tomorrow runs what was submitted today."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from pathlib import Path

from eco_ray.errors import UsageError

#: never part of a snapshot, with or without git
_SKIPPED = {".git", ".venv", "venv", "__pycache__", "node_modules", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
#: fixed time of all entries, so that the same files give the same bytes
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Packages:
    """The snapshots that a cluster keeps, in its state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "packages"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, name: str) -> Path:
        """Where a snapshot is; of a name that holds folders only the last part counts."""
        return self._folder / Path(name).name

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return self.path(name).exists()

    def put(self, name: str, content: bytes) -> None:
        """Keep a snapshot, whole or not at all; its name is the hash of its content."""
        part = self.path(name).with_suffix(".part")
        part.write_bytes(content)
        part.replace(self.path(name))


def make_package(folder: Path, limit_mb: float) -> tuple[str, bytes]:
    """Zip a folder without what git ignores: (name made of its hash, content). Raises UsageError when too large."""
    if not folder.is_dir():
        raise UsageError(f"workdir {folder} is not a folder; correct it, or leave it out if the job needs no files")
    limit = int(limit_mb * 1_000_000)
    total = 0
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in _files(folder):
            path = folder / name
            total += path.stat().st_size
            if total > limit:
                raise UsageError(
                    f"workdir {folder} holds more than {limit_mb:g} MB (at {name}); put data elsewhere, add it to "
                    ".gitignore, or raise the setting max_package_mb"
                )
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = (path.stat().st_mode & 0o777) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    content = buffer.getvalue()
    return f"{hashlib.sha256(content).hexdigest()}.zip", content


def _files(folder: Path) -> list[str]:
    """Relative names of the files that belong into the snapshot, sorted."""
    try:
        listed = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        names = [name for name in listed.decode(errors="surrogateescape").split("\0") if name]
    except (OSError, subprocess.SubprocessError):
        names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    return sorted(name for name in names if (folder / name).is_file() and not _SKIPPED & set(Path(name).parts))
