"""`eco-ray ledger`: query, verify, correct, export, on a database in a file."""

from __future__ import annotations

import csv
import io
import json
import math
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from codecarbon.output_methods.emissions_data import EmissionsData
from planning_cases import hourly

from eco_ray.cli.main import cli
from eco_ray.cli.output import emit
from eco_ray.config import Settings
from eco_ray.core.avoided import Avoided
from eco_ray.core.intensity import SignalKind
from eco_ray.core.ledger import Interval, Sample, Share
from eco_ray.core.transfers import transferred
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.store import guards, open_store, verify_export
from eco_ray.store.export import CODECARBON

#: 2025-11-22T08:00Z
T0 = 1_763_798_400.0
KIND = "average-lifecycle"


def interval(seq: int, *, node: str = "n1", zone: str = "DE", shares: tuple[Share, ...], **more: Any) -> Interval:
    start_s = T0 + more.pop("at_s", 1800.0 * seq)
    nature = more.pop("nature", Nature.MEASURED)
    sample = Sample(node, "boot", seq, start_s, start_s + 1800, 100_000, 0, nature, "rapl", more.pop("error", 0.1))
    signal = {"intensity_kind": KIND, "intensity_nature": Nature.MODELLED, "intensity_age_s": 0.0, **more}
    return Interval(sample, zone, 1.0, shares, 360.0, "profile", **signal)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    store = open_store(str(tmp_path / "eco_ray.db"))
    a, m = Share("job", "a", 1, 60_000, "vision"), Share("model", "m:1", 0, 30_000)
    store.add_intervals(
        [
            interval(0, shares=(a, m)),
            interval(1, shares=(a,), error=0.3, nature=Nature.MODELLED),
            interval(2, shares=(Share("job", "b", 2, 100_000, "text"),), zone="FR", node="n2", at_s=86_400.0),
        ]
    )
    store.close()
    return tmp_path


def run(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["ledger", *arguments, "--state-dir", str(state)])


def query(state: Path, *arguments: str) -> list[dict[str, Any]]:
    result = run(state, "query", "-o", "json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def sums(state: Path, *arguments: str) -> dict[tuple[str, ...], tuple[float, float]]:
    rows = query(state, *arguments)
    keys = [tuple(str(v) for k, v in row.items() if k in ("part", *arguments[1:2])) for row in rows]
    return {key: (row["energy_j"], row["operational_g"]) for key, row in zip(keys, rows, strict=True)}


def test_sums_by_everything_with_the_unallocated_part_of_its_own(state: Path) -> None:
    assert sums(state, "--by", "tenant") == {("",): (30, 0.003), ("text",): (100, 0.01), ("vision",): (120, 0.012)}
    assert sums(state, "--by", "model") == {("m:1",): (30, 0.003)}
    assert sums(state, "--by", "job") == {("a",): (120, 0.012), ("b",): (100, 0.01)}
    places = {"zone": ("DE", "FR"), "node": ("n1", "n2"), "day": ("2025-11-22", "2025-11-23")}
    for by, (first, second) in places.items():
        found = sums(state, "--by", by)
        assert {key: value[0] for key, value in found.items()} == {
            (first, "attributed"): 150,
            (first, "unallocated"): 50,
            (second, "attributed"): 100,
        }


def test_replicas_and_tenants_of_a_model_with_the_requests_that_they_answered(state: Path) -> None:
    store = open_store(str(state / "eco_ray.db"))
    more = Share("model", "m:1", 0, 6_000, "vision", "r1", 3, 5), Share("model", "m:1", 0, 4_000, "text", "r2", 1, 1)
    store.add_intervals([interval(3, shares=more)])
    store.close()
    assert sums(state, "--by", "replica") == {("m:1",): (30, 0.003), ("m:1/r1",): (6, 0.0006), ("m:1/r2",): (4, 0.0004)}
    assert {row["tenant"]: row["requests"] for row in query(state, "--by", "tenant")} == {
        "": None, "text": 1, "vision": 3,
    }  # fmt: skip
    assert [row["requests"] for row in query(state, "--by", "model")] == [4]


def test_a_line_says_how_well_it_is_known(state: Path) -> None:
    first = query(state, "--by", "job")[0]
    assert first == {
        "job": "a", "energy_j": 120.0, "operational_g": pytest.approx(0.012), "nature": "modelled",
        "carbon_nature": "modelled", "error_pct": pytest.approx(20.0), "intensity_kinds": [KIND],
        "intensity_age_s": 0.0, "sources": ["rapl"], "requests": None,
    }  # fmt: skip


def test_filters_of_time_tenant_and_zone(state: Path) -> None:
    assert sums(state, "--by", "job", "--to", "2025-11-22T08:45Z") == {("a",): (90.0, pytest.approx(0.009))}
    assert sums(state, "--by", "zone", "--tenant", "vision") == {("DE", "attributed"): (120, 0.012)}
    assert sums(state, "--by", "job", "--zone", "FR") == {("b",): (100, 0.01)}
    assert query(state, "--from", "2026-01-01") == []
    assert isinstance(run(state, "query", "--from", "2026-01-02", "--to", "2026-01-01").exception, UsageError)


def test_grams_of_an_intensity_that_says_nothing_of_itself_are_assumed(state: Path) -> None:
    """A row of before the upgrade has an intensity and no word on how it is known: not as sure as the energy."""
    store = open_store(str(state / "eco_ray.db"))
    share = (Share("job", "old", 1, 1_000),)
    store.add_intervals([interval(9, shares=share, intensity_nature=None, intensity_kind="")])
    store.close()
    (line,) = [row for row in query(state, "--by", "job") if row["job"] == "old"]
    assert line["operational_g"] is not None
    assert (line["nature"], line["carbon_nature"]) == ("measured", "assumed")


def test_what_is_no_finite_number_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit(Settings(output="json"), {"a": [math.nan, 1.5], "b": (math.inf,)})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"a": [None, 1.5], "b": [None]}


