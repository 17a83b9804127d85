"""Counts steps of 0.1 s CPU, with a checkpoint after each, and writes down who did it: `counts.py FILE STEPS [STEP_S]`.

Each step appends "<attempt> <step>" to FILE just before its checkpoint, so that after pauses and resumes each step must
stand there exactly once; only a SIGKILL between the two lines may repeat one.
"""

import sys
import time
from pathlib import Path

from eco_ray.train import session

file, steps = Path(sys.argv[1]), int(sys.argv[2])
step_s = float(sys.argv[3]) if len(sys.argv) > 3 else 0.1
with session.open() as run:
    state = run.restore() or {"next": 0}
    for step in range(state["next"], steps):
        end = time.process_time() + step_s
        while time.process_time() < end:
            pass
        with file.open("a") as lines:
            lines.write(f"{run.attempt} {step}\n")
        state = {"next": step + 1}
        run.progress((step + 1, steps), step=step)
        run.checkpoint(state, wait=True)
        run.pause_point(lambda state=state: state)
    run.finish(steps=steps)
workers = f" with {run.workers} workers" if run.workers > 1 else ""
sys.stdout.write(f"counted to {steps}{workers}\n")
