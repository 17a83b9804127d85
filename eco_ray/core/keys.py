"""API keys `eco_<id>_<secret>`: what they are, and whether one lets a request through.

The secret is never kept: of a key there is its id and HMAC-SHA-256(pepper of the server, secret). So who reads the
database can neither use a key nor try secrets; who has the pepper too still faces 256 random bits.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from eco_ray.core.tenants import TENANT
from eco_ray.errors import UsageError

PREFIX = "eco"
#: without `_`, which parts a key, and `-`, at which a double click ends
ALPHABET = string.ascii_letters + string.digits
ID_CHARACTERS = 12
#: 43 x log2(62) = 256 bits
SECRET_CHARACTERS = 43
#: of a whole key
CHARACTERS = len(PREFIX) + ID_CHARACTERS + SECRET_CHARACTERS + 2
PEPPER_BYTES = 32

_KEY = re.compile(rf"{PREFIX}_([A-Za-z0-9]{{{ID_CHARACTERS}}})_([A-Za-z0-9]{{{SECRET_CHARACTERS}}})")
_ID = re.compile(rf"[A-Za-z0-9]{{{ID_CHARACTERS}}}")
#: is the HMAC of nothing: compared with where no key has the id, so that this takes as long
_NOBODY = "0" * 64


class Scope(StrEnum):
    """What a key allows, of its own tenant only. None contains another: a key may have several."""

    #: send requests to served models
    INFER = "infer"
    #: see jobs, models, deployments, usage and quotas
    READ = "read"
    #: push and promote model versions, deploy and undeploy them
    DEPLOY = "deploy"
    #: make, rotate and revoke keys, and see the audit log
    ADMIN = "admin"


class Verdict(StrEnum):
    """Whether a key lets a request through; true where it does. For the log: a caller is told `status` alone."""

    ALLOWED = "allowed"
    UNKNOWN = "unknown"
    WRONG = "wrong"
    EXPIRED = "expired"
    REVOKED = "revoked"
    NO_SCOPE = "no scope"

    def __bool__(self) -> bool:
        return self is Verdict.ALLOWED

    @property
    def status(self) -> int:
        """HTTP status; the same for all that is no valid key, so that trying tells nothing of a key."""
        return {Verdict.ALLOWED: 200, Verdict.NO_SCOPE: 403}.get(self, 401)


@dataclass(frozen=True, slots=True)
class Credential:
    """A key as somebody shows it."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """`eco_<id>_<secret>`."""
        return f"{PREFIX}_{self.id}_{self.secret}"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept. Times are of the wall clock: grid time may run faster, and a key must not end sooner."""

    #: ID_CHARACTERS of ALPHABET
    id: str
    tenant: str
    scopes: frozenset[Scope]
    created_s: float
    #: no longer valid from then on; None: valid until it is revoked
    expires_s: float | None
    #: HMAC-SHA-256 of the secret, 64 hexadecimal digits
    digest: str = field(repr=False)
    revoked_s: float | None = None
    #: id of the key that took its place
    replaced_by: str | None = None

    def sees(self, tenant: str) -> bool:
        """Whether an object of this tenant is there for the key. Where not: 404, as for one that nobody has."""
        return self.tenant == tenant

    def state(self, now_s: float) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_s is not None:
            return "revoked"
        return "active" if self.expires_s is None or now_s < self.expires_s else "expired"


def parse(text: str) -> Credential | None:
    """What is shown as a key, or None where it cannot be one; a long text is not looked at."""
    if len(text) != CHARACTERS:
        return None
    found = _KEY.fullmatch(text)
    return Credential(*found.groups()) if found else None


def digest_of(secret: str, pepper: bytes) -> str:
    """What is kept of a secret."""
    return hmac.digest(pepper, secret.encode("ascii"), "sha256").hex()


def decide(key: ApiKey | None, shown: Credential | None, pepper: bytes, scope: Scope, now_s: float) -> Verdict:
    """Whether a request passes. `key`: what is kept under the id that is shown, if anything.

    Only who shows the secret learns (in the log: by its owner) what else is wrong.
    """
    given = digest_of(shown.secret if shown else "", pepper)
    same = hmac.compare_digest(key.digest if key else _NOBODY, given)
    if key is None or shown is None:
        return Verdict.UNKNOWN
    if not same or key.id != shown.id:
        return Verdict.WRONG
    state = key.state(now_s)
    if state != "active":
        return Verdict(state)
    return Verdict.ALLOWED if scope in key.scopes else Verdict.NO_SCOPE


def new_key(
    shown: Credential, tenant: str, scopes: Iterable[Scope], pepper: bytes, now_s: float, expires_s: float | None
) -> ApiKey:
    """A key to keep. `shown`: its id and secret, random. Raises UsageError."""
    if not TENANT.fullmatch(tenant):
        raise UsageError(
            f"tenant {tenant!r:.80} is no name: letters, digits and . _ -, at most 63, a letter or digit first"
        )
    kept = frozenset(scopes)
    if not kept:
        raise UsageError(f"key {shown.id} would allow nothing: give it one of the scopes {', '.join(Scope)}")
    if expires_s is not None and expires_s <= now_s:
        raise UsageError(
            f"key {shown.id} would have expired {now_s - expires_s:.0f} s ago: give a time to come, such as 90d"
        )
    return ApiKey(shown.id, tenant, kept, now_s, expires_s, digest_of(shown.secret, pepper))


def rotated(old: ApiKey, shown: Credential, pepper: bytes, now_s: float, grace_s: float) -> tuple[ApiKey, ApiKey]:
    """A key in the place of another, with its tenant, scopes and length of life; and the old one, which ends.

    The old one is valid for `grace_s` more, and never longer than it was. Raises UsageError where it is not valid, or
    has a successor.
    """
    if old.replaced_by is not None:
        raise UsageError(f"key {old.id} was rotated already, its successor is {old.replaced_by}: rotate that one")
    if old.state(now_s) != "active":
        raise UsageError(f"key {old.id} is {old.state(now_s)}: make a new one with `eco-ray key create`")
    life_s = None if old.expires_s is None else now_s + old.expires_s - old.created_s
    new = new_key(shown, old.tenant, old.scopes, pepper, now_s, life_s)
    ends_s = now_s + grace_s
    return replace(
        old, expires_s=ends_s if old.expires_s is None else min(ends_s, old.expires_s), replaced_by=new.id
    ), new


def revoked(key: ApiKey, now_s: float) -> ApiKey:
    """The key, refused from now on; one that was revoked keeps the first time."""
    return key if key.revoked_s is not None else replace(key, revoked_s=now_s)


def needed(hosts: Iterable[str]) -> bool:
    """Whether a service that listens on these hosts needs keys: unless each is known to be of this machine alone."""
    given = list(hosts)
    return not given or not all(map(_is_loopback, given))


def check_id(key_id: str) -> str:
    """An id as somebody wrote it. Raises UsageError; a whole key is not repeated."""
    if not _ID.fullmatch(key_id):
        shown = "a whole key, of which the secret belongs nowhere" if parse(key_id) else f"{key_id!r:.40}"
        raise UsageError(
            f"the id of a key is {ID_CHARACTERS} letters and digits, not {shown}: `eco-ray key list` has them"
        )
    return key_id


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False  # a name may mean any machine
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
