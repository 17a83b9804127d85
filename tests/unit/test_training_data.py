"""Streaming data: what needs no Ray."""

from __future__ import annotations

import pytest

from eco_ray.errors import NotFoundError, UsageError
from eco_ray.on_ray import training_data
from eco_ray.on_ray.training_data import _behind, _read_parquet, parquet_files, picture_files, stream


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Files of 0 to 20 rows in groups of 4, numbered through."""
    pa = pytest.importorskip("pyarrow", reason="Ray Data needs pyarrow: pip install 'eco-ray[train]'")
    import pyarrow.parquet as pq

    folder, first = tmp_path_factory.mktemp("tables"), 0
    for number, rows in enumerate((7, 0, 20, 1)):
        table = pa.table({"row": range(first, first + rows), "other": [0.5] * rows})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=4)
        first += rows
    return parquet_files(folder)


@pytest.mark.parametrize("start_row", range(30))
def test_a_stream_goes_on_at_any_row(tables, start_row, monkeypatch):
    monkeypatch.setattr(training_data, "GROUP_ROWS", 3)
    found = []
    for file, skip in _behind(tables, start_row):
        for table in _read_parquet({"file": [file], "skip": [skip]}, ["row"]):
            assert table.num_rows <= 3
            assert table.column_names == ["row"]
            found += table["row"].to_pylist()
    assert found == list(range(start_row, 28))


def test_files_are_found_in_order(tmp_path):
    for name in ("b/2.PNG", "a/1.jpg", "a/notes.txt", "x.parquet", "0.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.parquet").mkdir()
    assert [name.removeprefix(f"{tmp_path}/") for name in parquet_files(tmp_path)] == ["0.parquet", "x.parquet"]
    assert [name.removeprefix(f"{tmp_path}/") for name in picture_files(tmp_path)] == ["a/1.jpg", "b/2.PNG"]
    with pytest.raises(NotFoundError, match=r"no file \.parquet in"):
        parquet_files(tmp_path / "a")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"start_row": -1}, {"object_store_gb": 0}, {"readers": 0}])
def test_what_makes_no_sense_is_refused_before_anything_is_read(wrong):
    with pytest.raises(UsageError):
        stream([], **{"batch_size": 1, **wrong})
