"""Data-parallel training with as many workers as the planner gives: Ray Train's TorchTrainer inside an attempt.

    from eco_ray.on_ray import training

    def train(run: training.Run) -> None:              # in every worker
        model = run.wrap(Net())                        # DistributedDataParallel where there are several
        state = run.restore()                          # what rank 0 kept, in every worker
        ...
        for batch in run.batches(len(data), size=512, epochs=20, start=state["consumed"]):
            loss = ... data[batch.rows] ...            # this worker's part of the batch
            run.progress((batch.consumed, batch.total), loss=loss)
            run.pause_point(lambda: {...}, every_s=60)
        run.finish(accuracy=...)

    if __name__ == "__main__":
        training.fit(train)

The same script runs alone (`python script.py`: one worker, in its own process), in a stock Ray job and as an attempt of
an elastic job. docs/elastic-training.md has the whole story.
"""

from eco_ray.on_ray.training.driver import fit
from eco_ray.on_ray.training.run import Run

__all__ = ["Run", "fit"]
