"""Volumes of a run that is under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor


class Snapshots(lightning.Callback):
    """Keep the volume that the module holds after the batches named.

    Args:
        at: iterations after which the volume is queried.

    Attributes:
        volumes: iteration -> (Z, Y, X) on the CPU.
    """

    def __init__(self, at: Sequence[int]) -> None:
        self.at = frozenset(at)
        self.volumes: dict[int, Tensor] = {}

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Query the volume where the iteration is one of `at`."""
        if pl_module.iteration in self.at:
            with torch.no_grad():
                self.volumes[pl_module.iteration] = pl_module.query_volume().cpu()
