"""Rows that somebody changes in the database: refused at first, and found in the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection
from store_samples import T0_S, a_batch, an_avoided, an_interval

from eco_ray.core.ledger import Correction, Share
from eco_ray.core.store_port import Store
from eco_ray.core.transfers import transferred
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.store import guards, open_store
from eco_ray.store.database import Database


@contextmanager
def inside(url: str) -> Iterator[Connection]:
    """A transaction past the store."""
    database = Database(url.replace("postgresql://", "postgresql+pg8000://"), create=False)
    try:
        with database.writing() as connection:
            yield connection
    finally:
        database.close()


def filled(url: str) -> Store:
    store = open_store(url)
    store.add_intervals(a_batch(0, "boot"))
    store.add_corrections([Correction("n1", "boot", 3, "why", "ann", T0_S, shares=(Share("job", "a", 1, -1),))])
    store.add_intervals(a_batch(1, "boot"))
    store.add_transfers([transferred("a", T0_S, "m:1", "push", "s3://models", 9, 0, remote=True)])
    store.add_avoided([an_avoided()])
    assert store.verify_chain().ok
    return store


@pytest.mark.parametrize("table", guards.GUARDED)
@pytest.mark.parametrize("statement", ["UPDATE {} SET energy_mj = 1", "DELETE FROM {}"])
def test_rows_are_never_changed_or_deleted(shared_url: str, table: str, statement: str) -> None:
    store = filled(shared_url)
    with pytest.raises(EcoRayError, match="rows of the ledger are never changed or deleted"), inside(shared_url) as c:
        c.exec_driver_sql(statement.format(table))
    assert store.verify_chain().ok
    store.close()


def test_the_head_is_the_stores_own(store_url: str) -> None:
    store = open_store(store_url)
    if store_url != "memory://":
        with pytest.raises(UsageError, match="ledger_head' is the store's own"):
            store.put_meta("ledger_head", [0, 0, ""])
    store.close()


#: statement, what `verify` then says, of which rows
TAMPERED: dict[str, tuple[str, str, list[str]]] = {
    "energy": (
        "UPDATE intervals SET energy_mj = energy_mj - 5, unallocated_mj = unallocated_mj - 5 WHERE seq = 7",
        "n1/boot/7 .* does not follow from entry 7",
        ["n1/boot/7"],
    ),
    "grams": ("UPDATE intervals SET intensity = 1.0 WHERE seq = 0", "n1/boot/0 .* from the beginning", ["n1/boot/0"]),
    "nature": ("UPDATE intervals SET nature = 'measured' WHERE seq = 8", "n1/boot/8", ["n1/boot/8"]),
    "share": (
        "UPDATE shares SET owner_id = 'b' WHERE owner_kind = 'job' AND interval_id = 10",
        "n1/boot/9",
        ["n1/boot/9"],
    ),
    "replica": (
        "UPDATE shares SET part = 'r9' WHERE owner_kind = 'model' AND interval_id = 10",
        "n1/boot/9",
        ["n1/boot/9"],
    ),
    "requests": (
        "UPDATE shares SET requests = 0 WHERE owner_kind = 'job' AND interval_id = 10",
        "n1/boot/9",
        ["n1/boot/9"],
    ),
    "replica of a correction": ("UPDATE correction_shares SET part = 'r9'", "n1/boot/3", ["correction n1/boot/3"]),
    "sum": (
        "UPDATE shares SET energy_mj = energy_mj + 7 WHERE owner_kind = 'job' AND interval_id = 10",
        "n1/boot/9 .* parts differ from its whole by -7 mJ",
        ["n1/boot/9"],
    ),
    "hash": ("UPDATE intervals SET hash = 'zz' WHERE seq = 5", "n1/boot/5", ["n1/boot/5", "n1/boot/6"]),
    "text in a number": ("UPDATE intervals SET flags = '[' WHERE seq = 5", "n1/boot/5", ["n1/boot/5"]),
    "interval of a correction": (
        "UPDATE corrections SET interval_id = 5",
        "correction n1/boot/3 .* stands at interval row 5, which is not n1/boot/3",
        ["correction n1/boot/3"],
    ),
    "reason": ("UPDATE corrections SET reason = 'x'", "correction n1/boot/3", ["correction n1/boot/3"]),
    "reordered": (
        "UPDATE intervals SET seq = CASE seq WHEN 11 THEN 12 ELSE 11 END, start_s = start_s WHERE seq IN (11, 12)",
        "n1/boot/1[12]",
        ["n1/boot/12", "n1/boot/11"],
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_an_edited_row_is_found_and_named(shared_url: str, name: str) -> None:
    store = filled(shared_url)
    statement, message, broken = TAMPERED[name]
    with inside(shared_url) as connection:
        guards.take_down(connection)
        if name == "reordered":  # the key is unique: by way of a third place
            for old, new in ((11, 99), (12, 11), (99, 12)):
                connection.exec_driver_sql(f"UPDATE intervals SET seq = {new} WHERE seq = {old}")
        else:
            connection.exec_driver_sql(statement)
    check = store.verify_chain()
    assert (check.ok, list(check.broken)) == (False, broken)
    assert any(re.search(message, problem) for problem in check.problems), check.problems
    store.close()


#: what no column of its type keeps on PostgreSQL
UNTYPED: dict[str, tuple[str, str]] = {
    "energy text": ("UPDATE intervals SET energy_mj = 'abc' WHERE seq = 7", "n1/boot/7 .*energy_mj is 'abc'"),
    "energy blob": ("UPDATE intervals SET energy_mj = x'00' WHERE seq = 7", r"n1/boot/7 .*energy_mj is b'\\x00'"),
    "energy half": (
        "UPDATE intervals SET energy_mj = energy_mj + 0.5 WHERE seq = 7",
        "n1/boot/7 .*energy_mj is .*[.]5",
    ),
    "energy inf": ("UPDATE intervals SET energy_mj = 9e999 WHERE seq = 7", "n1/boot/7 .*energy_mj is inf"),
    "rest": ("UPDATE intervals SET unallocated_mj = 'abc' WHERE seq = 7", "n1/boot/7 .*unallocated_mj is 'abc'"),
    "share": (
        "UPDATE shares SET energy_mj = 'abc' WHERE interval_id = 9",
        "n1/boot/8 .*share of 'a'.*energy_mj is 'abc'",
    ),
    "requests": ("UPDATE shares SET requests = 'abc' WHERE interval_id = 9", "n1/boot/8 .*requests is 'abc'"),
    "start": ("UPDATE intervals SET start_s = 'soon' WHERE seq = 7", "n1/boot/7 .*start_s is 'soon'"),
    "end": ("UPDATE intervals SET end_s = 'late' WHERE seq = 7", "n1/boot/7 .*end_s is 'late'"),
    "pue": ("UPDATE intervals SET pue = x'01' WHERE seq = 7", "n1/boot/7 .*pue is b"),
    "zone": ("UPDATE intervals SET zone = x'01' WHERE seq = 7", "n1/boot/7 .*zone is b"),
    "correction": ("UPDATE correction_shares SET energy_mj = 'abc'", "correction n1/boot/3 .*energy_mj is 'abc'"),
}
ODD: dict[str, tuple[str, str]] = {
    "nature": ("UPDATE intervals SET nature = 'sure' WHERE seq = 7", "n1/boot/7 .*nature is 'sure'"),
    "signal": (
        "UPDATE intervals SET intensity_nature = 'sure' WHERE seq = 7",
        "n1/boot/7 .*intensity_nature is 'sure'",
    ),
    "correction": ("UPDATE corrections SET nature = 'sure'", "correction n1/boot/3 .*nature is 'sure'"),
    "huge": ("UPDATE shares SET energy_mj = 9223372036854775807 WHERE interval_id IN (9, 10)", "n1/boot/8 .*at most"),
    "infinite": ("UPDATE intervals SET intensity = {inf} WHERE seq = 7", "n1/boot/7 .*intensity is inf"),
}


def queries(store: Store) -> dict[str, Callable[[], object]]:
    return {
        "hourly": store.hourly,
        "hourly of a span": lambda: store.hourly(T0_S - 5, T0_S + 1e6),
        "node_energy": store.node_energy,
        "owner_intervals": store.owner_intervals,
        "owner_intervals of a span": lambda: store.owner_intervals(start_s=T0_S - 5, end_s=T0_S + 1e6),
        "entries": lambda: list(store.ledger_entries()),
    }


def says_where(url: str, statement: str, message: str) -> None:
    """Every query refuses the row by name and column, `verify` lists it."""
    store = filled(url)
    with inside(url) as connection:
        guards.take_down(connection)
        connection.exec_driver_sql(statement)
    assert any(re.search(message, problem) for problem in store.verify_chain().problems), store.verify_chain().problems
    store.check_ledger()
    for name, query in queries(store).items():
        # sums by node are made of the intervals' own columns, and what owners have of their shares
        shares, mj = "UPDATE shares" in statement, "intervals SET energy_mj" in statement or "unallocated" in statement
        if (shares and name == "node_energy") or (mj and name.startswith("owner")):
            continue
        with pytest.raises(EcoRayError, match=message + ".* ledger verify"):
            query()
    store.close()


@pytest.mark.parametrize("name", UNTYPED)
def test_what_is_no_number_is_never_summed(tmp_path: Path, name: str) -> None:
    says_where(f"sqlite:///{tmp_path / 'store.db'}", *UNTYPED[name])


@pytest.mark.parametrize("name", ODD)
def test_words_and_numbers_that_cannot_be_are_never_summed(shared_url: str, name: str) -> None:
    statement, message = ODD[name]
    says_where(shared_url, statement.format(inf="9e999" if "sqlite" in shared_url else "'Infinity'"), message)


def test_a_time_that_is_no_number_is_named_by_postgresql_too(shared_url: str) -> None:
    value = "9e999" if "sqlite" in shared_url else "'NaN'"
    statement = f"UPDATE intervals SET start_s = {value} WHERE seq = 7"
    says_where(shared_url, statement, "n1/boot/7 .*start_s is (inf|nan), not a finite number")


def test_flags_that_are_no_list_are_named(shared_url: str) -> None:
    store = filled(shared_url)
    with inside(shared_url) as connection:
        guards.take_down(connection)
        connection.exec_driver_sql("UPDATE intervals SET flags = 'nonsense' WHERE seq = 7")
    with pytest.raises(EcoRayError, match=r"n1/boot/7 .*flags is 'nonsense', not a JSON list"):
        list(store.ledger_entries())
    assert "flags is 'nonsense'" in store.verify_chain().problems[0]
    store.close()


def test_deleted_inserted_and_cut_off_rows_are_found(shared_url: str) -> None:
    def problems(change: Callable[[Connection], None]) -> str:
        with inside(shared_url) as connection:
            guards.take_down(connection)
            change(connection)
        return "\n".join(store.verify_chain().problems)

    store = filled(shared_url)
    head = store.verify_chain().head

    def delete(ids: str) -> Callable[[Connection], None]:
        def change(connection: Connection) -> None:
            connection.exec_driver_sql(f"DELETE FROM shares WHERE interval_id {ids}")
            connection.exec_driver_sql(f"DELETE FROM intervals WHERE id {ids}")

        return change

    said = problems(delete(">= 50"))
    assert "51 entries were written, 49 are here: 2 are gone" in said
    assert "the last entry has the hash" in said

    # the head is made to fit the shorter chain: only a head that was noted elsewhere tells
    def cut(connection: Connection) -> None:
        last = connection.exec_driver_sql("SELECT hash FROM intervals WHERE id = 49").scalar()
        value = f'[49, 49, "{last}"]'
        connection.exec_driver_sql(f"UPDATE meta SET value = '{value}' WHERE key = 'ledger_head'")

    assert problems(cut) == ""
    assert "no entry has the expected hash" in store.verify_chain(head).problems[0]
    said = problems(delete("IN (20, 21)"))
    assert "entries 20 to 21 are missing before n1/boot/21 (entry 22)" in said
    assert "49 entries were written, 47 are here" in said

    def put_in(connection: Connection) -> None:
        columns = "node, boot_id, zone, start_s, end_s, energy_mj, idle_mj, unallocated_mj, system_cpu_s, nature, "
        columns += "source, error_rel, flags, intensity_source, pue"
        connection.exec_driver_sql(
            f"INSERT INTO intervals (id, seq, {columns}) SELECT 20, 500, {columns} FROM intervals WHERE id = 1"
        )

    assert "n1/boot/500 (entry 20) does not follow from entry 19" in problems(put_in)
    store.close()


def test_shares_of_nothing_are_found_and_a_lost_head_stops_the_writing(tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    store = filled(url)
    import sqlite3

    with sqlite3.connect(f"{tmp_path}/a.db") as db:  # foreign keys are off here
        db.execute(
            "INSERT INTO shares (interval_id, owner_kind, owner_id, attempt, energy_mj) VALUES (999, 'j', 'a', 1, 5)"
        )
    assert "1 shares belong to no entry" in store.verify_chain().problems[0]
    with sqlite3.connect(f"{tmp_path}/a.db") as db:
        db.execute("DELETE FROM meta WHERE key = 'ledger_head'")
    with pytest.raises(EcoRayError, match=r"head of the ledger .* is None, not .* restore the database from a backup"):
        store.add_intervals([an_interval(0, boot_id="new")])
    store.close()


def test_a_row_made_anew_with_all_hashes_after_it_is_told_by_a_noted_head(store_url: str) -> None:
    first, second = open_store(store_url), open_store("memory://")
    rows = a_batch(0, "boot")
    first.add_intervals(rows)
    second.add_intervals([replace(rows[0], intensity_g_per_kwh=1.0), *rows[1:]])
    assert second.verify_chain().ok
    assert not second.verify_chain(first.verify_chain().head).ok
    first.close()
