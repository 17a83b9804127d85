"""Who acts, for rows of the audit log."""

from __future__ import annotations

import getpass
import time

from eco_ray.core.audit import AuditEntry


def user() -> str:
    """The user of this process; empty where the machine knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def audited(action: str, object_: str, detail: str) -> AuditEntry:
    """A row for what this user does now."""
    return AuditEntry(time.time(), user() or "unknown", action, object_, detail)
