"""Triton projector pair for scans whose detector rows run along z: `separable` on a CUDA device.

Same rays, same samples. A warp holds rows of one detector column: its lateral cell and weight are
scalars, and its four loads of a slice fall on two voxel columns that are contiguous in z.

* forward: a program sums the slices of its rows in order. 36 views of 256^2 through 256^3 are 604
  million samples of 14 flops and four loads from L1; the volume is read once a view, mostly from L2.
* adjoint: a program owns a voxel column and gathers, view by view, the rays that have it in their
  bilinear support, with the weights of the forward projector: no atomics, and a fixed order. That is
  (2 to 3 columns) x (2 to 3 rows) a voxel and view, of 6 flops and one load; a scatter would be four
  atomic additions for each of as many samples.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN202, N803

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors.device_tables import device_table
from diffnr_lightning.projectors.separable import fans_of
from diffnr_lightning.projectors.voxel_driven import plane_maps
from diffnr_lightning.triton_kernels import PaperLaunch, on_its_device

_MAP_FIELDS = 6  # numbers of a view that say which detector column sees a voxel column
_LANES = 128  # rows or voxels of a program, four for each thread of one warp
# One compiled kernel serves all sizes, also those of 1 and multiples of 16.
_SIZES = ("views", "rows", "width", "nz", "ny", "nx")
# Rays within this part of a pixel of the support are looked at; their weight decides.
_MARGIN = tl.constexpr(0.01)


@on_its_device
def project(volume: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return line integrals (V, H, W) of a float32 volume (Z, Y, X); see `projectors.project`.

    Raises:
        ValueError: detector rows that do not run along z.
    """
    fans = device_table(_fans, grid, scan, volume.device)
    nz, ny, nx = grid.shape
    rows, width = scan.detector_shape
    # Zeros around instead of bounds checks; the second one behind z is read with weight zero.
    columns = volume.new_zeros(ny + 2, nx + 2, nz + 3)
    columns[1:-1, 1:-1, 1:-2] = volume.detach().permute(1, 2, 0)
    out = volume.new_empty(len(scan), rows, width)
    launch = (len(scan) * width, triton.cdiv(rows, _LANES))
    _project[launch](columns, fans, out, rows, width, nz, ny, nx, LANES=_LANES, num_warps=1)
    return out


