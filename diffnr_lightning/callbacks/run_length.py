"""Where a run ends, whether its Trainer was given steps, epochs or both."""

from __future__ import annotations

import lightning


def batches_of(trainer: lightning.Trainer) -> float:
    """Return the batches of a whole run of one optimiser; infinite where nobody can know."""
    # Without a limit, which is -1, steps and epochs go on for ever.
    steps, epochs = (
        limit if limit >= 0 else float("inf") for limit in (trainer.max_steps, trainer.max_epochs)
    )
    return min(steps, trainer.num_training_batches * epochs)


def is_last_batch(trainer: lightning.Trainer) -> bool:
    """Whether the run ends with the batch that was just trained on."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    return trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
