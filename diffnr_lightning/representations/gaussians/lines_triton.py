"""Triton kernels of exact line integrals of 3D Gaussians in a cone beam: sums over tiles and pixels.

The counterpart of `line_kernels`, where the formulas are, with the same cut and mass. As in
`splat_triton`, a program owns a tile of pixels forwards and a Gaussian backwards, and
nothing is added atomically. Lines and sums are those of `trace_triton`.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffnr_lightning.geometry import ScanGeometry
from diffnr_lightning.representations.gaussians.bins_triton import (
    NEVER,
    keep,
    meets,
    sum_views,
    tiles_of_a_paper_view,
)
from diffnr_lightning.representations.gaussians.checks import check_finite_later, finite_flag
from diffnr_lightning.representations.gaussians.poses import across_on, poses_on
from diffnr_lightning.representations.gaussians.shape import kept_mass
from diffnr_lightning.representations.gaussians.shape_triton import HALF_LOG2_E
from diffnr_lightning.representations.gaussians.statistics import ScreenStatistics
from diffnr_lightning.representations.gaussians.trace_triton import (
    conic,
    trace_backward,
    trace_gaussians,
)
from diffnr_lightning.triton_kernels import PaperLaunch

# Gaussians of a program that traces.
GAUSSIANS = 128
# On the way back: pixels that a program takes at once, Gaussians that it takes one after the other.
ROWS, COLUMNS = 8, 8
IN_TURN = 4


@triton.jit
def sum_lines(
    lines,
    boxes,
    lists,
    counts,
    scratch,
    images,
    count,
    rows,
    columns,
    segments,
    segments_of_a_split,
    cells_x,
    cells_y,
    cell,
    cut2,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the sum over some segments in one tile, without the length of the rays.

    Programs (tiles, splits, views).
    """
    tile, split = tl.program_id(0), tl.program_id(1)
    view = tl.program_id(2).to(tl.int64)
    tiles_x = tl.cdiv(columns, TILE_COLUMNS)
    top, left = tile // tiles_x * TILE_ROWS, tile % tiles_x * TILE_COLUMNS
    bottom, right = top + TILE_ROWS - 1, left + TILE_COLUMNS - 1
    pixel = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    i, j = top + pixel // TILE_COLUMNS, left + pixel % TILE_COLUMNS
    y, x = i.to(tl.float32), j.to(tl.float32)
    total = tl.full([TILE_ROWS * TILE_COLUMNS], 0.0, tl.float32)
    lines += view * count * 20
    boxes += view * count * 6
    scratch += ((view * tl.num_programs(1) + split) * tl.num_programs(0) + tile) * BLOCK
    place = (view * cells_y + top // cell) * cells_x + left // cell
    first = split * segments_of_a_split
    for segment in range(first, tl.minimum(first + segments_of_a_split, segments)):
        number = place * segments + segment
        listed = tl.load(counts + number)
        for start in range(0, listed, BLOCK):
            k = start + tl.arange(0, BLOCK)
            within = k < listed
            g = tl.load(lists + number * SEGMENT + k, mask=within, other=0)
            hit = meets(boxes, g, within, left, right, top, bottom, 0, 0, False)
            found = keep(g, hit, scratch)
            tl.debug_barrier()
            for h in range(0, found):
                f = lines + 20 * tl.load(scratch + h)
                dx, dy = x - tl.load(f), y - tl.load(f + 1)
                c0 = dx * tl.load(f + 2) + dy * tl.load(f + 5)
                c1 = dx * tl.load(f + 3) + dy * tl.load(f + 6)
                c2 = dx * tl.load(f + 4) + dy * tl.load(f + 7)
                e0 = tl.load(f + 8) + dx * tl.load(f + 11) + dy * tl.load(f + 14)
                e1 = tl.load(f + 9) + dx * tl.load(f + 12) + dy * tl.load(f + 15)
                e2 = tl.load(f + 10) + dx * tl.load(f + 13) + dy * tl.load(f + 16)
                per = 1 / tl.sqrt(e0 * e0 + e1 * e1 + e2 * e2)
                q = (c0 * c0 + c1 * c1 + c2 * c2) * per * per
                height = tl.load(f + 17)
                total += tl.where(q <= cut2, height * per * tl.exp2(q * HALF_LOG2_E), 0.0)
            # The next hits are written when all have read these.
            tl.debug_barrier()
    target = images + (view * tl.num_programs(1) + split) * rows * columns + i * columns + j
    tl.store(target, total, mask=(i < rows) & (j < columns))


@triton.jit
def sum_gradients(
    lines,
    boxes,
    gradient,
    sums,
    count,
    rows,
    columns,
    cut2,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write the sums of some Gaussians, one after the other; programs (any number, views).

    Of a row the pixels within the conic are visited. Nothing is written for a Gaussian that is not
    seen.
    """
    view = tl.program_id(1).to(tl.int64)
    gradient += view * rows * columns
    for own in range(tl.program_id(0), count, tl.num_programs(0)):
        g = view * count + own
        if tl.load(boxes + 6 * g) < NEVER:
            low, high = tl.load(boxes + 6 * g + 2), tl.load(boxes + 6 * g + 3)
            f = lines + 20 * g
            column, row = tl.load(f), tl.load(f + 1)
            a0, a1, a2 = tl.load(f + 2), tl.load(f + 3), tl.load(f + 4)
            b0, b1, b2 = tl.load(f + 5), tl.load(f + 6), tl.load(f + 7)
            z0, z1, z2 = tl.load(f + 8), tl.load(f + 9), tl.load(f + 10)
            u0, u1, u2 = tl.load(f + 11), tl.load(f + 12), tl.load(f + 13)
            v0, v1, v2 = tl.load(f + 14), tl.load(f + 15), tl.load(f + 16)
            per_pixel = tl.load(f + 18)
            xx, xy, yy, x1, y1, one = conic(
                a0, a1, a2, b0, b1, b2, z0, z1, z2, u0, u1, u2, v0, v1, v2, cut2
            )
            mass = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            any_pixel, m0, m1, m2 = mass, mass, mass, mass
            s0, s1, s2, x0, x1s, x2, y0, y1s, y2 = (
                mass, mass, mass, mass, mass, mass, mass, mass, mass,
            )  # fmt: skip
            for first in range(low, high + 1, ROWS):
                y = (first + tl.arange(0, ROWS))[:, None]
                dy = y.to(tl.float32) - row
                # The row's roots of the conic; all of the row where it is open.
                middle = xy * dy + x1
                square = middle * middle - xx * ((yy * dy + 2 * y1) * dy + one)
                per = 1 / tl.where(xx > 0, xx, 1.0)
                reach = tl.sqrt(tl.maximum(square, 0.0)) * per
                begin = tl.maximum(tl.floor(column - middle * per - reach), 0.0)
                end = tl.minimum(tl.ceil(column - middle * per + reach), (columns - 1) * 1.0)
                begin = tl.where(xx > 0, begin, 0.0)
                end = tl.where(xx > 0, tl.where(square >= 0, end, -1.0), (columns - 1) * 1.0)
                end = tl.where(y <= high, end, -1.0)
                begin = tl.minimum(begin, (columns - 1) * 1.0)
                width = tl.max(tl.max(end - begin, 1), 0).to(tl.int32) + 1
                pointer = gradient + y * columns + begin.to(tl.int32)
                for start in range(0, width, COLUMNS):
                    k = (start + tl.arange(0, COLUMNS))[None, :]
                    x = begin + k.to(tl.float32)
                    dx = x - column
                    c0, c1, c2 = dx * a0 + dy * b0, dx * a1 + dy * b1, dx * a2 + dy * b2
                    e0, e1, e2 = (
                        z0 + dx * u0 + dy * v0,
                        z1 + dx * u1 + dy * v1,
                        z2 + dx * u2 + dy * v2,
                    )
                    per_square = 1 / (e0 * e0 + e1 * e1 + e2 * e2)
                    q = (c0 * c0 + c1 * c1 + c2 * c2) * per_square
                    within = (x <= end) & (q <= cut2)
                    # A ray on which e vanishes is beyond all.
                    per_square, q = tl.where(within, per_square, 0.0), tl.where(within, q, 0.0)
                    weight = tl.load(pointer + k, mask=within, other=0.0)
                    weight *= tl.sqrt(per_square) * tl.exp2(q * HALF_LOG2_E)
                    mass += weight
                    any_pixel = tl.maximum(any_pixel, tl.where(within, 1.0, 0.0))
                    weight *= per_square
                    p0, p1, p2 = e1 * c2 - e2 * c1, e2 * c0 - e0 * c2, e0 * c1 - e1 * c0
                    m0 -= weight * p0
                    m1 -= weight * p1
                    m2 -= weight * p2
                    along = per_pixel * per_square * (z0 * e0 + z1 * e1 + z2 * e2)
                    w0, w1, w2 = (
                        weight * (along * p0 - e0),
                        weight * (along * p1 - e1),
                        weight * (along * p2 - e2),
                    )
                    s0 += w0
                    s1 += w1
                    s2 += w2
                    x0 += w0 * dx
                    x1s += w1 * dx
                    x2 += w2 * dx
                    y0 += w0 * dy
                    y1s += w1 * dy
                    y2 += w2 * dy
            target = sums + 14 * g
            tl.store(target, tl.sum(tl.sum(mass, 1), 0))
            tl.store(target + 1, tl.sum(tl.sum(m0, 1), 0))
            tl.store(target + 2, tl.sum(tl.sum(m1, 1), 0))
            tl.store(target + 3, tl.sum(tl.sum(m2, 1), 0))
            tl.store(target + 4, tl.sum(tl.sum(s0, 1), 0))
            tl.store(target + 5, tl.sum(tl.sum(s1, 1), 0))
            tl.store(target + 6, tl.sum(tl.sum(s2, 1), 0))
            tl.store(target + 7, tl.sum(tl.sum(x0, 1), 0))
            tl.store(target + 8, tl.sum(tl.sum(x1s, 1), 0))
            tl.store(target + 9, tl.sum(tl.sum(x2, 1), 0))
            tl.store(target + 10, tl.sum(tl.sum(y0, 1), 0))
            tl.store(target + 11, tl.sum(tl.sum(y1s, 1), 0))
            tl.store(target + 12, tl.sum(tl.sum(y2, 1), 0))
            tl.store(target + 13, tl.max(tl.max(any_pixel, 1), 0))


class Lines(torch.autograd.Function):
    """Integrate along the rays by the Triton kernels; on float32 tensors."""

    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        scales: Tensor,
        rotations: Tensor,
        densities: Tensor,
        scan: ScanGeometry,
        cut: float,
        statistics: ScreenStatistics | None,
    ) -> Tensor:
        """Return the images (V, H, W); arguments as in `render_gaussians`."""
        gaussians = [t.detach().contiguous() for t in (positions, scales, rotations, densities)]
        images = positions.new_zeros((len(scan), *scan.detector_shape))
        views = poses_on(scan, positions.device), across_on(scan, positions.device)

        def trace(part: slice, wait: bool) -> tuple[Tensor, Tensor]:
            return _trace(gaussians, views, part, cut, scan.detector_shape, wait=wait)

        trained = any(ctx.needs_input_grad)
        ctx.seen = sum_views(sum_lines, trace, len(positions), cut, images, trained)
        lengths = _ray_lengths(*views, scan.detector_shape)
        ctx.gaussians, ctx.views, ctx.cut, ctx.lengths = gaussians, views, cut, lengths
        ctx.statistics = statistics
        return images.mul_(lengths)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the Gaussians, and fill the statistics."""
        gradient = (grad_outputs[0] * ctx.lengths).contiguous()
        num_views, rows, columns = gradient.shape
        gradients = [torch.zeros_like(tensor) for tensor in ctx.gaussians]
        count = len(gradients[0])
        statistics = ctx.statistics or ScreenStatistics(count)
        statistics.move_to(gradient.device)
        for part, lines, boxes in ctx.seen:
            poses, across = (tensor[part] for tensor in ctx.views)
            sums = lines.new_empty((len(poses), count, 14))
            with torch.cuda.device_of(gradient):
                sum_gradients[(triton.cdiv(count, IN_TURN), len(poses))](
                    lines,
                    boxes,
                    gradient[part],
                    sums,
                    count,
                    rows,
                    columns,
                    ctx.cut**2,
                    ROWS=ROWS,
                    COLUMNS=COLUMNS,
                    num_warps=1,
                )
                trace_backward[(triton.cdiv(count, GAUSSIANS),)](
                    *ctx.gaussians[:3],
                    poses,
                    across,
                    lines,
                    sums,
                    boxes,
                    *gradients,
                    statistics.gradient,
                    statistics.visible,
                    count,
                    len(poses),
                    0.5 * num_views * columns,
                    0.5 * num_views * rows,
                    _gain(ctx.cut),
                    BLOCK=GAUSSIANS,
                    num_warps=4,
                )
        return (*gradients, None, None, None)


def _gain(cut: float) -> float:
    """Return the factor that all line integrals share."""
    return math.sqrt(2 * math.pi) / kept_mass(cut, 2)


def _ray_lengths(poses: Tensor, across: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the distances of the pixels from the source (V, H, W) in mm."""
    i, j = (torch.arange(size, device=poses.device) for size in shape)
    normal, (far, column, row) = poses[:, 3:6], poses[:, 12:15, None].unbind(1)
    u, v = across[:, 0, None], across[:, 1, None]
    along_v = far[..., None] * normal[:, None] + (i - row)[..., None] * v  # (V, H, 3)
    along_u = (j - column)[..., None] * u  # (V, W, 3)
    return torch.linalg.vector_norm(along_v[:, :, None] + along_u[:, None], dim=-1)


def _trace(
    gaussians: list[Tensor],
    views: tuple[Tensor, Tensor],
    part: slice,
    cut: float,
    shape: tuple[int, int],
    *,
    wait: bool,
) -> tuple[Tensor, Tensor]:
    """Return lines (V, N, 20) and boxes (V, N, 6) of some views."""
    poses, across = (tensor[part] for tensor in views)
    count = len(gaussians[0])
    lines = poses.new_empty((len(poses), count, 20))
    boxes = poses.new_empty((len(poses), count, 6), dtype=torch.int32)
    flag = finite_flag(poses.device)
    trace_gaussians[(triton.cdiv(count, GAUSSIANS), len(poses))](
        *gaussians,
        poses,
        across,
        lines,
        boxes,
        flag,
        count,
        *shape,
        cut * cut,
        _gain(cut),
        BLOCK=GAUSSIANS,
        num_warps=4,
    )
    check_finite_later(flag, wait=wait)
    return lines, boxes


def paper_launches() -> list[PaperLaunch]:
    """Return the launches for one view of 256^2, see `tiles_of_a_paper_view`.

    A pixel of a hit takes 46 operations. On the way back 3 blocks of 8 rows by 3 of 8 columns are 576
    pixels of a Gaussian with 110 operations.

    Of the code for sm_90 a hit takes 174 instructions a warp, 79 M or 85 us on an H100 that issues
    0.93e12 a second; a Gaussian on the way back 3 x (119 + 3 x 152) and 350 for its sums, 104 M or
    112 us. With half of the slots filled a view is rendered forwards and backwards in 0.42 ms.
    """
    count = 50_000
    pointers = {"lines": "*fp32", "boxes": "*i32", "gradient": "*fp32", "sums": "*fp32"}
    numbers = {"count": "i32", "rows": "i32", "columns": "i32", "cut2": "fp32"}
    constants = {"ROWS": ROWS, "COLUMNS": COLUMNS}
    return [
        tiles_of_a_paper_view("exact lines", sum_lines, 72, 46),
        PaperLaunch(
            name="exact lines backward",
            kernel=sum_gradients,
            signature={**pointers, **numbers, **dict.fromkeys(constants, "constexpr")},
            constants=constants,
            warps=1,
            programs=count // IN_TURN,
            bytes=count * (72 + 16 + 56) + 256**2 * 4,
            flops=count * 576 * 110,
            launches=36,
        ),
    ]
