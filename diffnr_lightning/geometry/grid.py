"""The voxel grid of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class VolumeGrid:
    """Hold shape, voxel edges and centre of a voxel volume aligned with the world axes.

    Args:
        shape: number of voxels (Z, Y, X); a sequence, array or tensor of whole numbers.
        voxel_mm: voxel edges (z, y, x) in mm, as a sequence, array or tensor; one number means cubic
            voxels.
        centre_mm: world position (x, y, z) of the centre of the volume in mm.

    Raises:
        ValueError: a shape that is not three positive whole numbers, edges that are not positive and
            finite, or a centre that is not three finite numbers.
    """

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float] | float
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        shape, edges, centre = (
            _numbers(getattr(self, name)) for name in ("shape", "voxel_mm", "centre_mm")
        )
        if len(shape) != 3 or not all(n >= 1 and n == int(n) for n in shape):
            raise ValueError(
                f"grid shape is {self.shape}; three positive whole numbers (Z, Y, X) are expected."
            )
        if len(edges) == 1:
            edges *= 3
        if len(edges) != 3 or not all(edge > 0 for edge in edges):
            raise ValueError(
                f"voxel_mm is {self.voxel_mm}; one positive edge in mm, or three (z, y, x), are expected."
            )
        if len(centre) != 3:
            raise ValueError(
                f"centre_mm is {self.centre_mm}; a finite point (x, y, z) is expected."
            )
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "voxel_mm", edges)
        object.__setattr__(self, "centre_mm", centre)

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
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return the voxel centres, shape (Z, Y, X, 3), as world (x, y, z) in mm; in float32 if `dtype` is None."""
        import torch

        dtype = dtype or torch.float32
        x, y, z = (
            origin + edge * torch.arange(n, device=device, dtype=dtype)
            for origin, edge, n in zip(
                self.origin_mm, self.voxel_mm[::-1], self.shape[::-1], strict=True
            )
        )
        zz, yy, xx = torch.meshgrid(z, y, x, indexing="ij")
        return torch.stack([xx, yy, zz], dim=-1)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> VolumeGrid:
        """Return the grid of the voxels ``[start, start + shape)``, indices and shape in (Z, Y, X).

        That of all voxels equals this grid, to the last digit of the centre.
        """
        if tuple(start) == (0, 0, 0) and tuple(shape) == self.shape:
            return self
        first = np.asarray(self.origin_mm) + np.asarray(start[::-1]) * np.asarray(
            self.voxel_mm[::-1]
        )
        centre = first + 0.5 * (np.asarray(shape[::-1]) - 1) * np.asarray(self.voxel_mm[::-1])
        return VolumeGrid(tuple(shape), self.voxel_mm, tuple(centre))

    def cut_of(self, grid: VolumeGrid) -> tuple[slice, slice, slice] | None:
        """Return the slices (Z, Y, X) that cut another grid out of this one's volumes, None where they do not.

        Its voxels have to be some of these, to a millionth of an edge.
        """
        if grid.voxel_mm != self.voxel_mm:
            return None
        away = np.subtract(grid.origin_mm, self.origin_mm)[::-1] / self.voxel_mm
        first = np.rint(away)
        ends = first + grid.shape
        if np.abs(away - first).max() > 1e-6 or first.min() < 0 or (ends > self.shape).any():
            return None
        return tuple(slice(int(a), int(b)) for a, b in zip(first, ends, strict=True))

    def enlarged(
        self, share: float | Sequence[float]
    ) -> tuple[VolumeGrid, tuple[slice, slice, slice]]:
        """Return a grid of the same voxels that reaches out further, and where this one lies in it.

        Args:
            share: of each edge, or of those along (z, y, x), that is added to it, half on either side, rounded up to
                whole voxels.

        Returns:
            the larger grid, and the slices (Z, Y, X) that cut this grid out of its volumes.

        Raises:
            ValueError: a negative or infinite share.
        """
        shares = np.broadcast_to(share, 3)
        if not (np.isfinite(shares) & (shares >= 0.0)).all():
            raise ValueError(f"share is {share}; a number of at least 0 is expected.")
        added = [int(np.ceil(0.5 * s * n - 1e-9)) for s, n in zip(shares, self.shape, strict=True)]
        shape = tuple(n + 2 * more for n, more in zip(self.shape, added, strict=True))
        inner = tuple(slice(more, more + n) for n, more in zip(self.shape, added, strict=True))
        return VolumeGrid(shape, self.voxel_mm, self.centre_mm), inner


def _numbers(value: object) -> tuple[float, ...]:
    """Return the finite numbers of a scalar, sequence, array or tensor; nothing where there are others."""
    try:
        array = np.asarray(value.tolist() if hasattr(value, "tolist") else value, dtype=np.float64)
    except (TypeError, ValueError):
        return ()
    if array.ndim > 1 or not np.isfinite(array).all():
        return ()
    return tuple(array.reshape(-1).tolist())
