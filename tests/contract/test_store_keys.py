"""API keys and the audit log, on every adapter of the store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from store_samples import T0_S, an_interval

from eco_ray.core import keys
from eco_ray.core.audit import AuditEntry
from eco_ray.core.keys import ApiKey, Credential, Scope
from eco_ray.core.store_port import Store
from eco_ray.core.transfers import transferred
from eco_ray.errors import EcoRayError
from eco_ray.store import open_store

PEPPER = bytes(range(32))
DID = AuditEntry(T0_S, "ann", "create-key", "k", "vision: infer")


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url)
    yield opened
    opened.close()


def a_key(number: int, tenant: str = "vision", expires_s: float | None = None) -> ApiKey:
    shown = Credential(f"{number:012d}", f"{number:043d}")
    return keys.new_key(shown, tenant, [Scope.READ, Scope.INFER], PEPPER, T0_S - number, expires_s)


def test_a_key_comes_back_whole(store: Store) -> None:
    first, second, third = a_key(3), a_key(2, expires_s=T0_S + 0.1), a_key(1, "text")
    store.save_keys([third, first])
    store.save_keys([second])
    assert store.get_key(second.id) == second
    assert store.get_key("9" * 12) is None
    assert store.list_keys() == [first, second, third]
    assert store.list_keys("vision") == [first, second]
    assert store.list_keys("") == []


def test_a_key_is_replaced_only_as_it_was_read(store: Store) -> None:
    key = a_key(1)
    store.save_keys([key])
    gone = keys.revoked(key, T0_S)
    old, new = keys.rotated(key, Credential("n" * 12, "n" * 43), PEPPER, T0_S, 60)
    store.save_keys([gone], was=[key])
    # who rotates a key that was revoked meanwhile does not bring it back, and leaves no successor
    with pytest.raises(EcoRayError, match="was changed by somebody else in the same moment, and nothing was saved"):
        store.save_keys([new, old], was=[key], audit=[DID])
    with pytest.raises(EcoRayError, match="was changed"):
        store.save_keys([key])
    assert store.list_keys() == [gone]
    assert store.audit() == []
    store.save_keys([replace(gone, replaced_by="x")], was=[gone])
    assert store.list_keys() == [replace(gone, replaced_by="x")]


def test_of_many_who_change_a_key_at_once_one_does(store: Store) -> None:
    key = a_key(1)
    store.save_keys([key])

    def rotate(number: int) -> bool:
        shown = Credential(f"n{number:011d}", "n" * 43)
        try:
            store.save_keys(keys.rotated(key, shown, PEPPER, T0_S, 60), was=[key], audit=[DID])
        except EcoRayError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(rotate, range(8))) == 1
    assert (len(store.list_keys()), len(store.audit())) == (2, 1)


def test_the_audit_log_keeps_its_order_and_its_words(store: Store) -> None:
    entries = [replace(DID, time_s=T0_S + time_s, detail=f"{time_s} \N{SNOWMAN}\n") for time_s in (5, 1, 3)]
    store.add_audit(entries[:2])
    store.save_keys([a_key(1)], audit=entries[2:])
    kept = store.audit()
    assert [replace(one, id=0) for one in kept] == entries
    assert [one.id for one in kept] == [1, 2, 3]
    assert store.audit(limit=2) == kept[1:]
    assert store.audit(T0_S + 1, T0_S + 5) == kept[1:]
    assert store.audit(T0_S + 1, T0_S + 5, 1) == kept[2:]
    assert store.audit(limit=0) == []
    store.add_audit([])
    assert store.audit() == kept


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": ""}, "id of a key .*at least one character"),
        ({"tenant": "a\0"}, "tenant of key .*no NUL"),
        ({"expires_s": float("nan")}, "expires_s of key .* is nan, limits 0"),
        ({"created_s": -1.0}, "created_s of key .* is -1, limits 0"),
    ],
)
def test_what_cannot_be_is_refused(store: Store, change: dict[str, object], says: str) -> None:
    with pytest.raises(EcoRayError, match=says):
        store.save_keys([a_key(1), replace(a_key(2), **change)], audit=[DID])  # type: ignore[arg-type]
    with pytest.raises(EcoRayError, match=r"time_s of audit row .* is inf"):
        store.save_keys([a_key(1)], audit=[replace(DID, time_s=float("inf"))])
    with pytest.raises(EcoRayError, match="action of an audit row"):
        store.add_audit([DID, replace(DID, action="")])
    assert (store.list_keys(), store.audit()) == ([], [])


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'bob'", "DELETE FROM audit"])
def test_the_audit_log_is_never_changed(shared_url: str, statement: str) -> None:
    store = open_store(shared_url)
    store.add_audit([DID])
    with pytest.raises(EcoRayError, match="audit log are never"), store._database.writing() as connection:  # type: ignore[attr-defined]
        connection.exec_driver_sql(statement)
    assert [one.actor for one in store.audit()] == ["ann"]
    store.close()


def test_no_secret_and_no_pepper_is_in_the_database(tmp_path) -> None:
    path = tmp_path / "store.db"
    store = open_store(str(path))
    shown = Credential("a" * 12, "SECRETsecret" + "x" * 31)
    store.save_keys([keys.new_key(shown, "vision", [Scope.INFER], PEPPER, T0_S, None)])
    store.close()
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"SECRETsecret" not in raw
    assert PEPPER not in raw
    assert PEPPER.hex().encode() not in raw


def test_a_scope_that_is_none_is_told(shared_url: str) -> None:
    store = open_store(shared_url)
    store.save_keys([a_key(1)])
    with store._database.writing() as connection:  # type: ignore[attr-defined]
        connection.exec_driver_sql("UPDATE api_keys SET scopes = 'infer fly'")
    with pytest.raises(EcoRayError, match="'infer fly', of which this eco-ray knows infer, read, deploy, admin: upgra"):
        store.get_key(a_key(1).id)
    store.close()


@pytest.mark.parametrize("schema", [4, 5])
def test_a_ledger_of_schema_4_or_5_takes_keys_and_audit_rows(shared_url: str, schema: int) -> None:
    store = open_store(shared_url)
    store.add_intervals([an_interval()])
    moved = transferred("a", T0_S, "mnist:1", "push", "s3://models", 10**9, 5, remote=True)
    store.add_transfers([moved])
    head = store.verify_chain().head
    with store._database.writing() as connection:  # type: ignore[attr-defined]
        for table in ("avoided", "api_keys", "audit", "transfers")[: 3 if schema == 5 else 4]:
            connection.exec_driver_sql(f"DROP TABLE {table}")
        if not shared_url.startswith("sqlite"):  # schema 5 had no such function
            connection.exec_driver_sql("DROP FUNCTION eco_ray_audit_append_only")
        connection.exec_driver_sql(f"UPDATE meta SET value = '{schema}' WHERE key = 'schema_version'")
    store.close()
    again = open_store(shared_url, create=False)
    assert again.verify_chain().head == head
    assert again.transfers() == ([moved] if schema == 5 else [])
    again.save_keys([a_key(1)], audit=[DID])
    assert (again.list_keys(), [one.id for one in again.audit()]) == ([a_key(1)], [1])
    for table, says in (("audit", "audit log are never changed"), ("transfers", "ledger are never changed")):
        again.add_transfers([replace(moved, id="b")])
        with pytest.raises(EcoRayError, match=says), again._database.writing() as connection:  # type: ignore[attr-defined]
            connection.exec_driver_sql(f"DELETE FROM {table}")
    again.close()
