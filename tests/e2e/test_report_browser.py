"""report.html in a real browser: it draws, and the console stays silent."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eco_ray.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


def _cases():
    path = Path(__file__).parent.parent / "unit" / "report_cases.py"
    spec = importlib.util.spec_from_file_location("report_cases_for_browser", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _chromium(tmp_path, *flags):
    return subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            *flags,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    doc = write_report(*_swap(_cases().demo_store(), folder))
    return folder / "report.html", doc


def _swap(case, folder):
    store, now_s = case
    return store, folder, now_s


def test_dom_has_the_figures_and_the_console_is_silent(page, tmp_path):
    path, doc = page
    done = _chromium(tmp_path, "--dump-dom", path.as_uri())
    assert done.stdout.count('<svg class="figure') == 2
    assert done.stdout.count('class="lane"') == 2 * len(doc["jobs"])
    assert 'data-tip="' in done.stdout  # the script ran: titles became tips
    console = [line for line in done.stderr.splitlines() if re.search(r"CONSOLE|Uncaught|Refused to", line)]
    assert console == []


@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
@pytest.mark.parametrize("width", [800, 1400])
def test_screenshot(page, tmp_path, scheme, width):
    shot = tmp_path / "shot.png"
    flags = (f"--window-size={width},1200", f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shot}")
    _chromium(tmp_path, *flags, page[0].as_uri())
    head = shot.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert int.from_bytes(head[16:20], "big") == width
    assert shot.stat().st_size > 20_000  # a blank page is smaller
