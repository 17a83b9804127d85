"""What a configuration of sources opens, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from eco_ray.core.intensity import SignalKind
from eco_ray.errors import UsageError
from eco_ray.grid import (
    Chain,
    CsvTrace,
    ModelledProfile,
    SourceOptions,
    is_live,
    names,
    open_grid,
    open_source,
    registry,
)

DIRECT, LIFECYCLE, MARGINAL = SignalKind.AVERAGE_DIRECT, SignalKind.AVERAGE_LIFECYCLE, SignalKind.MARGINAL
NONE = SourceOptions(key=lambda _: None)
NOW_S = datetime(2026, 10, 1, 9, tzinfo=UTC).timestamp()


def a_trace(tmp_path: Path) -> Path:
    path = tmp_path / "ci.csv"
    path.write_text("time,DE\n2026-10-01T09:00Z,500\n2026-10-01T10:00Z,400\n")
    return path


@pytest.mark.parametrize("name", [name for name in names() if name not in ("trace", "carbon-aware-sdk")])
def test_every_source_opens_without_key_and_network(name):
    source = open_source(name, NONE)
    assert source.name
    assert source.kind in SignalKind
    assert source.zones()


def test_a_trace_is_opened_with_its_options(tmp_path):
    source = open_source("trace", SourceOptions(DIRECT, {"here": "DE"}, file=a_trace(tmp_path)))
    assert isinstance(source, CsvTrace)
    assert (source.zones(), source.kind, source.actual("here", NOW_S, NOW_S).kind) == (("here",), DIRECT, DIRECT)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Trace", {}, "no grid source 'Trace'; nearest name: trace; it is one of profile, trace, electricity-maps"),
        ("trace", {}, "'trace' has no file; one is needed; give the path"),
        ("profile", {"file": Path("x.csv")}, "'profile' has no use for file, but x.csv was given; leave file out"),
        ("profile", {"forecasts": {"DE": Path("f.csv")}}, "has no use for forecasts, but DE was given"),
        ("profile", {"kind": MARGINAL}, "'profile' cannot be marginal; it is average-lifecycle; correct kind"),
        ("watttime", {"kind": LIFECYCLE}, "'watttime' cannot be average-lifecycle; it is marginal"),
        ("carbon-aware-sdk", {}, "url"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        open_source(name, SourceOptions(**options))


def test_one_offline_source_is_no_chain():
    assert isinstance(open_grid([("profile", NONE)]), ModelledProfile)
    assert is_live("neso")
    assert not is_live("annual")


def test_live_sources_are_a_chain_with_last_resorts_of_their_kind():
    chain = open_grid([("electricity-maps", NONE), ("entsoe", NONE)])
    assert isinstance(chain, Chain)
    assert (chain.name, chain.kind) == ("electricity-maps, then entsoe", LIFECYCLE)
    assert chain.use("DE", NOW_S).rung == "last-resort"
    assert chain.use("DE", NOW_S).source.startswith("eco_ray modelled profile")
    assert "annual table" in chain.use("KE", NOW_S).source  # the model does not have Kenya
    for kind, name in [(DIRECT, "neso"), (MARGINAL, "watttime")]:
        other = open_grid([(name, NONE)])
        assert (other.kind, other.use("GB", NOW_S).rung) == (kind, "nothing")
    assert open_grid([("neso", NONE), ("electricity-maps", NONE)]).kind is DIRECT  # the second follows the first


def test_zones_with_names_of_their_own_have_the_last_resort_too():
    chain = open_grid([("electricity-maps", SourceOptions(zones={"munich": "DE"}, key=lambda _: None))])
    assert chain.use("munich", NOW_S).rung == "last-resort"
    series = chain.forecast("munich", NOW_S, NOW_S + 3600)
    assert (series.zone, series.source.endswith(", of DE")) == ("munich", True)


def test_kinds_are_not_mixed_in_a_chain():
    with pytest.raises(UsageError, match="'watttime' cannot be average-lifecycle"):
        open_grid([("electricity-maps", NONE), ("watttime", NONE)])
    with pytest.raises(UsageError, match="'neso' cannot be average-lifecycle"):
        open_grid([("neso", NONE)], LIFECYCLE)
    with pytest.raises(UsageError, match="one of them is enough"):
        open_grid([("profile", NONE), ("annual", NONE)])


def a_plug_in(monkeypatch: pytest.MonkeyPatch, value: str = "my_package:open_source") -> None:
    point = EntryPoint("mine", value, registry.GROUP)
    ours = EntryPoint("profile", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point, ours] if group == registry.GROUP else [])


def test_a_plug_in_is_a_source_like_ours(monkeypatch):
    a_plug_in(monkeypatch)
    seen = []
    source = SimpleNamespace(name="mine", kind=MARGINAL, zones=lambda: ("X",))
    package = SimpleNamespace(open_source=lambda options: seen.append(options) or source)
    monkeypatch.setitem(__import__("sys").modules, "my_package", package)
    assert names()[-1] == "mine"
    assert is_live("mine")
    assert open_source("mine", NONE) is source
    assert seen == [NONE]
    assert open_grid([("mine", NONE)]).kind is MARGINAL
    assert isinstance(open_source("profile"), ModelledProfile)  # none takes the place of ours
    with pytest.raises(UsageError, match="'mine' is marginal, not average-lifecycle: kinds are never planned together"):
        open_grid([("electricity-maps", NONE), ("mine", NONE)])


def test_a_plug_in_that_cannot_be_loaded_says_so(monkeypatch):
    a_plug_in(monkeypatch, "no_such_package:open_source")
    with pytest.raises(UsageError, match=r"'mine' of no_such_package:open_source cannot be loaded \(ModuleNotFound"):
        open_source("mine")