def test_verify_names_what_was_edited_and_fails(state: Path) -> None:
    result = run(state, "verify", "-o", "json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    head = document["head"]
    assert document == {
        "rows": 3, "ok": True, "residual_mj": 0, "broken": [], "chain_ok": True, "entries": 3, "head": head,
        "problems": [], "overlaps": [],
    }  # fmt: skip
    assert run(state, "verify", "--expect-head", head).exit_code == 0
    assert run(state, "verify", "--expect-head", "0" * 63 + "1").exit_code == 1
    with sqlite3.connect(state / "eco_ray.db") as db:
        for table in guards.GUARDED:
            db.execute(f"DROP TRIGGER guard_{table}_update")
        db.execute("UPDATE intervals SET intensity = 1.0 WHERE seq = 1")
    result = run(state, "verify", "-o", "json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["ok"], document["residual_mj"]) == (1, False, 0)
    assert document["broken"] == ["n1/boot/1"]


def test_verify_tells_of_time_that_two_lives_counted_and_is_content(state: Path) -> None:
    store = open_store(str(state / "eco_ray.db"))
    one = interval(0, shares=())
    store.add_intervals([replace(one, sample=replace(one.sample, boot_id="later"))])
    store.close()
    result = run(state, "verify", "-o", "json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["ok"], document["problems"]) == (0, True, [])
    (told,) = document["overlaps"]
    assert "node n1: 1 intervals of agent life later, 2025-11-22T08:00:00Z to 2025-11-22T08:30:00Z, overlap" in told
    assert "agent life boot" in told
    assert "NTP" in told


def test_what_is_no_number_fails_every_command_by_row_and_column(state: Path) -> None:
    whole = state / "whole.json"
    whole.write_text("an export of before")
    with sqlite3.connect(state / "eco_ray.db") as db:
        for table in guards.GUARDED:
            db.execute(f"DROP TRIGGER guard_{table}_update")
        db.execute("UPDATE shares SET energy_mj = 'abc' WHERE interval_id = 2")
    done = run(state, "verify", "-o", "json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["ok"], document["broken"]) == (1, False, ["n1/boot/1"])
    assert "of the share of 'a', energy_mj is 'abc', not a whole number" in document["problems"][0]
    for arguments in (["query"], ["export"], ["export", "--format", "json", "--out", str(whole)]):
        with pytest.raises(EcoRayError, match=r"n1/boot/1 \(entry 2\): .* energy_mj is 'abc'") as told:
            CliRunner().invoke(
                cli, ["ledger", *arguments, "--state-dir", str(state)], standalone_mode=False, catch_exceptions=False
            )
        assert told.value.exit_code == 1
    assert whole.read_text() == "an export of before"
    assert sorted(path.name for path in state.iterdir() if "tmp" in path.name) == []


def test_correct_changes_grams_and_not_rows(state: Path) -> None:
    span = ["--from", "2025-11-22T08:00Z", "--to", "2025-11-22T08:30Z", "--reason", "late data"]
    result = run(state, "correct", "--zone", "DE", "--g-per-kwh", "720", *span, "-o", "json")
    assert json.loads(result.stdout) == {"corrected": 1}
    assert sums(state, "--by", "job")[("a",)] == (120.0, pytest.approx(0.006 + 0.012))
    assert run(state, "verify").exit_code == 0
    document = json.loads(run(state, "export", "--format", "json").stdout)
    assert (document["count"], document["entries"][-1]["reason"]) == (4, "late data")
    for bad, limit in (("nan", "must be finite"), ("1e300", "<= 100000"), ("-1", ">= 0")):
        refused = run(state, "correct", "--zone", "DE", "--g-per-kwh", bad, *span)
        assert isinstance(refused.exception, EcoRayError)
        assert limit in str(refused.exception)
    assert isinstance(run(state, "correct", "--zone", "XX", "--g-per-kwh", "1", *span).exception, NotFoundError)


def test_a_correction_is_of_the_kind_of_its_zone(state: Path) -> None:
    store = open_store(str(state / "eco_ray.db"))
    store.add_series(hourly("DE", 300.0, start_s=T0, kind=SignalKind.MARGINAL))
    store.close()
    span = ["--from", "2025-11-22T08:00Z", "--to", "2025-11-22T08:30Z", "--reason", "late data"]
    assert run(state, "correct", "--zone", "DE", "--g-per-kwh", "720", *span).exit_code == 0
    assert "marginal" in {key[0] for key in sums(state, "--by", "kind")}


def test_the_csv_has_codecarbons_columns(state: Path) -> None:
    assert list(CODECARBON) == list(EmissionsData.__dataclass_fields__)
    rows = list(csv.DictReader(io.StringIO(run(state, "export", "--format", "csv").stdout)))
    assert list(rows[0]) == [*CODECARBON, "nature", "source", "intensity_kind"]
    by_run = {row["run_id"]: row for row in rows}
    assert set(by_run) == {"a-a1", "m:1", "b-a2", "unallocated"}
    assert sum(float(row["energy_consumed"]) for row in rows) == pytest.approx(300_000 / 3.6e9, rel=1e-12)
    row = by_run["a-a1"]
    assert float(row["energy_consumed"]) == pytest.approx(120_000 / 3.6e9)
    assert float(row["emissions"]) == pytest.approx(0.012 / 1000)
    assert (row["timestamp"], float(row["duration"]), row["region"]) == ("2025-11-22T09:00:00", 3600.0, "DE")
    assert (row["cpu_energy"], row["country_name"]) == ("", "")
    assert (row["nature"], row["source"], row["intensity_kind"]) == ("modelled", "rapl", KIND)
    assert (by_run["m:1"]["nature"], by_run["unallocated"]["region"]) == ("measured", "DE")
    late = list(csv.DictReader(io.StringIO(run(state, "export", "--from", "2025-11-23").stdout)))
    assert [row["run_id"] for row in late] == ["b-a2"]


def test_an_unknown_intensity_empties_the_emissions_of_its_own_part_only(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "eco_ray.db"))
    known = [interval(seq, shares=(Share("job", "a", 1, 60_000),), at_s=1800.0 * seq) for seq in range(99)]
    store.add_intervals([*known, replace(known[0], sample=replace(known[0].sample, seq=99), intensity_g_per_kwh=None)])
    store.close()
    rows = list(csv.DictReader(io.StringIO(run(tmp_path, "export").stdout)))
    assert sum(float(row["energy_consumed"]) for row in rows) == pytest.approx(100 * 100_000 / 3.6e9)
    found = {(row["run_id"], row["emissions"] == ""): float(row["energy_consumed"]) * 3.6e9 for row in rows}
    assert found == {
        key: pytest.approx(mj)
        for key, mj in {
            ("a-a1", False): 99 * 60_000,
            ("a-a1", True): 60_000,
            ("unallocated", False): 99 * 40_000,
            ("unallocated", True): 40_000,
        }.items()
    }
    assert sum(float(row["emissions"] or 0) for row in rows) == pytest.approx(99 * 100_000 / 3.6e9 * 0.36)


def test_the_csv_reads_sums_and_no_single_rows(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of one node has 86,400 rows a share, a year 31 million."""
    monkeypatch.setattr("eco_ray.store.sql.SqlStore.owner_intervals", None)
    assert run(state, "export").stdout.count("\n") == 5


def test_a_json_export_can_be_redone_with_the_standard_library_alone(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    assert run(state, "export", "--format", "json", "--out", str(path)).exit_code == 0
    document = json.loads(path.read_text())
    assert verify_export(document) == []
    text = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
    script = text.split("```python\n")[1].split("```")[0]
    command = [sys.executable, "-I", "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"3 entries, sound, head {document['last']}"), done.stderr
    path.write_text(path.read_text().replace('"tenant": "text"', '"tenant": "vision"'))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    missing = run(state, "export", "--out", str(tmp_path / "no" / "x.csv"))
    assert isinstance(missing.exception, UsageError)


def test_grams_of_different_kinds_are_not_added(state: Path) -> None:
    store = open_store(str(state / "eco_ray.db"))
    share = (Share("job", "a", 1, 1_000),)
    store.add_intervals([interval(9, shares=share, intensity_kind="marginal")])
    store.close()
    (line,) = [row for row in query(state, "--by", "job") if row["job"] == "a"]
    assert (line["operational_g"], line["intensity_kinds"]) == (None, [KIND, "marginal"])
    assert line["energy_j"] == 121
    assert {key[0] for key in sums(state, "--by", "kind")} == {KIND, "marginal"}


def test_transfers_are_listed_with_their_estimate(state: Path) -> None:
    assert "nothing was pushed or pulled" in run(state, "transfers").output
    store = open_store(str(state / "eco_ray.db"))
    store.add_transfers([transferred("a", T0, "m:2", "pull", "s3://models", 10**9, 500, remote=True)])
    store.close()
    (row,) = json.loads(run(state, "transfers", "-o", "json").output)
    assert row == {
        "time": "2025-11-22T08:00:00Z", "model": "m:2", "direction": "pull", "place": "s3://models",
        "moved_bytes": 10**9, "reused_bytes": 500, "energy_j": 3600.0, "nature": "assumed",
        "source": "3600 J/GB, Cloud Carbon Footprint",
    }  # fmt: skip
    assert json.loads(run(state, "transfers", "--to", "2025-11-22T08:00Z", "-o", "json").output) == []


def test_what_caches_avoided_is_summed_and_in_no_other_sum(state: Path) -> None:
    before = sums(state, "--by", "tenant")
    assert "no cache avoided anything" in run(state, "avoided").output
    store = open_store(str(state / "eco_ray.db"))
    row = Avoided(
        *(
            "r1/1",
            T0,
            T0 + 60,
            "n1",
            "m:1",
            "vision",
            10,
            36_000,
            "DE",
            400.0,
            KIND,
            1.5,
            Nature.MODELLED,
            "by CPU time",
        )
    )
    unknown = replace(row, id="r1/3", start_s=T0 + 60, tenant="", zone="FR", intensity_g_per_kwh=None)
    store.add_avoided([row, replace(row, id="r1/2", start_s=T0 + 60, hits=1, energy_mj=1), unknown])
    store.close()
    nobody, vision = json.loads(run(state, "avoided", "-o", "json").output)
    assert vision == {
        "tenant": "vision", "hits": 11, "energy_j": 36.001, "operational_g": pytest.approx(36.001 / 3.6e6 * 400 * 1.5),
        "nature": "modelled", "intensity_kinds": [KIND], "sources": ["by CPU time"],
    }  # fmt: skip
    assert (nobody["tenant"], nobody["operational_g"]) == ("", None)
    assert [one["zone"] for one in yaml.safe_load(run(state, "avoided", "--by", "zone", "-o", "yaml").output)] == [
        "DE", "FR",
    ]  # fmt: skip
    (model,) = json.loads(run(state, "avoided", "--by", "model", "--to", "2025-11-22T08:01Z", "-o", "json").output)
    assert (model["model"], model["hits"]) == ("m:1", 10)
    assert "(none)" in run(state, "avoided").output
    assert sums(state, "--by", "tenant") == before
