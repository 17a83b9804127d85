"""What goes wrong around a store, and what its errors say."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from store_samples import BATCH, a_batch, a_job

from eco_ray.errors import EcoRayError, NotAllowedError, UnreachableError, UsageError
from eco_ray.store import open_store
from eco_ray.store.failures import translate
from eco_ray.store.memory import MemoryStore


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_can_read_the_file_and_the_folders_made_for_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "state" / "eco" / "store.db"
        store = open_store(str(path))
        store.save_jobs([a_job()])
        assert (_mode(tmp_path / "state"), _mode(path.parent)) == (0o700, 0o700)
        files = list(path.parent.iterdir())
        assert {file.name for file in files} >= {"store.db", "store.db-wal"}
        assert {_mode(file) for file in files} == {0o600}
    finally:
        os.umask(before)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_every_connection_to_sqlite_has_its_settings(tmp_path: Path) -> None:
    from eco_ray.store.database import Database

    database = Database(f"sqlite:///{tmp_path / 'a.db'}", create=True)
    expected = {"synchronous": 1, "busy_timeout": 10_000, "foreign_keys": 1}
    with database.reading() as first, database.reading() as second:
        for connection in (first, second):
            assert {n: connection.exec_driver_sql(f"PRAGMA {n}").scalar() for n in expected} == expected
    database.close()


@pytest.mark.parametrize("form", ["{}/a b%20?.db", "sqlite:///{}/a.db", "rel.db", "sqlite:///rel.db", "~/home.db"])
def test_paths_and_urls_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    url = form.format(tmp_path)
    store = open_store(url)
    store.save_jobs([a_job()])
    store.close()
    name = url.rsplit("/", maxsplit=1)[-1]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    again = open_store(url, create=False)
    assert again.get_job("train-1") == a_job()
    again.close()


def test_each_memory_store_is_its_own() -> None:
    first, second = open_store("memory://"), open_store("memory://")
    assert isinstance(first, MemoryStore)
    first.save_jobs([a_job()])
    assert second.list_jobs() == []


@pytest.mark.parametrize(
    "url",
    ["", ":memory:", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///a.db?x=1", "mysql://h/d", "x://"],
)
def test_urls_that_mean_no_store_name_those_that_do(url: str) -> None:
    with pytest.raises(UsageError, match="give a path, sqlite:///PATH, postgresql://USER@HOST/DATABASE or memory://"):
        open_store(url)


def test_commands_that_only_look_leave_nothing_behind(tmp_path: Path, postgres_server: PostgresServer) -> None:
    with pytest.raises(UnreachableError, match=r"no database at .*nothing.db: start a cluster first"):
        open_store(str(tmp_path / "sub" / "nothing.db"), create=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnreachableError, match="holds no eco-ray tables yet: start a cluster first"):
        open_store(postgres_server.new_database(), create=False)


def test_a_folder_and_a_path_below_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder: give the path of a database file, e.g. .*eco-ray.db"):
        open_store(str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(EcoRayError, match=r"cannot make .*: Not a directory; .* give another path"):
        open_store(str(tmp_path / "file" / "store.db"))


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("some notes\n" * 500)
    with pytest.raises(EcoRayError, match=r"notes.txt: it is not an SQLite database: give the path of another") as info:
        open_store(str(path))
    assert type(info.value) is EcoRayError
    assert path.read_text() == "some notes\n" * 500


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE meta (id INTEGER, name TEXT)")
    with pytest.raises(EcoRayError, match="belongs to another program or is damaged; give another database"):
        open_store(str(path))


def test_a_damaged_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = open_store(str(path))
    store.save_jobs(a_job(f"j{i}") for i in range(300))
    store.close()
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xa5" * (len(data) - 8192)
    path.write_bytes(bytes(data))
    with pytest.raises(EcoRayError, match="it is damaged: restore it from a backup"):
        open_store(str(path)).load_jobs()


def test_a_damaged_record_names_the_field(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = open_store(str(path))
    store.save_jobs([a_job()])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE jobs SET record = replace(record, '\"queued\"', '\"asleep\"')")
    with pytest.raises(
        EcoRayError, match=r"job record: state is 'asleep', not one of queued, running, .*: the record is"
    ):
        store.get_job("train-1")
    store.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("only root (with the right to mount) can make a small disk")
    yield folder
    # lazily: a test that failed has its files still open
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_says_so_and_keeps_what_was_committed(tiny_disk: Path) -> None:
    store = open_store(str(tiny_disk / "store.db"))
    written = 0
    with pytest.raises(EcoRayError, match="its disk is full, nothing of this call was kept: free some space"):  # noqa: PT012
        for number in range(1000):
            store.add_intervals(a_batch(number, "boot"))
            written += 1
    assert written > 0
    assert (len(store.owner_intervals("job")), store.check_ledger().residual_mj) == (written * BATCH, 0)
    store.close()
    again = open_store(str(tiny_disk / "store.db"))
    assert (len(again.owner_intervals("job")), again.check_ledger().residual_mj) == (written * BATCH, 0)
    again.close()


def test_a_full_database_says_so_without_a_small_disk(tmp_path: Path) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def shrink(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA max_page_count=40")

    event.listen(Engine, "connect", shrink)
    try:
        store = open_store(str(tmp_path / "store.db"))
        store.save_jobs([a_job("first")])
        with pytest.raises(EcoRayError, match="its disk is full, nothing of this call was kept"):
            store.save_jobs(a_job(f"j{i}") for i in range(1000))
        assert [job.id for job in store.load_jobs()] == ["first"]
        store.close()
    finally:
        event.remove(Engine, "connect", shrink)


# --- PostgreSQL


def test_no_server_no_database_and_a_refused_user(postgres_server: PostgresServer) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(UnreachableError, match=r"no answer: check the address and that the server runs.*refused"):
            open_store(f"postgresql://eco:s3cret@127.0.0.1:{port}/eco")
    with pytest.raises(UnreachableError, match="there is no such database on the server: make it with `createdb`"):
        open_store(postgres_server.url("nothing"))
    with pytest.raises(NotAllowedError, match=r"the server refuses this user: check user, password and pg_hba.conf"):
        open_store(postgres_server.url("postgres").replace("postgres@", "nobody@"))


PASSWORD = "s3cr3t"
BAD_POSTGRES = [
    "postgresql://eco:s3cr3t@127.0.0.1:1/eco",
    "postgres://eco:s3cr3t@127.0.0.1:1/eco?sslmode=disable",
    "postgresql+pg8000://eco:s3cr3t@127.0.0.1:1/eco?sslmode=s3cr3",
    "postgresql://eco@127.0.0.1:1/eco?password=s3cr3t",
    "postgresql://eco:a@b/s3cr3t@127.0.0.1:1/eco",
    "postgresql://eco:a:s3cr3t@127.0.0.1:s3cr3t/eco",
    "postgresql://eco:1?x=s3cr3t@127.0.0.1/eco",
    "postgresql://eco:1?s3cr3t=2@127.0.0.1/eco",
    "postgresql://eco:s3cr3t@nowhere.invalid/eco",
]


@pytest.mark.parametrize("url", BAD_POSTGRES)
def test_no_error_shows_the_password(url: str) -> None:
    with pytest.raises(EcoRayError) as info:
        open_store(url)
    error: BaseException | None = info.value
    while error is not None:
        assert PASSWORD not in str(error) + repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_the_password_is_not_in_the_repr_and_is_cut_out_of_causes(postgres_server: PostgresServer) -> None:
    store = open_store(postgres_server.new_database().replace("postgres@", f"postgres:{PASSWORD}@"))
    assert PASSWORD not in repr(store)
    assert "SqlStore('postgresql://postgres@127.0.0.1:" in repr(store)
    store.close()
    assert str(translate(OSError(f"bad {PASSWORD}"), "db", PASSWORD)).endswith("server runs (bad ***)")


def test_sslmode_require_is_kept(postgres_server: PostgresServer) -> None:
    # the test server has no TLS: insisting on it must not fall back to plain text
    with pytest.raises(UnreachableError, match="Server refuses SSL"):
        open_store(postgres_server.new_database() + "?sslmode=require")


def test_a_full_disk_of_the_server_says_so() -> None:
    class DatabaseError(Exception):
        pass

    error = translate(DatabaseError({"C": "53100", "M": "could not extend file"}), "db", None)
    assert str(error).startswith("database db: its disk is full, nothing of this call was kept")
    assert str(error).endswith("(could not extend file)")


def test_importing_the_package_is_cheap_and_a_missing_driver_names_the_cure(tmp_path: Path) -> None:
    script = """if True:
        import sys
        from eco_ray.store import open_store
        assert not {"sqlalchemy", "numpy", "pg8000"} & set(sys.modules)
        open_store(sys.argv[1]).close()
        assert "pg8000" not in sys.modules and "ray" not in sys.modules
        sys.modules["pg8000"] = None
        from eco_ray.errors import UsageError
        try:
            open_store("postgresql://eco:s3cret@127.0.0.1/eco")
        except UsageError as error:
            sys.stdout.write(str(error))
    """
    command = [sys.executable, "-c", script, str(tmp_path / "store.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "a postgresql:// database needs pg8000, which is not installed: pip install eco-ray[postgres]"
    )
