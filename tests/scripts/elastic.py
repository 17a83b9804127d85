"""Least squares by gradient descent in any number of workers, in doubles: `elastic.py FILE EPOCHS STEP_S`.

Rank 0 appends "<attempt> <workers> <consumed> <loss>" to FILE after each step and its weights at the end, so that what
was done twice, or not at all, can be seen.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from eco_ray.on_ray import training

ROWS, SIZE = 240, 24


def train(run, file, epochs, step_s):
    attempt = os.environ.get("ECO_RAY_ATTEMPT", "1")
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(ROWS, 5)))
    y = x @ torch.arange(5, dtype=torch.float64) + torch.from_numpy(rng.normal(size=ROWS))
    model = torch.nn.Linear(5, 1, dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    state = run.restore() or {"consumed": 0, "model": model.state_dict()}
    model.load_state_dict(state["model"])
    parallel = run.wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for batch in run.batches(ROWS, size=SIZE, epochs=epochs, start=state["consumed"]):
        time.sleep(step_s * len(batch.rows) / SIZE)
        loss = ((parallel(x[batch.rows])[:, 0] - y[batch.rows]) ** 2).mean() * batch.weight
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run.rank == 0:
            with file.open("a") as lines:
                lines.write(f"{attempt} {run.workers} {batch.consumed} {float(loss.detach()):.6f}\n")
        run.progress((batch.consumed, batch.total), loss=loss)
        run.pause_point(lambda done=batch.consumed: {"consumed": done, "model": model.state_dict()}, every_s=1.0)
    run.finish(weights=" ".join(f"{value:.9f}" for value in model.weight[0].tolist()))


if __name__ == "__main__":
    # the arguments are the driver's: a worker has others
    training.fit(partial(train, file=Path(sys.argv[1]), epochs=int(sys.argv[2]), step_s=float(sys.argv[3])))
