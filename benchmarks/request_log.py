"""What it costs a replica to log its requests: CPU time a request at 1,000 a second, size of a full log, time to find.

    python benchmarks/request_log.py

A replica counts requests in bursts of 100 every 0.1 s and writes them then, once with a log and once without, in turns;
the log is full (200,000 rows) from the start, so that each burst also drops 100 rows.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from eco_ray.core.footprint import Footprint, Signal
from eco_ray.core.requests import ServiceUse
from eco_ray.core.units import Nature
from eco_ray.core.usage import Take
from eco_ray.on_ray.request_log import LOG_NAME, MOST_ROWS, RequestLog
from eco_ray.on_ray.served import Tally

BURST, BURSTS, TURNS = 100, 10, 20
ESTIMATE = Footprint(1.234567, 0.000123456, 0.01, 12.0, Signal("DE", 312.5, "test"), Nature.MODELLED)


def uses(number: int) -> list[ServiceUse]:
    return [ServiceUse(os.urandom(16).hex(), "vision", 0.001, estimate=ESTIMATE) for _ in range(number)]


def cpu_s(tally: Tally) -> float:
    """Of the whole process, for BURSTS bursts."""
    bursts = [uses(BURST) for _ in range(BURSTS)]
    began_s = time.process_time()
    for burst in bursts:
        for use in burst:
            tally.add(use, 1)
        tally.write()
    return time.process_time() - began_s


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = RequestLog(folder / LOG_NAME)
        with_log, without = (Tally("app", f"app#replica#{n:08x}", 1.0, model="mnist:12") for n in (1, 2))
        for n, tally in enumerate((with_log, without)):
            tally._path = folder / f"{n}.replica.json"
        with_log._log = log
        last: list[ServiceUse] = []
        for n in range(0, MOST_ROWS, 5_000):
            last = uses(5_000)
            for use in last:
                with_log.add(use, 1)
            log.note([Take(with_log._replica, "vision", n, n + 5_000, n * 0.001, n * 0.001 + 5, 1e9, 1e9 + 1)])
            assert log.flush()
        began_s = time.process_time()
        for use in last[-1_000:]:
            assert log.find("vision", use.request)
        print(f"to find one: {(time.process_time() - began_s) * 1e3:.0f} us")
        turns = [(cpu_s(with_log), cpu_s(without)) for _ in range(TURNS)]
        more_us = [(logged - plain) / BURST / BURSTS * 1e6 for logged, plain in turns]
        print(f"a request: median {statistics.median(more_us):.1f}, least {min(more_us):.1f} us of CPU time")
        size = sum(path.stat().st_size for path in folder.glob(f"{LOG_NAME}*"))
        print(f"a full log: {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
