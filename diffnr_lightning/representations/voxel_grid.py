"""The simplest representation: a grid of voxels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import project
from diffnr_lightning.representations.base import Representation


class VoxelGrid(Representation):
    """Represent a volume by its voxels, kept non-negative by projection after every step.

    Renderings and queries clip what a step has made negative and pass it no gradient; `constrain`
    sets it to zero, from where the gradient can raise it again.

    Args:
        grid: the voxels.
        rate: learning rate of the densities.
    """

    def __init__(self, grid: VolumeGrid, *, rate: float = 1e-2) -> None:
        super().__init__(grid)
        self.rate = rate
        self.values = nn.Parameter(torch.zeros(grid.shape))

    def density(self, points: Tensor) -> Tensor:
        """Return the density at points (..., 3), trilinear between voxel centres and 0 outside."""
        points = points.to(self.values.dtype)
        origin = torch.tensor(self.grid.origin_mm, device=points.device, dtype=points.dtype)
        span = torch.tensor(
            [max(n - 1, 1) * e for n, e in zip(self.grid.shape, self.grid.voxel_mm, strict=True)][
                ::-1
            ],
            device=points.device,
            dtype=points.dtype,
        )
        place = 2 * (points - origin) / span - 1
        sampled = F.grid_sample(
            self.values.clamp(min=0)[None, None],
            place.reshape(1, -1, 1, 1, 3),
            align_corners=True,
        )
        density = sampled.reshape(points.shape[:-1])
        # Along an axis of one voxel every place is its middle to `grid_sample`.
        for axis, (n, edge) in enumerate(zip(self.grid.shape, self.grid.voxel_mm, strict=True)):
            if n == 1:
                away = (points[..., 2 - axis] - origin[2 - axis]).abs()
                density = density * (1 - away / edge).clamp(min=0)
        return density

    def render(self, scan: ScanGeometry) -> Tensor:
        """Return the line integrals (V, H, W)."""
        return project(self.values.clamp(min=0), self.grid, scan)

    def query(self, grid: VolumeGrid) -> Tensor:
        """Return the density at the voxels of a grid (Z, Y, X)."""
        if grid == self.grid:
            return self.values.clamp(min=0)
        # The gradient of interpolation is added in an order that varies on CUDA; on the CPU published numbers have it.
        cut = self.grid.cut_of(grid) if self.values.is_cuda else None
        if cut is not None:
            return self.values[cut].clamp(min=0)
        return self.density(grid.points(self.values.device, self.values.dtype))

    def initialise(
        self, volume: Tensor, projections: Tensor, scan: ScanGeometry, seed: int
    ) -> None:
        """Take the first reconstruction without what is negative; see `Representation`."""
        self.check_volume(volume)
        self.values = nn.Parameter(volume.detach().clamp(min=0).clone())

    @torch.no_grad()
    def constrain(self) -> None:
        """Set negative voxels to zero, the nearest that is allowed."""
        self.values.clamp_(min=0)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the one group of voxel values."""
        return [{"name": "values", "params": [self.values], "lr": self.rate}]
