"""Pull a volume that something else has made back to the measured projections."""

from __future__ import annotations

import torch
from torch import Tensor

from diffnr_lightning.consistency.simultaneous import simultaneous_steps
from diffnr_lightning.consistency.smoothing import smoothed
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import project


def align(
    volume: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int = 10,
    detail: float = 4.0,
    smoothing: float = 1.0,
    support: float = 0.02,
) -> Tensor:
    """Move a volume towards its projections by some SIRT iterations, without taking up their faults.

    Only the detail of the residual counts: what varies slowly over the detector comes from things
    outside the grid, such as a table or a truncated body, as often as from the volume. The change
    that SIRT makes is smoothed, and kept only where the volume shows something: noise of the
    projections would otherwise fill the air, where the eye and the structural similarity see it
    first.

    Args:
        volume: (Z, Y, X), such as a repaired volume.
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volume.
        scan: geometry of the projections.
        iterations: of SIRT; 0 returns the volume.
        detail: residuals smoothed by a Gaussian of this standard deviation, in pixels, are left
            out; 0 takes the whole residual.
        smoothing: standard deviation of the Gaussian that smooths the change, in voxels; 0 leaves it.
        support: voxels at or below this value stay as they are; a negative number moves all.

    Returns:
        (Z, Y, X), not negative where it was moved.

    Raises:
        ValueError: a negative number of iterations, detail or smoothing.
    """
    if min(iterations, detail, smoothing) < 0:
        raise ValueError(
            f"align got iterations={iterations}, detail={detail} and smoothing={smoothing}; numbers "
            "of at least 0 are expected."
        )
    if iterations == 0:
        return volume
    if detail:
        residual = projections - project(volume, grid, scan)
        projections = projections - smoothed(residual, detail, axes=(1, 2))
    moved = simultaneous_steps(
        volume.detach().to(projections, copy=True).contiguous(),
        projections,
        grid,
        scan,
        iterations=iterations,
    )
    change = smoothed(moved - volume, smoothing, axes=(0, 1, 2))
    return torch.where(volume > support, (volume + change).clamp(min=0), volume)
