"""Who did what to keys, and let code in or out: rows that are only ever appended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act. Nothing in it is a secret."""

    #: of the wall clock [s since epoch]
    time_s: float
    #: a user of this machine, or `key:ID`
    actor: str
    #: such as create-key, rotate-key, revoke-key, push-pickle
    action: str
    #: what it was done to: id of a key, `name:version` of a model
    object: str
    #: what else is to be known, in words
    detail: str = ""
    #: place in the log, which the store gives; 0: not in it yet
    id: int = 0
