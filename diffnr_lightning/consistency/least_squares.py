"""The data term that solvers and samplers of whole scans share: weighted least squares."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.consistency.normalisation import relative_weights
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import backproject, project

# Voxels that hardly any ray meets are moved as if they had this share of the largest curvature.
_LEAST_CURVATURE = 1e-4
# Steps of the power method; the matrix has no negative entry, so that few of them suffice.
_POWER_STEPS = 8


class LeastSquares(NamedTuple):
    """``1/2 ||A x - b||_W^2`` of a scan.

    Attributes:
        projections: (V, H, W) b.
        grid: voxels of x.
        scan: the views, which make A.
        weights: (V, H, W) of mean 1, the diagonal of W.
    """

    projections: Tensor
    grid: VolumeGrid
    scan: ScanGeometry
    weights: Tensor

    @classmethod
    def weighted(
        cls,
        projections: Tensor,
        grid: VolumeGrid,
        scan: ScanGeometry,
        weights: Tensor | None,
        power: float,
    ) -> LeastSquares:
        """Return the data term with statistical weights (V, H, W) to a power; None weighs all rays alike.

        Raises:
            ValueError: as `relative_weights`.
        """
        if weights is None:
            known = torch.ones_like(projections)
        else:
            known = relative_weights(weights, scan, projections, power)
        return cls(projections, grid, scan, known)

    def shown(self, volume: Tensor) -> Tensor:
        """Return ``A x``, (V, H, W)."""
        return project(volume, self.grid, self.scan)

    def pull(self, rays: Tensor) -> Tensor:
        """Return ``A^T W r`` (Z, Y, X) of values r (V, H, W) of the rays."""
        return backproject(self.weights * rays, self.grid, self.scan)

    def cost(self, residual: Tensor) -> float:
        """Return ``1/2 ||r||_W^2``."""
        return 0.5 * self.squares(residual)

    def squares(self, rays: Tensor) -> float:
        """Return ``||r||_W^2``."""
        return float((self.weights * rays.square()).sum(dtype=torch.float64))

    def unexplained(self, residual: Tensor) -> float:
        """Return the root of the weighted mean square of a residual (V, H, W)."""
        return (self.squares(residual) / residual.numel()) ** 0.5

    def curvature(self) -> Tensor:
        """Return (Z, Y, X) ``A^T W A 1``, which bounds ``A^T W A`` and is made positive where no ray passes.

        It is 0 everywhere where no ray meets the grid.

        Source: H. Erdogan, J. A. Fessler, "Ordered subsets algorithms for transmission tomography", Phys. Med. Biol.
        1999, eq. 18.
        """
        found = self.pull(self.shown(self.projections.new_ones(self.grid.shape)))
        return found.clamp_(min=_LEAST_CURVATURE * float(found.max()))

    def largest(self) -> float:
        """Return the largest eigenvalue of ``A^T W A``, at most a few percent too small; 0 where no ray meets the grid.

        Source: R. von Mises, H. Pollaczek-Geiringer, "Praktische Verfahren der Gleichungsaufloesung", 1929.
        """
        volume, found = self.projections.new_ones(self.grid.shape), 0.0
        for _ in range(_POWER_STEPS):
            volume = volume / volume.norm().clamp_min(torch.finfo(volume.dtype).tiny)
            shown = self.shown(volume)
            found = self.squares(shown)
            volume = self.pull(shown)
        return found
