"""Where a run ends, whether its Trainer was given steps or epochs."""

from __future__ import annotations

import lightning


def batches_of(trainer: lightning.Trainer) -> float:
    """Return the batches of a whole run of one optimiser; infinite where nobody can know."""
    if trainer.max_steps >= 0:
        return trainer.max_steps
    # Without a limit, which is -1, the epochs go on for ever.
    epochs = trainer.max_epochs if trainer.max_epochs >= 0 else float("inf")
    return trainer.num_training_batches * epochs


def is_last_batch(trainer: lightning.Trainer) -> bool:
    """Whether the run ends with the batch that was just trained on."""
    if trainer.max_steps >= 0:
        return trainer.global_step >= trainer.max_steps
    return trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
