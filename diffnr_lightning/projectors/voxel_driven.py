"""numba voxel-driven backprojection of FDK and FBP, one kernel for aligned detectors and one for any.

Where detector columns run along z, the column of a voxel's shadow on the detector does not depend on
its z, and the row is linear in z: two detector columns are lerped once per (view, x, y), and the sum
over views is the inner loop of the 1D lerps along z, as in the forward projector of `separable`.
Threads own rows of voxels. In other poses every voxel is looked up bilinearly; threads own slices.
"""

# Arguments of kernels are arrays and named tuples of arrays as their docstrings say.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.kernels import RELAXED, UNGROUPED, parallel_kernel, prange
from diffnr_lightning.projectors.sampling import require_rows_along_axis
from diffnr_lightning.projectors.voxel_columns import volume_of

_VIEWS = 32  # lerped detector columns that stay in the L1 cache
_ZERO = np.float32(0.0)


class _Planes(NamedTuple):
    """Where voxel (x, y, z) falls on the detector of each view; all float64 (V,).

    With depth = depth_0 + depth_x x + depth_y y the column is ``(u_0 + u_x x + u_y y) / depth``,
    the row ``row_0 + (row_a + row_z z) / depth`` and the weight ``(weight / depth) ** 2``.
    """

    depth_0: np.ndarray
    depth_x: np.ndarray
    depth_y: np.ndarray
    u_0: np.ndarray
    u_x: np.ndarray
    u_y: np.ndarray
    row_0: np.ndarray
    row_a: np.ndarray
    row_z: np.ndarray
    weight: np.ndarray


def backproject_aligned(
    filtered: Tensor, grid: VolumeGrid, scan: ScanGeometry, weight: np.ndarray
) -> Tensor:
    """Return detector values summed over views; see `projectors.weighted_backproject`.

    Raises:
        ValueError: detector rows that do not run along z.
    """
    require_rows_along_axis(scan)
    planes = plane_maps(grid, scan, weight)
    rows, columns = scan.detector_shape
    fans = np.zeros((len(scan), columns + 2, rows), np.float32)
    fans[:, 1:-1] = filtered.detach().numpy().transpose(0, 2, 1)
    nz, ny, nx = grid.shape
    out = np.empty((ny, nx, nz), np.float32)
    _weighted_backproject(fans, planes, out)
    return volume_of(out)


def backproject_posed(
    filtered: Tensor, grid: VolumeGrid, scan: ScanGeometry, weight: np.ndarray
) -> Tensor:
    """Return detector values summed over views in any poses; see `projectors.weighted_backproject`."""
    rows, columns = scan.detector_shape
    framed = np.zeros((len(scan), rows + 2, columns + 2), np.float32)
    framed[:, 1:-1, 1:-1] = filtered.detach().numpy()
    out = np.zeros(grid.shape, np.float32)
    _backproject_posed(framed, homography(grid, scan), weight, out)
    return torch.from_numpy(out)


def homography(grid: VolumeGrid, scan: ScanGeometry) -> np.ndarray:
    """Return (V, 3, 4) maps of voxel indices (x, y, z, 1) to (row, column, 1) times depth.

    Depth is in mm along the detector's normal for a cone beam and 1 for a parallel one.
    """
    rows, columns = scan.detector_shape
    normal = scan.normal
    over_u, over_v = np.cross(scan.v_mm, normal), np.cross(scan.u_mm, normal)
    # Dual vectors: a point of the detector lies at column (point - centre) . dual_u, u and v may be skew.
    dual_u = over_u / (over_u * scan.u_mm).sum(axis=1, keepdims=True)
    dual_v = over_v / (over_v * scan.v_mm).sum(axis=1, keepdims=True)
    if scan.beam == "cone":
        # The shadow of a point is source + (reach / depth) (point - source).
        start = scan.source_mm
        reach = ((scan.detector_mm - start) * normal).sum(axis=1, keepdims=True)
        depth, offset = normal, start - scan.detector_mm
        lines = [
            reach * dual + ((offset * dual).sum(axis=1, keepdims=True) + middle) * depth
            for dual, middle in ((dual_v, 0.5 * (rows - 1)), (dual_u, 0.5 * (columns - 1)))
        ]
        constants = [np.zeros(len(scan))] * 3
    else:
        start, depth = scan.detector_mm, np.zeros_like(normal)
        across = (scan.direction * normal).sum(axis=1, keepdims=True)
        # Slide along the ray onto the detector plane first.
        lines = [
            dual - (scan.direction * dual).sum(axis=1, keepdims=True) / across * normal
            for dual in (dual_v, dual_u)
        ]
        constants = [np.full(len(scan), 0.5 * (n - 1)) for n in (rows, columns)]
        constants.append(np.ones(len(scan)))
    from_start = np.asarray(grid.origin_mm) - start
    edge = np.asarray(grid.voxel_mm[::-1])
    maps = [
        np.concatenate([line * edge, ((from_start * line).sum(axis=1) + constant)[:, None]], axis=1)
        for line, constant in zip([*lines, depth], constants, strict=True)
    ]
    return np.ascontiguousarray(np.stack(maps, axis=1))


