"""Memory of a training on more data than the memory holds, streamed by Ray Data, beside reading all of it.

    python benchmarks/training_data.py [--gb 2] [--rows 400000] [--no-save]

Makes a Parquet set of that size, and trains on it by jobs/large_data.py, which ends with an error above 1 GB.
Peaks are of every 50 ms: of the training process, of the readers, and of what is in the object store.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import describe_run, saved_output, table, verdict

ROOT = Path(__file__).resolve().parents[1]
JOB = ROOT / "jobs" / "large_data.py"
LIMIT_GB = 1.0
_SAMPLE_S = 0.05


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


def peaks(*arguments: str) -> tuple[dict[str, float], str, int]:
    """Highest memory of each part while the job runs [GB], its output and exit code."""
    found = dict.fromkeys(("trainer", "trainer, private", "readers, private", "object store", "together"), 0.0)
    with tempfile.TemporaryFile("w+") as out:
        job = subprocess.Popen(
            [sys.executable, str(JOB), *arguments], stdout=out, stderr=subprocess.STDOUT, env=_environ()
        )
        try:
            while job.poll() is None:
                now = sample(job.pid)
                found = {name: max(value, now.get(name, 0.0)) for name, value in found.items()}
                time.sleep(_SAMPLE_S)
        finally:
            job.kill()
            job.wait()
        out.seek(0)
        return found, out.read(), job.returncode


def sample(pid: int) -> dict[str, float]:
    """Of this moment [GB]."""
    trainer = memory(pid)
    readers = store = 0.0
    for child in _children(pid):
        title = _title(child)
        if title.startswith("ray::") and "::" in title:
            readers += memory(child)["private"]
        elif "raylet" in title and "--store_socket_name" in title:
            store = memory(child)["shared"]
    return {
        "trainer": trainer["all"],
        "trainer, private": trainer["private"],
        "readers, private": readers,
        "object store": store,
        "together": trainer["private"] + readers + store,
    }


def memory(pid: int) -> dict[str, float]:
    """`all`, `private` and `shared` memory that a process has in RAM [GB]; nothing where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return dict.fromkeys(("all", "private", "shared"), 0.0)
    kb = {name: int(value) for name, value in re.findall(r"^(Vm\w+|Rss\w+):\s+(\d+) kB", text, re.MULTILINE)}
    files = kb.get("RssFile", 0)
    parts = {"all": kb.get("VmRSS", 0), "private": kb.get("RssAnon", 0) + files, "shared": kb.get("RssShmem", 0)}
    return {name: value * 1024 / 1e9 for name, value in parts.items()}


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


#: what a user writes who has no streaming
_ALL_AT_ONCE = """
import resource, sys
import numpy as np, pyarrow.parquet as pq, torch
from eco_ray.models.cnn import SmallCNN
limit = int(float(sys.argv[2]) * 1e9)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
data = pq.read_table(sys.argv[1])
print(data.nbytes)
"""


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
        print("\n" + run("--make", folder, "--gb", str(args.gb))[0].replace(folder, "the set").strip())
        rows = ("--rows", str(args.rows)) if args.rows else ()
        began = time.monotonic()
        found, out, code = peaks("--data", folder, "--limit-gb", str(LIMIT_GB), *rows)
        print(f"{out.strip().splitlines()[-1] if out.strip() else 'no output'}")
        print(f"exit code {code} after {time.monotonic() - began:.0f} s\n")
        table(["peak", "GB"], [[name, f"{value:.3f}"] for name, value in found.items()])
        print()
        ok = verdict("exit code under the limit", code, 0)
        ok &= verdict("private memory of the training", found["trainer, private"], LIMIT_GB, " GB")
        ok &= verdict("training, readers and object store", found["together"], LIMIT_GB, " GB")
        whole = subprocess.run(
            [sys.executable, "-c", _ALL_AT_ONCE, folder, str(LIMIT_GB)],
            check=False,
            capture_output=True,
            text=True,
            env=_environ(),
        )
        told = whole.stderr.strip().splitlines()[-1] if whole.stderr.strip() else "it fits"
        print(f"\nreading all of it under the same limit, exit code {whole.returncode}: {told}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
