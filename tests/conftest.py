"""What all suites share: a private PostgreSQL server, one of S3, one that plays grid services, and --live."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from grid_server import GridServer
from hypothesis import settings
from postgres_server import CannotStart, PostgresServer
from s3_server import S3Server

# the time of one example says how busy the machine is; a test that hangs has pytest's limit
settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--live: grid sources that have a key are asked too; without it no test leaves this machine."""
    parser.addoption("--live", action="store_true", help="ask live grid services, with the keys of the environment")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Debian's PostgreSQL; skips with the reason where it cannot run, but fails in CI, which must not skip it."""
    try:
        server = PostgresServer()
    except CannotStart as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test PostgreSQL: {error}")
        pytest.skip(f"no PostgreSQL: {error}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server that a package gives; skips where that is not installed, but fails in CI."""
    missing = [name for name in ("moto", "flask", "s3fs") if find_spec(name) is None]
    if missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test S3: {', '.join(missing)} is missing")
        pytest.skip(f"no S3 server: {', '.join(missing)} is not installed")
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty place on the S3 server, with what a client needs in the environment."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket()


@pytest.fixture
def server() -> Iterator[GridServer]:
    """A local server that answers as it is told."""
    with GridServer() as running:
        yield running
