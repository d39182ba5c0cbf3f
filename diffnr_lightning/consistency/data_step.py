"""The step by which samplers bring an estimate of a prior to agree with the projections."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from diffnr_lightning.consistency.conjugate_gradients import (
    conjugate_gradients,
    conjugate_gradients_of_slices,
)
from diffnr_lightning.consistency.least_squares import LeastSquares

# Residuals below this share of the right side are rounding, along which nothing is seen and steps are of any length.
_ROUNDING = 1e-6
# Of a voxel, in two slices: less of a ray is rounding too.
_SHARED = 1e-3


class DataStep:
    """Minimise ``||A x - b||_W^2 / (2 L) + strength |Dz x|_1 + proximity / 2 ||x - estimate||^2`` by a few iterations.

    L is the largest eigenvalue of ``A^T W A``, so that coupling and proximity mean the same for all scans. Every call
    is one sweep of ADMM, of which `steep` and `dual` go on to the next call; its linear system is solved by conjugate
    gradients that start from the estimate and end early, which keeps what the projections do not show.

    Args:
        fit: the least squares.
        iterations: of conjugate gradients, a projection and a backprojection each.
        coupling: weight of the split of the differences between slices; 0 leaves slices alone, and a single one is
            alone whatever it is.
        threshold: differences between slices that the total variation takes away, strength over coupling.
        slicewise: solve each slice by steps of its own, from its own rows; parallel beams alone see slices so.

    Raises:
        ValueError: slices that are to be solved alone, but are coupled or share rays.

    Attributes:
        steep: (Z - 1, Y, X) differences between slices, shrunk; empty without coupling.
        dual: scaled dual variable of the split, likewise.

    Source: H. Chung, S. Lee, J. C. Ye, "Decomposed diffusion sampler for accelerating large-scale inverse problems",
    ICLR 2024. Deviations: the backprojection is the exact adjoint and is divided by L (a
    coupling of 0.025 is their rho of 10), and the first slice is no neighbour of the last one.
    """

    def __init__(
        self,
        fit: LeastSquares,
        *,
        iterations: int,
        coupling: float = 0.0,
        threshold: float = 0.0,
        slicewise: bool = False,
    ) -> None:
        if slicewise:
            _check_slices(fit, coupling)
        self.fit, self.iterations, self.slicewise = fit, iterations, slicewise
        # A slice alone has no differences to others.
        self.coupling = coupling if fit.grid.shape[0] > 1 else 0.0
        self.threshold = threshold
        largest = fit.largest()
        self.scale = 1.0 / largest if largest > 0 else 0.0
        self.back = fit.pull(fit.projections).mul_(self.scale)
        between = (fit.grid.shape[0] - 1, *fit.grid.shape[1:]) if self.coupling > 0 else (0, 0, 0)
        self.steep = self.back.new_zeros(between)
        self.dual = self.back.new_zeros(between)

    def proximity(self, noise: float, deviation: float) -> float:
        """Return the proximity of an estimate that is as uncertain as the noise of rays makes it worth.

        Args:
            noise: of a ray of mean weight, in unit times mm.
            deviation: of the estimate from the truth, in unit.
        """
        return self.scale * (noise / deviation) ** 2

    @torch.no_grad()
    def __call__(self, estimate: Tensor, proximity: float = 0.0) -> Tensor:
        """Return the volume (Z, Y, X) near an estimate, in unit; a proximity of 0 holds it by the start alone."""

        def normal(volume: Tensor) -> Tensor:
            image = self.fit.pull(self.fit.shown(volume)).mul_(self.scale)
            if self.coupling > 0:
                image.add_(_gathered(torch.diff(volume, dim=0)), alpha=self.coupling)
            return image.add_(volume, alpha=proximity) if proximity > 0 else image

        target = self.back.add(estimate, alpha=proximity)
        if self.coupling > 0:
            target.add_(_gathered(self.steep - self.dual), alpha=self.coupling)
        solve = conjugate_gradients_of_slices if self.slicewise else conjugate_gradients
        volume = solve(normal, target, estimate, iterations=self.iterations, tolerance=_ROUNDING)
        if self.coupling > 0:
            lifted = self.dual.add(torch.diff(volume, dim=0))
            self.steep = softshrink(lifted, self.threshold)
            self.dual = lifted - self.steep
        return volume

    def renew(self, volume: Tensor) -> None:
        """Take `steep` from a volume (Z, Y, X), where that of the last call had more noise than it has."""
        if self.coupling > 0:
            self.steep = softshrink(self.dual.add(torch.diff(volume, dim=0)), self.threshold)


def _gathered(steps: Tensor) -> Tensor:
    """Return the adjoint (Z, Y, X) of differences between slices applied to steps (Z - 1, Y, X)."""
    return -torch.diff(
        steps, dim=0, prepend=torch.zeros_like(steps[:1]), append=torch.zeros_like(steps[:1])
    )


def _check_slices(fit: LeastSquares, coupling: float) -> None:
    """Refuse slices that cannot be solved alone."""
    if coupling > 0:
        raise ValueError(
            f"slicewise is set and coupling is {coupling}; slices are solved alone or coupled: set one of them to 0."
        )
    even = fit.projections.new_zeros(fit.grid.shape)
    even[::2] = 1.0
    shared = torch.minimum(fit.shown(even), fit.shown(1.0 - even))
    # Interpolation between rows leaves rounding.
    if float(shared.max()) > _SHARED * max(fit.grid.voxel_mm):
        raise ValueError(
            "slicewise is set and rays pass through several slices; parallel beams across z, with rows as high as the "
            "slices and opposite them, are expected, or slicewise: false."
        )
