"""What a request cost, asked of the whole cluster: agents know where it was counted, and the ledger its energy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from eco_ray.core.store_port import Store
from eco_ray.core.usage import Found, Usage, settle
from eco_ray.errors import UnreachableError

log = logging.getLogger("eco_ray.serving")

#: for the agents of all nodes [s]
_ANSWER_S = 2.0
#: samples after that of a request: where its replica has rows in one of these, but none there, there will be none
_SAMPLES_AFTER = 10

#: (tenant, request id) -> what each node knows of it, and how many nodes did not answer
AskNodes = Callable[[str, str], tuple[Iterable[Found | None], int]]


def ask_agents(tenant: str, request_id: str) -> tuple[list[Found | None], int]:
    """Ask the agents of the connected cluster, by their names."""
    import ray
    from ray.util import list_named_actors

    from eco_ray.on_ray.fleet import AGENT_PREFIX, NAMESPACE

    refs: list[Any] = []
    gone = 0
    for actor in list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(AGENT_PREFIX):
            try:
                refs.append(ray.get_actor(actor["name"], namespace=NAMESPACE).request_row.remote(tenant, request_id))
            except ValueError:  # it ended meanwhile
                gone += 1
    done, late = ray.wait(refs, num_returns=len(refs), timeout=_ANSWER_S) if refs else ([], [])
    found: list[Found | None] = []
    for ref in done:
        try:
            found.append(ray.get(ref))
        except Exception as error:  # whatever it is, another node may know the request
            log.warning("an agent could not look for a request: %s", error)
            gone += 1
    return found, gone + len(late)


class UsageLookup:
    """Finds requests. Threads may share it."""

    def __init__(self, store: Store, ask: AskNodes = ask_agents) -> None:
        self._store, self._ask = store, ask

    def __call__(self, tenant: str, request_id: str) -> Usage | None:
        """What a tenant's request cost; None: it has none of this id. Of several, the newest.

        Raises UnreachableError where nobody knows the request and a node did not answer, and what the store raises.
        """
        answers, silent = self._ask(tenant, request_id)
        known = [found for found in answers if found is not None]
        if not known:
            if silent:
                raise UnreachableError(f"{silent} nodes did not answer within {_ANSWER_S:g} s; ask again")
            return None
        found = max(known, key=lambda one: one.counted.counted_s)
        take = found.take
        if take is None:
            return settle(found, ())
        until_s = take.end_s + _SAMPLES_AFTER * (take.end_s - take.start_s)
        # of all owners: asked for one kind, SQLite goes through all rows of that kind, whatever the time
        return settle(found, self._store.owner_intervals(start_s=take.start_s, end_s=until_s))
