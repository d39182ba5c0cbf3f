"""Let a cloud of Gaussians grow and shrink while it is optimised."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from diffnr_lightning.representations import DensityLimits, clone_and_split, prune


class DensityControl(lightning.Callback):
    """Clone, split and prune Gaussians every so many batches.

    Args:
        start: batches before the first time.
        every: batches between two times.
        until: batches after which the cloud is left alone.
        limits: thresholds.
        seed: with the iteration, seeds the children of split Gaussians.

    Source: R2-Gaussian: from 500 every 100 until 15,000.
    """

    def __init__(
        self,
        start: int = 500,
        every: int = 100,
        until: int = 15_000,
        limits: DensityLimits = DensityLimits(),
        seed: int = 0,
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; at least one batch is expected.")
        self.start = start
        self.every = every
        self.until = until
        self.limits = limits
        self.seed = seed
        self._restored: dict[str, torch.Tensor] | None = None

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Put back the statistics of an interrupted run."""
        if self._restored is not None:
            statistics = pl_module.representation.statistics
            statistics.gradient = self._restored["gradient"].numpy().copy()
            statistics.visible = self._restored["visible"].numpy().copy()
            self._restored = None
        self._statistics = lambda: pl_module.representation.statistics

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Densify and prune when it is time, then begin new statistics."""
        iteration, cloud = pl_module.iteration, pl_module.representation
        if not self.start < iteration < self.until or iteration % self.every:
            return
        statistics = cloud.statistics
        pull = torch.from_numpy(statistics.gradient / statistics.visible.clip(min=1))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + iteration)
        optimizer = trainer.optimizers[0]
        clone_and_split(cloud, optimizer, pull.to(cloud.positions.device), self.limits, generator)
        prune(cloud, optimizer, self.limits)
        cloud.statistics = type(statistics)(cloud.num_gaussians)

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics gathered since the last time."""
        statistics = self._statistics()
        return {
            "gradient": torch.from_numpy(statistics.gradient.copy()),
            "visible": torch.from_numpy(statistics.visible.copy()),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the statistics until the run has started."""
        self._restored = state_dict
