"""Repair a volume with a prior, pull it back to its projections, and ask them whether to trust it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from diffnr_lightning.consistency import align, best_share, misfit
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.planes import PlaneName
from diffnr_lightning.priors.checkpoints import load_default, load_prior
from diffnr_lightning.priors.conditioning import Conditioning, biplanar_conditioning
from diffnr_lightning.priors.prior import Prior
from diffnr_lightning.priors.volume_repair import repair_volume
from diffnr_lightning.solvers import (
    ResidualEvidence,
    backprojected_residual,
    near_circle,
    residual_evidence,
)

logger = logging.getLogger("diffnr")

# Share of the residual's mean square that a pass after the first may explain. Second passes explained 0 to 6 % on heads
# and a tooth, 9 to 15 % on a plastic head that reaches out of the grid, 12 to 26 % on carbon fibres; only on the last
# two they did harm.
MOST_EXPLAINED = 0.08

# Share, of the share of a contradicted repair that explains the projections best, that is taken. What explains them
# best is best in mean square; fibres lost structural similarity by it at 12 views, and gained by half of it.
CONTRADICTED_SHARE = 0.5


class RepairPass(NamedTuple):
    """One pass of a repair.

    Attributes:
        volume: (Z, Y, X), repaired and pulled back to the projections.
        contradicted: whether the projections contradict it.
        taken: whether the next pass, or the result, starts from it.
    """

    volume: Tensor
    contradicted: bool
    taken: bool


class RepairedVolume(NamedTuple):
    """What a repair makes of a volume.

    Attributes:
        volume: (Z, Y, X), normalised attenuation.
        share: of the repair that is in it, from 0 to 1; 1 unless the projections contradict the repair.
        contradicted: whether they do.
    """

    volume: Tensor
    share: float
    contradicted: bool


@final
class Repairer:
    """Repair volumes with a prior, in one pass or several.

    A pass repairs the slices of all `planes`, averages them, and pulls the result back to the measured projections.
    The prior works on the device of the volume that it is given.

    Args:
        weights: file of the prior (safetensors, or the `.pkl` of the authors); None takes the compact SliceFixer that
            comes with the package.
        overrides: arguments of `SliceFixer` that replace those in the file, such as base, encoder, organ, precision.
        planes: slices that are repaired; the results of several planes are averaged.
        align_iterations: iterations of `consistency.align` (data consistency), which pulls the repaired volume back to
            the measured projections; 0 leaves it as the prior made it.
        passes: how often a volume is repaired and aligned at most, each time what came out of the pass before; a prior
            that takes the backprojected residual gets what is still missing. See `each_pass` for those not taken.
        tolerance: share by which a pass may let the mean square of the residual of the measured projections grow before
            they contradict the repair; of a contradicted repair, only half as much is taken as explains the
            projections best. None takes every repair whole.
        batch_size: slices repaired at once.
        allow: packages or modules, beside this one, whose classes the file of weights may name: the module of such a
            class is imported, which runs its code.

    Attributes:
        prior: the network.

    Raises:
        ValueError: passes below one, a negative tolerance, or overrides without weights.

    Source: Algorithm 1 of DiffNR, line "repair each axial slice, stack". Deviation: several planes, alignment, passes
    and the share are ours; with the defaults none of them happens.
    """

    def __init__(
        self,
        weights: Path | None = None,
        overrides: dict[str, Any] | None = None,
        planes: tuple[PlaneName, ...] = ("axial",),
        align_iterations: int = 0,
        passes: int = 1,
        tolerance: float | None = None,
        batch_size: int = 16,
        allow: tuple[str, ...] = (),
    ) -> None:
        if passes < 1:
            raise ValueError(f"passes is {passes}; at least one pass of a repair is expected.")
        if tolerance is not None and tolerance < 0:
            raise ValueError(
                f"tolerance is {tolerance}; null or a number of at least 0 is expected."
            )
        if weights is None and overrides:
            raise ValueError(
                f"overrides are {sorted(overrides)} without weights; they change a SliceFixer's file, so name it."
            )
        self.planes = tuple(planes)
        self.align_iterations = align_iterations
        self.passes = passes
        self.tolerance = tolerance
        self.batch_size = batch_size
        self.prior: Prior = (
            load_default()
            if weights is None
            else load_prior(weights, allow=allow, **(overrides or {}))
        )

    def repair(
        self,
        volume: Tensor,
        projections: Tensor,
        grid: VolumeGrid,
        scan: ScanGeometry,
        *,
        weights: Tensor | None = None,
        features: Tensor | None = None,
        contradicted: bool = False,
    ) -> RepairedVolume:
        """Repair a volume; where the projections contradict the repair, only a share of it is taken.

        Args:
            volume: (Z, Y, X), normalised attenuation.
            projections: (V, H, W) measured, line integrals of it in mm.
            grid: voxels of the volume.
            scan: geometry of the projections.
            weights: (V, H, W) one over the variance of the noise of every ray, in (unit mm)^-2; None takes all rays
                alike. The residual that the prior gets is weighted by them, and a prior that takes its noise gets that.
            features: (1, 2, F) features of two projections that were stored with the scan, see `stored_features`; a
                prior that takes features of this length gets them in the place of the projections.
            contradicted: whether the projections contradicted an earlier repair of this scan.
        """
        repaired = volume
        earlier = {"weights": weights, "features": features, "contradicted": contradicted}
        for step in self.each_pass(volume, projections, grid, scan, **earlier):
            contradicted |= step.contradicted
            if step.taken:
                repaired = step.volume
        if not contradicted:
            return RepairedVolume(repaired, 1.0, False)
        share = CONTRADICTED_SHARE * best_share(volume, repaired, projections, grid, scan)
        logger.warning("the projections contradict the repair: %.0f %% of it is taken", 100 * share)
        return RepairedVolume(torch.lerp(volume, repaired, share), share, True)

    def each_pass(
        self,
        volume: Tensor,
        projections: Tensor,
        grid: VolumeGrid,
        scan: ScanGeometry,
        *,
        weights: Tensor | None = None,
        features: Tensor | None = None,
        contradicted: bool = False,
    ) -> Iterator[RepairPass]:
        """Yield the passes of a repair, at least one.

        The passes of a prior that fits the object leave the next one little to explain. One that does not fit it
        invents what the projections contradict, or goes on fitting their noise and what no voxels can represent. So
        with a `tolerance` the projections contradict a pass that lets their residual grow by more than that, and one
        after the first that lowers it by more than `MOST_EXPLAINED`. The first pass is taken in any case, a later one
        only if it is not contradicted. No pass follows one that let the residual grow, or one that is contradicted; if
        an earlier repair of the scan was contradicted, one pass is made.

        Args:
            volume: (Z, Y, X), normalised attenuation.
            projections: (V, H, W) measured, line integrals of it in mm.
            grid: voxels of the volume.
            scan: geometry of the projections.
            weights: (V, H, W) one over the variance of the noise of every ray, in (unit mm)^-2; None takes all rays
                alike. The residual that the prior gets is weighted by them, and a prior that takes its noise gets that.
            features: (1, 2, F) features of two projections that were stored with the scan, see `stored_features`; a
                prior that takes features of this length gets them in the place of the projections.
            contradicted: whether the projections contradicted an earlier repair of this scan.
        """
        conditioning = self._conditioning(projections, scan, features)
        self.prior.to(volume.device)
        before = misfit(volume, projections, grid, scan)
        for number in range(self.passes):
            evidence = self._evidence(volume, projections, grid, scan, weights)
            repaired = repair_volume(
                self.prior,
                volume,
                conditioning,
                planes=self.planes,
                batch_size=self.batch_size,
                residual=evidence.residual,
                noise=evidence.noise,
            )
            aligned = align(repaired, projections, grid, scan, iterations=self.align_iterations)
            left = misfit(aligned, projections, grid, scan)
            against = self._contradicted(before, left, number)
            if against:
                logger.warning(
                    "pass %d of the repair changes the mean square residual of the projections from %.3g to %.3g",
                    number + 1,
                    before,
                    left,
                )
            taken = number == 0 or not against
            yield RepairPass(aligned, against, taken)
            if contradicted or against or left >= before:
                return
            before, volume = left, aligned

    def _conditioning(
        self, projections: Tensor, scan: ScanGeometry, features: Tensor | None
    ) -> Conditioning:
        """Conditioning of the volume by two projections, or by the features that were stored of them."""
        directions = torch.tensor(scan.direction, dtype=torch.float32)
        conditioning = biplanar_conditioning(projections, directions, size=self.prior.biplanar_size)
        # Priors without an encoder of projections do not say how long its features are.
        if features is None or features.shape[-1] != getattr(self.prior, "feature_width", None):
            return conditioning
        logger.info("the prior gets the features of projections that are stored with the case")
        return conditioning._replace(biplanar=features.to(projections.device))

    def _contradicted(self, before: float, left: float, number: int) -> bool:
        """Whether the mean square of the residual before and after a pass speaks against it."""
        if self.tolerance is None:
            return False
        explains_much = number > 0 and left < (1 - MOST_EXPLAINED) * before
        return explains_much or left > (1 + self.tolerance) * before

    def _evidence(
        self,
        volume: Tensor,
        projections: Tensor,
        grid: VolumeGrid,
        scan: ScanGeometry,
        weights: Tensor | None,
    ) -> ResidualEvidence:
        """Backprojected residual of the volume, and its noise, for a prior that takes them."""
        if not self.prior.residual:
            return ResidualEvidence(None, None)
        if not near_circle(scan):
            logger.warning(
                "the views are not near a circle, so that no residual can be backprojected; the prior does without"
            )
            return ResidualEvidence(None, None)
        measured = (volume.clamp(0, 1), projections, grid, scan, weights)
        if weights is None or not getattr(self.prior, "noise", False):
            return ResidualEvidence(backprojected_residual(*measured).clamp(-1, 1), None)
        residual, noise = residual_evidence(*measured)
        return ResidualEvidence(residual.clamp(-1, 1), noise.clamp(max=1))
