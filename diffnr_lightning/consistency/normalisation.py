"""Row and column sums of the projection operator, which scale the steps of SIRT and SART."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors.slabs import Slabs, Whole

# Rays that graze a corner of the grid, and voxels that only such rays meet, have sums near zero;
# their reciprocals would amplify noise without bound. Below this fraction of the largest sum they
# count as not measured.
_GRAZING = 1e-3


class Normalisation(NamedTuple):
    """What the residual of every ray and the step of every voxel are multiplied by.

    Attributes:
        rays: (V, H, W) one over the length of every ray inside the grid, 1/mm, 0 where it misses; or the statistical
            weights of the rays, of mean 1.
        voxels: (Z, Y, X) one over the sum of every voxel's weights; 0 where no ray meets it.
    """

    rays: Tensor
    voxels: Tensor


def normalise(
    grid: VolumeGrid,
    scan: ScanGeometry,
    like: Tensor,
    weights: Tensor | None = None,
    slabs: Slabs | None = None,
) -> Normalisation:
    """Return the normalisation of a scan, in the dtype and on the device of ``like``.

    With weights W the steps ``x <- x + C A^T W (b - A x)`` with ``C = 1 / A^T W A 1`` go down to the weighted least
    squares, whatever the weights: C bounds their curvature. Without them W is one over the length of every ray, which
    SIRT and SART take.

    Args:
        grid: the voxels.
        scan: all views of the scan, or a subset of them.
        like: any tensor of the reconstruction.
        weights: (V, H, W) statistical weights of the rays, not negative, of which only the ratios matter.
        slabs: of the grid, where this process has one of them; the voxels of the normalisation are that one's.

    Raises:
        ValueError: weights of another shape, or that are negative or not finite, or all zero.

    Source: H. Erdogan, J. A. Fessler, "Ordered subsets algorithms for transmission tomography", Phys. Med. Biol. 1999,
    eq. 18: separable quadratic surrogates.
    """
    pair = slabs or Whole(grid, scan)
    lengths = pair.project(like.new_ones(pair.grid.shape))
    sums = pair.backproject(torch.ones_like(lengths))
    if weights is None:
        return Normalisation(
            _reciprocal(lengths, lengths.max()), _reciprocal(sums, pair.largest(sums))
        )
    rays = relative_weights(weights, scan, like)
    curvature = pair.backproject(rays * lengths)
    # Voxels behind starved rays alone have a small curvature and are measured all the same: only those that no ray
    # meets properly are left out.
    curvature[sums <= _GRAZING * pair.largest(sums)] = 0.0
    return Normalisation(rays, torch.where(curvature > 0, 1.0 / curvature, 0.0))


def checked_weights(weights: Tensor, scan: ScanGeometry, like: Tensor) -> Tensor:
    """Return weights (V, H, W) in the dtype and on the device of ``like``; all of them may be zero.

    Args:
        weights: (V, H, W).
        scan: the views that they belong to.
        like: any tensor of the reconstruction.

    Raises:
        ValueError: weights of another shape, or that are negative or not finite.
    """
    _check_shape(weights, scan)
    least, largest = float(weights.min()), float(weights.max())
    if not 0.0 <= least <= largest < float("inf"):
        raise ValueError(
            f"weights lie from {least:.4g} to {largest:.4g}; finite numbers of at least 0 are expected."
        )
    return weights.to(like)


def relative_weights(
    weights: Tensor, scan: ScanGeometry, like: Tensor, power: float = 1.0
) -> Tensor:
    """Return statistical weights (V, H, W) to a power, of mean 1, in the dtype and on the device of ``like``.

    Args:
        weights: (V, H, W) not negative.
        scan: the views that they belong to.
        like: any tensor of the reconstruction.
        power: that weights are raised to; rays of weight 0 keep it at any power.

    Raises:
        ValueError: weights of another shape, or that are negative or not finite, or all zero; a negative power.
    """
    _check_shape(weights, scan)
    if not 0.0 <= power < float("inf"):
        raise ValueError(f"power is {power}; a finite number of at least 0 is expected.")
    mean, least = float(weights.double().mean()), float(weights.min())
    if not (least >= 0.0 and 0.0 < mean < float("inf")):
        raise ValueError(
            f"weights has a least value of {least:.4g} and a mean of {mean:.4g}; finite numbers of at least 0 are "
            "expected that are not all zero."
        )
    relative = weights.double() / mean
    if power != 1.0:
        relative = torch.where(relative > 0, relative**power, 0.0)
        relative /= relative.mean()
    return relative.to(like)


def noise_of_mean_weight(weights: Tensor, power: float = 0.5) -> float:
    """Return the standard deviation of a ray whose weight, raised to a power, is the mean of all.

    Args:
        weights: (V, H, W) inverse variances; 0 for rays that say nothing.
        power: above 0.

    Raises:
        ValueError: a power with which all rays weigh alike, whatever their noise.
    """
    if not power > 0:
        raise ValueError(
            f"power is {power}; a positive number is expected where the noise of rays is told."
        )
    raised = torch.where(weights > 0, weights.double() ** power, 0.0).mean()
    return float(raised ** (-0.5 / power))


def _check_shape(weights: Tensor, scan: ScanGeometry) -> None:
    expected = (len(scan), *scan.detector_shape)
    if tuple(weights.shape) != expected:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}; {expected} (V, H, W) is expected, one for every ray."
        )


def _reciprocal(sums: Tensor, largest: Tensor) -> Tensor:
    seen = sums > _GRAZING * largest
    return torch.where(seen, 1.0 / sums.clamp_min(torch.finfo(sums.dtype).tiny), 0.0)
