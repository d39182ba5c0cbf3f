"""A finetuning of seconds: a tiny SliceFixer on the pairs of one case, and callbacks that watch it."""

from __future__ import annotations

import warnings

import lightning
import pytest
import torch
from lightning.pytorch.loggers import Logger

from diffnr_lightning.data.slice_pairs import SlicePairData
from diffnr_lightning.modules import SliceFixerFinetuning
from diffnr_lightning.priors import CompactSliceFixer, PatchDiscriminator

ITERATIONS = 12
both = pytest.mark.parametrize("gan", [False, True], ids=["alone", "with discriminator"])


class Losses(Logger):
    """Keeps what the run logs while it trains."""

    name, version = "losses", 0

    def __init__(self):
        super().__init__()
        self.l2: list[float] = []

    def log_metrics(self, metrics, step=None):
        if "train_l2" in metrics:
            self.l2.append(metrics["train_l2"])

    def log_hyperparams(self, *args):
        pass


class Steps(lightning.Callback):
    """Keeps the two counters after each batch."""

    def __init__(self):
        self.seen: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.seen.append((pl_module.iteration, trainer.global_step))


class Darkness(torch.nn.Module):
    """Stands in for a perceptual network: frozen weights that the loss passes through."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, repaired, clean=None):
        target = 0 if clean is None else clean
        return self.scale * (repaired - target).square().mean(dim=(1, 2))


def finetuning(iterations=ITERATIONS, gan=False, **changed) -> SliceFixerFinetuning:
    """The module, of the same first weights each time."""
    torch.manual_seed(3)
    network = CompactSliceFixer(channels=(8, 16), embedding=16)
    options = {"rate": 2e-3, "warmup": 2, "log_every": 1, "average_decay": 0.9}
    if gan:
        options |= {"lambda_gan": 0.05, "gan_start": 3, "discriminator": PatchDiscriminator(8)}
    return SliceFixerFinetuning(network, iterations, **{**options, **changed})


def fit(module, folder, *callbacks, checkpoint=None, **trainer_options) -> lightning.Trainer:
    """Train on the pairs in a folder, without those of the case `two`."""
    data = SlicePairData(
        [folder], module.iterations, ("two",), batch_size=2, crop=24, planes=("axial",), seed=1
    )
    trainer = lightning.Trainer(
        **{
            "accelerator": "cpu",
            "max_steps": module.optimizer_steps,
            "max_epochs": 1,
            "logger": False,
            "callbacks": list(callbacks),
            "val_check_interval": module.iterations,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **trainer_options,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer
