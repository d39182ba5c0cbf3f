"""Train a denoiser on LUNA16 on two processes; each writes what it saw. Run by a test."""

import sys
from pathlib import Path

import lightning
import torch

from diffnr_lightning.data import LUNA16, ScanRecipe
from diffnr_lightning.modules import DenoiserTraining
from diffnr_lightning.priors import CompactDenoiser


class Items(lightning.Callback):
    """Keeps a fingerprint of what the process was fed."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(float(batch.clean.double().sum()))


def fit(out: Path, store: Path, **options) -> None:
    """Two steps of a network of few weights; the end is written by rank."""
    torch.manual_seed(3)
    network = CompactDenoiser(widths=(8, 16), channels=1, gaps=1)
    module = DenoiserTraining(network, 2, warmup=1, levels=1)
    recipe = ScanRecipe(size=16, num_views=4, test_views=0, oversampling=1)
    drawn = {"channels": 1, "gaps": [0], "crops": [16], "iterations": 2, "batch_size": 2}
    data = LUNA16(recipe, learn="slices", store=store, **drawn)
    items = Items()
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=module.optimizer_steps, max_epochs=1, logger=False, callbacks=[items],
        val_check_interval=2, num_sanity_val_steps=0, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    end = {"items": items.seen, "state": module.state_dict(), "scores": trainer.callback_metrics}
    torch.save(end, out / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    fit(Path(sys.argv[1]), Path(sys.argv[2]), devices=2, strategy="ddp")
