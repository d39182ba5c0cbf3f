"""What a volume leaves unexplained of its projections, in standard deviations of their noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.projectors import project

# Chosen on a head, a limb, a phantom and a specimen of the development set at 64^3 and 1e5 photons, where the mean
# square of the normalised residuals of the truth is near 1 with it, and 5 to 46 with the noise alone. On seven
# volumes of today it is 0.7 to 1.6 at 64^3, and 0.8 to 1.2 on five bodies at 128^3 (experiments/trust).
UNRESOLVED = 0.03


class Discrepancy(NamedTuple):
    """Normalised residuals and how they follow the line integrals.

    Attributes:
        residual: (V, H, W) in standard deviations of the noise, positive where the volume shows too little.
        root_weights: (V, H, W) by how much it falls when the line integral grows by one unit times mm. Both are 0 where
            a ray says nothing.
    """

    residual: Tensor
    root_weights: Tensor


def discrepancy(
    shown: Tensor,
    projections: Tensor,
    weights: Tensor,
    photons: PhotonCounts | None = None,
    *,
    rays: Tensor | None = None,
    unresolved: Tensor | None = None,
) -> Discrepancy:
    """Compare the projections of a volume with the measured ones.

    With photons the counts are compared with those that the volume predicts: to first order in a change of the volume
    that is the weighted comparison of line integrals, but without the bias of the logarithm of few counts, and with the
    variance that the volume predicts. With weights alone the line integrals are compared.

    Args:
        shown: (V, H, W) projections of the volume.
        projections: (V, H, W) measured.
        weights: (V, H, W) inverse variances of the measured projections.
        photons: what was counted; rays whose weight is 0 are left out all the same.
        rays: (V, H, W) those that count; None is all.
        unresolved: (V, H, W) variance of the line integrals beside the noise, see `unresolved_variance`; None is 0.
    """
    unresolved = (
        torch.zeros((), dtype=shown.dtype, device=shown.device)
        if unresolved is None
        else unresolved
    )
    seen = weights > 0 if rays is None else rays & (weights > 0)
    if photons is not None:
        expected = photons.air * torch.exp(-photons.scale * shown)
        slope = photons.scale * expected
        variance = expected + photons.electronic**2 + slope.square() * unresolved
        residual = expected - photons.counts
    else:
        residual, slope = projections - shown, torch.ones_like(shown)
        variance = 1 / weights + unresolved  # infinite for rays that say nothing
    deviation = variance.clamp_min(torch.finfo(shown.dtype).tiny).sqrt()
    residual, root = residual / deviation, slope / deviation
    return Discrepancy(torch.where(seen, residual, 0.0), torch.where(seen, root, 0.0))


def unresolved_variance(volume: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return how far voxels may be from explaining the line integrals of what they are the averages of.

    Edges inside of voxels and pixels are measured but not resolved. Where a volume changes by d from one voxel to the
    next, the share of a voxel in a line integral is uncertain by about d times its edge, voxels along a ray
    independently: the variance is `UNRESOLVED` times the line integral of d squared times the edge, which is that along
    the axis of the step: how far the edge of an object may lie elsewhere.

    Args:
        volume: (Z, Y, X).
        grid: its voxels.
        scan: geometry of the projections.

    Returns:
        (V, H, W) in the square of the unit times mm.
    """
    steps = torch.zeros_like(volume)
    edge = sum(grid.voxel_mm) / 3
    for axis, (length, along) in enumerate(zip(volume.shape, grid.voxel_mm, strict=True)):
        if length > 2:
            ends = (volume.narrow(axis, first, length - 2) for first in (2, 0))
            step = 0.5 * (next(ends) - next(ends))
            steps.narrow(axis, 1, length - 2).add_(step.square_().mul_(along / edge))
    return UNRESOLVED * edge * project(steps, grid, scan).clamp_min(0)
