"""Model-based iterative reconstruction (MBIR): weighted least squares with the qGGMRF prior.

Source: J.-B. Thibault, K. Sauer, C. Bouman, J. Hsieh, Med. Phys. 2007; separable bounds of the whole cost as in
H. Erdogan, J. A. Fessler, Phys. Med. Biol. 1999, and momentum as in D. Kim, S. Ramani, J. A. Fessler, "Combining
ordered subsets and momentum for accelerated X-ray CT image reconstruction", IEEE TMI 2015. Deviation: one subset, so
that the minimum is reached.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffnr_lightning.consistency import LeastSquares
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.solvers.accelerated import accelerated_descent
from diffnr_lightning.solvers.initial import first_volume
from diffnr_lightning.solvers.inputs import (
    Progress,
    check_amounts,
    check_counts,
)
from diffnr_lightning.solvers.qggmrf import QGGMRF, automatic_sigmas


@torch.no_grad()
def mbir(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int = 100,
    sharpness: float = 0.5,
    snr_db: float = 30.0,
    sigma_y: float | None = None,
    sigma_x: float | None = None,
    p: float = 2.0,
    q: float = 1.2,
    corner: float = 1.0,
    tolerance: float = 5e-4,
    nonnegative: bool = True,
    initial: Tensor | None = None,
    weights: Tensor | None = None,
    power: float = 0.5,
    progress: Progress | None = None,
) -> Tensor:
    """Minimise ``||A x - b||_W^2 / (2 sigma_y^2)`` plus the prior of `QGGMRF`.

    Scales are chosen as in mbirjax, see `automatic_sigmas`. In contrast to it the volume is not negative and reaches
    into the corners of the grid, and what is minimised is minimised further.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        iterations: at most, each a projection and a backprojection.
        sharpness: sigma_x doubles with every 1; more smooths less. The default of mbirjax is 1.
        snr_db: assumed signal to noise of the projections; more believes them more.
        sigma_y: noise of a ray of mean weight in unit times mm, instead of that by `snr_db`.
        sigma_x: of differences between neighbours in unit, instead of that by `sharpness`.
        p: power of small differences in the prior, in [1, 2].
        q: power of large ones, in [1, p].
        corner: T, where large differences begin, in sigma_x.
        tolerance: share by which the volume changes in an iteration below which it has converged.
        nonnegative: whether voxels stay above zero.
        initial: (Z, Y, X) to start from; None starts from `initial_volume`.
        weights: (V, H, W) statistical weights of the rays, such as `PhotonCounts.weights()`; only their ratios matter.
            None weighs all alike.
        power: that weights are raised to. 1 is the likelihood of photons alone; less respects that bright rays, too,
            are explained no better than voxels can.
        progress: called with (done, total, text) after every iteration.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ValueError: shapes that disagree, non-finite input, or options out of range.
        TypeError: input that is not a tensor of floats.
    """
    check_counts(iterations=iterations)
    check_amounts(tolerance=tolerance)
    if not 1.0 <= q <= p <= 2.0:
        raise ValueError(f"p is {p} and q is {q}; 1 <= q <= p <= 2 is expected.")
    volume = first_volume(projections, grid, scan, initial)
    if nonnegative:
        volume.clamp_(min=0.0)
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    scales = automatic_sigmas(projections, grid, scan, fit.weights, snr_db, sharpness)
    sigma_y = scales[0] if sigma_y is None else sigma_y
    sigma_x = scales[1] if sigma_x is None else sigma_x
    for name, value in (("sigma_y", sigma_y), ("sigma_x", sigma_x), ("corner", corner)):
        if not 0.0 < value < float("inf"):
            raise ValueError(
                f"{name} is {value}; a positive finite number is expected (0 where the projections are 0 everywhere)."
            )
    ratios = tuple(min(grid.voxel_mm) / edge for edge in grid.voxel_mm)
    prior = QGGMRF(sigma_x, p, q, corner, ratios)
    penalty = _Smoothness(prior, sigma_y**2, fit.curvature(), nonnegative)
    return accelerated_descent(
        volume, fit, penalty, iterations=iterations, tolerance=tolerance, progress=progress
    )


class _Smoothness:
    """The prior times the variance of the rays, as a penalty of the least squares."""

    def __init__(
        self, prior: QGGMRF, variance: float, curvature: Tensor, nonnegative: bool
    ) -> None:
        self.prior, self.variance, self.curvature = prior, variance, curvature
        self.least = 0.0 if nonnegative else None

    def step(self, point: Tensor, slope: Tensor) -> Tensor:
        own_slope, own_curvature = self.prior.slope_and_curvature(point)
        own_slope.mul_(self.variance).add_(slope)
        own_curvature.mul_(self.variance).add_(self.curvature)
        moved = point - own_slope.div_(own_curvature)
        return moved if self.least is None else moved.clamp_(min=self.least)

    def value(self, volume: Tensor) -> float:
        return self.variance * self.prior.value(volume)
