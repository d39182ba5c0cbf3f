"""numba projector pair for scans whose detector rows run along z.

With v parallel to z (circular, helical and parallel scans with any in-plane offset) the ray of
pixel (view, row, column) crosses a slice of its main axis at a lateral position that does not
depend on the row. Bilinear interpolation then is one lerp of two voxel columns per (view, column,
slice), contiguous in memory when z runs fastest, and one 1D lerp per row. Two forms of the same
sums are used:

* forward: the sum over slices is the inner loop (a reduction over gathers is vectorised by LLVM, a
  scatter of stores is not), with 32 lerped voxel columns kept in the L1 cache;
* adjoint: threads own slices of the main axis, so that no two threads write to the same voxel and
  the order of every sum is fixed: results are bit-equal for any number of threads.

The main axis is x or y, never z: rays that climb more than one z voxel per in-plane voxel skip z
slices, which is why `choose_backend` sends such scans to `rays`.
"""

# Arguments of kernels are arrays and named tuples of arrays as their docstrings say.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.kernels import RELAXED, UNGROUPED, kernel_part, parallel_kernel, prange
from diffnr_lightning.projectors.sampling import (
    TIE,
    ray_bundle,
    require_rows_along_axis,
)
from diffnr_lightning.projectors.voxel_columns import columns_of, volume_of

_SLICES = 32  # lerped voxel columns that stay in the L1 cache: 32 x 128 floats are 17 kB
_COLUMNS = 8  # detector columns per task; small, so that one view already fills the cores
_OWNED = 4  # slices per task of the adjoint, interleaved to hide the latency of read-modify-write

_ZERO = np.float32(0.0)


class _Fans(NamedTuple):
    """Rays of every (view, column), as linear functions of the index k of the slice and the row i.

    The lateral index is ``lateral + k * slope``; the z index is ``(z + k * z_k) + i * (z_i + k *
    z_ik)``. The length of a step is ``step * sqrt(1 + (rise + i * rise_i) ** 2)`` mm. All float64
    (V, W).
    """

    along_x: np.ndarray
    lateral: np.ndarray
    slope: np.ndarray
    z: np.ndarray
    z_k: np.ndarray
    z_i: np.ndarray
    z_ik: np.ndarray
    step: np.ndarray
    rise: np.ndarray
    rise_i: np.ndarray
    first: np.ndarray  # int64; first and last slice that the ray meets,
    last: np.ndarray  # last < first where it misses the grid


