"""Samples while the database is away, locked, full or read-only: none is lost, and none is refused for it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from test_accounts import DIRECTORY, NODE, T0, Grid, sample

from eco_ray.errors import EcoRayError, NotAllowedError, UnreachableError
from eco_ray.on_ray.accounts import Accounts
from eco_ray.on_ray.spool import Spool
from eco_ray.store import open_store
from eco_ray.store.memory import MemoryStore


class Outage(MemoryStore):
    """A store that fails a number of times, as a database does."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self.error, self.times = error, times

    def add_intervals(self, intervals: Any) -> int:
        rows = list(intervals)
        if self.times:
            self.times -= 1
            raise self.error
        return super().add_intervals(rows)


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("no answer"),
        UnreachableError("locked"),
        NotAllowedError("read-only"),
        EcoRayError("its disk is full"),
        EcoRayError("it is damaged"),
    ],
    ids=str,
)
def test_an_outage_of_the_store_is_raised_and_loses_nothing(error: Exception, tmp_path: Path) -> None:
    store, spool = Outage(error, times=1), Spool(tmp_path)
    accounts = Accounts(store, Grid())
    batch = [sample(1), sample(2, start_s=T0 + 1.5), sample(3, energy_mj=-1, idle_mj=0)]
    with pytest.raises(type(error), match=str(error)):
        accounts.book_sound(batch, {"n1": NODE}, DIRECTORY, spool)
    assert accounts.book_sound(batch, {"n1": NODE}, DIRECTORY, spool) == 2  # the agent sends them again
    assert [row["flags"] for row in list(store.ledger_entries())[1:]] == [[], ["overlap"]]
    assert [path.name for path in tmp_path.iterdir()] == ["boot-000000003.sample.json"]


def test_a_locked_database_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eco_ray.store.database.BUSY_TIMEOUT_S", 0.2)
    store, spool = open_store(f"sqlite:///{tmp_path}/l.db"), Spool(tmp_path / "rejected")
    other = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnreachableError, match="locked"):
        Accounts(store, Grid()).book_sound([sample(1), sample(2)], {"n1": NODE}, DIRECTORY, spool)
    other.execute("ROLLBACK")
    assert Accounts(store, Grid()).book_sound([sample(1), sample(2)], {"n1": NODE}, DIRECTORY, spool) == 2
    assert list(spool.folder.iterdir()) == []


def test_what_is_refused_stays_with_its_agent_where_it_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, store = Spool(tmp_path), MemoryStore()
    monkeypatch.setattr("eco_ray.on_ray.spool._MIN_FREE_BYTES", 2**70)  # the disk is full
    with pytest.raises(EcoRayError, match="cannot be kept"):
        Accounts(store, Grid()).book_sound([sample(1, energy_mj=-1, idle_mj=0)], {"n1": NODE}, DIRECTORY, spool)


@pytest.mark.parametrize("boot_id", ["a\0b", "../out", "", "a/b", "\udc80", "x" * 300])
def test_a_boot_id_that_is_no_name_of_a_file_is_kept_in_the_folder(boot_id: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "in")
    strange = sample(1, boot_id=boot_id)
    assert spool.put(strange)
    assert spool.load() == [strange]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    spool.drop(strange)
    assert spool.load() == []
