"""Who may ask: a gate is called with the headers of each request for a model, before its body is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from eco_ray.core.tenants import TENANT
from eco_ray.service.problems import Header, Problem, shown

#: header of a request that names the tenant it is for
TENANT_HEADER = "Eco-Tenant"
_TENANT = TENANT_HEADER.lower().encode()


class Admission(NamedTuple):
    """A request that may pass."""

    #: who is charged; empty: nobody is named
    tenant: str
    #: for the answer, such as RateLimit
    headers: tuple[Header, ...] = ()


class Gate(Protocol):
    """Lets requests pass. Called in the event loop: it answers from memory."""

    def __call__(self, headers: Mapping[bytes, bytes]) -> Admission:
        """`headers` by name in lower case. Raises Problem with 401, 403 or 429 and their headers."""
        ...


def named_tenant(headers: Mapping[bytes, bytes]) -> Admission:
    """Everybody passes, and is charged as the tenant that the header names: for a service on loopback.

    Names are short and plain, because they become rows of the ledger.
    """
    told = headers.get(_TENANT, b"").decode("latin-1")
    if told and not TENANT.fullmatch(told):
        detail = f"{TENANT_HEADER} is {shown(told)}; use 1 to 63 letters, digits, '.', '_' or '-', or leave it out"
        raise Problem(400, "wrong tenant", detail)
    return Admission(told)
