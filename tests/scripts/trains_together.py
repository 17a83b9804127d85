"""Linear regression by WORLD_SIZE ranks: `trains_together.py CHECKPOINTS RENDEZVOUS [PAUSE_STEP]`.

At PAUSE_STEP the last rank alone is asked to pause, as by a notice that its node is taken away. Each rank says where it
ended, with a random number and its weights. (Without torch.optim, which takes seconds to import.)
"""

import os
import signal
import sys

import torch
import torch.distributed as dist

from eco_ray.train import session
from eco_ray.train.batch_order import BatchOrder
from eco_ray.train.state import TrainState

checkpoints, rendezvous, *pause = sys.argv[1:]
rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
torch.manual_seed(0)
x = torch.randn(96, 4, dtype=torch.float64)
y = x @ torch.arange(4.0, dtype=torch.float64)
model = torch.nn.Linear(4, 1).double()
batches = BatchOrder(len(x), 12, seed=0, rank=rank, world_size=world_size)
state = TrainState(model=model, batches=batches)
try:
    with session.open(checkpoint_dir=checkpoints, rank=rank, world_size=world_size) as run:
        state.restore(run.restore(), rank=run.ranks.rank)
        while batches.epoch < 5:
            rows = torch.from_numpy(batches.rows())
            model.zero_grad()
            torch.nn.functional.mse_loss(model(x[rows])[:, 0], y[rows]).backward()
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
                parameter.data -= 0.05 / world_size * parameter.grad
            batches.advance()
            if pause and batches.step == int(pause[0]) and rank == world_size - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            run.pause_point(state.capture, every_s=0)
        run.finish()
finally:
    sys.stdout.write(f"{batches.step} {torch.rand(1).item()} {model.weight.tolist()[0]}\n")
    dist.destroy_process_group()  # else its threads may end the process by SIGABRT instead of with the session's code
