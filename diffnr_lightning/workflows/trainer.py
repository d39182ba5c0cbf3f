"""Lightning's Trainer as every command uses it."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning


def quiet_trainer(**options: Any) -> lightning.Trainer:
    """Return a Trainer whose checkpoints, progress and messages are left to us.

    Args:
        options: further ones of `lightning.Trainer`.
    """
    # Here and not before: Lightning sets the level of its loggers when it is imported.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Data of one scan are tensors in memory: workers for them would only cost.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning's own use of torch, which a user cannot change.
    warnings.filterwarnings("ignore", message=".*treespec.*", module="lightning.*")
    return lightning.Trainer(
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
