"""Simultaneous algebraic reconstruction (SART) with ordered subsets of the views.

Source: A. H. Andersen, A. C. Kak, "Simultaneous algebraic reconstruction technique", Ultrasonic
Imaging 1984; G. Wang, M. Jiang, "Ordered-subset simultaneous algebraic reconstruction techniques",
2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.consistency import Normalisation, normalise, relative_weights
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import backproject, lay_out, project
from diffnr_lightning.solvers.inputs import Progress, check_iterations, start_volume

_MOST_SUBSETS = 40
_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)


class Subset(NamedTuple):
    """One step of an ordered-subset pass.

    Attributes:
        scan: the views of the subset.
        projections: (v, H, W) their measurements.
        ray_weights: (v, H, W) as in `Normalisation.rays`.
        voxel_weights: (Z, Y, X) as in `Normalisation.voxels`, float16 in units of ``voxel_scale``; bfloat16 for
            statistical weights, which make it span more than float16 holds.
        voxel_scale: the largest voxel weight.
        statistical: whether the ray weights are those of the rays' noise, relative to their mean over the scan.
    """

    scan: ScanGeometry
    projections: Tensor
    ray_weights: Tensor
    voxel_weights: Tensor
    voxel_scale: float
    statistical: bool


@torch.no_grad()
def sart(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int = 10,
    subsets: int | None = None,
    relaxation: float = 0.5,
    decay: float = 0.97,
    initial: Tensor | None = None,
    nonnegative: bool = True,
    weights: Tensor | None = None,
    power: float = 0.5,
    progress: Progress | None = None,
) -> Tensor:
    """Update the volume after every subset of views: the same fixed point as SIRT in fewer passes.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        iterations: passes over all views.
        subsets: how many subsets the views are dealt into; None takes one view each, at most 40.
        relaxation: length of the steps of the first pass, in (0, 2).
        decay: factor on the relaxation after every pass; below 1 it averages the noise of the
            views.
        initial: (Z, Y, X) to start from; None starts from zeros.
        nonnegative: set negative voxels to zero after every update.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs them by one over their length inside the grid.
        power: that weights are raised to. 1 is the likelihood of photons alone; less respects that bright rays, too,
            are explained no better than voxels can.
        progress: called with (done, total, text) after every pass.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ValueError: shapes that disagree, non-finite input, or options out of range.
        TypeError: input that is not a tensor of floats.
    """
    check_iterations(iterations, relaxation)
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay is {decay}; a factor in (0, 1] is expected.")
    volume = lay_out(start_volume(projections, grid, scan, initial), grid, scan)
    if weights is not None:
        weights = relative_weights(weights, scan, projections, power)
    parts = ordered_subsets(projections, grid, scan, subsets, weights)
    for done in range(1, iterations + 1):
        misfit = subset_pass(volume, grid, parts, relaxation, nonnegative)
        relaxation *= decay
        if progress is not None:
            progress(done, iterations, f"residual {misfit:.4g}")
    return volume.contiguous()


def ordered_subsets(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    count: int | None,
    weights: Tensor | None = None,
) -> list[Subset]:
    """Deal the views into subsets, neighbours in time as different as possible, with their weights.

    The voxel weights of every subset are kept in two bytes per voxel and subset.

    A voxel that all rays of a subset reach through the same thick part of the object would follow them as readily as
    those of a subset with more light, if every subset were normalised by itself. So with statistical weights a subset
    moves a voxel by no more than its share of what all views know of it.

    Args:
        projections: (V, H, W).
        grid: the voxels.
        scan: the views.
        count: number of subsets; None takes one view each, at most 40.
        weights: (V, H, W) statistical weights of the rays, None for those of SART.

    Raises:
        ValueError: a count outside [1, V], or weights of another shape, negative, not finite or all zero.
    """
    if count is None:
        count = min(len(scan), _MOST_SUBSETS)
    dealt = deal_views(scan, count)
    average = None
    if weights is not None:
        weights = relative_weights(weights, scan, projections)
        average = count * normalise(grid, scan, projections, weights).voxels
    parts = []
    for views in dealt:
        part = scan[views]
        chosen = torch.from_numpy(views).to(projections.device)
        if average is None:
            rays, voxels = normalise(grid, part, projections)
        else:
            rays, voxels = _with_share(weights[chosen], average, grid, part)
        scale = float(voxels.max()) or 1.0
        shares = lay_out(voxels / scale, grid, scan)
        stored = shares.to(torch.float16 if average is None else torch.bfloat16)
        parts.append(
            Subset(part, projections[chosen].contiguous(), rays, stored, scale, average is not None)
        )
    return parts


def _with_share(
    weights: Tensor, average: Tensor, grid: VolumeGrid, scan: ScanGeometry
) -> Normalisation:
    """Return the normalisation of one subset of weighted views.

    Args:
        weights: (v, H, W) of its rays, relative to the mean of all views.
        average: (Z, Y, X) the voxels' normalisation by all views times the number of subsets.
        grid: the voxels.
        scan: the views of the subset.
    """
    curvature = backproject(weights * project(torch.ones_like(average), grid, scan), grid, scan)
    return Normalisation(weights, torch.minimum(average, 1.0 / curvature))


def subset_pass(
    volume: Tensor,
    grid: VolumeGrid,
    parts: Sequence[Subset],
    relaxation: float,
    nonnegative: bool,
) -> float:
    """Update a volume (Z, Y, X), best as `lay_out` makes it, in place with every subset in turn.

    Returns:
        The norm of the residuals, each taken before its own update, in unit times mm; with statistical weights the
        weighted one.
    """
    # On the device, which is waited for once.
    squares = volume.new_zeros((), dtype=torch.float64)
    for part in parts:
        residual = part.projections - project(volume, grid, part.scan)
        weighted = residual * part.ray_weights
        squares += (residual * (weighted if part.statistical else residual)).sum()
        update = backproject(weighted, grid, part.scan, laid_out=True)
        volume.addcmul_(
            update, part.voxel_weights.to(volume.dtype), value=relaxation * part.voxel_scale
        )
        if nonnegative:
            volume.clamp_(min=0.0)
    return float(squares) ** 0.5


def deal_views(scan: ScanGeometry, count: int) -> list[np.ndarray]:
    """Return the views of each of `count` subsets, neighbours in time as different as possible.

    Raises:
        ValueError: a count outside [1, V].
    """
    if not 1 <= count <= len(scan):
        raise ValueError(f"subsets is {count}; a number from 1 to {len(scan)} views is expected.")
    by_angle = np.argsort(np.arctan2(-scan.direction[:, 1], -scan.direction[:, 0]), kind="stable")
    return [np.sort(by_angle[first::count]) for first in golden_order(count)]


def golden_order(count: int) -> list[int]:
    """Return 0 .. count - 1 such that successive numbers lie far apart (golden-ratio steps).

    Every new number falls into a large gap of those before it, as golden-angle acquisition does.
    """
    places = np.mod(np.arange(count) * _GOLDEN, 1.0)
    return np.argsort(places, kind="stable").argsort(kind="stable").tolist()