@on_its_device
def backproject(projections: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return the adjoint (Z, Y, X) applied to float32 projections (V, H, W).

    Raises:
        ValueError: detector rows that do not run along z.
    """
    fans = device_table(_fans, grid, scan, projections.device)
    maps = device_table(_maps, grid, scan, projections.device)
    nz, ny, nx = grid.shape
    rows, width = scan.detector_shape
    # A copy in any case: rows or columns of one pixel are contiguous either way, and the rays are scaled in place.
    rays = projections.detach().transpose(1, 2).clone(memory_format=torch.contiguous_format)
    launch = (len(scan) * width, triton.cdiv(rows, _LANES))
    _scale_by_step[launch](rays, fans, rows, LANES=_LANES, num_warps=1)
    out = projections.new_empty(ny, nx, nz)
    launch = (ny * nx, triton.cdiv(nz, _LANES))
    _backproject[launch](
        rays, fans, maps, out, len(scan), rows, width, nz, nx, LANES=_LANES, num_warps=1
    )
    return out.permute(2, 0, 1).contiguous()


def _fans(grid: VolumeGrid, scan: ScanGeometry) -> np.ndarray:
    """Return the numbers of every view and column (V, W, 12), as the kernels read them."""
    return np.stack(fans_of(grid, scan), axis=-1).astype(np.float32)


def _maps(grid: VolumeGrid, scan: ScanGeometry) -> np.ndarray:
    """Return (V, 6) maps of voxel columns to detector columns: depth and depth times column, linear in x, y."""
    planes = plane_maps(grid, scan, np.ones(len(scan)))
    return np.stack(planes[:_MAP_FIELDS], axis=-1).astype(np.float32)


@triton.jit
def _length(fan, row):
    """Return the millimetres between two slices along the rays of rows of a fan."""
    rise = tl.load(fan + 8) + row * tl.load(fan + 9)
    return tl.load(fan + 7) * tl.sqrt(1.0 + rise * rise)


@triton.jit(do_not_specialize=_SIZES)
def _project(columns, fans, out, rows, width, nz, ny, nx, LANES: tl.constexpr):
    """Fill projections (V, H, W) from padded voxel columns (Y + 2, X + 2, Z + 3).

    A program serves `LANES` rows of a column of a view.
    """
    ray = tl.program_id(0)
    i = tl.program_id(1) * LANES + tl.arange(0, LANES)
    row = i.to(tl.float32)
    fan = fans + ray * 12
    along_x = tl.load(fan) > 0.5
    lateral, slope = tl.load(fan + 1), tl.load(fan + 2)
    z, z_k, z_i, z_ik = tl.load(fan + 3), tl.load(fan + 4), tl.load(fan + 5), tl.load(fan + 6)
    first, last = tl.load(fan + 10).to(tl.int32), tl.load(fan + 11).to(tl.int32)
    next_x = (nz + 3).to(tl.int64)
    next_y = next_x * (nx + 2)
    next_slice = tl.where(along_x, next_x, next_y)
    next_cell = tl.where(along_x, next_y, next_x)
    limit = tl.where(along_x, ny, nx)
    top = (nz + 1).to(tl.float32)
    total = tl.zeros([LANES], tl.float32)
    for k in range(first, last + 1):
        at = lateral + k * slope + 1.0
        cell = tl.minimum(tl.maximum(at.to(tl.int32), 0), limit)
        w = tl.minimum(tl.maximum(at - cell, 0.0), 1.0)
        at_z = z + k * z_k + 1.0 + row * (z_i + k * z_ik)
        at_z = tl.minimum(tl.maximum(at_z, 0.0), top)
        cell_z = at_z.to(tl.int32)
        u = at_z - cell_z
        near = columns + (k + 1) * next_slice + cell * next_cell
        far = near + next_cell
        near_low, near_high = tl.load(near + cell_z), tl.load(near + cell_z + 1)
        far_low, far_high = tl.load(far + cell_z), tl.load(far + cell_z + 1)
        low = near_low + w * (far_low - near_low)
        high = near_high + w * (far_high - near_high)
        total += low + u * (high - low)
    view, column = ray // width, ray % width
    target = out + view.to(tl.int64) * rows * width + column + i * width
    tl.store(target, total * _length(fan, row), mask=i < rows)


@triton.jit(do_not_specialize=_SIZES)
def _scale_by_step(rays, fans, rows, LANES: tl.constexpr):
    """Multiply rays (V, W, H) by the length of their steps in place."""
    ray = tl.program_id(0)
    i = tl.program_id(1) * LANES + tl.arange(0, LANES)
    here = rays + ray.to(tl.int64) * rows + i
    value = tl.load(here, mask=i < rows, other=0.0)
    tl.store(here, value * _length(fans + ray * 12, i.to(tl.float32)), mask=i < rows)


@triton.jit
def _columns_that_see(map_of, x, y, width):
    """Return the first and last detector column whose ray may pass voxel column (x, y) in less than a voxel."""
    depth_x, depth_y = tl.load(map_of + 1), tl.load(map_of + 2)
    u_x, u_y = tl.load(map_of + 4), tl.load(map_of + 5)
    depth = tl.load(map_of) + x * depth_x + y * depth_y
    u = tl.load(map_of + 3) + x * u_x + y * u_y
    change = tl.maximum(tl.abs(depth_x), tl.abs(depth_y))
    least = depth - change
    at = u / tl.where(least > 0.0, depth, 1.0)
    # One voxel aside u / depth moves by (u_x - at depth_x) / depth there, which is `least` or more.
    moved = tl.maximum(tl.abs(u_x - at * depth_x), tl.abs(u_y - at * depth_y))
    reach = moved / tl.where(least > 0.0, least, 1.0) + _MARGIN
    # Beside the source any column may, behind it none.
    low = tl.where(least > 0.0, tl.maximum(tl.ceil(at - reach), 0.0), 0.0)
    high = tl.where(least > 0.0, tl.minimum(tl.floor(at + reach), width - 1.0), width - 1.0)
    high = tl.where(depth + change > 0.0, high, -1.0)
    # Columns far outside would not fit into an integer.
    return tl.minimum(low, width + 0.0).to(tl.int32), tl.maximum(high, -1.0).to(tl.int32)


@triton.jit(do_not_specialize=_SIZES)
def _backproject(rays, fans, maps, out, views, rows, width, nz, nx, LANES: tl.constexpr):
    """Fill voxel columns (Y, X, Z) from rays (V, W, H) scaled by their steps.

    A program owns `LANES` voxels of a column.
    """
    column = tl.program_id(0)
    x, y = (column % nx).to(tl.float32), (column // nx).to(tl.float32)
    n = tl.program_id(1) * LANES + tl.arange(0, LANES)
    voxel = n.to(tl.float32)
    total = tl.zeros([LANES], tl.float32)
    for v in range(views):
        low, high = _columns_that_see(maps + v * 6, x, y, width)
        for j in range(low, high + 1):
            fan = fans + (v * width + j) * 12
            along_x = tl.load(fan) > 0.5
            k, side = tl.where(along_x, x, y), tl.where(along_x, y, x)
            w = 1.0 - tl.abs(side - (tl.load(fan + 1) + k * tl.load(fan + 2)))
            w = tl.where((k >= tl.load(fan + 10)) & (k <= tl.load(fan + 11)), w, 0.0)
            if w > 0.0:
                base = tl.load(fan + 3) + k * tl.load(fan + 4)
                climb = tl.load(fan + 5) + k * tl.load(fan + 6)
                # Rows that lie within one voxel of z: all of them where they climb too little.
                reach = 1.0 / tl.maximum(tl.abs(climb), 1e-6)
                all_rows = 2.0 * reach + 1.0 >= rows
                count = tl.where(all_rows, rows, (2.0 * (reach + _MARGIN)).to(tl.int32) + 1)
                per_voxel = tl.where(climb < 0.0, -reach, reach)
                start = tl.ceil((voxel - base) * per_voxel - reach - _MARGIN)
                start = tl.minimum(tl.maximum(start, -rows - 1.0), rows + 0.0)
                i = tl.where(all_rows, 0, start.to(tl.int32))
                source = rays + (v * width + j).to(tl.int64) * rows
                part = tl.zeros([LANES], tl.float32)
                for _ in range(count):
                    value = tl.load(source + i, mask=(i >= 0) & (i < rows), other=0.0)
                    part += value * tl.maximum(1.0 - tl.abs(voxel - (base + i * climb)), 0.0)
                    i += 1
                total += w * part
    tl.store(out + column.to(tl.int64) * nz + n, total, mask=n < nz)


def paper_launches() -> list[PaperLaunch]:
    """Return the launches of a projection and of a backprojection of all views."""
    views, size = 36, 256
    voxels, rays = size**3, views * size**2
    blocks = size // _LANES
    integers = dict.fromkeys(_SIZES, "i32")
    lanes = {"LANES": "constexpr"}

    def launch(name, kernel, pointers, sizes, programs, moved, slots):  # noqa: ANN001, ANN202
        signature = dict.fromkeys(pointers, "*fp32") | {n: integers[n] for n in sizes} | lanes
        constants = {"LANES": _LANES}
        # An instruction takes the place of a fused multiply-add, so it counts as two.
        return PaperLaunch(name, kernel, signature, constants, 1, programs, moved, 2 * slots)

    return [
        # Every view reads the volume once, which is more than fits into L2; 24 instructions a sample.
        launch(
            "project",
            _project,
            ("columns", "fans", "out"),
            ("rows", "width", "nz", "ny", "nx"),
            views * size * blocks,
            4 * (views * voxels + rays),
            24 * views * voxels,
        ),
        launch(
            "backproject, scale of rays",
            _scale_by_step,
            ("rays", "fans"),
            ("rows",),
            views * size * blocks,
            8 * rays,
            8 * rays,
        ),
        # The rays stay in L2. 2.2 columns of 3 rows a voxel and view, of 10 instructions a ray and 10 a
        # column, and 60 that a warp shares among its four voxels a lane.
        launch(
            "backproject",
            _backproject,
            ("rays", "fans", "maps", "out"),
            ("views", "rows", "width", "nz", "nx"),
            size**2 * blocks,
            4 * (voxels + rays),
            103 * views * voxels,
        ),
    ]
