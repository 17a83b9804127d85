"""The ledger, nodes and the grid over HTTP; and that documents are those of the command line, to the last digit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from control_cases import BASE, QUICK, Case, Got, LogOfAll, ask, case, following
from orchestrator_world import DE, FR, World
from test_control_jobs import bearer, with_keys
from test_ledger_cli import interval

from eco_ray.api_model import GridForecast, GridNow, LedgerLine, NodeLine
from eco_ray.cli.main import cli
from eco_ray.core.clock import Clock
from eco_ray.core.ledger import Share
from eco_ray.core.ledger_sums import BY
from eco_ray.core.ports import SignalUse
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError
from eco_ray.grid import ModelledProfile
from eco_ray.on_ray.control_port import ClusterControl
from eco_ray.service.control.app import ControlApp
from eco_ray.store import open_store

ROWS = [
    interval(0, shares=(Share("job", "a", 1, 60_000, "vision"), Share("model", "m:1", 0, 30_000))),
    interval(1, shares=(Share("job", "a", 1, 60_000, "vision"),), error=0.3, nature=Nature.MODELLED),
    interval(2, shares=(Share("job", "b", 2, 100_000, "text"),), zone="FR", node="n2", at_s=86_400.0),
]
CLUSTER = {
    "nodes": [
        {"name": name, "zone": zone, "pue": 1.2, "num_cpus": 8.0, "num_gpus": 0, "power_source": "rapl"}
        for name, zone in (("n1", "DE"), ("n3", "FR"))
    ]
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Case]:
    with case(tmp_path) as made:
        made.store.add_intervals(ROWS)
        made.store.put_meta("cluster", CLUSTER)
        yield made


# -- as the command line says it ---------------------------------------------------------------------------------------


class Beside:
    """The API and the command line on one database, at one moment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(DE, FR)
        world.submit(hours=2)
        monkeypatch.setattr(time, "time", lambda: world.now_s)
        monkeypatch.setenv("ECO_RAY_STATE_DIR", str(folder))
        self.store = open_store(str(folder / "eco_ray.db"))
        self.store.save_jobs([world.job()], world.log)
        self.store.put_meta("cluster", CLUSTER)
        self.store.add_intervals(ROWS)
        acts: Any = None
        nothing = type("Acts", (), dict.fromkeys(("plan", "cancel", "suspend", "resume", "submit", "read_log")))()
        memory: Any = self.store
        control = ClusterControl(self.store, acts or nothing, LogOfAll(memory), Clock(), folder, wall_s=time.time)
        self.app = ControlApp(control, ModelledProfile(), limits=QUICK)

    def cli(self, *arguments: str) -> Any:
        return json.loads(CliRunner().invoke(cli, [*arguments, "-o", "json"], catch_exceptions=False).stdout)

    def api(self, path: str) -> Any:
        return ask(self.app, "GET", f"{BASE}{path}").json


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    made = Beside(tmp_path, monkeypatch)
    yield made
    made.store.close()


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("/jobs", "job list"),
        ("/jobs?state=queued&limit=1", "job list --state queued --limit 1"),
        ("/jobs/j", "job status j"),
        ("/jobs/j/explain", "job explain j"),
        ("/nodes", "node list"),
        *((f"/ledger?by={by}", f"ledger query --by {by}") for by in BY),
        (
            "/ledger?by=tenant&from=2025-11-22T08:30:00Z&to=2025-11-24T00:00Z&zone=FR&tenant=text",
            "ledger query --by tenant --from 2025-11-22T08:30:00Z --to 2025-11-24T00:00Z --zone FR --tenant text",
        ),
        ("/grid/now?zone=DE&zone=FR", "grid now --zone DE --zone FR"),
        ("/grid/now", "grid now"),
        ("/grid/forecast?zone=FR&hours=5", "grid forecast --zone FR --hours 5"),
    ],
)  # fmt: skip
def test_a_document_is_that_of_the_command_line(beside: Beside, path: str, command: str) -> None:
    told = beside.api(path)
    assert told
    assert told == beside.cli(*command.split())


