"""What every adapter keeps count of while it appends: the end of the chain, and what an interval still holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eco_ray.errors import EcoRayError, NotFoundError
from eco_ray.store import chain
from eco_ray.store.rows import Row

#: node, boot_id, seq
Key = tuple[str, str, int]


@dataclass
class Head:
    """The end of the chain: kept beside the rows, so that a missing tail shows."""

    #: intervals and corrections
    entries: int = 0
    #: id of the last one
    id: int = 0
    hash: str = chain.GENESIS

    def append(self, kind: str, row: Row, shares: Sequence[Row]) -> None:
        """Give a row its number and its hash."""
        entry = chain.entry_of(self.id + 1, kind, row, shares)
        self.entries, self.id = self.entries + 1, entry.id
        self.hash = chain.next_hash(self.hash, entry)
        row["id"], row["hash"] = self.id, self.hash

    def text(self) -> str:
        """As JSON."""
        return json.dumps([self.entries, self.id, self.hash])


def unknown_interval(key: Key) -> NotFoundError:
    """For a correction of what is not there."""
    return NotFoundError(
        f"no interval {'/'.join(map(str, key))} in the ledger: only what was written can be corrected; "
        "`eco-ray ledger export --format json` lists what is there"
    )


class Balance:
    """What an interval holds after all its corrections so far: nothing in it may become negative."""

    def __init__(self, unallocated_mj: int) -> None:
        self._parts: dict[tuple[str, str, int, str, str], int] = {("", "", 0, "", ""): unallocated_mj}

    def add(self, share: Mapping[str, Any]) -> int:
        """Add a share or a difference; returns what its owner then has."""
        owner = (share["owner_kind"], share["owner_id"], share["attempt"], share["tenant"], share["part"])
        self._parts[owner] = self._parts.get(owner, 0) + share["energy_mj"]
        return self._parts[owner]

    def apply(self, row: Row, shares: Sequence[Row]) -> None:
        """Add a correction, or refuse it."""
        nobody: Row = {
            **dict.fromkeys(("owner_kind", "owner_id", "tenant", "part"), ""),
            "attempt": 0,
            "energy_mj": row["unallocated_mj"],
        }
        for share in (*shares, nobody):
            left_mj = self.add(share)
            if left_mj < 0:
                who = f"{share['owner_kind']} {share['owner_id']}" if share["owner_id"] else "the unallocated rest"
                raise EcoRayError(
                    f"the correction of interval {row['node']}/{row['boot_id']}/{row['seq']} takes "
                    f"{-share['energy_mj']} mJ from {who}, which has {left_mj - share['energy_mj']} mJ: "
                    "take no more than there is"
                )
