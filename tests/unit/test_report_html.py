"""report.html: one file, nothing from outside, every text escaped, honest at the edges."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest
from report_cases import KG_1000, T0, H, Meter, attempt, demo_store, job, many_store, series, world

from eco_ray.core.jobs import AttemptState, JobState
from eco_ray.core.units import Nature
from eco_ray.report import build_report, render_html
from eco_ray.report.figures import _apart, nice_top
from eco_ray.report.html_holds import gap
from eco_ray.report.words import CARBON, ENERGY, GAP, MINUS, Scale, duration, exact, fitted, percent, width_em

FETCHING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "background"}


class Page(HTMLParser):
    """What a browser would fetch, and whether tags close."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, text):
        super().__init__()
        self.fetched, self.open, self.ids, self.texts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attrs):
        self.fetched += [(name, key, value) for key, value in attrs if key in FETCHING]
        self.ids += [value for key, value in attrs if key == "id"]
        assert not any(key.startswith("on") for key, _ in attrs)
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.texts.append(data)


def negative_store():
    """Waits from clean into dirty hours; one job has an unknown intensity."""
    store = world(("DE",), embodied=KG_1000, num_cpus=4)
    curve = series("DE", [100, 400, 400, 400], nature=Nature.MEASURED, source="see https://example.org/data <now>")
    store.add_series(curve)
    store.save_jobs(
        [
            job("slow", T0, [attempt(1, "a", "DE", T0 + H, T0 + 2 * H)]),
            job("dark", T0, [attempt(1, "a", "DE", T0 + 2 * H, T0 + 3 * H)]),
        ]
    )
    meter = Meter(store)
    meter.run("a", "DE", T0 + H, T0 + 2 * H, 50, "slow", curve)
    meter.run("a", "DE", T0 + 2 * H, T0 + 3 * H, 50, "dark", None)
    return store, T0 + 3 * H


CASES = {
    "demo": demo_store,
    "many": many_store,
    "empty": lambda: (world(), T0),
    "negative": negative_store,
}


@pytest.mark.parametrize("case", CASES)
def test_self_contained_and_well_formed(case):
    text = render_html(build_report(*CASES[case]()))
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids))
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {"#wide-hatch", "#narrow-hatch"}
    assert "default-src 'none'" in text
    assert len(text.encode()) < (1_000_000 if case == "many" else 100_000)
    assert "None" not in "".join(page.texts)
    assert not re.search(r"\bnan\b", "".join(page.texts))


def test_first_lines_state_the_clock_then_the_saving():
    page = "".join(Page(render_html(build_report(*demo_store()))).texts)
    pace, saved = page.index("one wall second counts as 600 grid seconds"), page.index("less than run-now")
    assert pace < saved < page.index("When and where it ran")


def test_names_are_escaped_everywhere():
    store = world()
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    store.add_series(series("DE", [100] * 4, source=evil))
    states = AttemptState.SUCCEEDED
    store.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H, states)], name=evil, metrics={evil: evil})])
    Meter(store).charge("a", "DE", T0, T0 + H, 1000, "j", 100.0)
    store.put_meta("cluster", {"name": evil, "home_zone": "DE", "nodes": [{"name": "a", "zone": "DE", "pue": 1.0}]})
    text = render_html(build_report(store, T0 + H))
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert "<script>alert" not in text
    assert "<img" not in text
    assert text.count("<script") == 2


def test_zone_names_are_escaped_in_the_script_too():
    store = world(("</script><b>",), home="</script><b>")
    store.add_series(series("</script><b>", [100] * 30))
    text = render_html(build_report(store, T0 + 20 * H))
    assert Page(text).open == []
    assert "</script><b>" not in text


def test_long_and_foreign_names():
    store = world()
    names = ["x" * 500, "学習" * 100, "ünïcödé ω", "\N{RIGHT-TO-LEFT OVERRIDE}evil"]
    store.save_jobs([job(f"j{i}", T0 + i, [], JobState.QUEUED, name=name) for i, name in enumerate(names)])
    text = render_html(build_report(store, T0 + H))
    assert all(name in text for name in names)
    assert Page(text).open == []


def test_negative_savings_are_shown_as_such():
    doc = build_report(*negative_store())
    page = "".join(Page(render_html(doc)).texts)
    assert "more than run-now" in page
    assert "less than run-now" not in page
    assert "1 job with unknown carbon is left out" in page
    assert f"{MINUS}15.00{GAP}g" in page
    assert "no carbon intensity of DE for a part of its run" in page
    assert "Embodied (CO₂e)" in page


def test_every_job_has_a_lane_and_a_row():
    doc = build_report(*many_store())
    text = render_html(doc)
    assert text.count('class="lane"') == 2 * len(doc["jobs"])
    assert text.count('class="job"') == len(doc["jobs"])


def test_worked_example_shows_the_numbers_of_the_document():
    doc = build_report(*demo_store())
    page = "".join(Page(render_html(doc)).texts)
    shown = next(j for j in doc["jobs"] if f"Worked through: {j['name']}" in page)
    assert f"= {exact(shown['saved_g'])} g" in page
    assert f"= {exact(shown['baseline_g'])} g" in page


