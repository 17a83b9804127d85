"""What the contract suites share: the URL of a fresh store for each adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
from postgres_server import PostgresServer


def _fresh_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "memory":
        return "memory://"
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a fresh store: every test runs on every adapter."""
    return _fresh_url(request.param, request, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a fresh store that several processes can open."""
    return _fresh_url(request.param, request, tmp_path)
