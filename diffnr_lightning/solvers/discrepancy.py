"""What a volume leaves unexplained of its projections, and how much of a change they allow."""

from __future__ import annotations

from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import project


def misfit(volume: Tensor, projections: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> float:
    """Return the mean square of what a volume leaves unexplained of its projections.

    Args:
        volume: (Z, Y, X).
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volume.
        scan: geometry of the projections.
    """
    return float((project(volume, grid, scan) - projections).square().mean())


def allowed_share(
    volume: Tensor,
    changed: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    tolerance: float,
) -> float:
    """Return the largest share of a change at which the residual stays within bounds.

    A reconstruction of noisy projections fits them a little better than the truth does, so a good
    change may let the mean square of the residual grow a little; one that invents or removes
    things lets it grow by a multiple.

    Args:
        volume: (Z, Y, X) that fits its projections.
        changed: (Z, Y, X), such as a repair of it.
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volumes.
        scan: geometry of the projections.
        tolerance: share by which the mean square of the residual may grow.

    Returns:
        s in [0, 1], for which ``volume + s (changed - volume)`` is within bounds.

    Raises:
        ValueError: a negative tolerance.

    Source: the discrepancy principle (Morozov): of the volumes wanted for other reasons, take one
        whose residual is that of the noise.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}; a number of at least 0 is expected.")
    residual = (projections - project(volume, grid, scan)).double()
    change = project(changed - volume, grid, scan).double()
    # |residual - s change|^2 = (1 + tolerance) |residual|^2, a quadratic equation in s.
    before, along, across = (
        float((a * b).sum())
        for a, b in ((residual, residual), (residual, change), (change, change))
    )
    if before - 2 * along + across <= (1 + tolerance) * before:
        return 1.0
    root = (along**2 + across * tolerance * before) ** 0.5
    return max(0.0, (along + root) / across)
