"""The page that compares simulated policies: one file, nothing from outside, names escaped, honest at the edges."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner

from eco_ray.cli.simulate import simulate
from eco_ray.errors import UsageError
from eco_ray.report.simulation import DASH, Comparison, PolicyRun, render_comparison, write_comparison
from eco_ray.report.simulation_figures import classes_of
from eco_ray.report.simulation_time import binned, shown_s
from eco_ray.report.words import GAP, MINUS

T0 = 1_666_195_200.0  # 2022-10-19T16:00Z
H = 3600.0
FETCHING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "background"}
EVIL = "</style></script><script>alert(1)</script><img src=https://evil.example/x>\"'&{{7*7}}"


class Page(HTMLParser):
    """What a browser would fetch or run, and whether tags close."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, text):
        super().__init__()
        self.fetched, self.open, self.ids, self.texts, self.names, self.cells = [], [], [], [], set(), []
        self.feed(text)
        self.close()
        self.text = "".join(self.texts)

    def handle_starttag(self, name, attrs):
        self.fetched += [(name, key, value) for key, value in attrs if key in FETCHING]
        self.ids += [value for key, value in attrs if key == "id"]
        self.names.add(name)
        assert not any(key.startswith("on") for key, _ in attrs)
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.texts.append(data)
        if "td" in self.open or ("th" in self.open and "tbody" in self.open):
            self.cells.append(data)


def run(name, saved_pct, delays_h=(0.0, 3.0, np.nan), *, load=None, **changed):
    times_s, cpus = load or (np.array([0.0, 10 * H, 20 * H]), np.array([4.0, 8.0, 0.0]))
    figures = {
        "policy": name,
        "jobs": 1234,
        "truncated": 1,
        "carbon_g": 562.2 * (1 - saved_pct / 100),
        "baseline_carbon_g": 562.2,
        "saved_pct": saved_pct,
        "mean_delay_h": 6.605,
        "p95_delay_h": 23.75,
        "peak_cpus": 101.0,
        "missed_deadlines": 0,
        "resumes": 0,
        "nature": "modelled",
    }
    return PolicyRun(name, {**figures, **changed}, times_s, cpus, np.array(delays_h))


def bound(saved_pct=45.4):
    missing = dict.fromkeys(("mean_delay_h", "p95_delay_h", "missed_deadlines", "resumes"))
    return run("bound", saved_pct, (np.nan,) * 3, peak_cpus=108.75, **missing)


def comparison(*runs, zones=None, hours=24.0, **changed):
    curve = np.arange(hours) * H, 300 + 100 * np.sin(np.arange(hours))
    fields = {
        "title": "jobs.csv in AU-SA",
        "command": "eco-ray simulate --compare run-now,wait-awhile",
        "begin_s": T0,
        "span_s": hours * H,
        "zones": zones if zones is not None else {"AU-SA": curve},
        "notes": {"Forecast": "oracle"},
        "runs": runs,
    }
    return Comparison(**{**fields, **changed})


def usual():
    return comparison(run("run-now", 0.0, (0.0, 0.0)), run("lowest-window", 38.56), run("wait-awhile", 45.38), bound())


def big():
    """Ten policies over a year in ten zones, with a step each 5 s to 5 min."""
    rng, span_s = np.random.default_rng(0), 8760 * H
    times_s = np.sort(rng.uniform(0, span_s, 50_000))
    runs = [
        run(f"policy-{i}", i, rng.exponential(9, 20_000), load=(times_s, rng.uniform(0, 99, 50_000))) for i in range(10)
    ]
    hours = np.arange(8760) * H
    return comparison(
        *runs, bound(), hours=8760.0, zones={f"US-{i}": (hours, rng.uniform(0, 900, 8760)) for i in range(10)}
    )


CASES = {
    "usual": usual,
    "big": big,
    "nothing": comparison,
    "bound alone": lambda: comparison(bound()),
    "no schedule": lambda: comparison(run("eco", 1.0, (), load=(np.array([]), np.array([])), peak_cpus=0.0)),
    "no zone": lambda: comparison(run("eco", 1.0), zones={}),
    "all early": lambda: comparison(run("carbon-scaler", 9.0, (-2.5, -0.1))),
    "negative": lambda: comparison(run("threshold", -7.3), run("run-now", -1e-12, (0.0,)), bound(0.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_self_contained_and_well_formed(case):
    text = render_comparison(CASES[case]())
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids))
    assert not page.names & {"script", "link", "img", "iframe", "object"}
    assert "://" not in text
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {"#wide-hatch", "#narrow-hatch", "#slim-hatch"}
    assert "default-src 'none'" in text
    assert not re.search(r"\b(None|nan|inf)\b", page.text)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)
    assert len(text.encode()) < (1_000_000 if case == "big" else 100_000)


def test_headline_and_table_hold_the_figures():
    page = Page(render_comparison(usual()))
    first = page.text.index(f"wait-awhile saves 45.4{GAP}% of 562.2{GAP}g{GAP}CO₂e against run-now")
    assert first < page.text.index("255.1") < page.text.index("modelled")
    cells = [cell for cell in page.cells if cell.strip()]
    assert cells[:9] == ["wait-awhile", "45.4", "307.1", "6.61", "23.75", "101", "0", "0", "1"]
    assert cells[-9:] == ["bound", "45.4", "307.0", DASH, DASH, "108.8", DASH, DASH, "1"]
    assert "1\N{NARROW NO-BREAK SPACE}233 jobs" in page.text
    assert "wait-awhile reaches" in page.text
    assert "eco-ray simulate --compare run-now,wait-awhile" in page.text
    assert "oracle" in page.text


