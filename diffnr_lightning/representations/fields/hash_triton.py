"""Triton kernels of the multiresolution hash encoding, and the way back.

A program serves a block of points at one level; blocks of a level follow each other, so that its table
(4 MB at 2^19 entries of two features) stays in the L2 while all points ask for it.

On the way back many points add to one entry. Contributions are rounded to integers of 2^-40 of the largest
gradient and added by atomics: sums of integers do not depend on their order, so that the result repeats
to the bit, and is more exact than float32's. That costs eight bytes an entry where float atomics take
four (114 MB and once through them, 0.1 ms, at NAF's table); sorting the 25 million contributions of 1024
rays of 192 samples and summing segments moves at least 2.4 GB, several times as much as the atomics.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN202, N803

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffnr_lightning.triton_kernels import PaperLaunch, on_its_device

_BLOCK = 256
# Bits of the largest contribution, and of the largest sum.
_BITS, _SUM_BITS = 40, 62


@triton.jit
def _cell(points, n, here, axis, scale):
    """Return the lower vertex of the cell of a coordinate of the unit box, and the place in it."""
    at = tl.load(points + 3 * n.to(tl.int64) + axis, mask=here, other=0.0)
    place = tl.minimum(tl.maximum(0.5 * at + 0.5, 0.0), 1.0) * scale + 0.5
    cell = place.to(tl.int32)
    return cell, place - cell


@triton.jit
def _corner(i, j, k, x, y, z, resolution, size, hashed, CORNER: tl.constexpr):
    """Return the entry of a corner of cells, counted from the level's first, and its trilinear weight."""
    a, b, c = i + (CORNER & 1), j + (CORNER >> 1 & 1), k + (CORNER >> 2)
    u = x if CORNER & 1 else 1.0 - x
    v = y if CORNER >> 1 & 1 else 1.0 - y
    w = z if CORNER >> 2 else 1.0 - z
    mixed = a.to(tl.uint32) ^ (b.to(tl.uint32) * 2654435761) ^ (c.to(tl.uint32) * 805459861)
    # Sizes of hashed levels are powers of two. Of others half a cell sticks out and begins the table again.
    straight = a + resolution * (b + resolution * c)
    straight = tl.where(straight >= size, straight - size, straight)
    entry = tl.where(hashed, mixed.to(tl.int32, bitcast=True) & (size - 1), straight)
    return entry, u * v * w


@triton.jit
def _encode(
    points, table, scales, layout, features, count, FEATURES: tl.constexpr, BLOCK: tl.constexpr
):
    """Write the features (L F, N) of points (N, 3) in the unit box from a table (T, F).

    The layout holds resolution, start, size and whether vertices share entries, of each level.
    """
    level = tl.program_id(1)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = n < count
    scale = tl.load(scales + level)
    resolution, start = tl.load(layout + 4 * level), tl.load(layout + 4 * level + 1)
    size, hashed = tl.load(layout + 4 * level + 2), tl.load(layout + 4 * level + 3) > 0
    i, x = _cell(points, n, here, 0, scale)
    j, y = _cell(points, n, here, 1, scale)
    k, z = _cell(points, n, here, 2, scale)
    column = tl.arange(0, FEATURES)[None, :]
    total = tl.zeros([BLOCK, FEATURES], tl.float32)
    for corner in tl.static_range(8):
        entry, weight = _corner(i, j, k, x, y, z, resolution, size, hashed, corner)
        source = table + (start + entry).to(tl.int64)[:, None] * FEATURES + column
        total += weight[:, None] * tl.load(source, mask=here[:, None], other=0.0)
    target = features + (level * FEATURES + column).to(tl.int64) * count + n[:, None]
    tl.store(target, total, mask=here[:, None])


@triton.jit
def _collect(
    points, gradient, scales, layout, unit, sums, count, FEATURES: tl.constexpr, BLOCK: tl.constexpr
):
    """Add the gradient of features (L F, N), in units of 1 / `unit`, to the sums (T, F) of integers."""
    level = tl.program_id(1)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = n < count
    scale = tl.load(scales + level)
    resolution, start = tl.load(layout + 4 * level), tl.load(layout + 4 * level + 1)
    size, hashed = tl.load(layout + 4 * level + 2), tl.load(layout + 4 * level + 3) > 0
    i, x = _cell(points, n, here, 0, scale)
    j, y = _cell(points, n, here, 1, scale)
    k, z = _cell(points, n, here, 2, scale)
    column = tl.arange(0, FEATURES)[None, :]
    source = gradient + (level * FEATURES + column).to(tl.int64) * count + n[:, None]
    slope = tl.load(unit) * tl.load(source, mask=here[:, None], other=0.0)
    for corner in tl.static_range(8):
        entry, weight = _corner(i, j, k, x, y, z, resolution, size, hashed, corner)
        target = sums + (start + entry).to(tl.int64)[:, None] * FEATURES + column
        share = (weight[:, None] * slope).to(tl.int64)
        tl.atomic_add(target, share, mask=here[:, None] & (share != 0), sem="relaxed")


