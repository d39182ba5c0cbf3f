"""Least squares with total variation by FISTA: the textbook's, with steps for every voxel.

Source: A. Beck, M. Teboulle, "Fast gradient-based algorithms for constrained total variation image denoising and
deblurring problems", IEEE Trans. Image Processing 2009. Deviations: the steps are those of a diagonal bound of the
curvature, and the dual variable of the proximal step goes on from the iteration before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffnr_lightning.consistency import LeastSquares
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.solvers.accelerated import accelerated_descent
from diffnr_lightning.solvers.cgls import conjugate_steps
from diffnr_lightning.solvers.initial import first_volume
from diffnr_lightning.solvers.inputs import (
    Progress,
    check_amounts,
    check_counts,
)
from diffnr_lightning.solvers.primal_dual import ascend, descend, least_of_neighbours
from diffnr_lightning.solvers.total_variation import total_variation

# Iterations of CGLS that leave about the noise, and what voxels do not resolve, unexplained.
_NOISE_STEPS = 12


@torch.no_grad()
def fista_tv(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int = 150,
    inner_iterations: int = 10,
    strength: float = 0.03,
    noise: float | None = None,
    tolerance: float = 1e-4,
    initial: Tensor | None = None,
    weights: Tensor | None = None,
    power: float = 0.5,
    progress: Progress | None = None,
) -> Tensor:
    """Minimise ``1/2 ||A x - b||_W^2 + strength s sqrt(mean(A^T W A 1)) TV(x)`` over x >= 0.

    TV is isotropic and aware of the spacing, see `total_variation`. In contrast to `weighted_tv` all voxels have the
    same weight in it.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        iterations: at most, each a projection and a backprojection.
        inner_iterations: of the proximal step.
        strength: of the total variation, without unit; more smooths more.
        noise: s in unit times mm, what a ray of mean weight may leave unexplained; None takes what some iterations of
            `cgls` leave.
        tolerance: share by which the volume changes in an iteration below which it has converged.
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
    check_amounts(strength=strength, noise=noise or 0.0, tolerance=tolerance)
    volume = first_volume(projections, grid, scan, initial)
    volume.clamp_(min=0.0)
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    curvature = fit.curvature()
    if not curvature.any():  # no ray meets the grid
        return volume
    bound = variation_bound(strength, noise, fit, curvature)
    penalty = _Variation(grid, curvature, bound, inner_iterations)
    return accelerated_descent(
        volume, fit, penalty, iterations=iterations, tolerance=tolerance, progress=progress
    )


def variation_bound(
    strength: float, noise: float | None, fit: LeastSquares, curvature: Tensor
) -> float:
    """Return what the total variation is multiplied by, in unit times mm^2.

    Args:
        strength: without unit.
        noise: in unit times mm; None takes what some iterations of `cgls` leave unexplained.
        fit: the least squares.
        curvature: (Z, Y, X) its bound ``A^T W A 1``.
    """
    if noise is None:
        noise = 0.0
        steps = conjugate_steps(torch.zeros_like(curvature), fit)
        for _, residual in zip(range(_NOISE_STEPS), steps, strict=False):
            noise = fit.unexplained(residual)
    return strength * noise * float(curvature.mean()) ** 0.5


class _Variation:
    """Total variation of volumes that are not negative, with a proximal step in the metric of the curvature."""

    def __init__(self, grid: VolumeGrid, curvature: Tensor, bound: float, iterations: int) -> None:
        self.voxel_mm, self.bound, self.iterations = grid.voxel_mm, bound, iterations
        self.ratios = tuple(min(grid.voxel_mm) / edge for edge in grid.voxel_mm)
        self.lengths = 1.0 / curvature
        self.dual_lengths = least_of_neighbours(curvature) / 12.0
        self.ones = torch.ones_like(curvature)
        self.dual = curvature.new_zeros(3, *grid.shape)

    def step(self, point: Tensor, slope: Tensor) -> Tensor:
        ahead, moved = torch.empty_like(point), torch.empty_like(point)
        lead, inertia = self.dual.clone(), 1.0
        for _ in range(self.iterations):
            moved.copy_(point)
            descend(moved, ahead, slope, lead, self.lengths, self.ratios)
            ascend(lead, moved, self.dual_lengths, self.ones, self.bound, self.ratios)
            grown = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * inertia**2))
            before, self.dual = self.dual, lead
            lead = lead.lerp(before, (1.0 - inertia) / grown)
            inertia = grown
        moved.copy_(point)
        descend(moved, ahead, slope, self.dual, self.lengths, self.ratios)
        return moved

    def value(self, volume: Tensor) -> float:
        return self.bound * float(total_variation(volume, self.voxel_mm, 0.0))