def test_the_bound_is_a_limit_and_not_a_policy():
    text = render_comparison(usual())
    assert text.count('class="limit"') == 3  # one line in each width of the figure
    assert text.count('class="end"') == 3 * 3 + 3  # no delays of the bound: in three widths and in the legend
    alone = Page(render_comparison(comparison(bound()))).text
    assert f"No schedule saves more than 45.4{GAP}%" in alone
    assert "there are no delays" in alone


def test_a_policy_with_other_rules_may_pass_the_bound():
    page = Page(render_comparison(comparison(run("semi-weekly", 60.0), bound()))).text
    assert "semi-weekly passes it only by other rules" in page
    assert "reaches" not in page


def test_worse_than_run_now_is_shown_as_such():
    page = Page(render_comparison(comparison(run("threshold", -7.3, missed_deadlines=2))))
    assert f"7.3{GAP}% more" in page.text
    assert f"{MINUS}7.3" in page.cells
    assert " saves " not in page.text.split("What each policy saves")[0].replace("No policy saves carbon", "")


def test_names_are_escaped_everywhere():
    curve = np.array([0.0]), np.array([100.0])
    made = comparison(
        run(EVIL, 10.0), bound(), title=EVIL, command=EVIL, notes={EVIL: EVIL}, zones={EVIL: curve, "DE": curve}
    )
    text = render_comparison(made)
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert not page.names & {"script", "img"}
    assert EVIL in page.text


def test_colours_go_by_policy_and_last_beyond_their_number():
    names = ["run-now", *(f"p-{i}" for i in range(8)), "bound"]
    classes = classes_of([run(name, 1.0) for name in names])
    assert classes[0] == "neutral"
    assert classes[-1] == "bound"
    assert len(set(classes)) == len(names)


def test_thinning_keeps_mean_and_peak():
    times_s, cpus = np.array([10.0, 12.0, 50.0]), np.array([100.0, 2.0, 0.0])
    mean, highest = binned(times_s, cpus, 100.0, 4)
    assert mean.tolist() == pytest.approx([(2 * 100 + 13 * 2) / 25, 2.0, 0.0, 0.0])
    assert highest.tolist() == [100.0, 2.0, 0.0, 0.0]
    assert mean.sum() * 25 == pytest.approx(2 * 100 + 38 * 2)
    assert binned(np.array([]), np.array([]), 10.0, 2)[1].tolist() == [0.0, 0.0]


def test_time_after_the_last_job_is_not_drawn():
    assert shown_s(comparison(run("eco", 1.0), hours=100.0)) == pytest.approx(1.03 * 20 * H)
    assert shown_s(comparison(run("eco", 1.0), hours=24.0)) == 24 * H
    assert "as nothing ran after it" in render_comparison(comparison(run("eco", 1.0), hours=100.0))


def test_a_path_that_cannot_be_written_names_the_cure(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "sim.html"):
        with pytest.raises(UsageError, match=r"cannot be written .*give another file with --html"):
            write_comparison(path, usual())
    assert list(tmp_path.iterdir()) == []
    write_comparison(tmp_path / "sim.html", usual())
    assert [path.name for path in tmp_path.iterdir()] == ["sim.html"]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    write_comparison(link, usual())
    assert link.is_symlink()


@pytest.fixture
def files(tmp_path):
    jobs, intensity = tmp_path / "jobs.csv", tmp_path / "ci.csv"
    jobs.write_text("job_id,arrival_s,duration_s,cpus\na,0,3600,2\nb,7200,7200,1\n")
    rows = "".join(f"2022-10-{19 + h // 24}T{h % 24:02}:00Z,{400 - 10 * (h % 24)}\n" for h in range(72))
    intensity.write_text("time,DE\n" + rows)
    return ["--jobs", str(jobs), "--intensity", str(intensity), "--zones", "DE", "--html", str(tmp_path / "a b.html")]


def test_the_command_line_writes_page_and_documents(files, tmp_path):
    args = [*files, "--compare", "run-now,lowest-window,bound,run-now", "-o", "json"]
    done = CliRunner().invoke(simulate, args)
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert [row["policy"] for row in printed["policies"]] == ["run-now", "lowest-window", "bound"]
    assert printed["html"] == str(tmp_path / "a b.html")
    assert printed["html"] in done.stderr
    page = Page((tmp_path / "a b.html").read_text()).text
    assert "lowest-window saves" in page
    assert f"--html '{tmp_path / 'a b.html'}' --compare run-now,lowest-window,bound,run-now" in page


def test_the_command_line_refuses_before_it_runs(files, tmp_path):
    def refusal(*args):
        return str(CliRunner().invoke(simulate, args).exception)

    assert "policy eco: " in refusal(*files, "--compare", "run-now,eco", "--published-quirks")
    assert "--compare P,P" in refusal(*files, "--policy", "run-now")
    assert "cannot be written" in refusal(*files[:-1], str(tmp_path), "--compare", "run-now")
