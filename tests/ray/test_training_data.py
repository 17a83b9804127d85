"""A training on a set that is streamed through Ray Data, on a Ray of its own, under a limit of memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="Ray Data needs pyarrow: pip install 'eco-ray[train]'")

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "jobs" / "large_data.py"


def run(*arguments: str, cwd: Path, code: int = 0, **env: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("ECO_RAY_", "RAY_"))}
    path = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", **env},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    out = run(str(JOB), "--make", str(folder), "--gb", "0.06", cwd=folder)
    assert out.startswith("2 files with 0.06 GB in ")
    return folder


def test_a_streamed_training_is_paused_and_goes_on_at_its_row(digits: Path, tmp_path: Path) -> None:
    train = [str(JOB), "--data", str(digits), "--limit-gb", "1", "--rows", "20000"]
    places = {"ECO_RAY_JOB_ID": "j", "ECO_RAY_CHECKPOINT_DIR": str(tmp_path / "checkpoints")}
    run_dir = tmp_path / "1"
    run_dir.mkdir()
    (run_dir / "pause").touch()
    run(*train, cwd=tmp_path, code=75, ECO_RAY_RUN_DIR=str(run_dir), ECO_RAY_ATTEMPT="1", **places)
    out = run(*train, cwd=tmp_path, ECO_RAY_RUN_DIR=str(tmp_path / "2"), ECO_RAY_ATTEMPT="2", **places)
    found = re.search(r"(\d+) rows; accuracy of the last ones ([\d.]+); this process had ([\d.]+) GB at most", out)
    assert found is not None, out
    assert 20000 - 3 * 256 < int(found[1]) < 20000 + 256  # all but those of the first attempt
    assert float(found[2]) > 0.5
    assert float(found[3]) < 1.5


_PICTURES = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from eco_ray.on_ray.training_data import picture_files, stream
for number in range(6):
    path = Path(f"set/{number % 2}/{number}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), number * 10, np.uint8)).save(path)
files = picture_files("set")
for batch in stream(files, batch_size=4, picture_size=(8, 8), start_row=1):
    print(batch["image"].shape, batch["image"].dtype, [Path(p).parent.name for p in batch["path"]],
          batch["image"].reshape(len(batch["path"]), -1)[:, 0].tolist())
"""


def test_pictures_are_streamed_with_their_paths(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="pictures need pillow: pip install 'eco-ray[explain]'")
    assert run("-c", _PICTURES, cwd=tmp_path).splitlines() == [
        "(4, 8, 8) uint8 ['0', '0', '1', '1'] [20, 40, 10, 30]",
        "(1, 8, 8) uint8 ['1'] [50]",
    ]
