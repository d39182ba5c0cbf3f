"""Conjugate gradients on the normal equations (CGLS), stopped when the noise would be fitted.

Source: M. Hestenes, E. Stiefel, 1952; A. Bjorck, "Numerical methods for least squares problems", SIAM 1996, algorithm
7.4.1; stopped by V. Morozov's discrepancy principle.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diffnr_lightning.consistency import LeastSquares, discrepancy, unresolved_variance
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.solvers.inputs import Progress, check_counts, start_volume


@torch.no_grad()
def cgls(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    iterations: int = 30,
    level: float = 1.0,
    initial: Tensor | None = None,
    nonnegative: bool = True,
    weights: Tensor | None = None,
    photons: PhotonCounts | None = None,
    power: float = 0.5,
    progress: Progress | None = None,
) -> Tensor:
    """Minimise ``||A x - b||_W^2`` over the Krylov space of some iterations.

    The iterates know no bounds: where `nonnegative`, negative voxels of the last one are set to zero.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: the views, in any poses.
        iterations: at most.
        level: with weights the iterations end when the mean square of the residuals, in standard deviations of noise
            and of what voxels do not resolve, is not above it. 0 makes all iterations. Without weights all are made.
        initial: (Z, Y, X) to start from; None starts from zeros.
        nonnegative: set negative voxels to zero at the end.
        weights: (V, H, W) one over the variances of the line integrals, such as `PhotonCounts.weights()`. The ratios
            weigh the rays, the values stop the iterations. None weighs all alike.
        photons: counts, with which the residuals behind thick objects are not biased.
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
    if not 0.0 <= level < float("inf"):
        raise ValueError(f"level is {level}; a finite number of at least 0 is expected.")
    volume = start_volume(projections, grid, scan, initial)
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    for done, residual in enumerate(conjugate_steps(volume, fit), start=1):
        if progress is not None:
            progress(done, iterations, f"residual {float(residual.norm()):.4g}")
        if done == iterations:
            break
        if weights is not None and level > 0:
            left = discrepancy(
                projections - residual,
                projections,
                weights,
                photons,
                unresolved=unresolved_variance(volume, grid, scan),
            ).residual
            if float(left.square().sum()) <= level * float((weights > 0).sum()):
                break
    return volume.clamp_(min=0.0) if nonnegative else volume


def conjugate_steps(volume: Tensor, fit: LeastSquares) -> Iterator[Tensor]:
    """Make one iteration of CGLS after the other, in place, until nothing is left to explain.

    Args:
        volume: (Z, Y, X) to start from, which is overwritten.
        fit: what is minimised.

    Yields:
        (V, H, W) what the volume leaves unexplained, ``b - A x``; the next iteration overwrites it.
    """
    residual = fit.projections - fit.shown(volume)
    slope = fit.pull(residual)
    direction = slope.clone()
    energy = float(slope.double().square().sum())
    while energy > 0:
        shown = fit.shown(direction)
        squares = fit.squares(shown)
        if squares == 0:
            return
        volume.add_(direction, alpha=energy / squares)
        residual.sub_(shown, alpha=energy / squares)
        yield residual
        slope = fit.pull(residual)
        before, energy = energy, float(slope.double().square().sum())
        direction.mul_(energy / before).add_(slope)
