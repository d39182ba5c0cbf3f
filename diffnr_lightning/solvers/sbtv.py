"""Least squares with total variation by the split Bregman method, which is ADMM.

Source: T. Goldstein, S. Osher, "The split Bregman method for L1-regularized problems", SIAM J. Imaging Sci. 2009.
Deviations: a second split holds the volume above zero; both are weighed by the mean curvature of the data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffnr_lightning.consistency import LeastSquares, conjugate_gradients
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.solvers.fista_tv import variation_bound
from diffnr_lightning.solvers.initial import first_volume
from diffnr_lightning.solvers.inputs import (
    Progress,
    check_amounts,
    check_counts,
)
from diffnr_lightning.solvers.total_variation import differences, differences_adjoint


@torch.no_grad()
def sbtv(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int = 30,
    inner_iterations: int = 5,
    strength: float = 0.03,
    noise: float | None = None,
    isotropic: bool = True,
    coupling: float = 0.005,
    initial: Tensor | None = None,
    weights: Tensor | None = None,
    power: float = 0.5,
    progress: Progress | None = None,
) -> Tensor:
    """Minimise ``1/2 ||A x - b||_W^2 + strength s sqrt(mean(A^T W A 1)) TV(x)`` over x >= 0.

    TV sums the lengths of the differences along the axes, as in `fista_tv`, or, where not `isotropic`, their absolute
    values, which is the weaker of the two on round objects.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        iterations: of the split Bregman method.
        inner_iterations: of conjugate gradients in each, a projection and a backprojection each.
        strength: of the total variation, without unit; more smooths more.
        noise: s in unit times mm, what a ray of mean weight may leave unexplained; None takes what some iterations of
            `cgls` leave.
        isotropic: whether differences along the axes count together; published SBTV mostly lets each count alone.
        coupling: weight of the splits, in units of the mean of ``A^T W A 1``; it changes the speed alone.
        initial: (Z, Y, X) to start from; None starts from `initial_volume`.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs all alike.
        power: that weights are raised to. 1 is the likelihood of photons alone; less respects that bright rays, too,
            are explained no better than voxels can.
        progress: called with (done, total, text) after every iteration.

    Returns:
        (Z, Y, X) in unit, not negative.

    Raises:
        ValueError: shapes that disagree, non-finite input, or options out of range.
        TypeError: input that is not a tensor of floats.
    """
    check_counts(iterations=iterations, inner_iterations=inner_iterations)
    check_amounts(strength=strength, noise=noise or 0.0)
    if not 0.0 < coupling < float("inf"):
        raise ValueError(f"coupling is {coupling}; a positive finite number is expected.")
    volume = first_volume(projections, grid, scan, initial)
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    ratios = tuple(min(grid.voxel_mm) / edge for edge in grid.voxel_mm)
    curvature = fit.curvature()
    stiffness = coupling * float(curvature.mean())
    if stiffness == 0.0:  # no ray meets the grid
        return volume.clamp_(min=0.0)
    threshold = variation_bound(strength, noise, fit, curvature) / stiffness
    scaling = 1.0 / (curvature + 7.0 * stiffness)
    back = fit.pull(projections)

    def normal(x: Tensor) -> Tensor:
        splits = differences_adjoint(differences(x, ratios), ratios).add_(x)
        return fit.pull(fit.shown(x)).add_(splits, alpha=stiffness)

    steep, steep_dual = differences(volume, ratios), volume.new_zeros(3, *grid.shape)
    positive, positive_dual = volume.clamp(min=0.0), torch.zeros_like(volume)
    for done in range(1, iterations + 1):
        splits = differences_adjoint(steep - steep_dual, ratios).add_(positive - positive_dual)
        volume = conjugate_gradients(
            normal,
            back.add(splits, alpha=stiffness),
            volume,
            iterations=inner_iterations,
            scaling=scaling,
        )
        steep_dual += differences(volume, ratios)
        steep = _shrunk(steep_dual, threshold, isotropic)
        steep_dual -= steep
        positive_dual += volume
        positive = positive_dual.clamp(min=0.0)
        positive_dual -= positive
        if progress is not None:
            residual = fit.shown(volume) - projections
            progress(done, iterations, f"residual {float(residual.norm()):.4g}")
    return positive


def _shrunk(vectors: Tensor, threshold: float, isotropic: bool) -> Tensor:
    """Return vectors (3, Z, Y, X) that are shorter by a threshold, each as a whole or in every component."""
    lengths = vectors.norm(dim=0) if isotropic else vectors.abs()
    shares = (1.0 - threshold / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)).clamp_(min=0.0)
    return vectors * shares