@on_its_device
def encode(points: Tensor, table: Tensor, levels: Sequence[Sequence[float]]) -> Tensor:
    """Return the features (L F, N) of float32 points (N, 3), differentiable in the table (T, F).

    Args:
        points: in the unit box.
        table: F is a power of two.
        levels: scale, resolution, start and size of each, as of `HashEncoding.layout`.
    """
    return _Encode.apply(points.detach().contiguous(), table, levels)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, levels: Sequence[Any]) -> Tensor:
        scales, layout = _tables(levels, points.device)
        features = points.new_empty(len(levels) * table.shape[1], len(points))
        if len(points):
            launch = (triton.cdiv(len(points), _BLOCK), len(levels))
            _encode[launch](
                points, table.detach().contiguous(), scales, layout, features, len(points),
                FEATURES=table.shape[1], BLOCK=_BLOCK,
            )  # fmt: skip
        ctx.save_for_backward(points)
        ctx.levels, ctx.shape = levels, table.shape
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None]:
        (points,) = ctx.saved_tensors
        gradient = grad_outputs[0].contiguous()
        sums = torch.zeros(ctx.shape, dtype=torch.int64, device=points.device)
        if not len(points):
            return None, sums.float(), None
        scales, layout = _tables(ctx.levels, points.device)
        unit, inverse = _unit(gradient)
        launch = (triton.cdiv(len(points), _BLOCK), len(ctx.levels))
        _collect[launch](
            points, gradient, scales, layout, unit, sums, len(points),
            FEATURES=ctx.shape[1], BLOCK=_BLOCK,
        )  # fmt: skip
        return None, sums.float().mul_(inverse), None


def _unit(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the power of two by which a gradient (C, N) becomes integers, and its inverse, as scalars on the device.

    All of N points may add to one entry. Where the gradient is not finite, the inverse is not either.
    """
    largest = gradient.abs().max()
    bits = min(_BITS, _SUM_BITS - math.ceil(math.log2(gradient.shape[1] + 1)))
    exponent = (bits - torch.frexp(largest).exponent).clamp(max=120).float()
    return torch.exp2(exponent), torch.where(largest.isfinite(), torch.exp2(-exponent), torch.nan)


_TABLES: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}


def _tables(levels: Sequence[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scales (L,) and layout (L, 4) on a device; made once."""
    key = (tuple(map(tuple, levels)), device)
    if key not in _TABLES:
        rows = [(r, start, size, int(r**3 > size)) for _, r, start, size in levels]
        scales = torch.tensor([scale for scale, *_ in levels], dtype=torch.float32, device=device)
        _TABLES[key] = scales, torch.tensor(rows, dtype=torch.int32, device=device)
    return _TABLES[key]


def paper_launches() -> list[PaperLaunch]:
    """Return the launches for 1024 rays of 192 samples, and 16 levels of 2 features and 2^19 entries (NAF's).

    From memory come the points (12 bytes, once a level from the L2), the table once (57 MB) and the features
    (8 bytes a point and level). On the way back, integers of 8 bytes are added to (read and written) where a
    point hits: all 114 MB of them, twice, at most. The eight gathers of a point and level are sectors of the
    L2: 25 million, 0.8 GB. A corner costs 20 operations.
    """
    points, levels, entries = 1024 * 192, 16, 7_114_752
    pointers = {
        name: "*fp32" for name in ("points", "table", "scales", "features", "gradient", "unit")
    }
    pointers |= {"layout": "*i32", "sums": "*i64", "count": "i32"}
    moved = points * 12 + points * levels * 8
    launches = []
    for kernel, name, traffic in (
        (_encode, "hash encoding", 8 * entries),
        (_collect, "hash encoding, gradient", 2 * 16 * entries),
    ):
        signature = {argument: pointers.get(argument, "constexpr") for argument in kernel.arg_names}
        constants = {"FEATURES": 2, "BLOCK": _BLOCK}
        programs = triton.cdiv(points, _BLOCK) * levels
        flops = points * levels * 8 * 20
        launches.append(
            PaperLaunch(name, kernel, signature, constants, 4, programs, moved + traffic, flops)
        )
    return launches
