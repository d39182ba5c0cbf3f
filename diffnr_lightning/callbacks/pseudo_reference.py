"""Query, repair, align: make the pseudo-reference that supervises a representation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from diffnr_lightning.consistency import align, best_share, misfit
from diffnr_lightning.planes import PlaneName
from diffnr_lightning.priors import (
    Prior,
    biplanar_conditioning,
    load_default,
    load_prior,
    repair_volume,
)
from diffnr_lightning.solvers import backprojected_residual

logger = logging.getLogger("diffnr")

# Share of the residual's mean square that a pass after the first may explain. Second passes explained 0 to 6 % on heads
# and a tooth, 9 to 15 % on a plastic head that reaches out of the grid, 12 to 26 % on carbon fibres; only on the last
# two they did harm.
MOST_EXPLAINED = 0.08

# Share, of the share of a doubted repair that explains the projections best, that is taken. What explains them best is
# best in mean square; fibres lost structural similarity by it at 12 views, and gained by half of it.
DOUBTED_SHARE = 0.5


class PseudoReference(lightning.Callback):
    """Every `every` batches, repair the slices of the current volume and hand the result to the module.

    Args:
        weights: file of the prior (safetensors, or the `.pkl` of the authors); None takes the compact SliceFixer that
            comes with the package.
        overrides: arguments of `SliceFixer` that replace those in the file, such as base, encoder, organ, precision.
        every: batches between two repairs (ell).
        repairs: how many repairs at most; None is no limit.
        planes: slices that are repaired; the results of several planes are averaged.
        align_iterations: iterations of `consistency.align`, which pulls the repaired volume back to the measured
            projections before it supervises; 0 leaves it as the prior made it.
        passes: how often a volume is repaired and aligned at most, each time what came out of the pass before; a prior
            that looks at the residual is shown what is still missing. See `after_each_pass` for those not taken.
        tolerance: share by which a pass may let the mean square of the residual of the measured projections grow before
            the prior is doubted; of the repair of a doubted prior, only half as much is taken as explains the
            projections best. None doubts nothing and takes all of it.
        batch_size: slices repaired at once.

    Attributes:
        made: repairs so far.
        doubted: whether the projections of this scan contradicted a pass; see `after_each_pass`.

    Raises:
        ValueError: a period or passes below one, a negative tolerance, or overrides without weights.

    Source: Algorithm 1 of DiffNR (axial slices, ell = 10,000). Deviation: several planes, alignment, passes and
    doubt are ours; with the defaults none of them happens.
    """

    def __init__(
        self,
        weights: Path | None = None,
        overrides: dict[str, Any] | None = None,
        every: int = 10_000,
        repairs: int | None = None,
        planes: tuple[PlaneName, ...] = ("axial",),
        align_iterations: int = 0,
        passes: int = 1,
        tolerance: float | None = None,
        batch_size: int = 16,
    ) -> None:
        if every < 1:
            raise ValueError(
                f"every is {every}; at least one batch between two repairs is expected."
            )
        if passes < 1:
            raise ValueError(f"passes is {passes}; at least one pass of a repair is expected.")
        if tolerance is not None and tolerance < 0:
            raise ValueError(
                f"tolerance is {tolerance}; null or a number of at least 0 is expected."
            )
        self.every = every
        self.repairs = repairs
        self.planes = tuple(planes)
        self.align_iterations = align_iterations
        self.passes = passes
        self.tolerance = tolerance
        self.batch_size = batch_size
        self.made = 0
        self.doubted = False
        if weights is None and overrides:
            raise ValueError(
                f"overrides are {sorted(overrides)} without weights; they change a SliceFixer's file, so name it."
            )
        self.prior: Prior = (
            load_default() if weights is None else load_prior(weights, **(overrides or {}))
        )

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Begin to count anew: one callback may serve several scans; a resume restores the count."""
        self.made = 0
        self.doubted = False

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write `pl_module.reference` when it is time."""
        due = pl_module.iteration % self.every == 0 and pl_module.iteration < trainer.max_steps
        if not due or (self.repairs is not None and self.made >= self.repairs):
            return
        with torch.no_grad():
            volume = pl_module.query_volume()
        projections = trainer.datamodule.projections.to(volume.device)
        pl_module.reference = self.repair(volume, projections, pl_module.grid, pl_module.scan)
        self.made += 1
        logger.info("pseudo-reference %d made at iteration %d", self.made, pl_module.iteration)

    def repair(self, volume: Tensor, projections: Tensor, grid: Any, scan: Any) -> Tensor:
        """Return the repaired volume, aligned with the projections; a part of the way where the prior is doubted.

        Args:
            volume: (Z, Y, X), normalised attenuation.
            projections: (V, H, W) measured, line integrals of it in mm.
            grid: voxels of the volume.
            scan: geometry of the projections.
        """
        *_, aligned = self.after_each_pass(volume, projections, grid, scan)
        if not self.doubted:
            return aligned
        share = DOUBTED_SHARE * best_share(volume, aligned, projections, grid, scan)
        logger.warning(
            "the prior may not know this object: %.0f %% of its repair is taken", 100 * share
        )
        return torch.lerp(volume, aligned, share)

    def after_each_pass(
        self, volume: Tensor, projections: Tensor, grid: Any, scan: Any
    ) -> Iterator[Tensor]:
        """Yield the repaired and aligned volume (Z, Y, X) after each pass that is taken.

        The passes of a prior that knows the object leave the next one little to explain. One that does not know it
        invents what the projections contradict, or goes on fitting their noise and what no voxels can show. So with a
        `tolerance` the prior is doubted if a pass lets the residual of the measured projections grow by more than
        that, or if a pass after the first lowers it by more than `MOST_EXPLAINED`. The first is taken in any case, a
        later one that casts doubt is not. None follows one that let the residual grow, and a prior that was doubted
        before makes one pass only.

        Args:
            volume: (Z, Y, X), normalised attenuation.
            projections: (V, H, W) measured, line integrals of it in mm.
            grid: voxels of the volume.
            scan: geometry of the projections.
        """
        directions = torch.tensor(scan.direction, dtype=torch.float32)
        conditioning = biplanar_conditioning(projections, directions, size=self.prior.biplanar_size)
        self.prior.to(volume.device)
        before = misfit(volume, projections, grid, scan)
        for number in range(self.passes):
            repaired = repair_volume(
                self.prior,
                volume,
                conditioning,
                planes=self.planes,
                batch_size=self.batch_size,
                residual=self._residual(volume, projections, grid, scan),
            )
            aligned = align(repaired, projections, grid, scan, iterations=self.align_iterations)
            left = misfit(aligned, projections, grid, scan)
            if self._contradicts(before, left, number):
                self.doubted = True
                logger.warning(
                    "pass %d of the repair changes the residual of the projections from %.3g to %.3g",
                    number + 1,
                    before,
                    left,
                )
                if number > 0:
                    return
            last = self.doubted or left >= before
            before, volume = left, aligned
            yield volume
            if last:
                return

    def _contradicts(self, before: float, left: float, number: int) -> bool:
        """Whether the mean square of the residual before and after a pass casts doubt on the prior."""
        if self.tolerance is None:
            return False
        explains_much = number > 0 and left < (1 - MOST_EXPLAINED) * before
        return explains_much or left > (1 + self.tolerance) * before

    def _residual(self, volume: Tensor, projections: Tensor, grid: Any, scan: Any) -> Tensor | None:
        """What the prior is shown of the projections that the volume contradicts, if it looks at that."""
        if not self.prior.residual:
            return None
        if scan.orbit is None:
            logger.warning(
                "the scan is not circular, so that no residual can be backprojected; the prior does without"
            )
            return None
        return backprojected_residual(volume.clamp(0, 1), projections, grid, scan).clamp(-1, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return how many references were made and with what doubt; the newest is in the module's checkpoint."""
        return {"made": self.made, "doubted": self.doubted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the count of references and the doubt."""
        self.made = state_dict["made"]
        self.doubted = state_dict["doubted"]
