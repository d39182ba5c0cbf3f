"""Let a cloud of Gaussians grow and shrink while it is optimised."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from diffnr_lightning.draws import generator_at
from diffnr_lightning.representations import DensityLimits, GaussianCloud, clone_and_split, prune


class DensityControl(lightning.Callback):
    """Clone, split and prune Gaussians every so many batches.

    Args:
        start: batches before the first time.
        every: batches between two times.
        until: batches after which the cloud is left alone.
        limits: thresholds.
        seed: with the iteration, seeds the children of split Gaussians.

    Raises:
        ValueError: `every` is less than one.
        TypeError: when a run starts whose representation is no `GaussianCloud`.

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
        self._cloud: GaussianCloud | None = None
        self._restored: dict[str, torch.Tensor] | None = None

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Forget the fit before, which may have restored statistics and had no batch left to begin."""
        self._cloud = self._restored = None

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Put back the statistics of an interrupted run."""
        cloud = pl_module.representation
        if not isinstance(cloud, GaussianCloud):
            raise TypeError(
                f"density control needs a GaussianCloud, but the representation is a "
                f"{type(cloud).__name__}; leave density_control out."
            )
        if self._restored is not None:
            cloud.statistics.gradient = self._restored["gradient"].clone()
            cloud.statistics.visible = self._restored["visible"].clone()
            self._restored = None
        self._cloud = cloud

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
        pull = cloud.statistics.pull().to(cloud.positions.device)
        generator = generator_at(self.seed, iteration)
        optimizer = trainer.optimizers[0]
        clone_and_split(cloud, optimizer, pull, self.limits, generator)
        prune(cloud, optimizer, self.limits)
        cloud.statistics = type(cloud.statistics)(cloud.num_gaussians)

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics gathered since the last time; nothing before a run has started."""
        if self._cloud is None:
            return {}
        statistics = self._cloud.statistics
        return {
            "gradient": statistics.gradient.cpu().clone(),
            "visible": statistics.visible.cpu().clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the statistics until the run has started."""
        self._restored = state_dict or None
