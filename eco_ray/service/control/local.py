"""The gate of an API without keys, on loopback: other machines are kept out by the socket, web pages by this.

A page that a browser on this machine shows can send requests to loopback. What it may send without asking is no JSON,
which every change has to be; a name that leads here (DNS rebinding) makes the page's host differ from a loopback one.
"""

from __future__ import annotations

from collections.abc import Mapping

from eco_ray.core import keys
from eco_ray.service.gate import Admission, named_tenant
from eco_ray.service.problems import Problem, shown

_CURE = "ask by 127.0.0.1 or localhost, or give the service keys"


def loopback_gate(headers: Mapping[bytes, bytes], scope: keys.Scope) -> Admission:
    """Who asks by a loopback name, and from no other page, passes as the tenant that the header names."""
    host = headers.get(b"host", b"").decode("latin-1")
    if keys.needed([_name(host)]):
        raise Problem(403, "no loopback", f"host {shown(host)} is no loopback address; {_CURE}")
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1") not in (f"http://{host}", f"https://{host}"):
        raise Problem(403, "another origin", f"a page of {shown(origin.decode('latin-1'))} may not ask; {_CURE}")
    return named_tenant(headers, scope)


def _name(host: str) -> str:
    """Without the port; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
