"""Triton kernels that sum 3D Gaussians into voxels, and the way back.

The counterpart of `voxel_kernels`, with the same cut and mass. Forwards a program owns a
brick of 8^3 voxels and sums the Gaussians that meet it (see `bins_triton`). Backwards a
program owns a Gaussian and a slab of 64 slices and sums over the voxels of both; a last kernel sums
over the slabs and turns moments into gradients. Nothing is added atomically: results are the same
to the last bit in every run. The memory is that of the volume and of lists below 256 MB, so that
512^3 voxels take less than 1 GB; a slab of a grid is a grid (`VolumeGrid.crop`).

Ellipsoids (N, 10) as in `voxel_kernels`; boxes as in `bins_triton`. Moments
(slabs, N, 10) of the volume's gradient times bell about each centre, in voxels: 1, x, y, z, xx, xy,
xz, yy, yz, zz.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.representations.gaussians.bins_triton import (
    NEVER,
    SEGMENT,
    bin_gaussians,
    deal_segments,
    keep,
    meets,
)
from diffnr_lightning.representations.gaussians.checks import check_finite_later, finite_flag
from diffnr_lightning.representations.gaussians.ellipsoid_triton import (
    place_gaussians,
    voxelise_backward,
)
from diffnr_lightning.representations.gaussians.shape import kept_mass
from diffnr_lightning.representations.gaussians.shape_triton import (
    HALF_LOG2_E,
)
from diffnr_lightning.triton_kernels import PaperLaunch

if TYPE_CHECKING:
    from triton.runtime.jit import JITFunction

EDGE = 8
# Candidates that a program tests at once, and programs, whose scratches take 4 MB.
CANDIDATES, PROGRAMS = 256, 4096
# Gaussians of a program that places.
GAUSSIANS = 128
# On the way back: voxels that a program takes at once, slices of a slab, Gaussians that a program
# takes one after the other.
ROWS, COLUMNS = 32, 16
SLAB, IN_TURN = 64, 4


@triton.jit
def voxelise(
    ellipsoids,
    boxes,
    lists,
    counts,
    scratch,
    volumes,
    columns,
    rows,
    slices,
    segments,
    segments_of_a_split,
    cells_x,
    cells_y,
    cell,
    cut2,
    EDGE: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the sum over some segments in some bricks; programs (any number, splits)."""
    split = tl.program_id(1)
    across, down = tl.cdiv(columns, EDGE), tl.cdiv(rows, EDGE)
    bricks = across * down * tl.cdiv(slices, EDGE)
    scratch += (split.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * BLOCK
    first = split * segments_of_a_split
    voxel = tl.arange(0, EDGE * EDGE * EDGE)
    for brick in range(tl.program_id(0), bricks, tl.num_programs(0)):
        left, top = brick % across * EDGE, brick // across % down * EDGE
        front = brick // (across * down) * EDGE
        right, bottom, back = left + EDGE - 1, top + EDGE - 1, front + EDGE - 1
        k, i = front + voxel // (EDGE * EDGE), top + voxel // EDGE % EDGE
        j = left + voxel % EDGE
        x, y, z = j.to(tl.float32), i.to(tl.float32), k.to(tl.float32)
        total = tl.full([EDGE * EDGE * EDGE], 0.0, tl.float32)
        place = (front // cell * cells_y + top // cell) * cells_x + left // cell
        for segment in range(first, tl.minimum(first + segments_of_a_split, segments)):
            number = tl.cast(place, tl.int64) * segments + segment
            listed = tl.load(counts + number)
            for start in range(0, listed, BLOCK):
                candidate = start + tl.arange(0, BLOCK)
                within = candidate < listed
                g = tl.load(lists + number * SEGMENT + candidate, mask=within, other=0)
                hit = meets(boxes, g, within, left, right, top, bottom, front, back, True)
                found = keep(g, hit, scratch)
                tl.debug_barrier()
                for h in range(0, found):
                    e = ellipsoids + 10 * tl.load(scratch + h)
                    dz = z - tl.load(e + 2)
                    dy = y - (tl.load(e + 1) + tl.load(e + 5) * dz)
                    dx = x - (tl.load(e) + tl.load(e + 4) * dz + tl.load(e + 7) * dy)
                    q = tl.load(e + 3) * dz * dz + tl.load(e + 6) * dy * dy
                    q += tl.load(e + 8) * dx * dx
                    peak = tl.load(e + 9)
                    total += tl.where(q <= cut2, peak * tl.exp2(q * HALF_LOG2_E), 0.0)
                # The next hits are written when all have read these.
                tl.debug_barrier()
        target = ((split.to(tl.int64) * slices + k) * rows + i) * columns + j
        tl.store(volumes + target, total, mask=(j < columns) & (i < rows) & (k < slices))


@triton.jit
def voxel_moments(
    ellipsoids,
    boxes,
    gradient,
    moments,
    count,
    columns,
    rows,
    cut,
    SLAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write the moments of some Gaussians within one slab; programs (any number, slabs).

    The voxels of a Gaussian are those of a parallelepiped around its ellipsoid, whose slices and
    rows are all as large as those in the middle: its volume is 6 / pi times that of the ellipsoid
    however that is turned. Nothing is written for a slab in which a Gaussian has no slice.
    """
    slab = tl.program_id(1)
    cut2 = cut * cut
    for g in range(tl.program_id(0), count, tl.num_programs(0)):
        seen = tl.load(boxes + 6 * g) < NEVER
        low = tl.maximum(tl.load(boxes + 6 * g + 4), slab * SLAB)
        high = tl.minimum(tl.load(boxes + 6 * g + 5), slab * SLAB + SLAB - 1)
        if seen & (high >= low):
            e = ellipsoids + 10 * g
            cx, cy, cz = tl.load(e), tl.load(e + 1), tl.load(e + 2)
            stiffness_z, lift_x, lift_y = tl.load(e + 3), tl.load(e + 4), tl.load(e + 5)
            stiffness_y, slope, stiffness_x = tl.load(e + 6), tl.load(e + 7), tl.load(e + 8)
            reach_y = cut / tl.sqrt(stiffness_y)
            reach_x = cut / tl.sqrt(stiffness_x)
            height = tl.minimum(2 * reach_y + 2, rows * 1.0).to(tl.int32)
            width = tl.minimum(2 * reach_x + 2, columns * 1.0).to(tl.int32)
            lines = (high - low + 1) * height
            s0 = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            sx = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            sy = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            sz = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            sxx = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            sxy = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            sxz = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            syy = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            syz = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            szz = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
            for first in range(0, lines, ROWS):
                line = (first + tl.arange(0, ROWS))[:, None]
                k = line // height
                z = low + k
                dz = z.to(tl.float32) - cz
                middle = cy + lift_y * dz
                begin = tl.minimum(
                    tl.maximum(tl.floor(middle - reach_y), 0.0), (rows - height) * 1.0
                )
                y = begin.to(tl.int32) + line - k * height
                from_middle = y.to(tl.float32) - middle
                dy = from_middle + lift_y * dz
                # Columns from the centre to the middle of the row.
                shift = lift_x * dz + slope * from_middle
                middle = cx + shift
                begin = tl.minimum(
                    tl.maximum(tl.floor(middle - reach_x), 0.0), (columns - width) * 1.0
                )
                base = stiffness_z * dz * dz + stiffness_y * from_middle * from_middle
                # Beyond the last row all is beyond the ellipsoid.
                base = tl.where(line < lines, base, 2 * cut2)
                at = gradient + (z.to(tl.int64) * rows + y) * columns + begin.to(tl.int32)
                # What a row sums before it is known how far the row is from the centre.
                p0 = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
                px = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
                pxx = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
                for start in range(0, width, COLUMNS):
                    j = (start + tl.arange(0, COLUMNS))[None, :]
                    dx = begin - middle + j.to(tl.float32)
                    q = base + stiffness_x * dx * dx
                    within = (j < width) & (q <= cut2)
                    # Beyond the ellipsoid the power is small or 0, and the gradient is taken as 0.
                    w = tl.load(at + j, mask=within, other=0.0) * tl.exp2(q * HALF_LOG2_E)
                    p0 += w
                    px += w * dx
                    pxx += w * dx * dx
                along = px + shift * p0
                s0 += p0
                sx += along
                sy += dy * p0
                sz += dz * p0
                sxx += pxx + shift * (px + along)
                sxy += dy * along
                sxz += dz * along
                syy += dy * dy * p0
                syz += dy * dz * p0
                szz += dz * dz * p0
            target = moments + 10 * (slab.to(tl.int64) * count + g)
            tl.store(target, tl.sum(tl.sum(s0, 1), 0))
            tl.store(target + 1, tl.sum(tl.sum(sx, 1), 0))
            tl.store(target + 2, tl.sum(tl.sum(sy, 1), 0))
            tl.store(target + 3, tl.sum(tl.sum(sz, 1), 0))
            tl.store(target + 4, tl.sum(tl.sum(sxx, 1), 0))
            tl.store(target + 5, tl.sum(tl.sum(sxy, 1), 0))
            tl.store(target + 6, tl.sum(tl.sum(sxz, 1), 0))
            tl.store(target + 7, tl.sum(tl.sum(syy, 1), 0))
            tl.store(target + 8, tl.sum(tl.sum(syz, 1), 0))
            tl.store(target + 9, tl.sum(tl.sum(szz, 1), 0))


class Voxelise(torch.autograd.Function):
    """Voxelise by the Triton kernels; on float32 tensors."""

    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        scales: Tensor,
        rotations: Tensor,
        densities: Tensor,
        grid: VolumeGrid,
        cut: float,
    ) -> Tensor:
        """Return the volume (Z, Y, X); arguments as in `voxelise_gaussians`."""
        gaussians = [t.detach().contiguous() for t in (positions, scales, rotations, densities)]
        volume = positions.new_zeros(grid.shape)
        ctx.gaussians, ctx.grid, ctx.cut = gaussians, grid, cut
        if len(positions):
            with torch.cuda.device_of(volume):
                ctx.placed = _place(gaussians, grid, cut, wait=not any(ctx.needs_input_grad))
                _sum(*ctx.placed, cut, volume)
        return volume

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the Gaussians."""
        gradient = grad_outputs[0].contiguous()
        gradients = [torch.empty_like(tensor) for tensor in ctx.gaussians]
        count, (slices, rows, columns) = len(gradients[0]), gradient.shape
        if count:
            slabs = triton.cdiv(slices, SLAB)
            moments = gradient.new_empty((slabs, count, 10))
            with torch.cuda.device_of(gradient):
                voxel_moments[(triton.cdiv(count, IN_TURN), slabs)](
                    *ctx.placed,
                    gradient,
                    moments,
                    count,
                    columns,
                    rows,
                    ctx.cut,
                    SLAB=SLAB,
                    ROWS=ROWS,
                    COLUMNS=COLUMNS,
                    num_warps=4,
                )
                voxelise_backward[(triton.cdiv(count, GAUSSIANS),)](
                    *ctx.gaussians[1:3],
                    *ctx.placed,
                    moments,
                    *gradients,
                    count,
                    slabs,
                    *ctx.grid.voxel_mm[::-1],
                    1 / kept_mass(ctx.cut, 3),
                    SLAB=SLAB,
                    BLOCK=GAUSSIANS,
                    num_warps=4,
                )
        return (*gradients, None, None)


def _place(
    gaussians: list[Tensor], grid: VolumeGrid, cut: float, *, wait: bool
) -> tuple[Tensor, Tensor]:
    """Return ellipsoids (N, 10) and boxes (N, 6)."""
    count = len(gaussians[0])
    ellipsoids = gaussians[0].new_empty((count, 10))
    boxes = gaussians[0].new_empty((count, 6), dtype=torch.int32)
    flag = finite_flag(boxes.device)
    place_gaussians[(triton.cdiv(count, GAUSSIANS),)](
        *gaussians,
        ellipsoids,
        boxes,
        flag,
        count,
        *grid.origin_mm,
        *grid.voxel_mm[::-1],
        *grid.shape[::-1],
        cut,
        1 / kept_mass(cut, 3),
        BLOCK=GAUSSIANS,
        num_warps=4,
    )
    check_finite_later(flag, wait=wait)
    return ellipsoids, boxes


def _sum(ellipsoids: Tensor, boxes: Tensor, cut: float, volume: Tensor) -> None:
    """Write the volume (Z, Y, X) of ellipsoids."""
    slices, rows, columns = volume.shape
    bricks = triton.cdiv(slices, EDGE) * triton.cdiv(rows, EDGE) * triton.cdiv(columns, EDGE)
    bins = bin_gaussians(boxes[None], (slices, rows, columns))
    splits, of_a_split = deal_segments(bins.segments, bricks)
    parts = volume if splits == 1 else volume.new_empty((splits, *volume.shape))
    programs = min(bricks, PROGRAMS)
    voxelise[(programs, splits)](
        ellipsoids,
        boxes,
        bins.lists,
        bins.counts,
        boxes.new_empty((splits * programs, CANDIDATES)),
        parts,
        columns,
        rows,
        slices,
        bins.segments,
        of_a_split,
        *bins.across,
        bins.cell,
        cut * cut,
        EDGE=EDGE,
        SEGMENT=SEGMENT,
        BLOCK=CANDIDATES,
        num_warps=4,
    )
    if splits > 1:
        torch.sum(parts, dim=0, out=volume)


def paper_launches() -> list[PaperLaunch]:
    """Return the launches for 256^3 voxels and for the 32^3 on which total variation is taken.

    50,000 Gaussians of a first reconstruction have 5,200 voxels each (benchmarks: 20.6 M pairs in
    128^3 with a cut of 3), so they are 21.6 voxels wide and meet ((21.6 + 8) / 8)^3 = 51 bricks:
    2.5 M hits of 512 voxels, of which each takes 18 operations. In the half of the grid that is not
    empty 32^3 voxels meet 920 Gaussians, with 9,900 hits. On the way back 18 blocks of 32 rows by 2
    of 16 columns take 14 operations a voxel and 12 more a block of rows; the cube cuts off 40 %.

    Instructions count more than either. The H100 issues 0.93e12 a second, for a warp each. Of its
    code for sm_90 a hit takes 100 a warp: 4 x 9,900 x 100 = 4 M for 32^3, of which the fullest brick
    has a few times its share, 1.0 G = 1.1 ms for 256^3. 4 warps look at each Gaussian in 60: 12 M on
    the way back, where 920 take 18 x 490 each. All of 32^3 is below 0.1 ms forwards and backwards,
    of which the launches are the larger part.
    """
    count = 50_000
    grids = (("256^3", 256, PROGRAMS, 1, 4, 2_530_000, 1.0), ("32^3", 32, 64, 13, 1, 9_900, 0.011))
    launches = []
    for name, edge, programs, splits, slabs, hits, share in grids:
        volume, near = 4 * edge**3, int(share * count)
        read, back = (64 + 10) * near + splits * volume, volume + 24 * count + 40 * near
        ways = (
            (voxelise, programs * splits, read, hits * 512 * 18),
            (voxel_moments, count // IN_TURN * slabs, back + 40 * near, near * 18 * 512 * 40),
        )
        launches += [_paper_launch(f"{k.__name__} {name}", k, *numbers) for k, *numbers in ways]
    return launches


def _paper_launch(
    name: str, kernel: JITFunction, programs: int, moved: int, flops: int
) -> PaperLaunch:
    constants = {"SLAB": SLAB, "ROWS": ROWS, "COLUMNS": COLUMNS, "EDGE": EDGE, "SEGMENT": SEGMENT}
    constants["BLOCK"] = CANDIDATES
    types = dict.fromkeys(("boxes", "lists", "counts", "scratch"), "*i32")
    sizes = ("count", "columns", "rows", "slices", "segments", "segments_of_a_split")
    types |= dict.fromkeys((*sizes, "cells_x", "cells_y", "cell"), "i32")
    types |= dict.fromkeys(("cut", "cut2"), "fp32") | dict.fromkeys(constants, "constexpr")
    return PaperLaunch(
        name=name,
        kernel=kernel,
        signature={argument: types.get(argument, "*fp32") for argument in kernel.arg_names},
        constants={key: value for key, value in constants.items() if key in kernel.arg_names},
        warps=4,
        programs=programs,
        bytes=moved,
        flops=flops,
    )