# -- the ledger --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", BY)
def test_sums_come_in_pages(api: Case, by: str) -> None:
    whole = api.ask("GET", f"{BASE}/ledger?by={by}")
    path, seen = f"{BASE}/ledger?by={by}&limit=1&from=2025-11-01T00:00:00.5Z", []
    while path:
        got = api.ask("GET", path)
        seen += got.json
        path = following(got)
    assert seen == whole.json
    assert all(LedgerLine(**line).energy_j > 0 for line in seen)


def test_a_page_does_not_move_when_rows_come(api: Case) -> None:
    got = api.ask("GET", f"{BASE}/ledger?limit=1")
    assert [one["job"] for one in got.json] == ["a"]
    api.store.add_intervals([interval(9, node="n9", shares=(Share("job", "A", 1, 1000, "x"),))])  # before it
    rest = api.ask("GET", following(got))
    assert [one["job"] for one in rest.json] == ["b"]


def test_a_tenant_sees_its_own_and_no_node_of_all(tmp_path: Path) -> None:
    with with_keys(tmp_path) as api:
        api.store.add_intervals(ROWS)
        api.store.put_meta("cluster", CLUSTER)

        def get(path: str, name: str = "r") -> Got:
            return api.ask("GET", f"{BASE}{path}", Authorization=bearer(name))

        assert [one["tenant"] for one in get("/ledger?by=tenant").json] == ["vision"]
        assert [one["job"] for one in get("/ledger", "t").json] == ["b"]
        assert {one["part"] for one in get("/ledger?by=zone").json} == {"attributed"}
        assert get("/ledger?tenant=text").status == 403
        assert get("/ledger?tenant=vision").status == 200
        assert get("/ledger", "i").status == 403
        nodes = [NodeLine(**one) for one in get("/nodes").json]
        assert [(one.node, one.energy_j, one.unallocated_j) for one in nodes] == [
            ("n1", None, None),
            ("n3", None, None),
        ]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/ledger?by=colour", 400, "unknown by"),
        ("/ledger?from=yesterday", 400, "ISO 8601"),
        ("/ledger?from=2026-01-02T00:00Z&to=2026-01-01T00:00Z", 400, "to is not after from"),
        ("/ledger?from=9999-01-01T00:00Z", 400, "1970 to 2199"),
        ("/ledger?limit=1&cursor=WyJ4Il0", 400, "Link"),
        ("/grid/now?zone=XX", 404, "no zone 'XX'"),
        ("/grid/forecast?zone=XX", 404, "no zone 'XX'"),
        ("/grid/forecast", 400, "zone is missing"),
        ("/grid/forecast?zone=DE&hours=337", 400, "1 to 336"),
        ("/grid/forecast?zone=", 400, "1 to 100"),
        ("/nodes?x=1", 400, "this takes none"),
    ],
)
def test_a_wrong_question_is_refused_with_a_cure(api: Case, path: str, status: int, words: str) -> None:
    got = api.ask("GET", f"{BASE}{path}")
    assert (got.status, words in got.json["detail"]) == (status, True), got.json


# -- the grid ----------------------------------------------------------------------------------------------------------


class Live(ModelledProfile):
    """A source that may know nothing; who asks the API must not make it ask the network."""

    known = True

    def refresh(self, zone: str, now_s: float, end_s: float) -> bool:
        pytest.fail("asked the network")

    def use(self, zone: str, now_s: float) -> SignalUse:
        rung = "live" if self.known else "nothing"
        return SignalUse(zone, rung, "somebody", why="" if self.known else "nobody answers")

    def actual(self, zone: str, start_s: float, end_s: float) -> Any:
        if not self.known:
            raise EcoRayError("nothing is known")
        return super().actual(zone, start_s, end_s)


def test_what_is_unknown_is_told_so_with_the_reason(api: Case) -> None:
    live = Live()
    app = ControlApp(api.control, live, limits=QUICK)
    assert GridNow(**ask(app, "GET", f"{BASE}/grid/now?zone=DE").json[0]).intensity_g_per_kwh is not None
    live.known = False
    row = ask(app, "GET", f"{BASE}/grid/now?zone=DE").json[0]
    assert (row["intensity_g_per_kwh"], row["source"], row["why"]) == (None, "unknown", "nobody answers")


def test_a_forecast_has_its_steps(api: Case) -> None:
    found = GridForecast(**api.ask("GET", f"{BASE}/grid/forecast?zone=DE&hours=3").json)
    assert len(found.series) >= 3
    assert found.step_s > 0
