"""Works for N seconds, reports progress and never looks whether it should pause: `ignores_pause.py SECONDS`."""

import sys
import time

from eco_ray.train import session

seconds = float(sys.argv[1])
began = time.monotonic()
with session.open() as run:
    while (worked := time.monotonic() - began) < seconds:
        run.progress((worked, seconds))
        time.sleep(0.05)
    run.finish()