def project(volume: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return line integrals (V, H, W) of a float32 CPU volume (Z, Y, X); see `projectors.project`.

    Raises:
        ValueError: detector rows that do not run along z.
    """
    fans = fans_of(grid, scan)
    out = np.zeros((len(scan), *scan.detector_shape), np.float32)
    _project(columns_of(volume), fans, out)
    return torch.from_numpy(out)


def backproject(
    projections: Tensor, grid: VolumeGrid, scan: ScanGeometry, *, z_fastest: bool = False
) -> Tensor:
    """Return the adjoint (Z, Y, X) applied to float32 CPU projections (V, H, W); see `projectors.backproject`.

    Raises:
        ValueError: detector rows that do not run along z.
    """
    fans = fans_of(grid, scan)
    nz, ny, nx = grid.shape
    out = np.zeros((ny, nx, nz), np.float32)
    rays = projections.detach().numpy().transpose(0, 2, 1).copy()
    _scale_by_step(rays, fans)
    for along_x in (True, False):
        if (fans.along_x == along_x).any():
            _backproject(rays, fans, along_x, out)
    return volume_of(out, z_fastest=z_fastest)


def fans_of(grid: VolumeGrid, scan: ScanGeometry) -> _Fans:
    """Return the rays of every view and column of a scan.

    Raises:
        ValueError: detector rows that do not run along z.
    """
    require_rows_along_axis(scan)
    origin, origin_i, origin_j, ray, ray_i, ray_j = ray_bundle(grid, scan)
    nz, ny, nx = grid.shape
    column = np.arange(scan.detector_shape[1])[None, :, None]
    start = origin[:, None] + column * origin_j[:, None]  # (V, W, 3), row 0
    towards = ray[:, None] + column * ray_j[:, None]
    along_x = np.abs(towards[..., 0]) * TIE >= np.abs(towards[..., 1])

    def main_first(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = vectors[..., 0], vectors[..., 1]
        return np.where(along_x, x, y), np.where(along_x, y, x)

    main, side = main_first(start)
    main_speed, side_speed = main_first(towards)
    per_slice = 1.0 / main_speed  # ray parameter between two slices
    t = -main * per_slice  # ray parameter at slice 0
    slope = side_speed * per_slice
    lateral = side + side_speed * t
    edge_x, edge_y, edge_z = grid.voxel_mm[::-1]
    flat = np.hypot(towards[..., 0] * edge_x, towards[..., 1] * edge_y)
    extent, width = np.where(along_x, nx, ny), np.where(along_x, ny, nx)
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.stack([(-1 - lateral) / slope, (width - lateral) / slope])
    level = np.abs(slope) < 1e-12
    inside = (lateral > -1) & (lateral < width)
    low = np.where(level, np.where(inside, 0.0, np.inf), bounds.min(axis=0))
    high = np.where(level, np.where(inside, np.inf, -np.inf), bounds.max(axis=0))
    if scan.beam == "cone":
        low = np.where(main_speed > 0, np.maximum(low, main), low)
        high = np.where(main_speed < 0, np.minimum(high, main), high)
    return _Fans(
        along_x=along_x,
        lateral=lateral,
        slope=slope,
        z=start[..., 2] + towards[..., 2] * t,
        z_k=towards[..., 2] * per_slice,
        z_i=origin_i[:, None, 2] + ray_i[:, None, 2] * t,
        z_ik=ray_i[:, None, 2] * per_slice,
        step=flat * np.abs(per_slice),
        rise=towards[..., 2] * edge_z / flat,
        rise_i=ray_i[:, None, 2] * edge_z / flat,
        first=np.ceil(np.clip(low, 0, extent)).astype(np.int64),
        last=np.floor(np.clip(high, -1, extent - 1)).astype(np.int64),
    )


@kernel_part(RELAXED, inline=True)
def _row_range(z_first, z_last, i_first, i_last, nz, rows):
    """Return rows whose z index may lie in (-1, nz) in two slices or between them."""
    low, high = rows, 0
    for z, climb in ((z_first, i_first), (z_last, i_last)):
        if abs(climb) < 1e-12:
            return 0, rows
        a, b = (-1.0 - z) / climb, (nz - z) / climb
        if a > b:
            a, b = b, a
        low = min(low, int(min(max(a, 0.0), float(rows))))
        high = max(high, int(min(max(b + 1.0, 0.0), float(rows))))
    return low, high


@kernel_part(RELAXED, inline=True)
def _lateral_cell(fans, v, j, k, limit):
    """Return the lateral cell from -1 to limit - 1 crossed in slice k, and the weight of the next one."""
    at = fans.lateral[v, j] + k * fans.slope[v, j] + 1.0
    cell = min(max(int(at), 0), limit)
    return cell - 1, np.float32(min(max(at - cell, 0.0), 1.0))


@kernel_part(RELAXED, inline=True)
def _column(columns, along_x, cell, k, limit, beyond):
    """Return the column of voxels in a lateral cell of slice k, or the one that stands for all beyond the grid."""
    if not 0 <= cell < limit:
        return beyond
    return columns[cell, k] if along_x else columns[k, cell]


@parallel_kernel(RELAXED)
def _project(columns, fans, out):
    """Fill projections (V, H, W) from voxel columns (Y, X, Z)."""
    views, rows, width = out.shape
    nz = columns.shape[2]
    blocks = (width + _COLUMNS - 1) // _COLUMNS
    stride = nz + 3
    top = np.float32(nz + 1)
    for task in prange(views * blocks):
        v = task // blocks
        begin = (task % blocks) * _COLUMNS
        # Starts at z index -1, with zeros at both ends of every column.
        lerped = np.zeros(_SLICES * stride, np.float32)
        base, climb = np.empty(_SLICES, np.float32), np.empty(_SLICES, np.float32)
        total = np.empty(rows, np.float32)
        beyond = np.zeros(nz, np.float32)
        for j in range(begin, min(begin + _COLUMNS, width)):
            total[:] = _ZERO
            along_x = fans.along_x[v, j]
            end = fans.last[v, j] + 1
            for block in range(fans.first[v, j], end, _SLICES):
                count = min(_SLICES, end - block)
                for s in range(count):
                    k = block + s
                    limit = columns.shape[0] if along_x else columns.shape[1]
                    cell, w = _lateral_cell(fans, v, j, k, limit)
                    near = _column(columns, along_x, cell, k, limit, beyond)
                    far = _column(columns, along_x, cell + 1, k, limit, beyond)
                    for n in range(nz):
                        lerped[s * stride + 1 + n] = near[n] + w * (far[n] - near[n])
                    base[s] = np.float32(fans.z[v, j] + k * fans.z_k[v, j] + 1.0)
                    climb[s] = np.float32(fans.z_i[v, j] + k * fans.z_ik[v, j])
                low, high = _row_range(
                    base[0] - 1.0, base[count - 1] - 1.0, climb[0], climb[count - 1], nz, rows
                )
                for i in range(low, high):
                    row = np.float32(i)
                    acc = _ZERO
                    for s in range(count):
                        at = min(max(base[s] + row * climb[s], _ZERO), top)
                        cell_z = np.int32(at)
                        p = s * stride + cell_z
                        acc += lerped[p] + (at - np.float32(cell_z)) * (lerped[p + 1] - lerped[p])
                    total[i] += acc
            for i in range(rows):
                rise = fans.rise[v, j] + i * fans.rise_i[v, j]
                out[v, i, j] = total[i] * np.float32(fans.step[v, j] * np.sqrt(1.0 + rise * rise))


@kernel_part(RELAXED)
def _scale_by_step(rays, fans):
    """Multiply rays (V, W, H) by the length of their steps in place: too short for threads."""
    views, width, rows = rays.shape
    for v in range(views):
        for j in range(width):
            step = np.float32(fans.step[v, j])
            rise_0, rise_i = np.float32(fans.rise[v, j]), np.float32(fans.rise_i[v, j])
            for i in range(rows):
                rise = rise_0 + np.float32(i) * rise_i
                rays[v, j, i] *= step * np.sqrt(np.float32(1.0) + rise * rise)


@parallel_kernel(UNGROUPED)
def _backproject(rays, fans, along_x, out):
    """Add rays (V, W, H) of main axis x (or y) to columns (Y, X, Z); a task owns `_OWNED` slices."""
    views, width, rows = rays.shape
    nz = out.shape[2]
    extent = out.shape[1] if along_x else out.shape[0]
    limit = out.shape[0] if along_x else out.shape[1]
    stride = nz + 3
    top = np.float32(nz + 1)
    for task in prange((extent + _OWNED - 1) // _OWNED):
        begin = task * _OWNED
        line = np.zeros(_OWNED * stride, np.float32)
        beyond = np.zeros(nz, np.float32)
        base, climb = np.empty(_OWNED, np.float32), np.empty(_OWNED, np.float32)
        for v in range(views):
            for j in range(width):
                if fans.along_x[v, j] != along_x:
                    continue
                start = max(fans.first[v, j], begin)
                end = min(fans.last[v, j] + 1, begin + _OWNED)
                if end <= start:
                    continue
                for s in range(_OWNED):
                    base[s] = np.float32(fans.z[v, j] + (begin + s) * fans.z_k[v, j] + 1.0)
                    climb[s] = np.float32(fans.z_i[v, j] + (begin + s) * fans.z_ik[v, j])
                last = _OWNED - 1
                low, high = _row_range(
                    base[0] - 1.0, base[last] - 1.0, climb[0], climb[last], nz, rows
                )
                line[:] = _ZERO
                b0, b1, b2, b3 = base[0], base[1], base[2], base[3]
                c0, c1, c2, c3 = climb[0], climb[1], climb[2], climb[3]
                for i in range(low, high):
                    row, value = np.float32(i), rays[v, j, i]
                    z0 = min(max(b0 + row * c0, _ZERO), top)
                    z1 = min(max(b1 + row * c1, _ZERO), top)
                    z2 = min(max(b2 + row * c2, _ZERO), top)
                    z3 = min(max(b3 + row * c3, _ZERO), top)
                    p0, p1, p2, p3 = np.int32(z0), np.int32(z1), np.int32(z2), np.int32(z3)
                    far0, far1 = value * (z0 - np.float32(p0)), value * (z1 - np.float32(p1))
                    far2, far3 = value * (z2 - np.float32(p2)), value * (z3 - np.float32(p3))
                    q1, q2, q3 = p1 + stride, p2 + 2 * stride, p3 + 3 * stride
                    line[p0] += value - far0
                    line[q1] += value - far1
                    line[q2] += value - far2
                    line[q3] += value - far3
                    line[p0 + 1] += far0
                    line[q1 + 1] += far1
                    line[q2 + 1] += far2
                    line[q3 + 1] += far3
                for k in range(start, end):
                    cell, w = _lateral_cell(fans, v, j, k, limit)
                    near = _column(out, along_x, cell, k, limit, beyond)
                    far = _column(out, along_x, cell + 1, k, limit, beyond)
                    shift = (k - begin) * stride + 1
                    for n in range(nz):
                        part = w * line[shift + n]
                        far[n] += part
                        near[n] += line[shift + n] - part
