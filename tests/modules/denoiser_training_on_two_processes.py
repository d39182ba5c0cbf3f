"""Train a denoiser on two processes; each writes what it ended with. Run by a test."""

import sys
from pathlib import Path

import lightning
import torch

from diffnr_lightning.data.clean_slices import CleanSliceData
from diffnr_lightning.modules import DenoiserTraining
from diffnr_lightning.priors import CompactDenoiser


class Items(lightning.Callback):
    """Keeps a fingerprint of what the process was fed."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(float(batch.clean.double().sum()))


def main(out: str, *files: str) -> None:
    torch.manual_seed(3)
    module = DenoiserTraining(CompactDenoiser(widths=(8, 16)), 3, warmup=1, levels=1)
    sources = {Path(file).stem: file for file in files}
    data = CleanSliceData(
        sources, iterations=3, batch_size=2, size=16, crops=(16,), held_out=["two"]
    )
    items = Items()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=module.optimizer_steps, max_epochs=1, logger=False,
        callbacks=[items], val_check_interval=3, num_sanity_val_steps=0, use_distributed_sampler=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    end = {"items": items.seen, "scores": scores, "state": module.state_dict()}
    torch.save(end, Path(out) / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
