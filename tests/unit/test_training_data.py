"""Streaming data: what needs no Ray."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.errors import NotFoundError, UsageError
from eco_ray.on_ray.training_data import _from_row, parquet_files, picture_files, stream


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 45))
def test_a_stream_goes_on_at_any_row(rows, size, start_row):
    batches = ({"row": np.arange(rows)[first : first + size]} for first in range(0, rows, size))
    found = [int(row) for batch in _from_row(batches, start_row, size) for row in batch["row"]]
    assert found == list(range(start_row, rows))


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
