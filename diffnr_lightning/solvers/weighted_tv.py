"""Weighted least squares with total variation, whose strength follows what the volume leaves unexplained.

Source: A. Chambolle, M. J. Ehrhardt, P. Richtarik, C.-B. Schoenlieb, "Stochastic primal-dual hybrid gradient algorithm
with arbitrary sampling and imaging applications", SIAM J. Optim. 2018, algorithm 1, with diagonal steps as in
T. Pock, A. Chambolle, "Diagonal preconditioning for first order primal-dual algorithms in convex optimization", ICCV
2011. Deviations: subsets take turns in golden order instead of being drawn, and the dual variable of the total
variation is updated with every subset, by the extrapolated volume. Dual steps shrink as in its DA-SPDHG, which
presumes that all dual variables are strongly convex: here the data's are, and steps shrink half as fast, to a limit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.consistency import relative_weights
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import backproject, lay_out, project
from diffnr_lightning.solvers.initial import first_volume
from diffnr_lightning.solvers.inputs import (
    Progress,
    check_amounts,
    check_counts,
)
from diffnr_lightning.solvers.primal_dual import (
    Ratios,
    ascend,
    descend,
    least_of_neighbours,
    vectors_like,
)
from diffnr_lightning.solvers.sart import deal_views

# More subsets converge in fewer passes, which take longer: 24 need four fifths of the passes and 1.2 times the time.
_MOST_SUBSETS = 12
# Length of the dual steps of the data in units of the rays' weights, in the first pass and the least of the later ones.
_FIRST_STEP, _LEAST_STEP = 0.4, 0.08
# Share of the total variation in the inverse step of the volume. It and the dual steps change the speed alone; it is
# the fastest of 0.1 to 10 on heads, chests, limbs and specimens of 64^3 voxels from 12 and 24 views, and 12 subsets
# with these steps come as close to the minimum in 30 passes as 24 with steps of 0.12 in 45 (development set, 128^3).
_VARIATION_SHARE = 0.2
# Voxels that hardly any ray meets are moved by their neighbours as if they had this share of the largest curvature.
_LEAST_CURVATURE = 1e-4


class _Penalty(NamedTuple):
    """Total variation of the difference from a volume (Z, Y, X), None for zero, with its dual variable (3, Z, Y, X)."""

    origin: Tensor | None
    share: float
    dual: Tensor


class _Subset(NamedTuple):
    """Views that make one step: their scan, projections, weights and dual variable (v, H, W)."""

    scan: ScanGeometry
    projections: Tensor
    weights: Tensor
    dual: Tensor


@torch.no_grad()
def weighted_tv(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    weights: Tensor | None = None,
    power: float = 0.5,
    strength: float = 0.11,
    noise: float | None = None,
    iterations: int = 30,
    subsets: int | None = None,
    initial: Tensor | None = None,
    prior_image: Tensor | None = None,
    prior_share: float = 0.5,
    progress: Progress | None = None,
) -> Tensor:
    """Minimise ``1/2 ||A x - b||_W^2 + strength s sum_j sqrt(c_j) |grad x|_j`` over x >= 0.

    W are the rays' weights to a power, of mean 1, and ``c = A^T W A 1`` is what the rays know of a voxel, so that one
    over its root is a voxel's noise but for s, that of a ray of weight 1: thick parts are smoothed as much as others
    in proportion to their noise, and the strength has no unit.

    s is the least that a pass has left unexplained so far: noise, and what voxels cannot represent, which is
    many times the noise behind bone and good light. Chi-square says too little for this: of true volumes of 128^3
    voxels it is 1 to 18, by object and light.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs all alike.
        power: that weights are raised to. 1 is the likelihood of photons alone; less respects that bright rays, too,
            are explained no better than voxels can.
        strength: of the total variation; more smooths more.
        noise: s in unit times mm, where it is known better than from the residual.
        iterations: passes over all views.
        subsets: how many subsets the views are dealt into, which make one step each; None takes at most 12, of equal
            size where that can be.
        initial: (Z, Y, X) to start from; None starts from `initial_volume`.
        prior_image: (Z, Y, X) that the volume is to be like: the total variation of the difference from it takes the
            place of a share of that of the volume. None has no such volume.
        prior_share: of it, in [0, 1].
        progress: called with (done, total, text) after every pass.

    Returns:
        (Z, Y, X) in unit, not negative.

    Raises:
        ValueError: shapes that disagree, non-finite input, or options out of range.
        TypeError: input that is not a tensor of floats.

    Source: J. A. Fessler, W. L. Rogers, "Spatial resolution properties of penalized-likelihood image reconstruction",
    IEEE Trans. Image Processing 1996: penalties in proportion to what the rays know of a voxel. Deviation: its root, as
    total variation grows with the noise and not with its square. G.-H. Chen, J. Tang, S. Leng, "Prior image constrained
    compressed sensing (PICCS)", Med. Phys. 2008, for `prior_image`.
    """
    check_counts(iterations=iterations)
    check_amounts(strength=strength, noise=noise or 0.0)
    if not 0 <= prior_share <= 1:
        raise ValueError(f"prior_share is {prior_share}; a share in [0, 1] is expected.")
    if prior_image is not None and prior_image.shape != grid.shape:
        raise ValueError(
            f"prior_image has shape {tuple(prior_image.shape)}; that of the grid, {tuple(grid.shape)}, is expected."
        )
    if prior_image is not None and not torch.isfinite(prior_image).all():
        raise ValueError("prior_image holds NaN or infinite numbers; mask or repair them first.")
    volume = lay_out(first_volume(projections, grid, scan, initial), grid, scan)
    volume.clamp_(min=0.0)
    known = torch.ones_like(projections)
    if weights is not None:
        known = relative_weights(weights, scan, projections, power)
    parts = _deal(projections, scan, known, subsets)
    count = len(parts)
    certainty, largest = _curvatures(volume, grid, parts)
    if not certainty.any():  # no ray meets the grid
        return volume.contiguous()
    data_step = _FIRST_STEP
    steepest = data_step * count * largest
    if prior_image is not None:
        prior_image = lay_out(prior_image, grid, scan)
    penalties = _penalties(volume, prior_image, prior_share)
    volume_step = 1.0 / ((1.0 + len(penalties) * _VARIATION_SHARE) * steepest)
    dual_step = _VARIATION_SHARE / 12.0 * least_of_neighbours(steepest)
    bound = strength * certainty.sqrt()
    ratios: Ratios = tuple(min(grid.voxel_mm) / edge for edge in grid.voxel_mm)
    ahead, slope, drift = (torch.zeros_like(volume) for _ in range(3))
    # The first pass goes without total variation where nothing is known of the noise yet.
    scale, least = noise or 0.0, math.inf
    for done in range(1, iterations + 1):
        # On the device, which is waited for once.
        squares = volume.new_zeros((), dtype=torch.float64)
        for part in parts:
            dual = penalties[0].dual if len(penalties) == 1 else sum(p.dual for p in penalties)
            descend(volume, ahead, drift, dual, volume_step, ratios)
            for penalty in penalties:
                shown = ahead if penalty.origin is None else ahead - penalty.origin
                ascend(penalty.dual, shown, dual_step, bound, penalty.share * scale, ratios)
            residual = project(volume, grid, part.scan) - part.projections
            force = part.weights * residual
            squares += (force * residual).sum()
            change = (force - part.dual) * (data_step / (1.0 + data_step))
            part.dual.add_(change)
            moved = backproject(change, grid, part.scan, laid_out=True)
            slope.add_(moved)
            torch.add(slope, moved, alpha=count, out=drift)
        left = (float(squares) / projections.numel()) ** 0.5
        # Smoothing by the residual that smoothing has left would feed itself.
        least = min(least, left)
        scale = least if noise is None else noise
        shorter = max(_LEAST_STEP, data_step / math.sqrt(1.0 + data_step)) / data_step
        data_step *= shorter
        dual_step *= shorter
        volume_step /= shorter
        if progress is not None:
            progress(done, iterations, f"residual {left:.4g}")
    return volume.contiguous()


def _penalties(volume: Tensor, prior_image: Tensor | None, prior_share: float) -> list[_Penalty]:
    """Return those of the volume itself and of its difference from a prior image that have a share."""
    shares = [(None, 1.0)]
    if prior_image is not None:
        shares = [(None, 1.0 - prior_share), (prior_image, prior_share)]
    return [_Penalty(origin, share, vectors_like(volume)) for origin, share in shares if share > 0]


def _deal(
    projections: Tensor, scan: ScanGeometry, weights: Tensor, count: int | None
) -> list[_Subset]:
    """Deal the views into subsets, neighbours in time as different as possible.

    Raises:
        ValueError: a count outside [1, V].
    """
    if count is None:
        count = len(scan) // math.ceil(len(scan) / _MOST_SUBSETS)
    parts = []
    for views in deal_views(scan, count):
        chosen = torch.from_numpy(views).to(projections.device)
        weighed = weights[chosen].contiguous()
        parts.append(
            _Subset(
                scan[views], projections[chosen].contiguous(), weighed, torch.zeros_like(weighed)
            )
        )
    return parts


def _curvatures(like: Tensor, grid: VolumeGrid, parts: list[_Subset]) -> tuple[Tensor, Tensor]:
    """Return (Z, Y, X) ``A^T W A 1`` of all subsets together and of the one where it is largest.

    Both are positive unless no ray meets the grid.
    """
    total, largest = torch.zeros_like(like), torch.zeros_like(like)
    ones = torch.ones_like(like)
    for part in parts:
        known = part.weights * project(ones, grid, part.scan)
        curvature = backproject(known, grid, part.scan, laid_out=True)
        total += curvature
        torch.maximum(largest, curvature, out=largest)
    return tuple(c.clamp_(min=_LEAST_CURVATURE * float(c.max())) for c in (total, largest))
