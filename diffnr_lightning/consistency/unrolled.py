"""Data steps that gradients pass through: what samplers adapt their denoiser by."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from diffnr_lightning.consistency.least_squares import LeastSquares


class FittedEstimate(NamedTuple):
    """An estimate after some conjugate gradients.

    Attributes:
        volume: (Z, Y, X) in unit.
        residual: (V, H, W) ``b - A x`` of it, in unit times mm.
    """

    volume: Tensor
    residual: Tensor


def unrolled_fit(
    fit: LeastSquares,
    estimate: Tensor,
    *,
    scale: float,
    iterations: int,
    proximity: float = 0.0,
) -> FittedEstimate:
    """Bring an estimate to the projections by a few conjugate gradients, differentiably.

    What is minimised is ``scale / 2 ||A x - b||_W^2 + proximity / 2 ||x - estimate||^2``, as in a `DataStep` without
    coupling.

    Args:
        fit: the least squares.
        estimate: (Z, Y, X) in unit, from which they start.
        scale: one over the largest eigenvalue of ``A^T W A``.
        iterations: of conjugate gradients, a projection and a backprojection each; 0 takes the estimate as it is.
        proximity: see above.

    Returns:
        Volume and residual, both with gradients to the estimate. The step lengths count as constants in them. As these
        minimise the data term over the same directions, its gradient is exact without proximity, and otherwise misses a
        share of the order of the proximity.

    Source: M. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems", 1952, for least
    squares (CGLS).
    """
    volume, residual = estimate, fit.projections - fit.shown(estimate)
    direction, energy = None, 1.0
    for _ in range(iterations):
        steepest = scale * fit.pull(residual)
        if proximity > 0:
            steepest = steepest + proximity * (estimate - volume)
        before, energy = energy, _squares(steepest)
        if energy == 0:
            break
        direction = steepest if direction is None else steepest + energy / before * direction
        image = fit.shown(direction)
        curvature = scale * fit.squares(image.detach()) + proximity * _squares(direction)
        if curvature <= 0:  # what is left lies where no ray passes
            break
        volume = volume + energy / curvature * direction
        residual = residual - energy / curvature * image
    return FittedEstimate(volume, residual)


def _squares(array: Tensor) -> float:
    return float(array.detach().double().square().sum())
