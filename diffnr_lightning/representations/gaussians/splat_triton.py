"""Triton kernels of X-ray splatting: the sums over tiles of pixels and over each Gaussian's pixels.

The counterpart of `splat_kernels`, with the same cut and mass. Forwards a program owns a
tile of 8 rows and 16 columns and sums the Gaussians that meet it (see `bins_triton`).
Backwards a program owns a Gaussian and sums over its pixels: the gradient of an image stays in the
L2 cache, so that a gather costs less than partial sums for each pair of tile and Gaussian would,
and there is no list to be bounded. Nothing is added atomically: results are the same to the last
bit in every run.

Footprints (V, N, 8): column, row, slope, two stiffnesses (see `shape.ellipse_rows`),
height, height per density, unused. Moments (V, N, 6) of the image's gradient times bell: 1, x, y,
xx, xy, yy, with y the distance from the row of the centre and x that from the middle of the
ellipse's row, in which q = stiffness_y y^2 + stiffness_x x^2 has no mixed term that could cancel.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

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
from diffnr_lightning.representations.gaussians.pinhole_triton import (
    project_gaussians,
    project_gaussians_backward,
)
from diffnr_lightning.representations.gaussians.poses import poses_on
from diffnr_lightning.representations.gaussians.shape import kept_mass
from diffnr_lightning.representations.gaussians.shape_triton import HALF_LOG2_E
from diffnr_lightning.representations.gaussians.statistics import ScreenStatistics
from diffnr_lightning.triton_kernels import PaperLaunch

# Gaussians of a program that projects.
GAUSSIANS = 128
# On the way back: pixels that a program takes at once, Gaussians that it takes one after the other.
ROWS, COLUMNS = 8, 16
IN_TURN = 4


@triton.jit
def splat(
    footprints,
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
    """Write the sum over some segments in one tile; programs (tiles, splits, views)."""
    tile, split = tl.program_id(0), tl.program_id(1)
    view = tl.program_id(2).to(tl.int64)
    tiles_x = tl.cdiv(columns, TILE_COLUMNS)
    top, left = tile // tiles_x * TILE_ROWS, tile % tiles_x * TILE_COLUMNS
    bottom, right = top + TILE_ROWS - 1, left + TILE_COLUMNS - 1
    pixel = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    i, j = top + pixel // TILE_COLUMNS, left + pixel % TILE_COLUMNS
    y, x = i.to(tl.float32), j.to(tl.float32)
    total = tl.full([TILE_ROWS * TILE_COLUMNS], 0.0, tl.float32)
    footprints += view * count * 8
    boxes += view * count * 6
    program = (view * tl.num_programs(1) + split) * tl.num_programs(0) + tile
    scratch += program * BLOCK
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
                f = footprints + 8 * tl.load(scratch + h)
                dy = y - tl.load(f + 1)
                dx = x - (tl.load(f) + tl.load(f + 2) * dy)
                q = tl.load(f + 3) * dy * dy + tl.load(f + 4) * dx * dx
                height = tl.load(f + 5)
                total += tl.where(q <= cut2, height * tl.exp2(q * HALF_LOG2_E), 0.0)
            # The next hits are written when all have read these.
            tl.debug_barrier()
    target = images + (view * tl.num_programs(1) + split) * rows * columns + i * columns + j
    tl.store(target, total, mask=(i < rows) & (j < columns))


@triton.jit
def splat_moments(
    footprints,
    boxes,
    gradient,
    moments,
    count,
    rows,
    columns,
    cut,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write the moments of some Gaussians, one after the other; programs (any number, views).

    The pixels of a Gaussian are those of a parallelogram around its ellipse, whose rows are all as
    long as the middle one: its area is 4 / pi times that of the ellipse however that is turned.
    Nothing is written for a Gaussian that is not seen.
    """
    view = tl.program_id(1).to(tl.int64)
    gradient += view * rows * columns
    cut2 = cut * cut
    for own in range(tl.program_id(0), count, tl.num_programs(0)):
        g = view * count + own
        seen = tl.load(boxes + 6 * g) < NEVER
        if seen:
            low, high = tl.load(boxes + 6 * g + 2), tl.load(boxes + 6 * g + 3)
            f = footprints + 8 * g
            column, row, slope = tl.load(f), tl.load(f + 1), tl.load(f + 2)
            stiffness_y, stiffness_x = tl.load(f + 3), tl.load(f + 4)
            reach = cut / tl.sqrt(stiffness_x)
            width = tl.minimum(2 * reach + 2, columns * 1.0).to(tl.int32)
            s0 = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            sx = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            sy = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            sxx = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            sxy = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            syy = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            for first in range(low, high + 1, ROWS):
                y = (first + tl.arange(0, ROWS))[:, None]
                dy = y.to(tl.float32) - row
                middle = column + slope * dy
                begin = tl.minimum(
                    tl.maximum(tl.floor(middle - reach), 0.0), (columns - width) * 1.0
                )
                # Beyond the last row all is beyond the ellipse.
                base = tl.where(y <= high, stiffness_y * dy * dy, 2 * cut2)
                line = gradient + y * columns + begin.to(tl.int32)
                # What a row sums before it is known how far the row is from the centre.
                p0 = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
                px = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
                pxx = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
                for start in range(0, width, COLUMNS):
                    j = (start + tl.arange(0, COLUMNS))[None, :]
                    dx = begin - middle + j.to(tl.float32)
                    q = base + stiffness_x * dx * dx
                    within = (j < width) & (q <= cut2)
                    # Beyond the ellipse the power is small or 0, and the gradient is taken as 0.
                    w = tl.load(line + j, mask=within, other=0.0) * tl.exp2(q * HALF_LOG2_E)
                    p0 += w
                    px += w * dx
                    pxx += w * dx * dx
                s0 += p0
                sx += px
                sxx += pxx
                sy += p0 * dy
                sxy += px * dy
                syy += p0 * dy * dy
            target = moments + 6 * g
            tl.store(target, tl.sum(tl.sum(s0, 1), 0))
            tl.store(target + 1, tl.sum(tl.sum(sx, 1), 0))
            tl.store(target + 2, tl.sum(tl.sum(sy, 1), 0))
            tl.store(target + 3, tl.sum(tl.sum(sxx, 1), 0))
            tl.store(target + 4, tl.sum(tl.sum(sxy, 1), 0))
            tl.store(target + 5, tl.sum(tl.sum(syy, 1), 0))


