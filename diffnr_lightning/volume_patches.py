"""Cubic patches of a volume: how they are cut, where they lie, and how they tile it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class TilePatch(NamedTuple):
    """A patch of a tiling.

    Attributes:
        corner: first voxel (z, y, x); the patch lies inside the volume.
        owned: voxels (z, y, x) of the volume that it speaks for.
    """

    corner: tuple[int, ...]
    owned: tuple[slice, ...]

    @property
    def inside(self) -> tuple[slice, ...]:
        """The voxels it speaks for, counted from its corner."""
        pairs = zip(self.owned, self.corner, strict=True)
        return tuple(slice(s.start - first, s.stop - first) for s, first in pairs)


def patch_tiling(shape: Sequence[int], size: int, offset: Sequence[int]) -> list[TilePatch]:
    """Return patches that speak for every voxel of a volume once.

    Tiles begin at the offset and its multiples of `size` away. The patch of one that reaches beyond the volume is moved
    inside and speaks for the voxels of its tile alone.

    Args:
        shape: voxels (Z, Y, X), none fewer than `size`.
        size: edge of a patch in voxels.
        offset: (z, y, x), from 0 to below `size`.
    """
    axes = []
    for count, shift in zip(shape, offset, strict=True):
        starts = range(shift - size if shift else 0, count, size)
        axes.append(
            [
                (min(max(start, 0), count - size), slice(max(start, 0), min(start + size, count)))
                for start in starts
            ]
        )
    return [TilePatch(*zip(*place, strict=True)) for place in product(*axes)]


def whole_in_patch(volume: Tensor, size: int) -> Tensor:
    """Return a volume (N, C, Z, Y, X) on the grid of a patch, (N, C, size, size, size)."""
    return F.interpolate(volume, size=(size,) * 3, mode="trilinear", align_corners=False)


def cut_patches(volume: Tensor, corner: Tensor, size: int) -> Tensor:
    """Cut patches out of a volume.

    Args:
        volume: (Z, Y, X).
        corner: (N, 3) int64 first voxel (z, y, x) of each patch.
        size: their edge in voxels.

    Returns:
        (N, 1, size, size, size).
    """
    z, y, x = (
        corner[:, axis, None] + torch.arange(size, device=corner.device) for axis in range(3)
    )
    return volume[z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]][:, None]


def patch_coordinates(corner: Tensor, shape: Sequence[int], size: int) -> Tensor:
    """Return where the voxels of patches lie, -1 at the centre of the first voxel of the volume and 1 at the last.

    Args:
        corner: (N, 3) first voxel (z, y, x) of each patch.
        shape: voxels (Z, Y, X) of the volume.
        size: edge of a patch in voxels.

    Returns:
        (N, 3, size, size, size) float32, z, y and x.
    """
    along = torch.arange(size, device=corner.device, dtype=torch.float32)
    places = []
    for axis, count in enumerate(shape):
        place = 2 * (corner[:, axis, None] + along) / max(count - 1, 1) - 1
        view = [len(corner), 1, 1, 1]
        view[axis + 1] = size
        places.append(place.view(view).expand(-1, size, size, size))
    return torch.stack(places, dim=1)
