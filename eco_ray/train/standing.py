"""RUN_DIR/standing.json, by which a running attempt learns what its job has used and what lies ahead of it.

The agent replaces it every few seconds, as the ledger and the forecasts go on:

    {"time_s": when it was told, "deadline_s": latest finish,
     "spent": {"energy_j", "operational_g" or null, "nature", "source"} or null,
     "ahead": [[start_s, g_per_kwh], ...], "ahead_end_s": end of the last step}

Times are wall time [s since epoch].
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eco_ray.core.standing import Spent, Standing
from eco_ray.core.units import Nature
from eco_ray.json_file import read_json
from eco_ray.train.storage import write_atomically

NAME = "standing.json"
#: larger files are refused [bytes]
_LIMIT_BYTES = 65_536


def read_standing(run_dir: str | Path | None = None) -> Standing | None:
    """What this attempt was told last; None outside a cluster, and before anything was told."""
    run_dir = run_dir or os.environ.get("ECO_RAY_RUN_DIR")
    if not run_dir:
        return None
    try:
        return _standing(read_json(Path(run_dir) / NAME, _LIMIT_BYTES))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # it is not there yet, or not whole: the next one will be


def write_standing(run_dir: Path, standing: Standing) -> None:
    """Tell an attempt. Raises OSError."""
    write_atomically(run_dir / NAME, json.dumps(asdict(standing)))


def _standing(told: Any) -> Standing:
    spent = told["spent"]
    grams = None if spent is None else spent["operational_g"]
    return Standing(
        time_s=float(told["time_s"]),
        deadline_s=float(told["deadline_s"]),
        spent=None
        if spent is None
        else Spent(
            float(spent["energy_j"]), None if grams is None else float(grams), Nature(spent["nature"]), spent["source"]
        ),
        ahead=tuple((float(start_s), float(intensity)) for start_s, intensity in told["ahead"]),
        ahead_end_s=float(told["ahead_end_s"]),
    )
