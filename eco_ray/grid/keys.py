"""Keys of grid sources: from the environment or a file, and never shown.

    ECO_RAY_KEY_ELECTRICITY_MAPS=...            the key itself
    ECO_RAY_KEY_ELECTRICITY_MAPS_FILE=/path     a file that holds it, as container platforms mount secrets

`eco-ray up` hands keys of its environment to the controller in files that only their owner can read, and takes them out
of the environment of the cluster, so that no job inherits them.
"""

from __future__ import annotations

import base64
import os
import re
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from weakref import WeakSet

from eco_ray.errors import UsageError

PREFIX = "ECO_RAY_KEY_"
#: of the state directory of a cluster, in which `eco-ray up` leaves the keys of its environment
FOLDER = "keys"
#: no key is longer
MAX_BYTES = 4_096
#: what is shorter cannot be cut out of texts without spoiling them, and is no key
_SHORTEST = 4
#: the longest key with each of its characters escaped
_REACH = 8 * MAX_BYTES
#: how a server, a log or a URL may write one character: percent, JSON, HTML or XML, backslash
_ESCAPED = re.compile(
    r"%([0-9a-f]{2}) | \\u00([0-9a-f]{2}) | &\#x0*([0-9a-f]{2}); | &\#0*([0-9]{2,3}); | "
    r"&(amp|lt|gt|quot|apos); | \\(.)",
    re.IGNORECASE | re.VERBOSE,
)
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class Secret:
    """A key that prints as `***`; `reveal` is called where a request is made and nowhere else.

    While it is held, `hide` cuts it out of every error of a source and every log line of the HTTP client.
    """

    __slots__ = ("__weakref__", "_pattern", "_text", "origin")

    def __init__(self, text: str, origin: str) -> None:
        self._text = text
        #: where it came from, for messages: a variable or a file
        self.origin = origin
        forms = {text, *text.split(":", 1)}  # user:password is sent as Basic, and either part may be sent back
        forms |= {form.replace(" ", "+") for form in forms}
        for code in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(code(text.encode()).decode().rstrip("="))
        longest_first = sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)", re.IGNORECASE)
        with _lock:
            _held.add(self)

    def reveal(self) -> str:
        """The key itself."""
        return self._text

    def cut_out_of(self, text: str) -> str:
        """The text with `***` for the key, also where its characters are escaped or it is coded as HTTP Basic."""
        text = self._pattern.sub("***", text)
        plain, at = _plain(text)
        parts, done = [], 0
        for found in self._pattern.finditer(plain):
            parts += [text[done : at[found.start()]], "***"]
            done = at[found.end()]
        return "".join([*parts, text[done:]])

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


#: all keys that somebody still holds
_held: WeakSet[Secret] = WeakSet()
_lock = threading.Lock()


def hide(text: str, longest: int) -> str:
    """At most `longest` characters of the text, with `***` for each key that is held in this process.

    What lies farther behind is not searched, for that takes time; no half of a key remains at the cut.
    """
    searched = text[: longest + _REACH]
    with _lock:
        held = list(_held)
    for secret in held:
        searched = secret.cut_out_of(searched)
    if len(text) > longest + _REACH:  # a key may have been cut in half there
        searched = searched[:-_REACH] or "***"
    return searched[:longest]


def _plain(text: str) -> tuple[str, list[int]]:
    """The text without escapes, and where in the text each of its characters begins (one more: the end)."""
    if not any(mark in text for mark in "%\\&"):
        return text, list(range(len(text) + 1))
    plain: list[str] = []
    at: list[int] = []
    done = 0
    for found in _ESCAPED.finditer(text):
        plain += text[done : found.start()]
        at += range(done, found.start())
        plain.append(_meant(*found.groups()))
        at.append(found.start())
        done = found.end()
    plain += text[done:]
    at += range(done, len(text) + 1)
    return "".join(plain), at


def _meant(*groups: str | None) -> str:
    """The character that an escape stands for: the groups of _ESCAPED, one of which is there."""
    percent, unicode, hexadecimal, decimal, name, char = groups
    if number := percent or unicode or hexadecimal:
        return chr(int(number, 16))
    if decimal:
        return chr(int(decimal))
    return _NAMED[name.lower()] if name else str(char)


def variable(source: str) -> str:
    """Name of the environment variable with a source's key."""
    return PREFIX + source.upper().replace("-", "_")


def find(source: str, folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> Secret | None:
    """A source's key: from its variable, the file that its `_FILE` variable names, or `folder`; None: there is none.

    Raises UsageError for a file that cannot be read, is none, is empty, too large or open to others, and for a key that
    is too short or holds characters which no header can carry.
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

    What `folder` held before is removed: a key that was taken back is gone. Raises UsageError as `find`, before
    anything is written or removed.
    """
    names = [name for name in environ if name.startswith(PREFIX)]
    found = {source: find(source, None, environ) for source in sorted({_source(name) for name in names})}
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)  # mkdir leaves a folder that is there as it is
    for old in folder.iterdir():
        old.unlink()
    for source, secret in found.items():
        if secret is not None:
            with os.fdopen(os.open(folder / source, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secret.reveal())
    return names


def _source(name: str) -> str:
    source = name.removeprefix(PREFIX).removesuffix("_FILE").lower().replace("_", "-")
    if not re.fullmatch("[a-z0-9-]+", source):
        raise UsageError(f"environment variable {name!r} names no grid source; write {variable('electricity-maps')}")
    return source


def _read(path: Path, origin: str) -> Secret:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe would wait for its writer
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_BYTES + 2) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise UsageError(
            f"the key in {origin} cannot be read ({error.strerror}); correct the path or its mode"
        ) from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"the key in {origin} is in no regular file; give the path of one")
    if mode & 0o007:
        raise UsageError(
            f"the key in {origin} can be read or changed by everybody (mode {mode & 0o777:04o}); run chmod 600 on it, "
            "or mount it so (Kubernetes: defaultMode 0400 or 0440)"
        )
    if len(raw) > MAX_BYTES + 1:  # a newline may follow
        raise UsageError(f"the key in {origin} is longer than {MAX_BYTES} bytes; give a file with the key alone")
    text = raw.decode("utf-8", errors="replace").strip()
    if not text:
        raise UsageError(f"the key in {origin} is empty; write the key into it, or take the setting back")
    return _checked(text, origin)


def _checked(text: str, origin: str) -> Secret:
    if not _SHORTEST <= len(text) <= MAX_BYTES:
        raise UsageError(
            f"the key in {origin} has {len(text)} characters; keys have {_SHORTEST} to {MAX_BYTES}; copy it again"
        )
    if not (text.isascii() and text.isprintable()):
        raise UsageError(f"the key in {origin} holds characters that no key has; copy it again")
    return Secret(text, origin)
