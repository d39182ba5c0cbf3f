"""Accelerated descent of least squares with a penalty, started again wherever the momentum overshoots.

Source: A. Beck, M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", SIAM J.
Imaging Sci. 2009; B. O'Donoghue, E. Candes, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math.
2015, section 3.2 (restart by the function's value). Deviation: a step that would raise the value is not made.
"""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor

from diffnr_lightning.consistency import LeastSquares
from diffnr_lightning.solvers.inputs import Progress

# Steps without momentum in a row that do not lower the value any more, after which arithmetic allows no more.
_PATIENCE = 3


class Penalty(Protocol):
    """What is added to the least squares."""

    def step(self, point: Tensor, slope: Tensor) -> Tensor:
        """Return the volume (Z, Y, X) that lowers a bound of the whole cost which touches it at a point.

        Args:
            point: (Z, Y, X), not changed.
            slope: (Z, Y, X) of the least squares there.
        """

    def value(self, volume: Tensor) -> float:
        """Return the penalty of a volume."""


def accelerated_descent(
    volume: Tensor,
    fit: LeastSquares,
    penalty: Penalty,
    *,
    iterations: int,
    tolerance: float,
    progress: Progress | None,
) -> Tensor:
    """Minimise the sum of least squares and a penalty.

    Args:
        volume: (Z, Y, X) to start from.
        fit: the least squares.
        penalty: what is added to it.
        iterations: at most, a projection and a backprojection each.
        tolerance: the sum of absolute changes as a share of that of the volume, below which it has converged.
        progress: called with (done, total, text) after every iteration.

    Returns:
        (Z, Y, X).
    """
    shown = fit.shown(volume)
    cost = fit.cost(shown - fit.projections) + penalty.value(volume)
    point, point_shown = volume, shown
    inertia, failures = 1.0, 0
    for done in range(1, iterations + 1):
        moved = penalty.step(point, fit.pull(point_shown - fit.projections))
        moved_shown = fit.shown(moved)
        residual = moved_shown - fit.projections
        moved_cost = fit.cost(residual) + penalty.value(moved)
        if progress is not None:
            progress(done, iterations, f"residual {float(residual.norm()):.4g}")
        if moved_cost > cost:
            failures = failures + 1 if inertia == 1.0 else 0
            if failures == _PATIENCE:
                break
            point, point_shown, inertia = volume, shown, 1.0
            continue
        grown = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * inertia**2))
        share = (inertia - 1.0) / grown
        inertia, failures, cost = grown, 0, moved_cost
        change = float((moved - volume).abs().sum())
        point = moved.lerp(volume, -share)
        point_shown = moved_shown.lerp(shown, -share)
        volume, shown = moved, moved_shown
        if change <= tolerance * float(volume.abs().sum()):
            break
    return volume
