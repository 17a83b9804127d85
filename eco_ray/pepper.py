"""The server's part of every API key: who reads the database alone can try no secret. It is never in the database."""

from __future__ import annotations

import secrets
from pathlib import Path

from eco_ray.core.keys import PEPPER_BYTES
from eco_ray.errors import NotFoundError, UsageError
from eco_ray.secret_file import keep_secret, read_secret

#: in the state directory
NAME = "key-pepper"
_WHAT = "the pepper of API keys"


def find_pepper(file: Path | None, state_dir: Path, *, make: bool) -> bytes:
    """From the file of the setting `key_pepper_file`, or else from the state directory.

    `make`: whether one may be made there, as while there are no keys: with another pepper all of them are wrong.
    Raises UsageError for what is no pepper, and NotFoundError where there is none.
    """
    path = file or state_dir / NAME
    if file is None and not path.exists():
        if not make:
            raise NotFoundError(
                f"there are API keys, and {_WHAT} is not in {path}: put back the file with which they were made, or "
                "name it in key_pepper_file (ECO_RAY_KEY_PEPPER_FILE)"
            )
        keep_secret(path, secrets.token_hex(PEPPER_BYTES), _WHAT)
    text = read_secret(path, _WHAT)
    try:
        pepper = bytes.fromhex(text)
    except ValueError:
        pepper = b""
    if len(pepper) != PEPPER_BYTES or len(text) != 2 * PEPPER_BYTES:
        raise UsageError(
            f"{_WHAT} in {path} is none: {len(text)} characters, not {2 * PEPPER_BYTES} hexadecimal digits; put back "
            f"the one with which keys were made, or, without keys, make one: openssl rand -hex {PEPPER_BYTES}"
        )
    return pepper
