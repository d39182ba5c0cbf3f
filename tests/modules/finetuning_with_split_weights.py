"""Finetune a tiny SliceFixer on two processes; each writes what it ended with. Run by a test."""

import sys
from pathlib import Path

import lightning
import torch
from torch.distributed.tensor import DTensor

from diffnr_lightning.data.slice_pairs import SlicePairData
from diffnr_lightning.modules import SliceFixerFinetuning
from diffnr_lightning.priors import PatchDiscriminator, SliceFixer
from diffnr_lightning.workflows.training.trainer_options import trainer_strategy

ITERATIONS = 4
KILLED_AT = 2


class Kept(lightning.Callback):
    """Keeps a checkpoint in the middle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.iteration == KILLED_AT:
            trainer.save_checkpoint(self.path)


def main(work: str, strategy: str, precision: str, name: str, resume_from: str = "") -> None:
    folder = Path(work)
    torch.manual_seed(3)
    prior = SliceFixer(str(folder / "sd-turbo"), str(folder / "rad-dino"), size=32).train()
    module = SliceFixerFinetuning(
        prior.requires_grad_(True),
        iterations=ITERATIONS,
        rate=1e-3,
        warmup=1,
        lambda_gan=0.05,
        discriminator=PatchDiscriminator(8),
    )
    data = SlicePairData([folder / "pairs"], ITERATIONS, ("two",), context=0, batch_size=2, crop=32)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy=trainer_strategy(strategy, 2, 1, precision),
        precision=precision, max_steps=module.optimizer_steps, max_epochs=1, logger=False,
        callbacks=[Kept(folder / f"{name}.ckpt")], val_check_interval=ITERATIONS,
        num_sanity_val_steps=0, use_distributed_sampler=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    path = folder / resume_from if resume_from else None
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    scores = {key: float(value) for key, value in trainer.callback_metrics.items()}
    held = sum(
        p.to_local().numel() if isinstance(p, DTensor) else p.numel()
        for p in module.prior.backbone.parameters()
        if not p.requires_grad
    )
    end = {
        "trained": module.prior.trained_state(),
        "average": module.average.state_dict(),
        "discriminator": module.discriminator.state_dict(),
        "scores": scores,
        "frozen_here": held,
    }
    torch.save(end, folder / f"{name}_{trainer.global_rank}.pt")
    module.export(folder / f"{name}_{trainer.global_rank}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
