"""API keys: what is one, and whom it lets through."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.core import keys
from eco_ray.core.keys import ALPHABET, ApiKey, Credential, Scope, Verdict
from eco_ray.errors import UsageError

PEPPER = bytes(range(32))
T0 = 1_763_798_400.0
SHOWN = Credential("Ab3456789012", "s" * 42 + "9")
OTHER = Credential("Zz3456789012", "t" * 43)

words = st.text(ALPHABET, min_size=43, max_size=43)
ids = st.text(ALPHABET, min_size=12, max_size=12)


def a_key(**changes: object) -> ApiKey:
    key = keys.new_key(SHOWN, "vision", [Scope.INFER, Scope.READ], PEPPER, T0, T0 + 100)
    return replace(key, **changes)  # type: ignore[arg-type]


@given(ids, words)
def test_a_key_is_read_back(key_id, secret):
    shown = Credential(key_id, secret)
    assert keys.parse(shown.text) == shown
    assert len(shown.text) == keys.CHARACTERS == 60


@given(
    st.text(max_size=80) | words.map(lambda word: f"eco_Ab3456789012_{word}"), st.integers(0, 59), st.text(max_size=2)
)
def test_whatever_is_no_key_is_none(text, place, put_in):
    for tried in (text, text[:place] + put_in + text[place + 1 :]):
        found = keys.parse(tried)
        assert found is None or found.text == tried


@pytest.mark.parametrize(
    "text",
    ["", SHOWN.text + "\n", " " + SHOWN.text, SHOWN.text[:-1], SHOWN.text + "s", SHOWN.text.upper(),
     SHOWN.text.replace("s9", "é9"), SHOWN.text.replace("s9", "_9"), SHOWN.text.replace("b3", "٣3"), "x" * 10**7],
)  # fmt: skip
def test_nearly_a_key_is_none(text):
    assert keys.parse(text) is None


def test_only_an_hmac_is_kept_and_nothing_prints_a_secret():
    key = a_key()
    assert key.digest == hmac.new(PEPPER, SHOWN.secret.encode(), hashlib.sha256).hexdigest()
    assert key.digest not in repr(key)
    assert SHOWN.secret not in repr(SHOWN) + repr(key)


@pytest.mark.parametrize(
    ("key", "shown", "scope", "now_s", "verdict", "status"),
    [
        (a_key(), SHOWN, Scope.INFER, T0, Verdict.ALLOWED, 200),
        (a_key(), SHOWN, Scope.READ, T0 + 99.9, Verdict.ALLOWED, 200),
        (a_key(expires_s=None), SHOWN, Scope.READ, T0 + 1e9, Verdict.ALLOWED, 200),
        (a_key(), SHOWN, Scope.DEPLOY, T0, Verdict.NO_SCOPE, 403),
        (a_key(scopes=frozenset([Scope.ADMIN])), SHOWN, Scope.READ, T0, Verdict.NO_SCOPE, 403),
        (None, SHOWN, Scope.INFER, T0, Verdict.UNKNOWN, 401),
        (None, None, Scope.INFER, T0, Verdict.UNKNOWN, 401),
        (a_key(), None, Scope.INFER, T0, Verdict.UNKNOWN, 401),
        (a_key(), replace(SHOWN, secret="t" * 43), Scope.INFER, T0, Verdict.WRONG, 401),
        (a_key(), replace(SHOWN, id=OTHER.id), Scope.INFER, T0, Verdict.WRONG, 401),
        (a_key(), SHOWN, Scope.INFER, T0 + 100, Verdict.EXPIRED, 401),
        (a_key(revoked_s=T0), SHOWN, Scope.INFER, T0 + 1, Verdict.REVOKED, 401),
        (a_key(revoked_s=T0), SHOWN, Scope.INFER, T0 + 200, Verdict.REVOKED, 401),
        # who does not show the secret learns nothing of it
        (a_key(revoked_s=T0), replace(SHOWN, secret="t" * 43), Scope.DEPLOY, T0 + 1, Verdict.WRONG, 401),
    ],
)
def test_whom_a_key_lets_through(key, shown, scope, now_s, verdict, status):
    found = keys.decide(key, shown, PEPPER, scope, now_s)
    assert (found, found.status, bool(found)) == (verdict, status, verdict is Verdict.ALLOWED)


def test_another_servers_pepper_makes_every_key_wrong():
    assert keys.decide(a_key(), SHOWN, bytes(32), Scope.INFER, T0) is Verdict.WRONG


@given(words, words)
def test_no_other_secret_passes(kept, shown):
    key = keys.new_key(Credential("Ab3456789012", kept), "vision", [Scope.INFER], PEPPER, T0, None)
    passed = keys.decide(key, Credential("Ab3456789012", shown), PEPPER, Scope.INFER, T0)
    assert bool(passed) == (kept == shown)


def test_objects_of_other_tenants_are_not_there():
    assert a_key().sees("vision")
    assert not a_key().sees("text")
    assert not a_key().sees("")


def test_a_rotated_key_ends_after_the_grace_and_the_new_one_lives_as_long_as_it_did():
    old, new = keys.rotated(a_key(), OTHER, PEPPER, T0 + 40, 10)
    assert (old.expires_s, old.replaced_by, old.revoked_s) == (T0 + 50, OTHER.id, None)
    assert (new.id, new.tenant, new.scopes) == (OTHER.id, "vision", a_key().scopes)
    assert (new.created_s, new.expires_s) == (T0 + 40, T0 + 140)
    for key, shown in ((old, SHOWN), (new, OTHER)):
        assert keys.decide(key, shown, PEPPER, Scope.INFER, T0 + 49)
    assert keys.decide(old, SHOWN, PEPPER, Scope.INFER, T0 + 50) is Verdict.EXPIRED
    # a grace prolongs nothing
    assert keys.rotated(a_key(), OTHER, PEPPER, T0 + 40, 1000)[0].expires_s == T0 + 100
    old, new = keys.rotated(a_key(expires_s=None), OTHER, PEPPER, T0, 0)
    assert (old.expires_s, new.expires_s) == (T0, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"revoked_s": T0}, "is revoked: make a new one"),
        ({"expires_s": T0 + 1}, "is expired: make a new one"),
        ({"replaced_by": OTHER.id}, f"its successor is {OTHER.id}: rotate that one"),
    ],
)
def test_what_is_not_valid_is_not_rotated(changes, says):
    with pytest.raises(UsageError, match=says):
        keys.rotated(a_key(**changes), OTHER, PEPPER, T0 + 1, 10)


def test_the_first_revocation_counts():
    assert keys.revoked(keys.revoked(a_key(), T0 + 1), T0 + 2).revoked_s == T0 + 1


@pytest.mark.parametrize(
    ("tenant", "scopes", "expires_s", "says"),
    [
        ("", [Scope.INFER], None, "tenant '' is no name"),
        ("a b", [Scope.INFER], None, "tenant 'a b' is no name"),
        ("vision", [], None, "allow nothing: give it one of the scopes infer, read, deploy, admin"),
        ("vision", [Scope.INFER], T0, "expired 0 s ago: give a time to come"),
    ],
)
def test_a_key_that_cannot_be_is_refused(tenant, scopes, expires_s, says):
    with pytest.raises(UsageError, match=says):
        keys.new_key(SHOWN, tenant, scopes, PEPPER, T0, expires_s)


@pytest.mark.parametrize(
    ("hosts", "needed"),
    [
        (["127.0.0.1"], False), (["127.8.9.10", "::1", "localhost"], False), (["[::1]"], False),
        (["::ffff:127.0.0.1"], False), (["0.0.0.0"], True), (["::"], True), (["127.0.0.1", "10.0.0.1"], True),
        (["example.org"], True), (["localhost.example.org"], True), (["127.1"], True), ([""], True), ([], True),
    ],
)  # fmt: skip
def test_only_a_service_that_no_other_machine_reaches_needs_no_keys(hosts, needed):
    assert keys.needed(hosts) == needed


def test_an_error_never_repeats_a_whole_key():
    assert keys.check_id(SHOWN.id) == SHOWN.id
    with pytest.raises(UsageError, match="12 letters and digits, not 'x'"):
        keys.check_id("x")
    with pytest.raises(UsageError) as info:
        keys.check_id(SHOWN.text)
    assert SHOWN.secret not in str(info.value)
