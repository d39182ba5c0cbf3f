"""What a volume leaves unexplained of its projections."""

from __future__ import annotations

from torch import Tensor

from diffnr_lightning.consistency.normalisation import relative_weights
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import project


def misfit(
    volume: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor | None = None,
) -> float:
    """Return the mean square of what a volume leaves unexplained of its projections.

    Args:
        volume: (Z, Y, X).
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volume.
        scan: geometry of the projections.
        weights: (V, H, W) of the rays in the mean, of which only the ratios matter; None weighs all alike.
    """
    squares = (project(volume, grid, scan) - projections).square()
    if weights is not None:
        squares = squares * relative_weights(weights, scan, squares)
    return float(squares.mean())
