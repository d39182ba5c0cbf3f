"""What the projections say against a volume, as a volume, and how much of that may be noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.consistency import smoothed
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers.fdk import filtered_views

# Rays through the object are those of at least this share of the largest line integral.
_THROUGH = 0.05
# The median square of normal numbers.
_MEDIAN_SQUARE = 0.4549
# Rays whose variance, noise and error of the volume together, is this many times that of an ordinary ray are shrunk
# before the filter spreads them over their neighbours.
_EXTRAORDINARY = 4.0
# Standard deviation, in voxels, of what smooths the square of one draw of noise.
_SMOOTHING = 4.0


class ResidualEvidence(NamedTuple):
    """The residual of a volume and what is known of its noise.

    Attributes:
        residual: (Z, Y, X) in the unit of the volume, of either sign; None where it is not wanted or cannot be had.
        noise: (Z, Y, X) standard deviation of the noise in it, smooth; None where the noise of the rays is not known.
    """

    residual: Tensor | None
    noise: Tensor | None


def backprojected_residual(
    volume: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor | None = None,
) -> Tensor:
    """Filtered backprojection of what the projections of a volume lack of the measured ones.

    With all views of the circle and no noise it is the error of the volume. With few views it is that
    error plus streaks and noise: edges that a smooth representation has lost stand out of it.

    With weights w, every voxel gets the mean over the views of the filtered residual with the weights
    W = 1 / (1 / w + t^2), t^2 the variance of the residual of rays through the object (from the median
    of its square). Rays whose 1 / w + t^2 is far above that of ordinary ones are shrunk before the
    filter. Equal weights are no weights.

    Args:
        volume: (Z, Y, X).
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volume.
        scan: a scan near a circle; see `circular.LARGEST_RESIDUAL`.
        weights: (V, H, W) one over the variance of the noise of every ray, in (unit mm)^-2, 0 for rays that say
            nothing; None takes all rays alike.

    Returns:
        (Z, Y, X) in the unit of the volume, of either sign.

    Raises:
        ValueError: a scan that is not near a circle, wrong shapes, or weights that are negative, not finite or
            nought everywhere.
    """
    lines = project(volume, grid, scan)
    missing = projections - lines
    return _averaging(missing, lines, grid, scan, weights)(missing)


def residual_evidence(
    volume: Tensor,
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor | None = None,
) -> ResidualEvidence:
    """Return the backprojected residual and, where weights tell the noise of the rays, that of every voxel.

    The noise is that of one draw from the variances of the rays, which takes the way of the residual; its square is
    smoothed, so that the map is exact to some per cent.

    Args:
        volume: (Z, Y, X).
        projections: (V, H, W) measured, line integrals of the same quantity in mm.
        grid: voxels of the volume.
        scan: a scan near a circle; see `circular.LARGEST_RESIDUAL`.
        weights: as of `backprojected_residual`.

    Raises:
        ValueError: what `backprojected_residual` refuses.
    """
    lines = project(volume, grid, scan)
    missing = projections - lines
    averaged = _averaging(missing, lines, grid, scan, weights)
    if weights is None:
        return ResidualEvidence(averaged(missing), None)
    draw = torch.randn(missing.shape, generator=torch.Generator().manual_seed(0)).to(missing)
    noise = torch.where(weights > 0, draw * weights.to(missing).rsqrt(), 0.0)
    return ResidualEvidence(
        averaged(missing), smoothed(averaged(noise).square(), _SMOOTHING, (0, 1, 2)).sqrt()
    )


def _averaging(
    missing: Tensor,
    lines: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    weights: Tensor | None,
) -> Callable[[Tensor], Tensor]:
    """Return what makes a volume of rays (V, H, W), as the residual `missing` of projections `lines` asks for."""
    # A residual may be of any sign at the edge of the detector: nothing that a body would continue.
    steps = filtered_views(missing, scan, extend=False)

    def in_order(rays: Tensor) -> Tensor:
        return steps.views.in_order(rays, scan, "constant")

    if weights is None:
        return lambda rays: steps.backprojected(steps.filtered(in_order(rays)), grid)
    weights = _checked(weights, missing)
    through = (lines >= _THROUGH * lines.amax()) & (weights > 0)
    through = through if through.any() else weights > 0
    error = missing[through].square().median() / _MEDIAN_SQUARE
    ordinary = error + 1.0 / weights[through].median()
    # 1 / (1 / w + t^2), which is 0 where w is.
    trusted = weights / (1.0 + error * weights)
    shrinking = (_EXTRAORDINARY * ordinary * trusted).clamp(max=1.0)
    trusted = steps.views.in_order(trusted / trusted.amax(), scan, "replicate")
    shares = torch.tensor(steps.shares).to(missing)[:, None].expand_as(trusted)
    mean = steps.backprojected(trusted * shares, grid) / steps.backprojected(
        shares.contiguous(), grid
    )
    inverse = torch.where(mean > 0, 1.0 / mean, 0.0)

    def averaged(rays: Tensor) -> Tensor:
        filtered = steps.filtered(in_order(shrinking * rays))
        return steps.backprojected(trusted * filtered, grid) * inverse

    return averaged


def _checked(weights: Tensor, missing: Tensor) -> Tensor:
    """Return the weights on the device and in the type of the residual; refuse what weighs nothing."""
    if weights.shape != missing.shape:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}; {tuple(missing.shape)} (V, H, W) is expected."
        )
    if not (torch.isfinite(weights).all() and weights.amin() >= 0 and weights.amax() > 0):
        raise ValueError(
            f"weights lie from {float(weights.min())} to {float(weights.max())}; finite ones of at least 0, and one "
            "above it, are expected."
        )
    return weights.to(missing)