def test_rounding_noise_is_not_a_loss():
    page = render_html(build_report(*demo_store()))
    assert f"{MINUS}<" not in page
    assert f"{MINUS}&lt;" not in page


def test_scale_keeps_one_unit_for_a_column():
    scale = Scale.of([12_345.0, 3.0, None], ENERGY)
    assert scale.text(12_345.0) == f"12.35{GAP}kJ"
    assert scale.text(3.0) == f"<{GAP}0.01{GAP}kJ"
    assert scale.text(None) == "unknown"
    assert scale.text(0.0) == f"0{GAP}kJ"
    assert Scale.of([0.0005], CARBON).text(-0.0005, signed=True) == f"{MINUS}0.500{GAP}mg"
    assert Scale.of([2.0], CARBON).co2e(2.0, signed=True) == f"+2.000{GAP}g{GAP}CO₂e"
    assert Scale.of([], CARBON).text(0.0) == f"0{GAP}g"


def test_words():
    assert duration(12_000) == f"3{GAP}h 20{GAP}min"
    assert duration(7200) == f"2{GAP}h"
    assert duration(0) == f"0{GAP}s"
    assert duration(90_061) == f"1{GAP}d 1{GAP}h"
    assert percent(1, 3) == f"+33{GAP}%"
    assert percent(-0.5, 100) == f"{MINUS}0.5{GAP}%"
    assert percent(1, 0) is None
    assert percent(None, 1) is None
    assert percent(1e-9, 1) == f"0{GAP}%"
    assert exact(0.1 + 0.2) == "0.3"
    assert exact(451440.0, 9) == "451\N{NARROW NO-BREAK SPACE}440"
    assert exact(-1e-30) != ""
    assert exact(None) == "unknown"
    assert width_em(fitted("学" * 50, 100, 10)) * 10 <= 108
    assert fitted("short", 100, 10) == "short"


@pytest.mark.parametrize("top", [0.003, 1, 9, 99, 101, 450, 999, 1000.1])
def test_axis_has_few_round_lines_and_holds_the_top(top):
    limit, step = nice_top(top)
    assert limit >= top
    assert 1 <= round(limit / step) <= 6


def test_labels_keep_apart_and_inside():
    moved = _apart([10, 11, 12, 200], 15, 200)
    assert all(b - a >= 15 for a, b in itertools.pairwise(moved))
    assert max(moved) <= 200


def test_the_section_on_how_numbers_hold_shows_those_of_the_document():
    doc = build_report(*demo_store())
    page = "".join(Page(render_html(doc)).texts)
    mnist = next(job for job in doc["jobs"] if job["id"] == "train-mnist-7f3a")
    for value in (mnist["energy_identity"]["power_w"], doc["fleet_identity"]["total_g"]):
        assert exact(value, 6) in page
    assert "mnist:1" in page
    assert f"0.00013{GAP}MWh" in page
    assert f"1\N{NARROW NO-BREAK SPACE}000{GAP}kg" in page
    assert "of 1 more it is unknown" in page  # what the plain Ray job reserved is not recorded


def test_what_does_not_hold_is_shown_in_numbers():
    assert (gap(None), gap(0.0), gap(0.25)) == ("unknown", "0", "2.5e-01")
    assert gap(1e-15).startswith("<")


def test_tables_of_many_jobs_are_cut_and_say_so():
    doc = build_report(*many_store())
    page = "".join(Page(render_html(doc)).texts)
    assert "And 188 jobs with less energy" in page


def test_scope_2_shows_its_newest_hours_and_the_sums_of_all():
    store, now_s = demo_store()
    page = "".join(Page(render_html(build_report(store, now_s))).texts)
    assert "earlier ones are in report.json" in page
    assert "no contract is told in the cluster file" in page
    store.put_meta("cluster", {**store.get_meta("cluster"), "market": {"DE": {"g_per_kwh": 30.0, "source": "<i>"}}})
    text = render_html(build_report(store, now_s))
    assert "Market-based (CO₂e)" in text
    assert "<i>)" not in text


@pytest.mark.parametrize(("mass_g", "shown"), [(20_000.0, "modelled"), (None, "unknown")])
def test_waste_that_nobody_knows_has_no_nature(mass_g, shown):
    store = world(("DE",), embodied={**KG_1000, "mass_g": mass_g}, num_cpus=4)
    store.add_series(series("DE", [100] * 4))
    store.save_jobs([job("j", T0, [attempt(1, "a", "DE", T0, T0 + H)])])
    Meter(store).charge("a", "DE", T0, T0 + H, 3_600_000_000, "j", 100.0)
    row = re.search(r"Electronic waste</th>.*?</tr>", render_html(build_report(store, T0 + H)), re.DOTALL)
    assert row is not None
    assert f">{shown}</span>" in row.group()


def test_the_page_shows_each_tenant_of_a_model_and_what_nobody_reported():
    store, now_s = demo_store()
    page = render_html(build_report(store, now_s))
    for text in ("no tenant named", "health", "waiting for requests", "requests not reported", "Energy of a request"):
        assert text in page
