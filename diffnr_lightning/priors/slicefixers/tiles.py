"""Overlapping tiles of an image: computed one by one and blended, where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

Window = tuple[slice, ...]


class Tile(NamedTuple):
    """Where a tile lies.

    Attributes:
        pixels: index into (N, C, H, W).
        latents: index into (N, C, H / 8, W / 8).
    """

    pixels: Window
    latents: Window


def tile_starts(edge: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles that cover an edge and share at least `overlap` pixels."""
    if edge <= tile:
        return [0]
    return [*range(0, edge - tile, tile - overlap), edge - tile]


def blend_tiles(
    compute: Callable[[Tile], Tensor], shape: tuple[int, int], tile: int, factor: int = 1
) -> Tensor:
    """Compute the tiles of an image and blend them linearly where they overlap (by a quarter).

    Args:
        compute: gives (N, C, h / factor, w / factor) of a tile of h x w pixels.
        shape: (H, W) in pixels, multiples of 8.
        tile: edge in pixels, a multiple of 16.
        factor: pixels of the image for one of the result.

    Returns:
        (N, C, H / factor, W / factor).

    Raises:
        ValueError: a tile that is no positive multiple of 16.
    """
    if tile < 16 or tile % 16:
        raise ValueError(f"tile is {tile}; expected a positive multiple of 16 pixels.")
    # A multiple of 8, so that tiles begin at whole latents.
    overlap = max(tile // 4 // 8 * 8, 8)
    total, weights = None, None
    for place in _tiles(shape, tile, overlap):
        result = compute(place)
        if total is None:
            size = [edge // factor for edge in shape]
            total = result.new_zeros(*result.shape[:2], *size)
            weights = result.new_zeros(size)
        rows, columns = (
            slice(part.start // factor, part.stop // factor) for part in place.pixels[2:]
        )
        weight = _ramp(result, -2, overlap / factor)[:, None] * _ramp(result, -1, overlap / factor)
        total[..., rows, columns] += weight * result
        weights[rows, columns] += weight
    return total / weights


def _tiles(shape: tuple[int, int], tile: int, overlap: int) -> Iterator[Tile]:
    every = slice(None)
    for top, left in product(*(tile_starts(edge, tile, overlap) for edge in shape)):
        bottom, right = min(top + tile, shape[0]), min(left + tile, shape[1])
        yield Tile(
            pixels=(every, every, slice(top, bottom), slice(left, right)),
            latents=(every, every, slice(top // 8, bottom // 8), slice(left // 8, right // 8)),
        )


def _ramp(result: Tensor, axis: int, overlap: float) -> Tensor:
    """Weights along an axis: 1 inside, falling towards both ends."""
    place = torch.arange(result.shape[axis], device=result.device, dtype=result.dtype) + 0.5
    return torch.minimum(place, place.flip(0)).clamp(max=overlap) / overlap
