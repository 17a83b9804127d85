"""The key `grid` of cluster files: sources, kinds, keys, and a clock that must be real for a real grid."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cluster_file import MINIMAL

from eco_ray.cluster_file import load_cluster_file
from eco_ray.errors import UsageError
from eco_ray.grid import Chain, ModelledProfile

LIVE = """grid:
  kind: average-direct
  sources:
    - source: neso
      zones: {GB-SCT: regionid/2}
    - source: electricity-maps
      url: http://127.0.0.1:1
"""


def a_cluster(tmp_path: Path, text: str):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return load_cluster_file(path)


def test_the_default_is_the_modelled_profile(tmp_path):
    grid = a_cluster(tmp_path, MINIMAL).grid
    assert (grid.live, [part.source for part in grid.parts]) == ((), ["profile"])
    assert isinstance(grid.open(), ModelledProfile)


def test_several_sources_are_a_chain_that_keeps_what_it_learns_in_the_state_directory(tmp_path):
    grid = a_cluster(tmp_path, MINIMAL + LIVE).grid
    assert grid.live == ("neso", "electricity-maps")
    chain = grid.open(tmp_path / "state")
    assert isinstance(chain, Chain)
    assert (chain.kind, "GB-SCT" in chain.zones()) == ("average-direct", True)


def test_keys_are_found_in_the_state_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("ECO_RAY_KEY_ELECTRICITY_MAPS", raising=False)
    folder = tmp_path / "keys"
    folder.mkdir()
    chain = a_cluster(tmp_path, MINIMAL + "grid: {source: electricity-maps, url: 'http://127.0.0.1:1'}\n").grid.open(
        tmp_path
    )
    chain.refresh("DE", 1e9, 1e9 + 1)
    assert "no key; set ECO_RAY_KEY_ELECTRICITY_MAPS" in chain.use("DE", 1e9).why
    (folder / "electricity-maps").write_text("s3cr3t-token")
    (folder / "electricity-maps").chmod(0o600)
    again = a_cluster(tmp_path, MINIMAL + "grid: {source: electricity-maps, url: 'http://127.0.0.1:1'}\n").grid.open(
        tmp_path
    )
    again.refresh("DE", 1e9, 1e9 + 1)
    assert "no key" not in again.use("DE", 1e9).why
    assert "s3cr3t" not in again.use("DE", 1e9).why


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "grid: {source: electricity_maps}\n",
            r"grid.source: 'electricity_maps' is no grid source; nearest: ",
        ),
        ("grid: {source: neso, file: a.csv}\n", "file and forecasts have no effect with source neso"),
        ("grid: {source: neso, sources: [{source: entsoe}]}\n", "source does not go with sources; move it into one"),
        ("grid: {sources: [{source: trace}]}\n", r"grid.sources\[0\]: source trace needs file"),
        ("grid: {kind: direct}\n", "grid.kind"),
        (
            "grid: {source: neso}\nclock: {speed: 60}\n",
            r"tells the real present, and this clock is not real \(speed 60",
        ),
        ("grid: {source: neso}\nclock: {start: 2026-11-22T08:00Z}\n", "its own start"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        a_cluster(tmp_path, MINIMAL + text)
