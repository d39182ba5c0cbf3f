"""When the pseudo-reference is made that supervises a representation."""

from __future__ import annotations

import logging
from typing import Any

import lightning
import torch
from torch import Tensor

from diffnr_lightning.callbacks.run_length import batches_of
from diffnr_lightning.constructed import Constructed, derived
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.priors import RepairedVolume, Repairer, cannot_show, refuse_fbp_unet

logger = logging.getLogger("diffnr")


class PseudoReference(Constructed, lightning.Callback):
    """Every `every` batches, repair the current volume and hand the result to the module.

    Args:
        repairer: what repairs a volume.
        every: batches between two repairs (ell).
        every_share: the same as a share of the batches of a schedule, which `adapt` is given; None keeps `every`.
        repairs: how many repairs at most; None is no limit.
        start_share: weight of the start volume in the mean that is repaired, and in the result where the projections
            contradict the repair; a good solver errs elsewhere than the representation. The start alone is repaired
            where the representation cannot show the object, see `priors.cannot_show`.

    Attributes:
        made: repairs so far.
        first: (Z, Y, X) the volume of this scan before the first of them, None before that.
        start_alone: whether the newest repair was of the start alone.
        evaluations: how often a denoiser of several steps was asked for the whole volume so far; None where an earlier
            version, which did not count, began the run.

    Raises:
        ValueError: a period below one batch, a negative number of repairs, a share that is not positive or, of the
            start, outside [0, 1], or a repairer with the weights of an FBP-UNet; when a run begins, a `start_share` of
            a module whose `start` is not known.

    Source: Algorithm 1 of DiffNR (ell = 10,000). Deviation: `start_share` is ours; with the default it does nothing.
    """

    def __init__(
        self,
        repairer: Repairer,
        every: int = 10_000,
        every_share: float | None = None,
        repairs: int | None = None,
        start_share: float = 0.0,
    ) -> None:
        if every < 1:
            raise ValueError(
                f"every is {every}; at least one batch between two repairs is expected."
            )
        if every_share is not None and not every_share > 0:
            raise ValueError(f"every_share is {every_share}; null or a positive share is expected.")
        if repairs is not None and repairs < 0:
            raise ValueError(f"repairs is {repairs}; null or a number of at least 0 is expected.")
        if not 0 <= start_share <= 1:
            raise ValueError(f"start_share is {start_share}; a share in [0, 1] is expected.")
        if isinstance(repairer, Repairer):
            refuse_fbp_unet(repairer.learned)
        self.repairer = repairer
        self.every_share = every_share
        self.every = every
        self.repairs = repairs
        self.start_share = start_share
        self.made = 0
        self.start_alone = False
        self.first: Tensor | None = None
        self.evaluations: float | None = 0.0

    def adapt(self, iterations: int) -> None:
        """Set the period to its share of a schedule of so many batches, if it is a share."""
        if self.every_share is not None:
            self.every = max(1, round(self.every_share * iterations))
            derived(self, "every")

    @torch.no_grad()
    def repair(
        self,
        module: lightning.LightningModule,
        projections: Tensor,
        weights: Tensor | None = None,
        photons: PhotonCounts | None = None,
        features: Tensor | None = None,
    ) -> RepairedVolume:
        """Return what the repairer makes of `unrepaired`, blended with the start where it is contradicted.

        The arguments are those of `Repairer.repair`; the agreement is told as it was before the blend.
        """
        measured = (projections, module.grid, module.scan)
        rays = {"weights": weights, "photons": photons}
        volume = self.unrepaired(module)
        judged = self.start_share > 0 and weights is not None
        self.start_alone = judged and cannot_show(
            module.query_volume(), module.start, *measured, **rays
        )
        if self.start_alone:
            logger.info("the start alone is repaired: the representation cannot show the object")
            volume = module.start
        if self.first is None:
            self.first = volume
        repaired = self.repairer.repair(volume, *measured, **rays, features=features)
        if self.evaluations is not None:
            self.evaluations += repaired.evaluations
        if repaired.contradicted and self.start_share:
            blend = torch.lerp(repaired.volume, module.start, self.start_share)
            return repaired._replace(volume=blend)
        return repaired

    @torch.no_grad()
    def unrepaired(self, module: lightning.LightningModule) -> Tensor:
        """Return what is repaired of a module: its volume (Z, Y, X), or the blend with its start."""
        volume = module.query_volume()
        return torch.lerp(volume, module.start, self.start_share) if self.start_share else volume

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Begin to count anew: one callback may serve several scans; a resume restores the count."""
        self.made = 0
        self.start_alone = False
        self.first = None
        self.evaluations = 0.0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Refuse a module whose start is to have a share and is not known."""
        if self.start_share and pl_module.start is None:
            raise ValueError(
                f"start_share is {self.start_share} and the start of the module is None; give it the volume that the "
                "representation began with (module.start), or set start_share to 0."
            )

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write `pl_module.reference` when it is time."""
        due = pl_module.iteration % self.every == 0 and pl_module.iteration < batches_of(trainer)
        if not due or (self.repairs is not None and self.made >= self.repairs):
            return
        scan, device = trainer.datamodule, pl_module.device
        repaired = self.repair(
            pl_module,
            scan.projections.to(device),
            None if scan.weights is None else scan.weights.to(device),
            None if scan.photons is None else scan.photons.to(device),
            scan.features,
        )
        pl_module.reference = repaired.volume
        self.made += 1
        logger.info("pseudo-reference %d made at iteration %d", self.made, pl_module.iteration)

    def state_dict(self) -> dict[str, Any]:
        """Return how many references were made, of what the first and the newest, and how often a denoiser was asked.

        The newest reference is in the module's checkpoint.
        """
        return {
            "made": self.made,
            "start_alone": self.start_alone,
            "first": self.first,
            "evaluations": self.evaluations,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.made = state_dict["made"]
        # Checkpoints of earlier versions do not say it.
        self.start_alone = state_dict.get("start_alone", False)
        self.first = state_dict["first"]
        self.evaluations = state_dict.get("evaluations", None if self.made else 0.0)
