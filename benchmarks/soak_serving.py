"""The served model of a soak: who asks it, who is killed while they ask, and what of it is in the ledger."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from soak_database import Database

from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.local_cluster import free_port, start_ticks

APP = "soak-digits"
REFERENCE = f"{APP}:1"
NODE = "gb-1"
REPLICAS, CPUS = 2, 0.25
#: tenants that wait while a replica is killed, and one that does not
STEADY, RESTLESS = ("steady-a", "steady-b"), "restless"
#: pause between two requests of a client [s]; two slow cores do other things as well
PAUSE_S = 0.2
IMAGES = 4
#: a replica writes its counts 0.1 s after a change
COUNTED_S = 2.0
Check = tuple[str, float, bool]


class Traffic:
    """Two clients that ask for three tenants and count, each in a thread of its own."""

    def __init__(self, client: Client, model: Path) -> None:
        self.sent: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.kills = 0
        self._kill: Callable[[], int | None] | None = None
        self._stopped = threading.Event()
        self._url = _deploy(client, model)
        self._body = {"inputs": [_images(IMAGES)]}
        self._threads = [threading.Thread(target=self._ask_on, args=(who,)) for who in (STEADY, (RESTLESS,))]
        for thread in self._threads:
            thread.start()

    def kill_soon(self, kill: Callable[[], int | None]) -> None:
        """Kill a replica when the steady client has no request open and all that it asked is counted.

        `kill` returns whom it killed.
        """
        self._kill = kill

    def stop(self) -> None:
        """No more requests."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self, tenants: tuple[str, ...]) -> None:
        import httpx

        with httpx.Client(timeout=20.0) as http:
            number = 0
            while not self._stopped.wait(PAUSE_S):
                if tenants is STEADY and self._kill is not None:
                    kill, self._kill = self._kill, None
                    self._kill_one(kill)
                tenant = tenants[number % len(tenants)]
                number += 1
                self.sent[tenant] += 1
                with contextlib.suppress(httpx.HTTPError):  # its replica was killed
                    # the model shall compute, not its cache answer
                    headers = {"Eco-Tenant": tenant, "Cache-Control": "no-store"}
                    answer = http.post(self._url, json=self._body, headers=headers)
                    self.answered[tenant] += answer.status_code == 200

    def _kill_one(self, kill: Callable[[], int | None]) -> None:
        time.sleep(COUNTED_S)
        killed = kill()
        if killed is not None:
            self.kills += 1
            while start_ticks(killed):
                time.sleep(0.05)
            time.sleep(1.0)  # Serve sees it, too

    def checks(self, client: Client, database: Database) -> Iterator[Check]:
        """(what, count, whether it has to be 0) of the requests and of their energy."""
        found = Counter(
            {
                tenant: int(requests)
                for tenant, requests in database.rows(
                    "select tenant, sum(requests) from shares where owner_kind = 'model'"
                    f" and owner_id = '{REFERENCE}' and requests > 0 group by tenant"
                )
            }
        )
        for tenant in (*STEADY, RESTLESS):
            yield f"requests that {tenant} sent", self.sent[tenant], False
            yield f"requests of {tenant} that were answered", self.answered[tenant], False
            yield f"requests of {tenant} in the ledger", found[tenant], False
        yield "requests in the ledger above those that were sent", sum((found - self.sent).values()), True
        lost = self.answered - found
        yield f"answered requests of {' and '.join(STEADY)} that are missing", sum(lost[t] for t in STEADY), True
        yield f"the same of {RESTLESS}, who asked while replicas were killed", lost[RESTLESS], False
        yield from _energy_checks(client, database)


def _energy_checks(client: Client, database: Database) -> Iterator[Check]:
    raw = Counter(
        {
            (part, tenant): int(energy_mj)
            for part, tenant, energy_mj in database.rows(
                "select part, tenant, sum(energy_mj) from shares where owner_kind = 'model'"
                f" and owner_id = '{REFERENCE}' group by part, tenant"
            )
        }
    )
    hourly: Counter[tuple[str, str]] = Counter()
    for row in client.store.hourly():
        if (row.owner_kind, row.owner_id) == ("model", REFERENCE):
            hourly[row.part, row.tenant] += row.energy_mj
    yield "replicas in the ledger", len({part for part, _ in raw if part}), False
    yield "energy of the model [J]", sum(raw.values()) / 1000, False
    yield "of it, of replicas that do not count (yet) [%]", 100 * raw["", ""] / max(1, sum(raw.values())), False
    differ = sum(abs(raw[key] - hourly[key]) for key in raw.keys() | hourly.keys())
    yield "rows and hours of the model by replica and tenant differ by [mJ]", differ, True
    fell = database.rows("select count(*) from intervals where flags like '%counts-fell%'")[0][0]
    yield "intervals in which a replica's counts fell", int(fell), True


def kill_one(pids: list[int], choose: Callable[[list[int]], int]) -> int | None:
    """SIGKILL one of these processes; returns it, None: there is none."""
    with contextlib.suppress(ProcessLookupError):
        if pids:
            pid = choose(pids)
            os.kill(pid, signal.SIGKILL)
            return pid
    return None


def _deploy(client: Client, path: Path) -> str:
    import torch

    from eco_ray.models.cnn import SmallCNN
    from eco_ray.models.weights import save_model
    from eco_ray.on_ray import at_once
    from eco_ray.on_ray.serve_config import ServingConfig

    torch.manual_seed(0)
    save_model(SmallCNN(), path, {"version": 1})
    model = Deployment(
        APP, 1, path=str(path), min_replicas=REPLICAS, max_replicas=REPLICAS, demand=Resources(CPUS), nodes=(NODE,)
    )
    settings = client.settings
    return at_once.deploy(model, ServingConfig("127.0.0.1", free_port(), settings.state_dir, settings.store_url))


def _images(count: int) -> dict[str, Any]:
    pixels = [(number % 17) / 16 for number in range(count * 28 * 28)]
    return {"name": "image", "datatype": "FP32", "shape": [count, 28, 28], "data": pixels}
