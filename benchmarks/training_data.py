"""Memory of a training on more data than the memory holds, streamed by Ray Data, beside reading all of it.

    python benchmarks/training_data.py [--gb 2] [--rows 400000] [--no-save]

Makes a Parquet set of that size, and trains on it by jobs/large_data.py, which ends with an error when its process has
had more than 1 GB. The second row is the same job with the same limit, but for how it reads. Peaks are of ten looks a
second (of the training's RSS: the kernel's own), each page once (training_memory.py): of the training process, of the
readers, of what is in the object store, and of these together at their highest. Without a bar: workers of Ray that wait
for a first task, and what each node has of Ray whoever uses it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import describe_run, saved_output, table, verdict
from training_memory import PARTS, Watch

ROOT = Path(__file__).resolve().parents[1]
JOB = ROOT / "jobs" / "large_data.py"
LIMIT_GB = 1.0
#: a look walks through the pages of each process, which takes CPU time
_SAMPLE_S = 0.1


def run(*arguments: str) -> tuple[str, int]:
    """Output and exit code of the job."""
    done = subprocess.run(
        [sys.executable, str(JOB), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=_environ(),
        timeout=3600,
    )
    return done.stdout + done.stderr[-2000:], done.returncode


def peaks(before: Sequence[str], *arguments: str) -> tuple[dict[str, float], str, int]:
    """Highest memory of each part while the job runs [GB], its output and exit code. `before`: the job, to Python."""
    found = dict.fromkeys(PARTS, 0.0)
    with tempfile.TemporaryFile("w+") as out:
        job = subprocess.Popen(
            [sys.executable, *before, str(JOB), *arguments], stdout=out, stderr=subprocess.STDOUT, env=_environ()
        )
        try:
            watch = Watch(job.pid)
            while job.poll() is None:
                now = watch.sample()
                found = {name: max(value, now[name]) for name, value in found.items()}
                time.sleep(_SAMPLE_S)
        finally:
            job.kill()
            job.wait()
        out.seek(0)
        return found, out.read(), job.returncode


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


#: the same job by what a user writes who has no streaming: all of the set is read, then trained on in the same order
_ALL_AT_ONCE = """
import runpy, sys
import pyarrow.parquet as pq
from eco_ray.on_ray import training_data

def all_at_once(files, *, batch_size, start_row, **_):
    data = pq.read_table(files)
    for begin in range(start_row, data.num_rows, batch_size):
        rows = data.slice(begin, batch_size)
        yield {name: rows[name].to_numpy() for name in rows.column_names}

training_data.stream = all_at_once
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
WAYS = {"streamed": (), "all read at once": ("-c", _ALL_AT_ONCE)}


def main() -> int:
    """Make the set, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--rows", type=int, help="train on so many; all if not given")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="eco-bench-data-") as folder,
        saved_output("training_data", save=not args.no_save),
    ):
        describe_run("A training on more data than the memory holds")
        print("\n" + run("--make", folder, "--gb", str(args.gb))[0].replace(folder, "the set").strip() + "\n")
        rows, codes, found = [], {}, {}
        for way, before in WAYS.items():
            began = time.monotonic()
            only = ("--rows", str(args.rows)) if args.rows else ()
            found[way], out, codes[way] = peaks(before, "--data", folder, "--limit-gb", str(LIMIT_GB), *only)
            took_s = time.monotonic() - began
            rows.append([way, *(f"{value:.3f}" for value in found[way].values()), str(codes[way]), f"{took_s:.0f}"])
            print(f"{way}: {out.strip().splitlines()[-1] if out.strip() else 'no output'}")
        print()
        table(["peak, GB", *found["streamed"], "exit code", "s"], rows)
        print()
        ok = verdict("exit code of the streamed one under the limit", codes["streamed"], 0)
        ok &= verdict("its training process", found["streamed"]["trainer, RSS"], LIMIT_GB, " GB")
        ok &= verdict("its training, readers and object store", found["streamed"]["together"], LIMIT_GB, " GB")
        print(f"        with idle workers and Ray's own processes: {found['streamed']['all']:.3f} GB")
        if codes["all read at once"] == 0:
            print("\nall of it fits under the limit as well: the set is too small to show anything; give more --gb")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
