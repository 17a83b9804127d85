"""What the jobs used and emitted, against running them at once: report.json and report.html.

document and jobs make the document from the store; check redoes its arithmetic from the document alone; steps holds
kept intensity; html, figures and lanes make the page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eco_ray.core.store_port import Store
from eco_ray.report.check import check_report
from eco_ray.report.document import build_report
from eco_ray.report.html import render_html
from eco_ray.whole_file import write_whole

__all__ = ["write_report", "build_report", "render_html", "check_report"]


def write_report(store: Store, out_dir: Path | str, now_s: float) -> dict[str, Any]:
    """Write report.html and then report.json into a folder, each whole or not at all. Returns the document."""
    doc = build_report(store, now_s)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.html", render_html(doc))
    write_whole(folder / "report.json", json.dumps(doc, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return doc
