"""Checks of the whole ledger that tests repeat."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from itertools import pairwise
from pathlib import Path


def assert_ledger_sound(state_dir: Path, longest_gap_s: float) -> None:
    """Every interval sums to its whole; per agent life no interval is missing, doubled or overlapping."""
    with sqlite3.connect(f"file:{state_dir / 'eco_ray.db'}?mode=ro", uri=True) as db:
        rows = db.execute(
            "select i.node, i.boot_id, i.seq, i.start_s, i.end_s, i.energy_mj, i.unallocated_mj,"
            " (select coalesce(sum(s.energy_mj), 0) from shares s where s.interval_id = i.id) from intervals i"
        ).fetchall()
    assert rows
    lives: dict[tuple[str, str], list[tuple[int, float, float]]] = defaultdict(list)
    for node, boot, seq, start_s, end_s, energy, unallocated, shared in rows:
        assert energy == unallocated + shared, (node, boot, seq)
        lives[(node, boot)].append((seq, start_s, end_s))
    for life, intervals in lives.items():
        intervals.sort()
        assert [seq for seq, _, _ in intervals] == list(range(1, len(intervals) + 1)), f"{life} misses a sample"
        for (_, _, end_s), (_, start_s, _) in pairwise(intervals):
            assert abs(start_s - end_s) <= longest_gap_s, f"{life} has a hole or an overlap at {end_s}"
