"""Lightning's Trainer as every command uses it."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning
from lightning.pytorch.plugins.environments import SLURMEnvironment


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
    # A node of a cluster where one works without a job.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # Which batches come next follows from the iteration.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    # Batches know best how they move.
    warnings.filterwarnings("ignore", message=".*overridden `transfer_batch_to_device`.*")
    if SLURMEnvironment.detect():
        # Lightning would keep checkpoints in the working folder, and any run that is started there would go on from
        # them. Whoever submits queues a job again.
        options["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    return lightning.Trainer(
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
