"""The ledger of the store in memory: the same rows, chain and sums as in a database, by plain loops."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Literal, cast

from eco_ray.core.ledger import (
    ChainCheck,
    Correction,
    HourlyEnergy,
    Interval,
    LedgerCheck,
    NodeEnergy,
    Overlap,
    OwnerInterval,
)
from eco_ray.core.units import Nature, grams
from eco_ray.store import chain, lives, rows
from eco_ray.store.balance import Balance, Head, Key, unknown_interval
from eco_ray.store.hours import NOBODY, Hours, Owner, Part, Whole
from eco_ray.store.rows import Row


@dataclass
class _Kept:
    """An interval with what was said of it later."""

    row: Row
    shares: list[Row]
    corrections: list[tuple[Row, list[Row]]] = field(default_factory=list)

    def whole(self) -> Whole:
        """With the intensity that holds now."""
        row = self.row
        signal = (row["intensity"], row["intensity_kind"], row["intensity_nature"], row["intensity_age_s"])
        for correction, _ in self.corrections:
            if correction["intensity"] is not None:
                signal = (correction["intensity"], correction["intensity_kind"], correction["nature"], None)
        names = ("start_s", "end_s", "node", "zone", "nature", "source", "error_rel", "pue")
        return Whole._make([*(row[name] for name in names), *signal])

    def differences(self) -> list[tuple[Row, list[Row]]]:
        """The corrections that change energies."""
        return [both for both in self.corrections if both[0]["energy_mj"] or both[0]["unallocated_mj"] or both[1]]

    def balance(self) -> Balance:
        """What it holds now."""
        balance = Balance(self.row["unallocated_mj"] + sum(row["unallocated_mj"] for row, _ in self.corrections))
        for share in [*self.shares, *(share for _, shares in self.corrections for share in shares)]:
            balance.add(share)
        return balance


class MemoryLedger:
    """The ledger's part of core.store_port.Store in dictionaries; threads may share it."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._head = Head()
        self._intervals: dict[Key, _Kept] = {}
        self._chain: list[chain.Entry] = []
        #: by node: end, start and life of its intervals, in order of their ends
        self._by_end: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        #: as they came
        self._corrections: list[Correction] = []

    def add_intervals(self, intervals: Iterable[Interval]) -> int:
        """Append ledger rows; (node, boot_id, seq) that are already there are left out. Returns how many were new."""
        checked = [rows.interval_rows(interval) for interval in intervals]
        with self._lock:
            new: dict[Key, _Kept] = {}
            for row, shares in checked:
                key = (row["node"], row["boot_id"], row["seq"])
                if key not in self._intervals:
                    new.setdefault(key, _Kept(row, shares))
            lives.flag_overlaps([kept.row for kept in new.values()], self._booked)
            for kept in new.values():
                self._append(chain.INTERVAL, kept.row, kept.shares)
                insort(self._by_end[kept.row["node"]], (kept.row["end_s"], kept.row["start_s"], kept.row["boot_id"]))
            self._intervals |= new
            return len(new)

    def add_corrections(self, corrections: Iterable[Correction]) -> int:
        """Append corrections of intervals that are there. Raises NotFoundError for another; returns how many."""
        given = list(corrections)
        checked = [rows.correction_rows(correction) for correction in given]
        with self._lock:
            balances: dict[Key, Balance] = {}
            for row, shares in checked:  # all of them before the first is kept
                key = (row["node"], row["boot_id"], row["seq"])
                if key not in self._intervals:
                    raise unknown_interval(key)
                if row["energy_mj"] or shares:
                    balances.setdefault(key, self._intervals[key].balance()).apply(row, shares)
            for row, shares in checked:
                self._append(chain.CORRECTION, row, shares)
                self._intervals[(row["node"], row["boot_id"], row["seq"])].corrections.append((row, shares))
            self._corrections += given
        return len(given)

    def corrections(self) -> list[Correction]:
        """All corrections, oldest first."""
        with self._lock:
            return list(self._corrections)

    def intervals_of(self, zone: str, start_s: float, end_s: float) -> list[Key]:
        """(node, boot_id, seq) of a zone's intervals that lie within [start_s, end_s] as a whole, oldest first."""
        found = [kept.row for kept in self._ledger()]
        inside = [r for r in found if r["zone"] == zone and r["start_s"] >= start_s and r["end_s"] <= end_s]
        return [(row["node"], row["boot_id"], row["seq"]) for row in inside]

    def node_energy(self) -> list[NodeEnergy]:
        """Sums by node, in the order of node names; the zone is that of the node's latest interval."""
        by_node: dict[str, list[_Kept]] = {}
        for kept in self._ledger():
            by_node.setdefault(kept.row["node"], []).append(kept)
        return [_node_sum(node, by_node[node]) for node in sorted(by_node)]

    def ledger_at_once(self) -> tuple[list[NodeEnergy], list[HourlyEnergy], list[OwnerInterval]]:
        """All of it; nobody writes meanwhile."""
        return self.node_energy(), self.hourly(), self.owner_intervals()

    def owner_intervals(
        self,
        owner_kind: str | None = None,
        owner_id: str | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> list[OwnerInterval]:
        """Shares with their interval and corrections, ordered by start, then node, then owner."""
        found = [
            part
            for kept in self._ledger()
            if (start_s is None or kept.row["start_s"] >= start_s) and (end_s is None or kept.row["start_s"] < end_s)
            for part in _owner_intervals(kept)
            if owner_kind in (None, part.owner_kind) and owner_id in (None, part.owner_id)
        ]
        return sorted(found, key=lambda part: (part.start_s, part.node, part.owner_kind, part.owner_id))

    def hourly(self, start_s: float | None = None, end_s: float | None = None) -> list[HourlyEnergy]:
        """Who used what in each hour, and what nobody used, with corrections; of [start_s, end_s) or of all."""
        hours = Hours(start_s, end_s)
        for kept in self._ledger():
            whole = kept.whole()
            hours.spread(whole, _parts(kept.row, kept.shares))
            for row, shares in kept.differences():
                hours.spread(whole, _parts(row, shares), row["nature"])
        return hours.rows()

    def ledger_entries(self, start_s: float | None = None, end_s: float | None = None) -> Iterator[Mapping[str, Any]]:
        """Rows as they were written, with their hashes; the first item is the hash before them."""
        with self._lock:
            entries = list(self._chain)
        if start_s is not None or end_s is not None:
            since_s, until_s = (-math.inf if start_s is None else start_s), (math.inf if end_s is None else end_s)
            within = {
                key
                for key, kept in self._intervals.items()
                if kept.row["end_s"] > since_s and kept.row["start_s"] < until_s
            }
            places = [place for place, entry in enumerate(entries) if tuple(entry.values[:3]) in within]
            first, last = (places[0], places[-1] + 1) if places else (0, 0)
        else:
            first, last = 0, len(entries)
        yield {"previous": entries[first - 1].hash if first else chain.GENESIS}
        for entry in entries[first:last]:
            yield entry.exported()

    def check_ledger(self) -> LedgerCheck:
        """Add up every interval and correction again, from the kept rows."""
        with self._lock:
            broken = [(entry.name, abs(entry.gap_mj)) for entry in self._chain if entry.gap_mj]
            count = len(self._intervals)
        return LedgerCheck(count, sum(gap for _, gap in broken), tuple(name for name, _ in broken[: chain.MOST]))

    def verify_chain(self, expect_head: str | None = None) -> ChainCheck:
        """Make every hash again; `expect_head`: a hash that was noted down earlier must be among them."""
        verifier = chain.Verifier(expect_head=expect_head)
        with self._lock:
            for entry in self._chain:
                verifier.take(entry)
            return verifier.finish(self._head.entries, self._head.hash)

    def overlaps(self) -> tuple[Overlap, ...]:
        """Lives of a node's agent that overlap in time, at most a hundred pairs."""
        of: dict[tuple[str, str], list[Row]] = {}
        for kept in self._ledger():
            of.setdefault((kept.row["node"], kept.row["boot_id"]), []).append(kept.row)
        spans = {key: [(row["start_s"], row["end_s"]) for row in rows] for key, rows in of.items()}
        found = [
            lives.Life(*key, of[key][0]["id"], min(one)[0], max(end_s for _, end_s in one))
            for key, one in spans.items()
        ]
        return lives.overlaps(found, lambda life, since_s, until_s: spans[life.node, life.boot_id])

    def _booked(self, node: str, boot_id: str, since_s: float, until_s: float) -> bool:
        kept = self._by_end[node]
        later = range(bisect_right(kept, (since_s, math.inf)), len(kept))
        return any(kept[place][1] < until_s and kept[place][2] != boot_id for place in later)

    def _append(self, kind: str, row: Row, shares: list[Row]) -> None:
        self._head.append(kind, row, shares)
        self._chain.append(chain.entry_of(self._head.id, kind, row, shares)._replace(hash=self._head.hash))

    def _ledger(self) -> list[_Kept]:
        with self._lock:
            return list(self._intervals.values())


def _parts(row: Row, shares: list[Row]) -> list[Part]:
    owned: list[Part] = [(_owner(share), share["energy_mj"], share.get("requests")) for share in shares]
    return [*owned, (NOBODY, row["unallocated_mj"], None)]


def _owner(share: Row) -> Owner:
    return share["owner_kind"], share["owner_id"], share["attempt"], share["tenant"], share["part"]


def _node_sum(node: str, intervals: list[_Kept]) -> NodeEnergy:
    latest = max((kept.row for kept in intervals), key=lambda row: (row["end_s"], row["zone"]))
    energy_mj = rest_mj = 0
    g: float | None = 0.0
    spare_g: float | None = 0.0
    natures = []
    for kept in intervals:
        whole, differences = kept.whole(), kept.differences()
        natures += [Nature(whole.nature), *(Nature(row["nature"]) for row, _ in differences)]
        mj = kept.row["energy_mj"] + sum(row["energy_mj"] for row, _ in differences)
        spare_mj = kept.row["unallocated_mj"] + sum(row["unallocated_mj"] for row, _ in differences)
        energy_mj, rest_mj = energy_mj + mj, rest_mj + spare_mj
        if whole.intensity is None or g is None or spare_g is None:
            g = spare_g = None
        else:
            g += grams(mj, whole.intensity, whole.pue)
            spare_g += grams(spare_mj, whole.intensity, whole.pue)
    return NodeEnergy(node, latest["zone"], energy_mj, energy_mj - rest_mj, g, spare_g, Nature.weakest(natures))


def _owner_intervals(kept: _Kept) -> list[OwnerInterval]:
    whole = kept.whole()
    charged: list[tuple[Owner, int, Nature]] = [(_owner(s), s["energy_mj"], Nature(whole.nature)) for s in kept.shares]
    counts = {_owner(s): (s["requests"], s["items"]) for s in kept.shares}
    if kept.differences():
        merged: dict[Owner, tuple[int, Nature]] = {owner: (mj, nature) for owner, mj, nature in charged}
        for row, shares in kept.differences():
            for share in shares:
                mj, nature = merged.get(_owner(share), (0, Nature.MEASURED))
                nature = Nature.weakest([nature, Nature(row["nature"])])
                merged[_owner(share)] = (mj + share["energy_mj"], nature)
        charged = [(owner, mj, nature) for owner, (mj, nature) in merged.items() if mj or any(counts.get(owner, ()))]
    return [
        OwnerInterval(
            owner_kind=cast(Literal["job", "model"], kind),
            owner_id=owner_id,
            attempt=attempt,
            node=whole.node,
            zone=whole.zone,
            start_s=whole.start_s,
            end_s=whole.end_s,
            energy_mj=mj,
            intensity_g_per_kwh=whole.intensity,
            pue=whole.pue,
            nature=nature,
            source=whole.source,
            tenant=tenant,
            part=part,
            requests=requests,
            items=items,
        )
        for (kind, owner_id, attempt, tenant, part), mj, nature in charged
        for requests, items in (counts.get((kind, owner_id, attempt, tenant, part), (None, None)),)
    ]
