"""The hash chain of the ledger: what is hashed, and how it is checked. docs/ledger.md says it for other programs.

    hash = SHA-256( bytes of the hash before  +  JSON array of the entry ), the first after 32 zero bytes

An entry is an interval with its shares, or a correction with its differences. Needs the standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from eco_ray.core.ledger import ChainCheck
from eco_ray.store import kinds

GENESIS = "0" * 64
INTERVAL = "interval"
CORRECTION = "correction"

#: in the order in which they are hashed
COLUMNS: dict[str, tuple[str, ...]] = {
    INTERVAL: (
        *("node", "boot_id", "seq", "zone", "start_s", "end_s", "energy_mj", "gpu_mj", "idle_mj", "unallocated_mj"),
        *("system_cpu_s", "nature", "source", "error_rel", "flags", "intensity", "intensity_source"),
        *("intensity_kind", "intensity_nature", "intensity_age_s", "pue"),
    ),
    CORRECTION: (
        *("node", "boot_id", "seq", "made_s", "author", "reason", "nature", "energy_mj", "unallocated_mj"),
        *("intensity", "intensity_source", "intensity_kind"),
    ),
}
#: of these, the three of SERVED only where one of them says something: rows of before they were there keep their hash
SHARE_COLUMNS = ("owner_kind", "owner_id", "attempt", "tenant", "part", "requests", "items", "energy_mj")
SERVED = {"part": "", "requests": None, "items": None}

#: problems that are told one by one
MOST = 100

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode
_SERVED = slice(4, 7)
_FLAGS = COLUMNS[INTERVAL].index("flags")
#: places of energy_mj and unallocated_mj
_SUMS = {kind: (names.index("energy_mj"), names.index("unallocated_mj")) for kind, names in COLUMNS.items()}


class Entry(NamedTuple):
    """An interval or a correction as it stands in the chain."""

    id: int
    kind: str
    #: by COLUMNS; `flags` is JSON text, as in the table
    values: Sequence[Any]
    #: by SHARE_COLUMNS, in any order
    shares: Sequence[Sequence[Any]]
    hash: str = ""

    @property
    def name(self) -> str:
        """`node/boot/sequence`, of a correction with that word before it."""
        name = "/".join(str(part) for part in self.values[:3])
        return name if self.kind == INTERVAL else f"{self.kind} {name}"

    @property
    def gap_mj(self) -> int:
        """Energy that is missing or too much in the parts [mJ]: 0 if sound."""
        whole, rest = _SUMS[self.kind]
        return int(self.values[whole] - self.values[rest] - sum(share[-1] for share in self.shares))

    @property
    def hashed_shares(self) -> list[list[Any]]:
        """The shares as they are hashed, in that order."""
        return [_short(share) for share in sorted(self.shares, key=_order)]

    def exported(self) -> dict[str, Any]:
        """As plain values with names, for an export."""
        fields = dict(zip(COLUMNS[self.kind], self.values, strict=True))
        if self.kind == INTERVAL:
            fields["flags"] = json.loads(fields["flags"])
        shares = [dict(zip(_names(share), share, strict=True)) for share in self.hashed_shares]
        return {"id": self.id, "entry": self.kind, **fields, "shares": shares, "hash": self.hash}


def entry_of(entry_id: int, kind: str, row: Mapping[str, Any], shares: Iterable[Mapping[str, Any]]) -> Entry:
    """The entry of a row and its shares (store/rows.py), without its hash."""
    return Entry(entry_id, kind, [row[name] for name in COLUMNS[kind]], [_share(share) for share in shares])


def faults(entry: Entry) -> list[str]:
    """What in it no row of the ledger can hold, in words."""
    found = kinds.faults(COLUMNS[entry.kind], entry.values)
    for share in entry.shares:
        found += [f"of the share of {share[1]!r:.60}, {words}" for words in kinds.faults(SHARE_COLUMNS, share)]
    return found


def next_hash(previous: str, entry: Entry) -> str:
    """The hash of an entry that follows on another."""
    values = list(entry.values)
    if entry.kind == INTERVAL:
        values[_FLAGS] = [] if values[_FLAGS] == "[]" else json.loads(values[_FLAGS])
    text = _encode([entry.kind, *values, entry.hashed_shares])
    return sha256(bytes.fromhex(previous) + text.encode("ascii")).hexdigest()


class Verifier:
    """Takes the entries one after the other and says in the end what is wrong with them."""

    def __init__(self, previous: str = GENESIS, expect_head: str | None = None) -> None:
        self._last: tuple[int, str] | None = None
        self._previous = previous
        self._expected = expect_head
        self._seen = expect_head is None or expect_head == previous
        self.entries = 0
        self._broken: list[str] = []
        self._problems: list[str] = []

    def take(self, entry: Entry, misplaced: str = "") -> None:
        """Check one entry: that it follows from the one before, and that its parts sum to its whole.

        `misplaced`: what is wrong with where its row stands, which its hash does not say.
        """
        self.entries += 1
        name = f"{entry.name} (entry {entry.id})"
        told: list[str] = []
        redone = self._redone(entry)
        found = faults(entry) if redone != entry.hash else []
        if found:
            told.append(f"{name}: {'; '.join(found)}")
        elif entry.gap_mj:
            told.append(f"{name}: its parts differ from its whole by {entry.gap_mj} mJ")
        if misplaced:
            told.append(f"{name} {misplaced}")
        if redone != entry.hash:
            before = self._last[0] if self._last else 0
            if self._last and entry.id > before + 1:
                told.append(f"entries {before + 1} to {entry.id - 1} are missing before {name}")
            else:
                told.append(
                    f"{name} does not follow from {f'entry {before}' if before else 'the beginning'}: "
                    "one of the two was edited, moved or put in, or what stood between them is gone"
                )
        if told and len(self._broken) < MOST:
            self._broken.append(entry.name)
            self._problems += told
        self._last, self._previous = (entry.id, entry.hash), entry.hash
        self._seen = self._seen or entry.hash == self._expected

    def problem(self, text: str) -> None:
        """Something else that was found."""
        self._problems.append(text)

    def finish(self, entries: int, head: str) -> ChainCheck:
        """The result, against how many entries there should be and the hash of the last one."""
        if self.entries < entries:
            self.problem(f"{entries} entries were written, {self.entries} are here: {entries - self.entries} are gone")
        if self.entries > entries:
            self.problem(
                f"{entries} entries were written, {self.entries} are here: {self.entries - entries} were put in"
            )
        if self._previous != head:
            self.problem(f"the last entry has the hash {self._previous}, the head that was kept is {head}")
        if not self._seen:
            self.problem(
                f"no entry has the expected hash {self._expected}: the ledger was cut off or written anew since that "
                "was noted, or it is another ledger's"
            )
        return ChainCheck(self.entries, head, tuple(self._broken), tuple(self._problems))

    def _redone(self, entry: Entry) -> str | None:
        try:
            # the gap too: with a right hash, made anew by whoever edited the row, it must be a number
            return next_hash(self._previous, entry) if isinstance(entry.gap_mj, int) else None
        except (ValueError, TypeError, ArithmeticError):  # what was put there is no hash, no number, or no JSON
            return None


def verify_export(document: Mapping[str, Any]) -> list[str]:
    """Redo the chain and the sums of `eco-ray ledger export --format json`: what is wrong, empty if nothing is."""
    try:
        verifier = Verifier(document["previous"])
        for item in document["entries"]:
            verifier.take(_imported(item))
        check = verifier.finish(document["count"], document["last"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        return [f"this is no whole export of a ledger: {type(error).__name__} {error}; export it again"]
    return list(check.problems)


def _imported(item: Mapping[str, Any]) -> Entry:
    values = dict(item)
    if item["entry"] == INTERVAL:
        values["flags"] = _encode(item["flags"])
    shares = [_share(share) for share in item["shares"]]
    return Entry(item["id"], item["entry"], [values[name] for name in COLUMNS[item["entry"]]], shares, item["hash"])


def _share(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name, SERVED[name]) if name in SERVED else row[name] for name in SHARE_COLUMNS)


def _short(share: Sequence[Any]) -> list[Any]:
    told = list(share[_SERVED]) != list(SERVED.values())
    return list(share) if told else [*share[: _SERVED.start], *share[_SERVED.stop :]]


def _names(share: Sequence[Any]) -> Sequence[str]:
    if len(share) == len(SHARE_COLUMNS):
        return SHARE_COLUMNS
    return [name for name in SHARE_COLUMNS if name not in SERVED]


def _order(share: Sequence[Any]) -> list[Any]:
    """As the values themselves, unknown before 0."""
    return [-1 if value is None else value for value in share]
