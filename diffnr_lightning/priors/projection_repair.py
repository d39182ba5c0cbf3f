"""Repair of rendered projections by a prior of images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import final

from diffnr_lightning.geometry import ScanGeometry
from diffnr_lightning.priors.checkpoints import chosen_prior
from diffnr_lightning.priors.conditioning import biplanar_conditioning
from diffnr_lightning.priors.inference import lent
from diffnr_lightning.priors.learned_methods import (
    has_seen_slices_alone,
    refuse_fbp_unet_of_slices,
)
from diffnr_lightning.priors.prior import Prior
from diffnr_lightning.priors.volume_repair import repair_volume
from diffnr_lightning.solvers.inputs import check_counts

logger = logging.getLogger("diffnr")


@final
class ProjectionRepairer:
    """Repair projections that a representation shows, as if they were the slices of a volume.

    Projections are divided by the largest measured value. A prior with neighbours gets the projections before and after
    in the order of their angles. It is told the measured views as in volumes, but no backprojected residual.

    Args:
        weights: file of the prior; one that has learned from projections is made by `curate --kind projections` and
            `finetune`. None takes the compact SliceFixer that comes with the package, which has seen slices alone.
        overrides: arguments that replace those in the file, see `Repairer`.
        batch_size: projections repaired at once.
        allow: see `Repairer`.

    Attributes:
        prior: the network.
        learned: file of its weights.

    Raises:
        ValueError: no projection at once, overrides without weights, or the weights of an FBP-UNet.
    """

    def __init__(
        self,
        weights: Path | None = None,
        overrides: dict[str, Any] | None = None,
        batch_size: int = 16,
        allow: tuple[str, ...] = (),
    ) -> None:
        check_counts(batch_size=batch_size)
        self.batch_size = batch_size
        self.prior: Prior
        self.prior, self.learned = chosen_prior(weights, overrides, allow)
        refuse_fbp_unet_of_slices(self.learned)
        if has_seen_slices_alone(self.learned):
            named = "the SliceFixer of the package" if weights is None else self.learned
            logger.warning(
                "projections are repaired by %s, which has seen slices alone; weights that have learned from "
                "projections come from curate --kind projections and finetune",
                named,
            )

    def repair(self, rendered: Tensor, projections: Tensor, scan: ScanGeometry) -> Tensor:
        """Repair renderings.

        Args:
            rendered: (N, H, W) line integrals, in the order of their angles.
            projections: (V, H, W) measured, likewise.
            scan: geometry of the measured ones.

        Returns:
            (N, H, W) line integrals, from 0 to the largest measured one.
        """
        directions = torch.tensor(scan.direction, dtype=torch.float32)
        conditioning = biplanar_conditioning(projections, directions, size=self.prior.biplanar_size)
        peak = projections.max()
        with lent(self.prior, rendered.device):
            repaired = repair_volume(
                self.prior, rendered / peak, conditioning, batch_size=self.batch_size
            )
        return peak * repaired
