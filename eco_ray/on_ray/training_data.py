"""Batches of a data set that is larger than the memory, by Ray Data: Parquet files, or folders of pictures.

    for batch in stream(files, batch_size=256, start_row=done):
        ...

A few blocks are read ahead, on this node, into at most `object_store_gb` of Ray's object store; what was used is
dropped. The order is that of the files and their rows, so a training that counts its rows goes on where it was.

The reading tasks ask Ray for no CPU: they run beside the training, on what its job holds, and their energy counts as
the job's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eco_ray.errors import NotFoundError, UsageError

#: of a block: some are in the object store at any time [bytes]
BLOCK_BYTES = 16 << 20
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
    data = _dataset(files, columns, picture_size, int(object_store_gb * 1e9), readers)
    blocks = data.iter_batches(batch_size=batch_size, batch_format="numpy", prefetch_batches=1)
    return _from_row(blocks, start_row, batch_size)


def _dataset(
    files: Sequence[str],
    columns: Sequence[str] | None,
    picture_size: tuple[int, int] | None,
    store_bytes: int,
    readers: int,
) -> Any:
    try:
        import pyarrow as _  # noqa: F401 - what Ray Data needs
        import ray
        import ray.data as ray_data
    except ImportError as error:
        raise UsageError(
            f"Ray Data needs packages that are not here ({error}): pip install 'eco-ray[train]'"
        ) from error
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not ray.is_initialized():
        ray.init(logging_level="warning", log_to_driver=False)
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray_data.ExecutionResources.for_limits(object_store_memory=store_bytes)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    how: dict[str, Any] = {
        "ray_remote_args": {"num_cpus": 0, "scheduling_strategy": here},
        "concurrency": readers,
        "override_num_blocks": len(files),
    }
    if picture_size is None:
        return ray_data.read_parquet(list(files), columns=None if columns is None else list(columns), **how)
    return ray_data.read_images(list(files), size=picture_size, mode="L", include_paths=True, **how)


def _from_row(blocks: Iterator[Batch], start_row: int, batch_size: int) -> Iterator[Batch]:
    """Without the rows before `start_row`."""
    skipped = start_row // batch_size
    for number, batch in enumerate(itertools.islice(blocks, skipped, None)):
        cut = start_row - skipped * batch_size if number == 0 else 0
        yield {name: column[cut:] for name, column in batch.items()} if cut else batch


def _found(folder: str | Path, endings: Sequence[str]) -> list[str]:
    files = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not files:
        raise NotFoundError(f"no file {' or '.join(endings)} in {folder}")
    return files
