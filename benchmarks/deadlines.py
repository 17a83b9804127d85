"""Who is late in small worlds of one CPU in which all jobs could be in time.

    python benchmarks/deadlines.py [--worlds 1000] [--no-save]

The worlds are those of tests/unit/deadline_worlds.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from common import describe_run, saved_output, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))

from deadline_worlds import KINDS, late_worlds

#: worlds with a needless late job in a thousand: in one piece, no order that is tried may be the one
BARS = {"in one piece, known": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=1000, help="of each kind (default: 1000)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    rows, holds = [], True
    with saved_output("deadlines", save=not args.no_save):
        describe_run("eco_ray's planner where all deadlines could be kept")
        for kind in KINDS:
            began_s = time.process_time()
            late = late_worlds(kind, args.worlds)
            needless = len(late) - sum(late.values())
            good = needless * 1000 <= BARS.get(kind, 0) * args.worlds
            holds &= good
            cpu_s = f"{time.process_time() - began_s:.1f}"
            rows.append((kind, str(len(late)), str(needless), cpu_s, "ok" if good else "MISSED"))
        table(("jobs", "worlds with a late one", "needlessly", "CPU-s", ""), rows)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
