"""A Lightning run of one parameter, as a module for tests and as a program that can be killed."""

import os
import signal
import sys
from pathlib import Path

import lightning
import torch

from diffnr_lightning.callbacks.run_record import RunRecord


class Toy(lightning.LightningModule):
    """Fit one parameter with Adam; the target of a batch depends on its number alone."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.iteration = 0

    def training_step(self, batch, batch_idx):
        self.iteration += 1
        return (self.weight - torch.sin(torch.tensor(float(self.iteration)))) ** 2

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint):
        self.iteration = checkpoint["iteration"]


class KillAt(lightning.Callback):
    """End the process as `kill -9` does, before batch `iteration`."""

    def __init__(self, iteration):
        self.iteration = iteration

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.iteration + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(checkpoint: Path, *callbacks, steps=40, every=10, progress=None) -> tuple[Toy, RunRecord]:
    """Run, from the checkpoint where there is one."""
    torch.manual_seed(0)
    module = Toy()
    record = RunRecord(checkpoint, every=every, progress=progress)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[*callbacks, record],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader(range(1000))
    resume = checkpoint if checkpoint.exists() else None
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    return module, record


if __name__ == "__main__":
    fit(Path(sys.argv[1]), KillAt(int(sys.argv[2])))
