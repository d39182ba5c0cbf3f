"""Steps towards the projections, all views at once, each ray and voxel scaled by its sum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffnr_lightning.consistency.normalisation import Normalisation, normalise
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors.slabs import Slabs, Whole


@torch.no_grad()
def simultaneous_steps(
    volume: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int,
    relaxation: float = 1.0,
    nonnegative: bool = True,
    weights: Tensor | None = None,
    normalisation: Normalisation | None = None,
    slabs: Slabs | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Tensor:
    """Iterate ``x <- x + relaxation * C A^T R (b - A x)`` in place, C and R from `normalise`.

    Args:
        volume: (Z, Y, X), which is overwritten.
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volume.
        scan: geometry of the projections, in any poses.
        iterations: passes over all views.
        relaxation: length of the step, in (0, 2).
        nonnegative: set negative voxels to zero after every iteration.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs them as SIRT does, by one over their length inside the grid.
        normalisation: `normalise(grid, scan, projections, weights)` if it is known from an earlier call.
        slabs: of the grid, where this process has one of them: the volume is that one.
        progress: called with (done, total, text) after every iteration.

    Returns:
        (Z, Y, X), the volume that was given.

    Raises:
        ValueError: weights of another shape, or that are negative or not finite, or all zero.

    Source: J. Gregor, T. Benson, "Computational analysis and improvement of SIRT", IEEE TMI 2008.
    """
    pair = slabs or Whole(grid, scan)
    normalisation = normalisation or normalise(grid, scan, projections, weights, slabs)
    step = relaxation * normalisation.voxels
    for done in range(1, iterations + 1):
        residual = projections - pair.project(volume)
        volume.addcmul_(step, pair.backproject(residual * normalisation.rays))
        if nonnegative:
            volume.clamp_(min=0.0)
        if progress is not None:
            progress(done, iterations, f"residual {float(residual.norm()):.4g}")
    return volume
