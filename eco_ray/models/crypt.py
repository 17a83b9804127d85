"""Encryption at rest: each part of a blob under a data key of its own, which the key of the registry wraps.

      8 bytes   "ecoseal" and the version of this format, "1"
      8         id of the registry's key
     40         the data key, wrapped by the registry's key (AES-256 key wrap, RFC 3394)
    then for each MiB of the part, the last of which may be shorter:
      n         AES-256-GCM of it; the nonce is its index, 12 bytes, big-endian
     16         its tag

Additional data of a chunk are the first 16 bytes of the object, its index, the number of chunks (8 bytes each,
big-endian) and the SHA-256 of the whole part: none can be moved, left out, added, or come from another part. A data key
is random and used for one object only, so no nonce is used twice under it. Whoever opens compares the SHA-256, too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from eco_ray.errors import DamagedError, UsageError
from eco_ray.secret_file import read_secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VARIABLE = "ECO_RAY_REGISTRY_KEY"
#: how a key is given, for messages
CURE = f"give it in {VARIABLE}, or name a file with it in the setting registry_key_file"

_MAGIC = b"ecoseal1"
_KEY_BYTES, _ID_BYTES, _WRAPPED_BYTES, _TAG_BYTES = 32, 8, 40, 16
_HEADER_BYTES = len(_MAGIC) + _ID_BYTES + _WRAPPED_BYTES
_CHUNK_BYTES = 1 << 20


class RegistryKey:
    """The key of a registry, which is never printed. Raises UsageError where package cryptography is missing."""

    __slots__ = ("_key", "id")

    def __init__(self, key: bytes) -> None:
        """`key`: 32 random bytes."""
        _library()
        self._key = key
        #: 16 hexadecimal digits that tell keys apart and nothing of what they are
        self.id = hashlib.sha256(b"eco_ray registry key id\0" + key).digest()[:_ID_BYTES].hex()

    def __repr__(self) -> str:
        return f"RegistryKey({self.id})"

    def __reduce__(self) -> Never:
        raise TypeError("a registry's key stays in its process; it is not to be pickled")

    def seal(self, data: bytes | memoryview, digest: str, data_key: bytes | None = None) -> bytes:
        """A part, sealed. `digest`: its SHA-256. `data_key`: for known answers only; a fresh one by default."""
        aes_gcm, keywrap = _library()
        data_key = data_key or secrets.token_bytes(_KEY_BYTES)
        start, view = self._start, memoryview(data)
        cipher, total = aes_gcm(data_key), _chunks(len(data))
        sealed = [start, keywrap.aes_key_wrap(self._key, data_key)]
        for index in range(total):
            chunk = view[index * _CHUNK_BYTES : (index + 1) * _CHUNK_BYTES]
            sealed.append(cipher.encrypt(_nonce(index), chunk, _bound(start, index, total, digest)))
        return b"".join(sealed)

    def open(self, sealed: bytes, digest: str, size: int) -> bytes:
        """The part of `size` bytes with a SHA-256. Raises DamagedError unless it is what was sealed with this key."""
        aes_gcm, keywrap = _library()
        start, view, total = self._start, memoryview(sealed), _chunks(size)
        if len(sealed) != sealed_size(size) or view[: len(start)] != start:
            raise DamagedError(f"it is no part of {size} bytes that was sealed with key {self.id}")
        try:
            cipher = aes_gcm(keywrap.aes_key_unwrap(self._key, sealed[len(start) : _HEADER_BYTES]))
        except keywrap.InvalidUnwrap:
            raise DamagedError("its data key was changed") from None
        step = _CHUNK_BYTES + _TAG_BYTES
        chunks = (view[_HEADER_BYTES + index * step : _HEADER_BYTES + (index + 1) * step] for index in range(total))
        data = b"".join(
            _opened(cipher, chunk, index, _bound(start, index, total, digest)) for index, chunk in enumerate(chunks)
        )
        if hashlib.sha256(data).hexdigest() != digest:  # who has the key can seal anything under any digest
            raise DamagedError("its SHA-256 is another")
        return data

    @property
    def _start(self) -> bytes:
        return _MAGIC + bytes.fromhex(self.id)


def sealed_size(size: int) -> int:
    """Bytes of a sealed part of `size` bytes."""
    return _HEADER_BYTES + size + _chunks(size) * _TAG_BYTES


def find_key(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> RegistryKey | None:
    """The key from its environment variable, or else from a file; None: there is none.

    Raises UsageError for what is no key, and for a file that others can read.
    """
    if VARIABLE in environ:
        text = environ[VARIABLE].strip()
        if not text:  # what was to be sealed would be open
            raise UsageError(f"{VARIABLE} is set and empty; unset it, or put the registry's key into it")
        return RegistryKey(_parsed(text, f"environment variable {VARIABLE}"))
    return None if file is None else RegistryKey(_parsed(read_secret(file, "the registry's key"), f"file {file}"))


def _parsed(text: str, origin: str) -> bytes:
    """The bytes of a key; no error shows any of it."""
    key = b""
    try:
        if len(text) == 2 * _KEY_BYTES:
            key = bytes.fromhex(text)
        else:
            plain = text.rstrip("=").replace("-", "+").replace("_", "/")
            key = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error):
        pass
    if len(key) != _KEY_BYTES:
        raise UsageError(
            f"the registry's key in {origin} is no key: {len(text)} characters, not {_KEY_BYTES} bytes as 64 "
            "hexadecimal digits or 44 characters of base64; `openssl rand -base64 32` makes one"
        )
    return key


def _library() -> tuple[type[AESGCM], Any]:
    try:
        from cryptography.hazmat.primitives import keywrap
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise UsageError(
            "a registry with a key needs package cryptography: pip install 'eco-ray[crypt]', or take the key back"
        ) from None
    return AESGCM, keywrap


def _opened(cipher: AESGCM, chunk: memoryview, index: int, bound: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return cipher.decrypt(_nonce(index), chunk, bound)
    except InvalidTag:
        raise DamagedError(f"its chunk {index} was changed, or is of another part") from None


def _chunks(size: int) -> int:
    return -(-size // _CHUNK_BYTES)


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")


def _bound(start: bytes, index: int, total: int, digest: str) -> bytes:
    return start + index.to_bytes(8, "big") + total.to_bytes(8, "big") + bytes.fromhex(digest)
