"""Batches of a data set that is larger than the memory, by Ray Data: Parquet files, or folders of pictures.

    for batch in stream(files, batch_size=256, start_row=done):
        ...

A few blocks are read ahead, on this node, into at most `object_store_gb` of Ray's object store; what was used is
dropped. The order is that of the files and their rows, so a training that counts its rows goes on where it was.

The reading tasks ask Ray for no CPU: they run beside the training, on what its job holds, and their energy counts as
the job's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eco_ray.errors import NotFoundError, UsageError

#: of a block: some are in the object store at any time [bytes]
BLOCK_BYTES = 16 << 20
#: rows that a reader has in memory
GROUP_ROWS = 8_192
#: names of pictures
PICTURES = (".png", ".jpg", ".jpeg")

#: by column, of one batch
Batch = Mapping[str, np.ndarray[Any, Any]]


def parquet_files(folder: str | Path) -> list[str]:
    """All of a folder, in order. Raises NotFoundError where there is none."""
    return _found(folder, (".parquet",))


def picture_files(folder: str | Path) -> list[str]:
    """All pictures of a folder whose folders are classes, in order. Raises NotFoundError where there is none."""
    return _found(folder, PICTURES)


def stream(
    files: Sequence[str],
    *,
    batch_size: int,
    columns: Sequence[str] | None = None,
    start_row: int = 0,
    picture_size: tuple[int, int] | None = None,
    object_store_gb: float = 0.2,
    readers: int = 1,
) -> Iterator[Batch]:
    """Batches of `batch_size` rows, the last one smaller, from row `start_row` on.

    Of pictures (grey, as `picture_size` (height, width), which they need) the columns are `image`, uint8, and `path`.
    `readers`: tasks at a time. Joins the Ray cluster of this process, or starts one here. Raises UsageError.
    """
    if batch_size < 1 or start_row < 0 or readers < 1 or not object_store_gb > 0:
        raise UsageError(
            f"batches of {batch_size} rows from row {start_row} on, by {readers} readers with {object_store_gb} GB: "
            "give a size and readers of 1 or more, a row of 0 or more, and memory above 0"
        )
    ray_data, here = _ray_data(int(object_store_gb * 1e9))
    read: Callable[[Batch], Any]
    if picture_size is None:
        read = partial(_read_parquet, columns=None if columns is None else list(columns))
        pieces = list(_behind(files, start_row))
    else:
        read = partial(_read_pictures, size=picture_size)
        pieces = [(file, 0) for file in files[start_row:]]
    if not pieces:
        return iter(())
    items = [{"file": file, "skip": skip} for file, skip in pieces]
    data = ray_data.from_items(items, override_num_blocks=len(items)).map_batches(
        read,
        batch_size=None,
        num_cpus=0,
        label_selector={"ray.io/node-id": here},
        concurrency=readers,
    )
    batches: Iterator[Batch] = data.iter_batches(batch_size=batch_size, batch_format="numpy", prefetch_batches=1)
    return iter(batches)


def _ray_data(store_bytes: int) -> tuple[Any, str]:
    """The module, set up, and the id of this Ray node. Raises UsageError without its packages."""
    try:
        import pyarrow as _  # noqa: F401 - what Ray Data needs
        import ray
        import ray.data as ray_data
    except ImportError as error:
        raise UsageError(
            f"Ray Data needs packages that are not here ({error}): pip install 'eco-ray[train]'"
        ) from error
    if not ray.is_initialized():
        ray.init(logging_level="warning", log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray_data.ExecutionResources.for_limits(object_store_memory=store_bytes)
    return ray_data, ray.get_runtime_context().get_node_id()


def _behind(files: Sequence[str], row: int) -> Iterator[tuple[str, int]]:
    """The files that have rows from `row` on, each with how many of its rows come before."""
    import pyarrow.parquet as pq

    for file in files:
        if row == 0:
            yield file, 0
            continue
        rows = pq.read_metadata(file).num_rows
        if row < rows:
            yield file, row
        row = max(0, row - rows)


def _read_parquet(pieces: Batch, columns: list[str] | None) -> Iterator[Any]:
    """In a reader: tables of GROUP_ROWS rows at most, so that no file is in memory as a whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file, skip in zip(pieces["file"], pieces["skip"], strict=True):
        with pq.ParquetFile(str(file)) as opened:
            left = int(skip)
            for group in range(opened.num_row_groups):
                rows = opened.metadata.row_group(group).num_rows
                if left >= rows:
                    left -= rows
                    continue
                for batch in opened.iter_batches(GROUP_ROWS, row_groups=[group], columns=columns):
                    if left < batch.num_rows:
                        yield pa.Table.from_batches([batch.slice(left)])
                    left = max(0, left - batch.num_rows)


def _read_pictures(pieces: Batch, size: tuple[int, int]) -> Batch:
    """In a reader: the pictures of a piece, grey and of one size."""
    from PIL import Image

    found = []
    for file in pieces["file"]:
        with Image.open(str(file)) as picture:
            found.append(np.asarray(picture.convert("L").resize((size[1], size[0]))))
    return {"image": np.stack(found), "path": pieces["file"]}


def _found(folder: str | Path, endings: Sequence[str]) -> list[str]:
    files = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not files:
        raise NotFoundError(f"no file {' or '.join(endings)} in {folder}")
    return files
