"""The registry of models of whoever runs this: by a URL, by the settings, or in the state directory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from eco_ray.acting_user import audited, user
from eco_ray.config import Settings
from eco_ray.errors import EcoRayError, NotAllowedError

if TYPE_CHECKING:
    from eco_ray.core.transfers import Transfer
    from eco_ray.models.manifest import Manifest
    from eco_ray.models.registry import Registry


def open_registry(
    settings: Settings, url: str | None = None, progress: Callable[[int, int, str], None] | None = None
) -> Registry:
    """The registry of an option, of the settings, or of the state directory; with the key that is set.

    Raises UsageError for what is no key.
    """
    made: Registry = registry_at(
        url or settings.registry_url or str(settings.state_dir / "models"),
        settings,
        by=user(),
        ledger=_Ledger(settings),
        progress=progress or (lambda _done, _total, _what: None),
        on_pickle=lambda direction, version: _write_down(settings, made.url, direction, version),
    )
    return made


def registry_at(url: str, settings: Settings, by: str, **how: Any) -> Registry:
    """The registry at a URL, with the key and the cache that settings name; `how`: passed on to Registry."""
    from eco_ray.models.crypt import find_key
    from eco_ray.models.part_cache import PartCache
    from eco_ray.models.registry import Registry

    most_bytes = settings.registry_cache_gb * 10**9
    cache = PartCache(settings.state_dir / "cache" / "models", most_bytes) if most_bytes else None
    return Registry(url, by=by, key=find_key(settings.registry_key_file), cache=cache, **how)


class _Ledger:
    """The ledger of the state directory, opened when something was moved."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def add_transfers(self, transfers: Iterable[Transfer]) -> int:
        from eco_ray.store import open_store

        with contextlib.closing(open_store(self._settings.store_url)) as store:
            return store.add_transfers(transfers)


def _write_down(settings: Settings, url: str, direction: str, version: Manifest) -> None:
    """A row in the audit log for a pickle, or no pickle."""
    from eco_ray.store import open_store

    detail = f"sha256 {version.sha256}, registry {url}"
    try:
        with contextlib.closing(open_store(settings.store_url)) as store:
            store.add_audit([audited(f"{direction}-pickle", version.reference, detail)])
    except EcoRayError as error:
        raise NotAllowedError(
            f"no {direction} of the pickle {version.reference}: it is written into the audit log first, and that "
            f"failed: {error}"
        ) from error
