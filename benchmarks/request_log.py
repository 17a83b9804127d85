"""What it costs a node to log its requests: CPU time of replica and agent, size of a full log, time to find a request.

    python benchmarks/request_log.py [--no-save]

A replica counts requests in bursts of 100 and writes each, as it does at 1,000 a second, with a log and without, in
turns. An agent writes what it took of 20 replicas. The log is full from the start, so that rows are dropped as well.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import describe_run, saved_output, verdict

from eco_ray.core.footprint import Footprint, Signal
from eco_ray.core.requests import ServiceUse
from eco_ray.core.units import Nature
from eco_ray.core.usage import Take
from eco_ray.on_ray.request_log import LOG_NAME, MOST_ROWS, RequestLog
from eco_ray.on_ray.served import Tally

BURST, BURSTS, TURNS = 100, 10, 20
REPLICAS = 20
LIMIT_US = 15.0
ESTIMATE = Footprint(1.234567, 0.000123456, 0.01, 12.0, Signal("DE", 312.5, "test"), Nature.MODELLED)


def uses(number: int) -> list[ServiceUse]:
    return [ServiceUse(os.urandom(16).hex(), "vision", 0.001, estimate=ESTIMATE) for _ in range(number)]


def takes(second: int) -> list[Take]:
    """Of 20 replicas; the first one has the requests."""
    requests, weight_s, start_s = 1_000 * second, 1.0 * second, 1e9 + second
    return [
        Take(f"app#replica#{n}", "vision", requests, requests + 1_000, weight_s, weight_s + 1, start_s, start_s + 1)
        for n in range(REPLICAS)
    ]


def cpu_s(work: Callable[[], object]) -> float:
    """Of the whole process."""
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def count(tally: Tally, bursts: list[list[ServiceUse]]) -> None:
    for burst in bursts:
        for use in burst:
            tally.add(use, 1)
        tally.write()


def measured(folder: Path) -> bool:
    log = RequestLog(folder / LOG_NAME)
    logging, plain = (Tally("app", f"app#replica#{n}", 1.0, model="mnist:12") for n in (0, 1))
    for n, tally in enumerate((logging, plain)):
        tally._path = folder / f"{n}.replica.json"
    logging._log = log
    for second in range(MOST_ROWS // REPLICAS):
        log.note(takes(second))
        if second < MOST_ROWS // 1_000:
            count(logging, [uses(1_000)])
        elif second % 100 == 0:
            log.flush()
    log.flush()
    more_us, took_us = [], []
    for turn in range(TURNS):
        given = [uses(BURST) for _ in range(BURSTS)]
        spent_s = [cpu_s(partial(count, tally, given)) for tally in (logging, plain)]
        more_us.append((spent_s[0] - spent_s[1]) / BURST / BURSTS * 1e6)
        last = [use for burst in given for use in burst]
        log.note(takes(MOST_ROWS + turn))
        took_us.append(cpu_s(log.flush) * 1e6)
    found_us = cpu_s(lambda: [log.find("vision", use.request) for use in last]) / len(last) * 1e6
    size = sum(path.stat().st_size for path in folder.glob(f"{LOG_NAME}*"))
    print(f"a request: {statistics.median(more_us):.1f} us ({min(more_us):.1f} to {max(more_us):.1f})")
    print(f"what an agent took in a second of {REPLICAS} replicas: {statistics.median(took_us):.0f} us")
    print(f"to find a request: {found_us:.0f} us; a full log: {size / 1e6:.0f} MB\n")
    return verdict("a request [us]", statistics.median(more_us), LIMIT_US)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-save", action="store_true", help="print only")
    save = not parser.parse_args().no_save
    with saved_output("request_log", save=save), tempfile.TemporaryDirectory() as name:
        describe_run("What the log of requests costs: CPU time")
        return 0 if measured(Path(name)) else 1


if __name__ == "__main__":
    sys.exit(main())
