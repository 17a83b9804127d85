"""`eco-ray key` on a database in a file."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from eco_ray.cli.main import cli
from eco_ray.core import keys
from eco_ray.core.keys import Scope, Verdict
from eco_ray.errors import EcoRayError, NotFoundError, UnreachableError, UsageError
from eco_ray.pepper import find_pepper
from eco_ray.store import open_store


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def run(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["key", *arguments, "--state-dir", str(state)])


def done(state: Path, *arguments: str) -> Any:
    result = run(state, *arguments, "-o", "json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def failed(state: Path, kind: type[EcoRayError], *arguments: str) -> str:
    result = run(state, *arguments)
    assert isinstance(result.exception, kind), result.output
    assert result.stdout == ""
    return str(result.exception)


def verdict(state: Path, text: str, scope: Scope = Scope.INFER, in_s: float = 0.0) -> Verdict:
    """What a server says to a key."""
    shown = keys.parse(text)
    assert shown is not None
    store = open_store(str(state / "eco_ray.db"), create=False)
    pepper = find_pepper(None, state, make=False)
    found = keys.decide(store.get_key(shown.id), shown, pepper, scope, time.time() + in_s)
    store.close()
    return found


def test_a_key_is_printed_once_and_lets_through(state: Path) -> None:
    result = run(state, "create", "--tenant", "vision", "--scope", "infer", "--scope", "read", "--expires", "90d")
    text = result.stdout.strip()
    shown = keys.parse(text)
    assert shown is not None
    assert result.stdout == text + "\n"
    assert f"key {shown.id} for tenant vision, scopes infer read, until 20" in result.stderr
    assert "shown this once and kept nowhere" in result.stderr
    assert shown.secret not in result.stderr
    assert (verdict(state, text), verdict(state, text, Scope.READ)) == (Verdict.ALLOWED, Verdict.ALLOWED)
    assert verdict(state, text, Scope.ADMIN) is Verdict.NO_SCOPE
    assert verdict(state, text, in_s=90 * 86_400 + 1) is Verdict.EXPIRED
    kept = b"".join(path.read_bytes() for path in state.iterdir())
    assert shown.secret.encode() not in kept
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}


def test_the_documents(state: Path) -> None:
    made = done(state, "create", "--tenant", "vision", "--scope", "infer")
    text = made.pop("key")
    assert keys.parse(text).id == made["id"]  # type: ignore[union-attr]
    assert list(made) == ["id", "tenant", "scopes", "state", "created", "expires", "revoked", "replaced_by"]
    assert (made["tenant"], made["scopes"], made["state"], made["expires"]) == ("vision", ["infer"], "active", None)
    assert done(state, "list") == [made]
    assert done(state, "list", "--tenant", "text") == []
    (row,) = done(state, "audit")
    assert list(row) == ["id", "time", "actor", "action", "object", "detail"]
    assert (row["action"], row["object"]) == ("create-key", made["id"])
    assert row["detail"] == "tenant vision, scopes infer, until revoked"
    assert "secret" not in run(state, "list").stdout
    assert yaml.safe_load(run(state, "list", "-o", "yaml").stdout) == [made]


def test_a_rotation_with_grace_and_one_without(state: Path) -> None:
    first = done(state, "create", "--tenant", "vision", "--scope", "infer", "--expires", "10d")
    second = done(state, "rotate", first["id"], "--grace", "1h")
    assert (second["tenant"], second["scopes"], second["state"]) == ("vision", ["infer"], "active")
    assert (verdict(state, first["key"]), verdict(state, second["key"])) == (Verdict.ALLOWED, Verdict.ALLOWED)
    assert verdict(state, first["key"], in_s=3601) is Verdict.EXPIRED
    assert f"its successor is {second['id']}" in failed(state, UsageError, "rotate", first["id"])
    third = done(state, "rotate", second["id"])
    assert (verdict(state, second["key"]), verdict(state, third["key"])) == (Verdict.EXPIRED, Verdict.ALLOWED)
    assert [row["replaced_by"] for row in done(state, "list")] == [second["id"], third["id"], None]
    assert [row["action"] for row in done(state, "audit")] == ["create-key", "rotate-key", "rotate-key"]
    assert [row["detail"] for row in done(state, "audit", "--limit", "1")] == [
        f"replaced by {third['id']}; valid for 0 s more at most"
    ]


def test_a_revoked_key_is_refused_at_once(state: Path) -> None:
    made = done(state, "create", "--tenant", "vision", "--scope", "infer")
    gone = done(state, "revoke", made["id"])
    assert (gone["id"], gone["state"]) == (made["id"], "revoked")
    assert verdict(state, made["key"]) is Verdict.REVOKED
    assert done(state, "revoke", made["id"])["revoked"] == gone["revoked"]
    assert "is revoked: make a new one" in failed(state, UsageError, "rotate", made["id"])
    assert [row["detail"] for row in done(state, "audit")][1:] == [
        "was active; of tenant vision", "was revoked; of tenant vision",
    ]  # fmt: skip


def test_the_span_of_the_audit_log(state: Path) -> None:
    done(state, "create", "--tenant", "vision", "--scope", "infer")
    assert len(done(state, "audit", "--from", "2020-01-01", "--to", "2199-01-01")) == 1
    assert done(state, "audit", "--to", "2020-01-01") == []
    assert "--to is not after --from" in failed(
        state, UsageError, "audit", "--from", "2020-01-02", "--to", "2020-01-01"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--tenant", "a b", "--scope", "infer"), "tenant 'a b' is no name"),
        (("--tenant", "vision", "--scope", "infer", "--expires", "2020-01-01"), "would have expired"),
        (("--tenant", "vision", "--scope", "infer", "--expires", "90"), "has no unit"),
    ],
)
def test_a_key_that_cannot_be_is_not_made(state: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in failed(state, UsageError, "create", *arguments)
    assert not (state / "eco_ray.db").exists() or (done(state, "list"), done(state, "audit")) == ([], [])
    assert run(state, "create", "--tenant", "vision").exit_code == 2
    assert run(state, "create", "--tenant", "vision", "--scope", "fly").exit_code == 2


def test_what_is_not_there(state: Path) -> None:
    assert "no database" in failed(state, UnreachableError, "list")
    assert not state.exists()
    made = done(state, "create", "--tenant", "vision", "--scope", "infer")
    assert "no API key " + "x" * 12 in failed(state, NotFoundError, "revoke", "x" * 12)
    # a whole key that was pasted is not repeated
    assert keys.parse(made["key"]).secret not in failed(state, UsageError, "revoke", made["key"])  # type: ignore[union-attr]


def test_without_the_pepper_of_its_keys_nothing_is_made(state: Path) -> None:
    made = done(state, "create", "--tenant", "vision", "--scope", "infer")
    (state / "key-pepper").rename(state / "elsewhere")
    assert "put back the file" in failed(state, NotFoundError, "create", "--tenant", "vision", "--scope", "infer")
    assert "put back the file" in failed(state, NotFoundError, "rotate", made["id"])
    assert len(done(state, "list")) == 1
    assert done(state, "revoke", made["id"])["state"] == "revoked"


def test_a_pepper_of_ones_own(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pepper"
    file.write_text("5f" * 32)
    file.chmod(0o600)
    monkeypatch.setenv("ECO_RAY_KEY_PEPPER_FILE", str(file))
    made = done(state, "create", "--tenant", "vision", "--scope", "infer")
    assert not (state / "key-pepper").exists()
    store = open_store(str(state / "eco_ray.db"))
    assert store.get_key(made["id"]).digest == keys.digest_of(made["key"][-43:], b"\x5f" * 32)  # type: ignore[union-attr]
    store.close()
