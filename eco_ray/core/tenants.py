"""A replica's energy to the models and tenants whose requests it answered, exact to the millijoule."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from eco_ray.core.ledger import Served, Share
from eco_ray.core.requests import ServiceUse, split_service
from eco_ray.errors import EcoRayError

#: how a request may name its tenant
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

#: between the model and the tenant that a replica of many models counts for: stands in no name
_AND = "\t"


def counted_as(model: str, tenant: str) -> str:
    """Whom a replica counts a request for; `model`: empty where it is the replica's own."""
    return f"{model}{_AND}{tenant}" if model else tenant


def model_and_tenant(name: str) -> tuple[str, str]:
    """The two of `counted_as`."""
    model, _, tenant = name.rpartition(_AND)
    return model, tenant


def split_by_tenant(shares: Iterable[Share], served: Iterable[Served]) -> tuple[Share, ...]:
    """Each share of a replica as one per tenant and model, by service time, in order of names; others as they are.

    A replica that did nothing in the interval keeps its energy, with 0 requests: it waited. One that does not say what
    it answered keeps it too, with None: not known.
    """
    answered: dict[tuple[str, str], list[Served]] = {}
    for one in served:
        answered.setdefault((one.process or one.owner_id, one.part), []).append(_checked(one))
    parts: list[Share] = []
    for share in shares:
        known = answered.get((share.owner_id, share.part)) if share.owner_kind == "model" else None
        parts += [share] if known is None else _split(share, [one for one in known if one.requests or one.service_s])
    return tuple(parts)


def _split(share: Share, served: list[Served]) -> list[Share]:
    if not served:
        return [replace(share, requests=0, items=0)]
    # what a tenant's requests of a model weigh together is the sum of their weights: they are one use here
    uses = [ServiceUse(one.owner_id, one.tenant, one.service_s) for one in served]
    energy_mj = split_service(share.energy_mj, uses).request_mj
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for one in served:
        requests, items = counts.get((one.tenant, one.owner_id), (0, 0))
        counts[one.tenant, one.owner_id] = requests + one.requests, items + one.items
    return [
        replace(share, owner_id=model, tenant=tenant, energy_mj=part_mj, requests=requests, items=items)
        for (tenant, model), part_mj in energy_mj.items()
        for requests, items in [counts[tenant, model]]
    ]


def _checked(served: Served) -> Served:
    for what, count in (("requests", served.requests), ("items", served.items)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise EcoRayError(
                f"replica '{served.part}' of {served.owner_id} answered {count!r:.80} {what} of tenant "
                f"'{served.tenant}': must be a whole number >= 0; mend its counter"
            )
    return served
