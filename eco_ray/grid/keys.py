"""Keys of grid sources: from the environment or a file, and never shown.

    ECO_RAY_KEY_ELECTRICITY_MAPS=...            the key itself
    ECO_RAY_KEY_ELECTRICITY_MAPS_FILE=/path     a file that holds it, as container platforms mount secrets

`eco-ray up` hands keys of its environment to the controller in files that only their owner can read, and takes them out
of the environment of the cluster, so that no job inherits them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

from eco_ray.errors import UsageError

PREFIX = "ECO_RAY_KEY_"
#: of the state directory of a cluster, in which `eco-ray up` leaves the keys of its environment
FOLDER = "keys"
#: no key is longer
MAX_BYTES = 4_096
_SHORTEST_CUT = 4


class Secret:
    """A key that prints as `***`; `reveal` is called where a request is made and nowhere else."""

    __slots__ = ("_forms", "_text", "origin")

    def __init__(self, text: str, origin: str) -> None:
        self._text = text
        #: where it came from, for messages: a variable or a file
        self.origin = origin
        parts = {text, *text.split(":", 1)}  # user:password is sent as Basic, and either part may be echoed
        forms = {form for part in parts for form in (part, quote(part), quote_plus(part), quote(part, safe=""))}
        forms.add(base64.b64encode(text.encode()).decode())
        self._forms = tuple(sorted((form for form in forms if len(form) >= _SHORTEST_CUT), key=len, reverse=True))

    def reveal(self) -> str:
        """The key itself."""
        return self._text

    def cut_out_of(self, text: str) -> str:
        """The text with `***` for the key, also where it is escaped for a URL or coded as HTTP Basic."""
        for form in self._forms:
            text = text.replace(form, "***")
        return text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


def variable(source: str) -> str:
    """Name of the environment variable with a source's key."""
    return PREFIX + source.upper().replace("-", "_")


def find(source: str, folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> Secret | None:
    """A source's key: from its variable, the file that its `_FILE` variable names, or `folder`; None: there is none.

    Raises UsageError for a file that cannot be read, is too large or is open to others, and for a key that holds
    characters which no header can carry.
    """
    name = variable(source)
    if text := environ.get(name, "").strip():
        return _checked(text, f"environment variable {name}")
    if path := environ.get(f"{name}_FILE", "").strip():
        return _read(Path(path).expanduser(), f"file {path} (from {name}_FILE)")
    kept = folder / source if folder is not None else None
    return _read(kept, f"file {kept}") if kept is not None and kept.is_file() else None


def hand_over(folder: Path, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Write the keys of the environment to files in `folder`, 0600; returns the names of all variables that held one.

    What `folder` held before is removed: a key that was taken back is gone.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in folder.iterdir():
        old.unlink()
    names = [name for name in environ if name.startswith(PREFIX)]
    for source in sorted({_source(name) for name in names}):
        secret = find(source, None, environ)
        if secret is not None:
            with os.fdopen(os.open(folder / source, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secret.reveal())
    return names


def _source(name: str) -> str:
    return name.removeprefix(PREFIX).removesuffix("_FILE").lower().replace("_", "-")


def _read(path: Path, origin: str) -> Secret | None:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise UsageError(
            f"the key in {origin} cannot be read ({error.strerror}); correct the path or its mode"
        ) from None
    if mode & 0o007:
        raise UsageError(f"the key in {origin} can be read or changed by everybody; run chmod 600 on it")
    if len(raw) > MAX_BYTES:
        raise UsageError(f"the key in {origin} is longer than {MAX_BYTES} bytes; give a file with the key alone")
    text = raw.decode("utf-8", errors="replace").strip()
    return _checked(text, origin) if text else None


def _checked(text: str, origin: str) -> Secret:
    if len(text) > MAX_BYTES or not (text.isascii() and text.isprintable()):
        raise UsageError(
            f"the key in {origin} holds characters that no key has, or is longer than {MAX_BYTES}; copy it again"
        )
    return Secret(text, origin)
