"""Who may ask: a gate is called with the headers of each request for a model, before its body is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from eco_ray.core.footprint import Footprint
from eco_ray.core.keys import Scope
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
    #: called in the event loop with what the request has cost; never, where nobody waited for its end
    settle: Callable[[Footprint], None] = lambda footprint: None


class Gate(Protocol):
    """Lets requests pass. Called in the event loop: it answers from memory."""

    def __call__(self, headers: Mapping[bytes, bytes], scope: Scope) -> Admission:
        """`headers` by name in lower case; `scope`: INFER, or READ for what describes a model.

        Raises Problem with 401, 403 or 429 and their headers.
        """
        ...


def told_tenant(headers: Mapping[bytes, bytes]) -> str:
    """The tenant that the header names; empty: none. Raises Problem for what is no name."""
    told = headers.get(_TENANT, b"").decode("latin-1")
    if told and not TENANT.fullmatch(told):
        detail = f"{TENANT_HEADER} is {shown(told)}; use 1 to 63 letters, digits, '.', '_' or '-', or leave it out"
        raise Problem(400, "wrong tenant", detail)
    return told


def named_tenant(headers: Mapping[bytes, bytes], scope: Scope) -> Admission:
    """Everybody passes, and is charged as the tenant that the header names: for a service on loopback.

    Names are short and plain, because they become rows of the ledger.
    """
    return Admission(told_tenant(headers))