def plane_maps(grid: VolumeGrid, scan: ScanGeometry, weight: np.ndarray) -> _Planes:
    """Return where voxels fall on detectors whose columns run along z; weight (V,) as `weighted_backproject` has it."""
    edge_x, edge_y, edge_z = grid.voxel_mm[::-1]
    rows, columns = scan.detector_shape
    pitch = np.linalg.norm(scan.u_mm, axis=1)
    u_hat, normal, v_step = scan.u_mm / pitch[:, None], scan.normal, scan.v_mm[:, 2]
    middle_i, middle_j = 0.5 * (rows - 1), 0.5 * (columns - 1)
    origin = np.asarray(grid.origin_mm)
    if scan.beam == "cone":
        # Similar triangles: the shadow of a point is source + (reach / depth) (point - source).
        reach = ((scan.detector_mm - scan.source_mm) * normal).sum(axis=1)
        offset = ((scan.source_mm - scan.detector_mm) * u_hat).sum(axis=1) / pitch + middle_j
        start = origin - scan.source_mm
        depth = [(start * normal).sum(axis=1), normal[:, 0] * edge_x, normal[:, 1] * edge_y]
        magnify = (reach / pitch)[:, None] * u_hat
        u = [
            (start * magnify).sum(axis=1) + offset * depth[0],
            magnify[:, 0] * edge_x + offset * depth[1],
            magnify[:, 1] * edge_y + offset * depth[2],
        ]
        row_0 = (scan.source_mm[:, 2] - scan.detector_mm[:, 2]) / v_step + middle_i
        row_a, row_z = start[:, 2] * reach / v_step, edge_z * reach / v_step
    else:
        # Slide along the ray onto the detector plane: point + s direction, linear in the point.
        along = (scan.direction * u_hat).sum(axis=1) / (scan.direction * normal).sum(axis=1)
        across = (u_hat - along[:, None] * normal) / pitch[:, None]
        start = origin - scan.detector_mm
        depth = [np.ones(len(scan)), np.zeros(len(scan)), np.zeros(len(scan))]
        u = [(start * across).sum(axis=1) + middle_j, across[:, 0] * edge_x, across[:, 1] * edge_y]
        row_0 = np.full(len(scan), middle_i)
        row_a, row_z = start[:, 2] / v_step, edge_z / v_step
    return _Planes(*depth, *u, row_0, row_a, row_z, weight)


@parallel_kernel(RELAXED)
def _weighted_backproject(fans, planes, out):
    """Fill voxel columns (Y, X, Z) from detector columns (V, W + 2, H)."""
    views, padded, rows = fans.shape
    ny, nx, nz = out.shape
    stride = rows + 3
    top = np.float32(rows + 1)
    for y in prange(ny):
        lerped = np.zeros(_VIEWS * stride, np.float32)  # row index -1 comes first
        base, climb = np.empty(_VIEWS, np.float32), np.empty(_VIEWS, np.float32)
        for x in range(nx):
            out[y, x] = _ZERO
            v = 0
            while v < views:
                count = 0
                while v < views and count < _VIEWS:
                    depth = planes.depth_0[v] + x * planes.depth_x[v] + y * planes.depth_y[v]
                    # A voxel behind the source is not seen; one on the source has no finite weight.
                    scale = 1.0 / depth if depth > 0.0 else 0.0
                    at = (planes.u_0[v] + x * planes.u_x[v] + y * planes.u_y[v]) * scale + 1.0
                    if scale > 0.0 and 0.0 < at < padded - 1.0:
                        cell = min(int(at), padded - 2)
                        w = np.float32(at - cell)
                        weight = np.float32((planes.weight[v] * scale) ** 2)
                        near, far = fans[v, cell], fans[v, cell + 1]
                        for i in range(rows):
                            value = near[i] + w * (far[i] - near[i])
                            lerped[count * stride + 1 + i] = weight * value
                        base[count] = np.float32(planes.row_0[v] + planes.row_a[v] * scale + 1.0)
                        climb[count] = np.float32(planes.row_z[v] * scale)
                        count += 1
                    v += 1
                for z in range(nz):
                    height = np.float32(z)
                    acc = _ZERO
                    for s in range(count):
                        at_row = min(max(base[s] + height * climb[s], _ZERO), top)
                        cell_row = np.int32(at_row)
                        p = s * stride + cell_row
                        acc += lerped[p] + (at_row - np.float32(cell_row)) * (
                            lerped[p + 1] - lerped[p]
                        )
                    out[y, x, z] += acc


@parallel_kernel(UNGROUPED)
def _backproject_posed(framed, maps, weights, out):
    """Add bilinear values of detectors (V, H + 2, W + 2), zero at their frames, to voxels (Z, Y, X)."""
    views, height, width = framed.shape
    nz, ny, nx = out.shape
    for z in prange(nz):
        for v in range(views):
            rows, columns, depths = maps[v]
            detector = framed[v]
            for y in range(ny):
                row_0 = rows[3] + y * rows[1] + z * rows[2]
                column_0 = columns[3] + y * columns[1] + z * columns[2]
                depth_0 = depths[3] + y * depths[1] + z * depths[2]
                for x in range(nx):
                    depth = depth_0 + x * depths[0]
                    # A voxel behind the source is not seen; one on the source has no finite weight.
                    if depth <= 0.0:
                        continue
                    scale = 1.0 / depth
                    at_row = (row_0 + x * rows[0]) * scale + 1.0
                    at_column = (column_0 + x * columns[0]) * scale + 1.0
                    if not (0.0 < at_row < height - 1.0 and 0.0 < at_column < width - 1.0):
                        continue
                    i, j = int(at_row), int(at_column)
                    p, q = np.float32(at_row - i), np.float32(at_column - j)
                    near = detector[i, j] + q * (detector[i, j + 1] - detector[i, j])
                    far = detector[i + 1, j] + q * (detector[i + 1, j + 1] - detector[i + 1, j])
                    weight = np.float32((weights[v] * scale) ** 2)
                    out[z, y, x] += weight * (near + p * (far - near))
