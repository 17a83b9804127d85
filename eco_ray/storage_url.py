"""Places that fsspec reaches by URL (s3://, gs://, az://, memory://), and what may be said of them aloud."""

from __future__ import annotations

from typing import Any

from eco_ray.errors import UsageError


def open_file_system(url: str, what: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it; `what` it is for is a word for the error.

    Raises UsageError for a protocol that no installed package speaks.
    """
    import fsspec  # type: ignore[import-untyped]

    protocol = url.partition("://")[0]
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{what} {without_credentials(url)}: {without(credentials(url), error)}; give a directory, or install "
            f"what speaks {protocol} (s3: pip install s3fs)"
        ) from None
    return filesystem, root


def without_credentials(url: str) -> str:
    """A URL without user, password and query."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else url


def credentials(url: str) -> str:
    """User and password of a URL; empty: none."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[0]


def without(secret: str, error: Exception) -> str:
    """What an error says, without the credentials of its URL."""
    said = " ".join(str(error).split())
    for one in (secret, secret.partition(":")[2]) if secret else ():
        said = said.replace(one, "***") if one else said
    return said[:200]
