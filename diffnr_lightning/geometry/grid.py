"""The voxel grid of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class VolumeGrid:
    """Hold shape, voxel edges and centre of a voxel volume aligned with the world axes.

    Args:
        shape: number of voxels (Z, Y, X).
        voxel_mm: voxel edges (z, y, x) in mm; one number means cubic voxels.
        centre_mm: world position (x, y, z) of the centre of the volume in mm.

    Raises:
        ValueError: a shape that is not three positive integers, or an edge that is not positive and finite.
    """

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float] | float
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        edges = self.voxel_mm if isinstance(self.voxel_mm, Sequence) else (self.voxel_mm,) * 3
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "voxel_mm", tuple(float(edge) for edge in edges))
        object.__setattr__(self, "centre_mm", tuple(float(c) for c in self.centre_mm))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(
                f"grid shape is {self.shape}; three positive integers (Z, Y, X) are expected."
            )
        if len(self.voxel_mm) != 3 or not all(np.isfinite(e) and e > 0 for e in self.voxel_mm):
            raise ValueError(
                f"voxel_mm is {self.voxel_mm}; positive edges (z, y, x) in mm are expected."
            )
        if len(self.centre_mm) != 3 or not np.isfinite(self.centre_mm).all():
            raise ValueError(
                f"centre_mm is {self.centre_mm}; a finite point (x, y, z) is expected."
            )

    @property
    def size_mm(self) -> tuple[float, float, float]:
        """Edges of the whole volume (z, y, x) in mm."""
        return tuple(n * edge for n, edge in zip(self.shape, self.voxel_mm, strict=True))

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """World position (x, y, z) of the centre of voxel [0, 0, 0]."""
        return tuple(
            centre - 0.5 * (n - 1) * edge
            for centre, n, edge in zip(
                self.centre_mm, self.shape[::-1], self.voxel_mm[::-1], strict=True
            )
        )

    @property
    def corners_mm(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Lowest and highest corner (x, y, z) of the box, voxel faces included."""
        half = [0.5 * s for s in self.size_mm[::-1]]
        low = tuple(c - h for c, h in zip(self.centre_mm, half, strict=True))
        high = tuple(c + h for c, h in zip(self.centre_mm, half, strict=True))
        return low, high

    def points(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return the voxel centres, shape (Z, Y, X, 3), as world (x, y, z) in mm."""
        x, y, z = (
            origin + edge * torch.arange(n, device=device, dtype=dtype)
            for origin, edge, n in zip(
                self.origin_mm, self.voxel_mm[::-1], self.shape[::-1], strict=True
            )
        )
        zz, yy, xx = torch.meshgrid(z, y, x, indexing="ij")
        return torch.stack([xx, yy, zz], dim=-1)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> VolumeGrid:
        """Return the grid of the voxels ``[start, start + shape)``, indices and shape in (Z, Y, X)."""
        first = np.asarray(self.origin_mm) + np.asarray(start[::-1]) * np.asarray(
            self.voxel_mm[::-1]
        )
        centre = first + 0.5 * (np.asarray(shape[::-1]) - 1) * np.asarray(self.voxel_mm[::-1])
        return VolumeGrid(tuple(shape), self.voxel_mm, tuple(centre))
