"""Checkpoints of a run that survive a kill."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch

from diffnr_lightning.callbacks.curve_file import CurveFile
from diffnr_lightning.callbacks.resource_use import ResourceUse
from diffnr_lightning.callbacks.run_length import batches_of, is_last_batch
from diffnr_lightning.files import replacing

# A loss is read from the device only now and then: reading it waits for the device.
BATCHES_BETWEEN_PROGRESS = 10


class RunRecord(lightning.Callback):
    """Keep one checkpoint, replaced every `every` batches in one step, log what it cost and report progress.

    It must be the last of the callbacks: its checkpoint then holds what the others did after the
    batch. That of a batch which a validation follows is written after it, since a run that goes on from a checkpoint
    takes the validation for done.

    Args:
        checkpoint: file of the checkpoint.
        every: batches between two checkpoints; the last batch is always kept.
        use: what the run has cost; its counters travel with the checkpoint.
        progress: called with (batches done, batches in all, text).

    Raises:
        ValueError: `every` is less than one.
    """

    def __init__(
        self,
        checkpoint: Path,
        every: int = 500,
        use: ResourceUse | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(
                f"every is {every}; at least one batch between two checkpoints is expected."
            )
        self.checkpoint = checkpoint
        self.every = every
        self.use = use or ResourceUse()
        self.progress = progress
        self._after_validation = False
        self._writes = False

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the checkpoint and report progress where they are due."""
        # Not the steps: several optimisers, or batches that add up to one step, count otherwise.
        total = getattr(trainer.datamodule, "iterations", batches_of(trainer))
        last = is_last_batch(trainer)
        due = last or pl_module.iteration % self.every == 0
        # One that could not be foreseen replaces what was written before it.
        self._after_validation = due
        if due and not _is_validated(trainer, batch_idx):
            self._write(trainer, pl_module.iteration)
        if self.progress and (last or pl_module.iteration % BATCHES_BETWEEN_PROGRESS == 0):
            self.progress(pl_module.iteration, total, _loss_text(outputs))

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write the checkpoint of the batch that this validation follows, where it is due."""
        if self._after_validation:
            self._after_validation = False
            self._write(trainer, pl_module.iteration)

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Expect no validation of the last batch any more: one that comes after the training changes nothing."""
        self._after_validation = False

    def _write(self, trainer: lightning.Trainer, iteration: int) -> None:
        """Write the checkpoint; all processes take part, the first one writes."""
        with replacing(self.checkpoint) if trainer.is_global_zero else nullcontext() as path:
            self._writes = True
            trainer.save_checkpoint(path or self.checkpoint)
            self._writes = False
        self._log_cost(trainer, iteration)

    def _log_cost(self, trainer: lightning.Trainer, iteration: int) -> None:
        """Log seconds and memory; not to the file of curves, which a resumed run makes again to the same bits."""
        cost = {f"system/{name}": value for name, value in self.use.as_metrics().items()}
        for logger in trainer.loggers:
            if not isinstance(logger, CurveFile):
                logger.log_metrics(cost, step=iteration)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Leave out the arguments of module and data, which a resumed run has and which may be unsafe to read."""
        if not self._writes:
            return  # that of another callback
        checkpoint["processes"] = trainer.world_size
        for kind in (lightning.LightningModule, lightning.LightningDataModule):
            for key in (kind.CHECKPOINT_HYPER_PARAMS_KEY, kind.CHECKPOINT_HYPER_PARAMS_NAME):
                checkpoint.pop(key, None)

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Refuse the checkpoint of a run of another number of processes, which decides what each of them draws.

        Raises:
            ValueError: the number is another one; checkpoints of earlier versions do not say it.
        """
        before, now = checkpoint.get("processes", trainer.world_size), trainer.world_size
        if before != now:
            raise ValueError(
                f"the checkpoint {self.checkpoint} was written by {before} processes, and this run has {now}, which "
                "would draw other batches; give as many devices and nodes as before, or a new --out."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what the run has cost up to now."""
        return self.use.kept()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Add what the run had cost up to the checkpoint."""
        self.use.take_up(state_dict)


def _is_validated(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Whether a validation is sure to follow a batch; one that the clock or an early end asks for never is."""
    if trainer.val_check_batch is None:
        return False
    between_epochs = trainer.check_val_every_n_epoch
    if between_epochs is None:
        # Lightning counts through all epochs then.
        batch_idx = trainer.fit_loop.total_batch_idx
    elif (trainer.current_epoch + 1) % between_epochs:
        return False
    # Before the first validation nobody may have asked for the loaders.
    held_out = trainer.val_dataloaders is None or sum(trainer.num_val_batches) > 0
    return trainer.enable_validation and held_out and (batch_idx + 1) % trainer.val_check_batch == 0


def _loss_text(outputs: Any) -> str:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return f"loss {float(loss):.4g}" if isinstance(loss, torch.Tensor) else ""
