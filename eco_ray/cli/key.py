"""`eco-ray key create | list | rotate | revoke | audit`: API keys of served models and of the control API."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

import click

from eco_ray.acting_user import audited
from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings
from eco_ray.core import keys
from eco_ray.core.keys import ApiKey, Credential, Scope
from eco_ray.errors import NotFoundError, UsageError
from eco_ray.pepper import find_pepper
from eco_ray.times import human_duration, iso_utc, parse_duration, parse_instant, parse_when

if TYPE_CHECKING:
    from eco_ray.core.store_port import Store


@click.group()
def key() -> None:
    """API keys: who may use and change what a tenant has."""


@key.command()
@click.option("--tenant", required=True, help="Whose models, jobs and quotas it is for.")
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice([scope.value for scope in Scope]),
    help="What it allows; repeatable.",
)  # fmt: skip
@click.option("--expires", metavar="WHEN", help="Valid for so long, such as 90d, or until an instant [until revoked].")
@common_options
def create(tenant: str, scopes: tuple[str, ...], expires: str | None, settings: Settings) -> None:
    """Make a key and print it, this once: it is kept nowhere."""
    from eco_ray.store import open_store

    now_s = time.time()
    expires_s = None if expires is None else parse_when(expires).resolve(now_s)
    store, shown = open_store(settings.store_url), _drawn()
    made = keys.new_key(shown, tenant, map(Scope, scopes), _pepper(settings, store), now_s, expires_s)
    store.save_keys([made], audit=[audited("create-key", made.id, _words(made))])
    _hand_out(settings, shown, made, now_s)


@key.command(name="list")
@click.option("--tenant", help="Only this tenant's.")
@common_options
def list_(tenant: str | None, settings: Settings) -> None:
    """All keys, without their secrets, which are kept nowhere."""
    now_s = time.time()
    rows = [_document(one, now_s) for one in _open(settings).list_keys(tenant)]
    emit(settings, rows, rows, "no API keys; `eco-ray key create --tenant T --scope infer` makes one")


@key.command()
@click.argument("key_id", metavar="ID")
@click.option("--grace", default="0s", show_default=True, help="How long the old key is valid beside the new one.")
@common_options
def rotate(key_id: str, grace: str, settings: Settings) -> None:
    """Make a key with the same rights in the place of key ID, and print it, this once."""
    now_s, grace_s = time.time(), parse_duration(grace)
    store, shown = _open(settings), _drawn()
    was = _found(store, key_id)
    old, new = keys.rotated(was, shown, _pepper(settings, store), now_s, grace_s)
    detail = f"replaced by {new.id}; valid for {human_duration(grace_s)} more at most"
    store.save_keys([new, old], was=[was], audit=[audited("rotate-key", old.id, detail)])
    _hand_out(settings, shown, new, now_s)


@key.command()
@click.argument("key_id", metavar="ID")
@common_options
def revoke(key_id: str, settings: Settings) -> None:
    """Refuse key ID from now on."""
    now_s, store = time.time(), _open(settings)
    was = _found(store, key_id)
    gone = keys.revoked(was, now_s)
    detail = f"was {was.state(now_s)}; of tenant {was.tenant}"
    store.save_keys([gone], was=[was], audit=[audited("revoke-key", gone.id, detail)])
    emit(settings, _document(gone, now_s))


@key.command()
@click.option("--from", "start", metavar="WHEN", help="Only from this instant (ISO 8601, UTC).")
@click.option("--to", "end", metavar="WHEN", help="Only before this instant (ISO 8601, UTC).")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many, the newest.")
@common_options
def audit(start: str | None, end: str | None, limit: int | None, settings: Settings) -> None:
    """Who made, rotated and revoked keys, and let pickles into and out of the registry."""
    start_s, end_s = (None if text is None else parse_instant(text) for text in (start, end))
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise UsageError("--to is not after --from: give a span with a length")
    rows = [
        {
            "id": one.id, "time": iso_utc(one.time_s), "actor": one.actor, "action": one.action, "object": one.object,
            "detail": one.detail,
        }
        for one in _open(settings).audit(start_s, end_s, limit)
    ]  # fmt: skip
    emit(settings, rows, rows, "the audit log holds nothing of this")


def _open(settings: Settings) -> Store:
    from eco_ray.store import open_store

    return open_store(settings.store_url, create=False)


def _pepper(settings: Settings, store: Store) -> bytes:
    return find_pepper(settings.key_pepper_file, settings.state_dir, make=not store.list_keys())


def _drawn() -> Credential:
    def draw(characters: int) -> str:
        return "".join(secrets.choice(keys.ALPHABET) for _ in range(characters))

    return Credential(draw(keys.ID_CHARACTERS), draw(keys.SECRET_CHARACTERS))


def _found(store: Store, key_id: str) -> ApiKey:
    found = store.get_key(keys.check_id(key_id))
    if found is None:
        raise NotFoundError(f"no API key {key_id}: `eco-ray key list` has those that there are")
    return found


def _hand_out(settings: Settings, shown: Credential, made: ApiKey, now_s: float) -> None:
    """Print the key alone, for people and `$(...)`, or with all that is kept of it."""
    click.echo(f"key {made.id} for {_words(made)}: it is shown this once and kept nowhere", err=True)
    if settings.output == "table":
        click.echo(shown.text)
    else:
        emit(settings, {**_document(made, now_s), "key": shown.text})


def _words(made: ApiKey) -> str:
    until = "revoked" if made.expires_s is None else iso_utc(made.expires_s)
    return f"tenant {made.tenant}, scopes {' '.join(sorted(made.scopes))}, until {until}"


def _document(one: ApiKey, now_s: float) -> dict[str, Any]:
    return {
        "id": one.id,
        "tenant": one.tenant,
        "scopes": sorted(scope.value for scope in one.scopes),
        "state": one.state(now_s),
        "created": iso_utc(one.created_s),
        "expires": None if one.expires_s is None else iso_utc(one.expires_s),
        "revoked": None if one.revoked_s is None else iso_utc(one.revoked_s),
        "replaced_by": one.replaced_by,
    }
