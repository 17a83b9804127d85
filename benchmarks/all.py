"""All that is claimed of serving with few grams (issue 10) and of training (issue 11), one benchmark after the other.

    python benchmarks/all.py --issue 10               # or 11; for a machine on which nothing else runs
    python benchmarks/all.py --only training_session,power_limits
    python benchmarks/all.py --issue 11 --list        # the parts, and how long each may take

What each prints is in benchmarks/results/PART-DATE.txt as it comes. What has a result of today is not run again
(--again), so that a series that was interrupted goes on where it was. Each part waits until the machine is idle. At the
end: all bars.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from in_turn import LOAD, WAIT_S, Part, run_all
from printed import table


def _part(name: str, script: str, only: str, limit_min: float) -> Part:
    options = ("--only", only) if only else ()
    return Part(name, (f"benchmarks/{script}.py", *options, "--no-save"), limit_min)


#: by issue; first what takes the least
PARTS = {
    "10": (
        _part("green-serving-casper", "green_serving", "casper,nodes", 10),
        _part("green_faults", "green_faults", "", 20),
        _part("green-serving-conv-half", "green_serving", "conv-half", 30),
        _part("green-serving-week", "green_serving", "week", 30),
        _part("green-serving-conv", "green_serving", "conv", 45),
    ),
    "11": (
        _part("gpu_energy", "gpu_energy", "", 10),
        _part("training_session", "training_session", "", 20),
        _part("power_limits", "power_limits", "", 20),
        _part("training_data", "training_data", "", 20),
        _part("training_suspend", "training_suspend", "", 30),
        _part("training_elastic", "training_elastic", "", 40),
        _part("training_async-straggler", "training_async", "straggler", 20),
        _part("training_async-ray", "training_async", "ray", 40),
        _part("training_async-schedule", "training_async", "schedule", 30),
        _part("training_async-seeds", "training_async", "seeds", 120),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--issue", choices=PARTS, help="10: serving with few grams; 11: training")
    parser.add_argument("--only", help="parts, with commas")
    parser.add_argument("--again", action="store_true", help="also what has a result of today")
    parser.add_argument("--load", type=float, default=LOAD, help=f"each begins below this load average ({LOAD:g})")
    parser.add_argument("--wait-min", type=float, default=WAIT_S / 60, help="and is left out where that takes longer")
    parser.add_argument("--list", action="store_true", help="print the parts, run nothing")
    args = parser.parse_args(arguments)
    if not args.issue and not args.only:  # `make bench` calls each script
        parser.print_help()
        return 0
    known = {part.name: part for parts in PARTS.values() for part in parts}
    names = args.only.split(",") if args.only else [part.name for part in PARTS[args.issue]]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(known)}")
    parts = [known[name] for name in names]
    if args.list:
        table(["part", "min at most", "python"], [[p.name, f"{p.limit_min:g}", " ".join(p.command)] for p in parts])
        return 0
    return run_all(parts, again=args.again, load=args.load, wait_s=args.wait_min * 60)


if __name__ == "__main__":
    sys.exit(main())
