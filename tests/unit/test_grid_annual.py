"""CodeCarbon's annual table as a source: which figure, of which year, and what it does when the package changes."""

import json
import subprocess
import sys

import pytest

from eco_ray.core.intensity import SignalKind
from eco_ray.core.units import Nature
from eco_ray.errors import NotFoundError, UsageError
from eco_ray.grid import annual
from eco_ray.grid.annual import Annual, Figure, open_source
from eco_ray.grid.countries import ISO3
from eco_ray.grid.sources import SourceOptions

NOW = 1_748_736_000.0
HOUR = 3600.0


@pytest.fixture
def source(monkeypatch):
    figures = {"DEU": Figure(380.95, 2023), "USA": Figure(369.473, 2023), "ESH": Figure(600.0, 2009)}
    monkeypatch.setattr(annual, "table", lambda: figures)
    return Annual(SourceOptions(zones={"bidding zone": "DE", "EH1": "ESH"}))


@pytest.mark.parametrize(
    ("zone", "value", "text"),
    [
        ("DE", 380.95, "CodeCarbon's annual table, DEU 2023"),
        ("US-CAL-CISO", 369.473, "CodeCarbon's annual table, USA 2023, of the whole country for US-CAL-CISO"),
        ("bidding zone", 380.95, "CodeCarbon's annual table, DEU 2023, of the whole country for bidding zone"),
        ("EH", 600.0, "CodeCarbon's annual table, ESH 2009"),
    ],
)
def test_the_year_and_what_it_stands_for_are_in_the_source(source, zone, value, text):
    series = source.actual(zone, NOW + 100, NOW + 5 * HOUR)
    assert series.source == text
    assert series.values_g_per_kwh.tolist() == [value] * 5
    assert (series.start_s, series.step_s) == (NOW, HOUR)
    assert (series.kind, series.nature) == (SignalKind.AVERAGE_LIFECYCLE, Nature.MODELLED)
    assert source.forecast(zone, NOW + 100, NOW + HOUR).issued_s == NOW + 100


def test_zones_are_the_countries_with_a_figure_and_those_that_were_given(source):
    assert source.zones() == ("DE", "EH", "US", "bidding zone", "EH1")


@pytest.mark.parametrize("zone", ["FR", "DEU", "de", "D", "", "-", "XX-DE", "US1"])
def test_an_unknown_zone_has_no_figure(source, zone):
    with pytest.raises(NotFoundError, match="use one of these, or give its country in zones"):
        source.actual(zone, NOW, NOW)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"zones": {"X": "Atlantis"}}, "zone X is 'Atlantis', for which codecarbon's table has no figure"),
        ({"kind": SignalKind.AVERAGE_DIRECT}, "cannot be average-direct"),
        ({"url": "https://example.org"}, "has no use for url"),
    ],
)
def test_options_without_meaning_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        open_source(SourceOptions(**options))


def test_the_table_of_the_installed_package():
    figures = annual.table()
    assert len(figures) > 200
    assert {"DEU", "FRA", "USA", "GBR", "IND"} <= set(figures)
    assert set(figures) <= set(ISO3.values())
    assert 250 < figures["DEU"].g_per_kwh < 450
    assert 20 < figures["FRA"].g_per_kwh < 90
    assert "CAF" not in figures  # 0 g in codecarbon 3.3


@pytest.mark.parametrize(
    "rows",
    [
        "no JSON",
        [],
        {"DEU": 380},
        {"DEU": {"year": 2023}},
        {"DEU": {"carbon_intensity": 380}},
        {"DEU": {"carbon_intensity": "380", "year": 2023}},
        {"DEU": {"carbon_intensity": -1, "year": 2023}},
        {"DEU": {"carbon_intensity": float("nan"), "year": 2023}},
        {"DEU": {"carbon_intensity": 0.38, "year": "2023"}},
        {"DEU": {"carbon_intensity": 380, "year": 23}},
    ],
)
def test_a_changed_table_is_refused(tmp_path, rows):
    path = tmp_path / "mix.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    with pytest.raises(UsageError, match=r"codecarbon may have changed: install 3.3"):
        annual.read(path)


def test_a_missing_table_or_package_is_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"cannot read .*mix.json"):
        annual.read(tmp_path / "mix.json")
    monkeypatch.setattr(annual, "distribution", _missing)
    annual.table.cache_clear()
    with pytest.raises(UsageError, match="needs the package codecarbon, which is not installed"):
        Annual()


def _missing(name):
    raise annual.PackageNotFoundError(name)


def test_codecarbon_is_not_imported():
    code = "import sys; from eco_ray.grid.annual import Annual; Annual(); sys.exit('codecarbon' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
