"""The requests that kopf does not make for us: read one RayJob, patch one, with the credentials that kopf found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from eco_ray.errors import EcoRayError, NotAllowedError, UnreachableError

#: an API server that takes longer is taken to be away [s]
TIMEOUT_S = 30.0
_MERGE = "application/merge-patch+json"


class ConflictError(EcoRayError):
    """The object has changed since it was read: read it again, and decide again."""


class RayJobsApi:
    """RayJobs (ray.io/v1) of an API server."""

    def __init__(self, login: Callable[[], Any]) -> None:
        """`login` gives a `kopf.ConnectionInfo` with what is valid now: service accounts change their tokens."""
        self._login = login
        self._session: aiohttp.ClientSession | None = None
        self._server = ""

    async def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The object as it is now; None: it is gone. Raises UnreachableError, NotAllowedError or EcoRayError."""
        return await self._ask("GET", namespace, name)

    async def patch(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Merge a patch into the object; None: it is gone. Raises ConflictError, or what `get` raises."""
        return await self._ask("PATCH", namespace, name, patch)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(
        self, method: str, namespace: str, name: str, patch: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any] | None:
        path = f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs/{name}"
        headers = {"Content-Type": _MERGE} if patch is not None else {}
        for last in (False, True):
            session = self._open()
            try:
                async with session.request(method, self._server + path, json=patch, headers=headers) as answer:
                    if answer.status == 401 and not last:
                        await self.close()  # the token was changed: log in again
                        continue
                    if answer.status == 404:
                        return None
                    if answer.status >= 400:
                        raise _error(answer.status, f"{method} {path}", await answer.text())
                    found: Mapping[str, Any] = await answer.json()
                    return found
            except (TimeoutError, aiohttp.ClientError) as error:
                raise UnreachableError(
                    f"the API server {self._server} did not answer {method} {path} ({type(error).__name__}: {error}); "
                    "it is asked again in the next round"
                ) from error
        raise AssertionError("the second answer is returned or raised")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            info = self._login()
            self._server = info.server.rstrip("/")
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=info.as_ssl_context()),
                headers=info.as_http_headers(),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                proxy=info.proxy_url,
                trust_env=info.trust_env,
            )
        return self._session


def _error(status: int, what: str, text: str) -> EcoRayError:
    told = f"{what} was answered {status}: {text[:300]}"
    if status == 409:
        return ConflictError(told)
    if status in (401, 403):
        return NotAllowedError(f"{told}; give its service account get, list, watch and patch on rayjobs.ray.io")
    return EcoRayError(told)
