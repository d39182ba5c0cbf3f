"""Finetune on two processes; each writes what it ended with. Run by a test."""

import sys
from pathlib import Path

import lightning
import torch

from diffnr_lightning.data.slice_pairs import SlicePairData
from diffnr_lightning.modules import SliceFixerFinetuning
from diffnr_lightning.priors import CompactSliceFixer, PatchDiscriminator


class Items(lightning.Callback):
    """Keeps a fingerprint of what the process was fed."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(float(batch.degraded.double().sum()))


def main(folder: str, out: str, gan: str) -> None:
    torch.manual_seed(3)
    adversarial = {"lambda_gan": 0.05, "gan_start": 1, "discriminator": PatchDiscriminator(8)}
    module = SliceFixerFinetuning(
        CompactSliceFixer(channels=(8, 16), embedding=16),
        iterations=4,
        warmup=1,
        **(adversarial if gan == "discriminator" else {}),
    )
    data = SlicePairData([Path(folder)], 4, ("two",), batch_size=2, crop=24)
    items = Items()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true",
        max_steps=module.optimizer_steps, max_epochs=1, logger=False, callbacks=[items],
        val_check_interval=4, num_sanity_val_steps=0, use_distributed_sampler=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    end = {"items": items.seen, "scores": scores, "state": module.state_dict()}
    torch.save(end, Path(out) / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
