"""What all suites share: a private PostgreSQL server, one that plays grid services, and the option --live."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from grid_server import GridServer
from postgres_server import CannotStart, PostgresServer


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


@pytest.fixture
def server() -> Iterator[GridServer]:
    """A local server that answers as it is told."""
    with GridServer() as running:
        yield running
