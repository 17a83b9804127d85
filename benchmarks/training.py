"""All that is claimed of training, part by part: which there are, and the way to run one.

python benchmarks/training.py                            # the parts
python benchmarks/training.py session --only overhead    # one of them, with its own options
python benchmarks/training.py all                        # one after the other, as benchmarks/all.py --issue 11 does
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from all import main as run_in_turn

HERE = Path(__file__).parent
#: part -> what it shows; each is the script training_PART.py, but for the last
PARTS = {
    "session": "what a session and metering cost each step: at most 1 %",
    "suspend": "how long a suspended training is away; steps that are lost, and done again after kill -9",
    "elastic": "grams of an elastic job beside one that may only be suspended",
    "async": "asynchronous SGD beside synchronous SGD: updates/s, accuracy, bytes",
    "data": "memory of a training on 2 GB, under 1 GB",
    "power": "what a lower power limit, or fewer threads, cost and save",
}
SCRIPTS = {part: HERE / ("power_limits.py" if part == "power" else f"training_{part}.py") for part in PARTS}


def main() -> int:
    parser = argparse.ArgumentParser(
        description="The benchmarks of training.",
        epilog="\n".join(f"{part:8}  {about}" for part, about in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=[*PARTS, "all"], help="what stands behind it goes to the part")
    first, *options = sys.argv[1:] or ["--help"]
    args = parser.parse_args([first])
    if args.part == "all":
        return run_in_turn(["--issue", "11", *options])
    return subprocess.run([sys.executable, SCRIPTS[args.part], *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