class Splat(torch.autograd.Function):
    """Render by the Triton kernels; on float32 tensors."""

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
        count, cone = len(positions), scan.beam == "cone"
        images = positions.new_zeros((len(scan), *scan.detector_shape))
        poses = poses_on(scan, positions.device)

        def project(views: slice, wait: bool) -> tuple[Tensor, Tensor]:
            return _project(gaussians, poses[views], cone, cut, scan.detector_shape, wait=wait)

        trained = any(ctx.needs_input_grad)
        ctx.seen = sum_views(splat, project, count, cut, images, trained)
        ctx.gaussians, ctx.poses, ctx.cone, ctx.cut = gaussians, poses, cone, cut
        ctx.statistics = statistics
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the Gaussians, and fill the statistics."""
        gradient = grad_outputs[0].contiguous()
        num_views, rows, columns = gradient.shape
        gradients = [torch.zeros_like(tensor) for tensor in ctx.gaussians]
        count = len(gradients[0])
        statistics = ctx.statistics or ScreenStatistics(count)
        statistics.move_to(gradient.device)
        for views, footprints, boxes in ctx.seen:
            poses = ctx.poses[views]
            moments = footprints.new_empty((len(poses), count, 6))
            with torch.cuda.device_of(gradient):
                splat_moments[(triton.cdiv(count, IN_TURN), len(poses))](
                    footprints,
                    boxes,
                    gradient[views],
                    moments,
                    count,
                    rows,
                    columns,
                    ctx.cut,
                    ROWS=ROWS,
                    COLUMNS=COLUMNS,
                    num_warps=1,
                )
                project_gaussians_backward[(triton.cdiv(count, GAUSSIANS),)](
                    *ctx.gaussians[:3],
                    poses,
                    footprints,
                    boxes,
                    moments,
                    *gradients,
                    statistics.gradient,
                    statistics.visible,
                    count,
                    len(poses),
                    0.5 * num_views * columns,
                    0.5 * num_views * rows,
                    CONE=ctx.cone,
                    BLOCK=GAUSSIANS,
                    num_warps=4,
                )
        return (*gradients, None, None, None)


def _project(
    gaussians: list[Tensor],
    poses: Tensor,
    cone: bool,
    cut: float,
    shape: tuple[int, int],
    *,
    wait: bool,
) -> tuple[Tensor, Tensor]:
    """Return footprints (V, N, 8) and boxes (V, N, 6)."""
    count, views = len(gaussians[0]), len(poses)
    footprints = gaussians[0].new_empty((views, count, 8))
    boxes = gaussians[0].new_empty((views, count, 6), dtype=torch.int32)
    programs = triton.cdiv(count, GAUSSIANS)
    flag = finite_flag(poses.device)
    project_gaussians[(programs, views)](
        *gaussians,
        poses,
        footprints,
        boxes,
        flag,
        count,
        *shape,
        cut,
        1 / kept_mass(cut, 2),
        CONE=cone,
        BLOCK=GAUSSIANS,
        num_warps=4,
    )
    check_finite_later(flag, wait=wait)
    return footprints, boxes


def paper_launches() -> list[PaperLaunch]:
    """Return the launches for one view of 256^2, see `tiles_of_a_paper_view`.

    A pixel of a hit takes 13 operations. On the way back 3 blocks of 8 rows by 2 of 16 columns are
    768 pixels of a Gaussian with 14 operations.

    Instructions count more than either. The H100 issues 0.93e12 a second, for a warp each. Of its
    code for sm_90 a hit takes 76, 35 M or 37 us in all; a Gaussian on the way back 3 x (156 + 2 x 62)
    and 250 for its sums, 55 M or 59 us. With half of the slots filled, and 25 us for projecting, for
    lists and for the launches, a view is rendered forwards and backwards in 0.22 ms.
    """
    count = 50_000
    pointers = {"footprints": "*fp32", "boxes": "*i32", "gradient": "*fp32", "moments": "*fp32"}
    numbers = {"count": "i32", "rows": "i32", "columns": "i32", "cut": "fp32"}
    constants = {"ROWS": ROWS, "COLUMNS": COLUMNS}
    return [
        tiles_of_a_paper_view("splat", splat, 24, 13),
        PaperLaunch(
            name="splat backward",
            kernel=splat_moments,
            signature={**pointers, **numbers, **dict.fromkeys(constants, "constexpr")},
            constants=constants,
            warps=1,
            programs=count // IN_TURN,
            bytes=count * (20 + 16 + 24) + 256**2 * 4,
            flops=count * 768 * 14,
            launches=36,
        ),
    ]
