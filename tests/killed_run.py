"""A run that ends as one does that is killed after a checkpoint."""

import lightning


class Killed(Exception):  # noqa: N818
    """Ends the run."""


class StopAt(lightning.Callback):
    """Saves after a batch and leaves the run, as a kill after the checkpoint would."""

    def __init__(self, iteration, path):
        self.iteration, self.path = iteration, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.iteration == self.iteration:
            trainer.save_checkpoint(self.path)
            raise Killed
