"""What a volume leaves unexplained of its projections, and how much of a change they support."""

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


def best_share(
    volume: Tensor,
    changed: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor | None = None,
) -> float:
    """Return the share of a change at which the projections are explained best.

    A change that the projections support, or that they do not see, is taken whole; of one that
    invents or removes things, only a part explains more than it contradicts.

    Args:
        volume: (Z, Y, X), such as a fit to the projections.
        changed: (Z, Y, X), such as a repair of it.
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volumes.
        scan: geometry of the projections.
        weights: as in `misfit`.

    Returns:
        s in [0, 1] that minimises the mean square of the residual of
        ``volume + s (changed - volume)``; 1 for a change that the projections do not see.
    """
    residual = (projections - project(volume, grid, scan)).double()
    change = project(changed - volume, grid, scan).double()
    weighted = change if weights is None else change * relative_weights(weights, scan, change)
    along, across = float((residual * weighted).sum()), float((change * weighted).sum())
    return min(max(along / across, 0.0), 1.0) if across > 0 else 1.0
