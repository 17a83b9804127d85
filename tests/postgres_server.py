"""Debian's PostgreSQL as a private server for the tests: a cluster of its own in a short folder, loopback only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pg8000.native

START_LIMIT_S = 60.0


class CannotStart(Exception):
    """Why there is no server."""


class PostgresServer:
    """Started by the constructor; `stop` ends it by its process id and removes its files."""

    def __init__(self) -> None:
        self._binaries = _binaries()
        # the server refuses to run as root: it runs as the user that Debian's package makes
        self._user = "postgres" if os.geteuid() == 0 else None
        self.user = "postgres"
        self._count = 0
        self._folder = Path(tempfile.mkdtemp(prefix="eco-pg-", dir="/tmp"))
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            if self._user:
                self._give_folder_to(self._user)
            command = [
                *[self._binaries / "initdb", "-D", self._data, "-U", self.user, "--auth=trust", "--encoding=UTF8"],
                *["--locale=C.UTF-8", "--no-sync"],
            ]
            made = self._popen(command)
            if made.wait(START_LIMIT_S) != 0:
                raise CannotStart(f"initdb failed: {self._log()}")
            self.port = _free_port()
            self.resume()
        except BaseException:
            self.stop()
            raise

    def new_database(self) -> str:
        """URL of a new, empty database."""
        self._count += 1
        name = f"t{self._count}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def execute(self, database: str, sql: str) -> list[list[object]]:
        """Run one statement outside of any store."""
        connection = pg8000.native.Connection(
            self.user, host="127.0.0.1", port=self.port, database=database, timeout=START_LIMIT_S
        )
        try:
            return connection.run(sql) or []
        finally:
            connection.close()

    def resume(self) -> None:
        """Start the server on its data and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            # the machine does not crash in these tests, clients do
            "fsync": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = self._popen([self._binaries / "postgres", "-D", self._data, *options])
        self._wait_until_up()

    def pause(self) -> None:
        """Fast shutdown (SIGINT), by force if it takes too long."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)

    def stop(self) -> None:
        """End the server and remove its files."""
        self.pause()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _give_folder_to(self, user: str) -> None:
        try:
            account = pwd.getpwnam(user)
        except KeyError as error:
            raise CannotStart(f"root cannot run the server and there is no user {user!r} to run it as") from error
        os.chown(self._folder, account.pw_uid, account.pw_gid)

    def _popen(self, command: list[object]) -> subprocess.Popen[bytes]:
        """Start as the server's user; unlike `runuser`, the process is the server itself, so its id stops it."""
        as_user = {"user": self._user, "group": self._user, "extra_groups": []} if self._user else {}
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self._folder, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, **as_user,
            )  # fmt: skip

    def _wait_until_up(self) -> None:
        give_up = time.monotonic() + START_LIMIT_S
        while True:
            try:
                self.execute("postgres", "SELECT 1")
            except (pg8000.Error, OSError) as error:
                if self._process is None or self._process.poll() is not None or time.monotonic() > give_up:
                    raise CannotStart(f"the server did not come up: {error}; its log: {self._log()}") from error
                time.sleep(0.05)
            else:
                return

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]


def _binaries() -> Path:
    """Folder of initdb and postgres; Debian keeps them outside of PATH."""
    found = _find()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _apt_install()
        found = _find()
    if found is None:
        raise CannotStart("no PostgreSQL server here, and only root on Debian can install it: apt install postgresql")
    return found


def _find() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path and shutil.which("postgres"):
        return Path(on_path).parent
    versions = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "initdb").exists()]
    return max(versions, key=lambda folder: float(folder.parent.name), default=None)


def _apt_install() -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", "postgresql"]
    for command in (install, ["apt-get", "update"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if command is install and done.returncode == 0:
            return
    raise CannotStart(f"apt-get install postgresql failed: {done.stderr[-500:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
