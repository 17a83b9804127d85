"""Sealed parts: what was sealed comes back, what was touched never does, and the key is never seen."""

from __future__ import annotations

import base64
import hashlib
import os
import pickle
import sys
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.errors import DamagedError, UsageError
from eco_ray.models.crypt import VARIABLE, RegistryKey, find_key, sealed_size

MIB = 1 << 20
HEADER, CHUNK = 56, MIB + 16
KEY = RegistryKey(bytes(range(32)))


def digest_of(data):
    return hashlib.sha256(data).hexdigest()


#: three chunks and a bit
PART = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(3 * MIB // 32)) + b"the end"
SEALED = KEY.seal(PART, digest_of(PART))


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB])
def test_what_was_sealed_comes_back(size):
    data = PART[:size]
    sealed = KEY.seal(data, digest_of(data))
    assert len(sealed) == sealed_size(size)
    assert size < 32 or data[:32] not in sealed
    assert KEY.open(sealed, digest_of(data), size) == data


def test_each_object_has_a_data_key_of_its_own():
    one, two = (KEY.seal(b"x" * 64, digest_of(b"x" * 64)) for _ in range(2))
    assert one[16:56] != two[16:56]
    assert one[56:] != two[56:]


def test_the_format_is_the_one_in_docs_registry_md():
    """The vector of docs/registry.md, and the same made with nothing but the two primitives."""
    part, data_key = b"eco_ray", bytes(range(32, 64))
    start = b"ecoseal1" + hashlib.sha256(b"eco_ray registry key id\0" + bytes(range(32))).digest()[:8]
    bound = start + (0).to_bytes(8, "big") + (1).to_bytes(8, "big") + hashlib.sha256(part).digest()
    made = start + keywrap.aes_key_wrap(bytes(range(32)), data_key) + AESGCM(data_key).encrypt(bytes(12), part, bound)
    assert KEY.seal(part, digest_of(part), data_key) == made
    assert made.hex() == (
        "65636f7365616c314d945c56051df8d304f8a3c3c302d3b0b7e94b14dcf85ad1da69cd74056ed79"
        "07d3cb49fb27799a4104db058f2901adb864d8e06e63e1d968741530cae864688088c1975a18a07"
    )
    assert KEY.open(made, digest_of(part), len(part)) == part
    docs = Path(__file__).parents[2] / "docs" / "registry.md"
    assert made.hex() in "".join(docs.read_text().split())


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_any_byte_that_was_changed_is_told(place, change):
    harmed = bytearray(SEALED)
    harmed[place] ^= change
    with pytest.raises(DamagedError):
        KEY.open(bytes(harmed), digest_of(PART), len(PART))


@pytest.mark.parametrize("place", range(HEADER))
def test_any_byte_of_the_header_that_was_changed_is_told(place):
    harmed = bytearray(SEALED)
    harmed[place] ^= 1
    with pytest.raises(DamagedError):
        KEY.open(bytes(harmed), digest_of(PART), len(PART))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(SEALED) - 1))
def test_what_was_cut_is_told_and_what_grew(left):
    for harmed in (SEALED[:left], SEALED + SEALED[: left + 1]):
        with pytest.raises(DamagedError):
            KEY.open(harmed, digest_of(PART), len(PART))


@pytest.mark.parametrize(("one", "two"), [(0, 1), (0, 2), (1, 2)])
def test_chunks_that_changed_places_are_told(one, two):
    chunks = [SEALED[HEADER + at : HEADER + at + CHUNK] for at in range(0, len(SEALED) - HEADER, CHUNK)]
    chunks[one], chunks[two] = chunks[two], chunks[one]
    with pytest.raises(DamagedError, match=f"chunk {one}"):
        KEY.open(SEALED[:HEADER] + b"".join(chunks), digest_of(PART), len(PART))


def test_a_chunk_that_is_missing_or_too_many_is_told_even_where_the_size_fits():
    shorter, longer = PART[: 2 * MIB], PART[: 3 * MIB]
    of_three = KEY.seal(longer, digest_of(longer))
    with pytest.raises(DamagedError, match="chunk 0"):
        KEY.open(of_three[: HEADER + 2 * CHUNK], digest_of(shorter), len(shorter))
    with pytest.raises(DamagedError, match="chunk 0"):
        KEY.open(of_three + of_three[-CHUNK:], digest_of(longer), 4 * MIB)


def test_chunks_and_headers_of_another_part_are_told():
    other = PART[::-1]
    sealed = KEY.seal(other, digest_of(other))
    for harmed in (
        sealed,
        SEALED[:HEADER] + sealed[HEADER:],
        sealed[:HEADER] + SEALED[HEADER:],
        SEALED[: HEADER + CHUNK] + sealed[HEADER + CHUNK :],
    ):
        with pytest.raises(DamagedError):
            KEY.open(harmed, digest_of(PART), len(PART))


def test_who_has_the_key_cannot_pass_other_bytes_off_by_mistake():
    with pytest.raises(DamagedError, match="SHA-256"):
        KEY.open(KEY.seal(b"other", digest_of(b"right")), digest_of(b"right"), 5)


# -- the key -----------------------------------------------------------------------------------------------------------

RAW = hashlib.sha256(b"a key of a test").digest()


@pytest.mark.parametrize(
    "text", [RAW.hex(), RAW.hex().upper(), base64.b64encode(RAW).decode(), base64.urlsafe_b64encode(RAW).decode()[:43]]
)
def test_a_key_is_hexadecimal_or_base64_in_the_environment_or_a_file(tmp_path, text):
    file = tmp_path / "key"
    file.write_text(f"{text}\n")
    file.chmod(0o600)
    expected = RegistryKey(RAW).id
    assert find_key(None, {VARIABLE: text}).id == expected
    assert find_key(file, {}).id == expected
    assert find_key(file, {VARIABLE: "00" * 32}).id != expected  # the environment is stronger
    with pytest.raises(UsageError, match="is set and empty"):  # what was to be sealed would be open
        find_key(None, {VARIABLE: " "})


@pytest.mark.parametrize("text", ["", "x", RAW.hex()[:-1], RAW.hex() + "0", "g" * 64, "é" * 44, RAW.hex()[:44]])
def test_what_is_no_key_is_told_and_not_shown(tmp_path, text):
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(UsageError, match="is no key") as told:
        find_key(file, {})
    assert len(text) < 9 or text[:8] not in str(told.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_key_file_that_others_can_read_is_refused(tmp_path, mode):
    file = tmp_path / "key"
    file.write_text(RAW.hex())
    file.chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        find_key(file, {})


def test_a_key_file_that_is_none_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        with pytest.raises(UsageError, match="registry's key"):
            find_key(path, {})


def test_a_key_without_the_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(UsageError, match=r"pip install 'eco-ray\[crypt\]'"):
        find_key(None, {VARIABLE: RAW.hex()})
    assert find_key(None, {}) is None


def test_a_key_is_not_printed():
    key = RegistryKey(RAW)
    try:
        key.open(b"x", digest_of(b"x"), 1)
    except DamagedError:
        text = traceback.format_exc()
    text += f"{key} {key!r} {key.id}"
    for secret in (RAW.hex(), repr(RAW), base64.b64encode(RAW).decode()):
        assert secret not in text
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(key)
