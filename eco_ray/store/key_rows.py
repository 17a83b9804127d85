"""Rows of API keys and of the audit log, checked before anything is written; both adapters use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eco_ray.core.audit import AuditEntry
from eco_ray.core.keys import ApiKey, Scope
from eco_ray.core.ledger import MAX_TIME_S
from eco_ray.errors import EcoRayError
from eco_ray.store.rows import Row, key, shown


def key_row(api_key: ApiKey) -> Row:
    """A row of `api_keys`."""
    what = f"key {api_key.id!r:.80}"
    return {
        "id": key(api_key.id, "id of a key"),
        "tenant": key(api_key.tenant, f"tenant of {what}"),
        "scopes": " ".join(sorted(api_key.scopes)),
        "created_s": _time(api_key.created_s, f"created_s of {what}"),
        "expires_s": _maybe(api_key.expires_s, f"expires_s of {what}"),
        "revoked_s": _maybe(api_key.revoked_s, f"revoked_s of {what}"),
        "replaced_by": api_key.replaced_by,
        "digest": key(api_key.digest, f"digest of {what}"),
    }


def key_of(row: Mapping[str, Any]) -> ApiKey:
    """The key of a row. Raises EcoRayError for a scope that is none."""
    try:
        return ApiKey(**{**row, "scopes": frozenset(map(Scope, row["scopes"].split()))})
    except ValueError:
        raise EcoRayError(
            f"key {row['id']} has the scopes {row['scopes']!r:.80}, of which this eco-ray knows {', '.join(Scope)}: "
            "upgrade eco-ray, or mend that row with an SQL client"
        ) from None


def check_unchanged(given: Mapping[str, Row], expected: Mapping[str, Row], there: Mapping[str, Row]) -> None:
    """Raises EcoRayError where a key that is to be saved is there, and not as expected."""
    for key_id in given:
        if there.get(key_id) != expected.get(key_id):
            raise EcoRayError(
                f"key {key_id} was changed by somebody else in the same moment, and nothing was saved: look at it with "
                "`eco-ray key list`, and try again"
            )


def audit_row(entry: AuditEntry) -> Row:
    """A row of `audit` (without id)."""
    what = f"audit row {entry.action!r:.80}"
    return {
        "time_s": _time(entry.time_s, f"time_s of {what}"),
        "actor": shown(entry.actor),
        "action": key(entry.action, "action of an audit row"),
        "object": shown(entry.object),
        "detail": shown(entry.detail),
    }


def entry_of(row: Mapping[str, Any]) -> AuditEntry:
    """The audit entry of a row."""
    return AuditEntry(**row)


def _time(value_s: float, what: str) -> float:
    if not 0 <= value_s <= MAX_TIME_S:
        raise EcoRayError(f"{what} is {value_s:g}, limits 0 to {MAX_TIME_S:.0f}: check the clock")
    return float(value_s)


def _maybe(value_s: float | None, what: str) -> float | None:
    return None if value_s is None else _time(value_s, what)
