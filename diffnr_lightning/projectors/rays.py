"""numba projector pair for any geometry: tilted detectors, arbitrary poses, steep rays.

Every ray is traced once (where it meets the slices of its main axis) and then sampled. The volume
is copied so that the main axis comes first, with a border of zeros, which makes one kernel serve
the three axes. In the adjoint every thread owns slabs of the main axis and visits the rays in a
fixed order: no atomics, and bit-equal results for any number of threads. Same discretisation as
`separable`.
"""

# Arguments of kernels are arrays and named tuples of arrays as their docstrings say.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.kernels import UNGROUPED, kernel_part, parallel_kernel, prange
from diffnr_lightning.projectors.sampling import TIE, ray_bundle

_SLAB = 8  # slices owned by one task of the adjoint
_RAYS = 1 << 19  # rays traced at one time: 45 bytes each

# For main axis x, y, z: the permutation of (Z, Y, X) that brings it to the front, and the (x, y, z)
# numbers of the two axes that follow it.
_MAIN_FIRST = ((2, 0, 1), (1, 0, 2), (0, 1, 2))
_LATERAL = ((2, 1), (2, 0), (1, 0))
_ZERO = np.float32(0.0)
_EPSILON = 1e-12


class _Traces(NamedTuple):
    """Rays of a piece of views, flattened to (n,); lateral indices are linear in the slice k."""

    main: np.ndarray  # 0, 1, 2 for x, y, z
    p: np.ndarray  # lateral indices at slice 0 ...
    q: np.ndarray
    p_k: np.ndarray  # ... and their change per slice
    q_k: np.ndarray
    first: np.ndarray  # first and last slice met; last < first where the ray misses the grid
    last: np.ndarray
    step: np.ndarray  # mm between two slices


def project(volume: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return line integrals (V, H, W) of a float32 CPU volume; see `projectors.project`."""
    out = np.zeros((len(scan), scan.detector_shape[0] * scan.detector_shape[1]), np.float32)
    source = volume.detach().numpy()
    slices = {}
    for begin, traces in _traced(grid, scan):
        target = out[begin:].reshape(-1)
        for axis in np.unique(traces.main).tolist():
            if axis not in slices:
                slices[axis] = _bordered(source.transpose(_MAIN_FIRST[axis]))
            _project(slices[axis], axis, traces, target)
    return torch.from_numpy(out).view(len(scan), *scan.detector_shape)


def backproject(projections: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return the adjoint (Z, Y, X) applied to float32 CPU projections (V, H, W)."""
    source = np.ascontiguousarray(projections.detach().numpy()).reshape(len(scan), -1)
    slices: dict[int, np.ndarray] = {}
    for begin, traces in _traced(grid, scan):
        values = source[begin:].reshape(-1)
        for axis in np.unique(traces.main).tolist():
            if axis not in slices:
                n, p, q = (grid.shape[a] for a in _MAIN_FIRST[axis])
                slices[axis] = np.zeros((n, p + 2, q + 2), np.float32)
            _backproject(values, axis, traces, slices[axis])
    out = np.zeros(grid.shape, np.float32)
    for axis in sorted(slices):
        back = np.argsort(_MAIN_FIRST[axis])
        out += slices[axis][:, 1:-1, 1:-1].transpose(back)
    return torch.from_numpy(out)


def _bordered(slices: np.ndarray) -> np.ndarray:
    """Copy (N, P, Q) of any strides to (N, P + 2, Q + 2), q contiguous as one compiled kernel reads it."""
    count, height, width = slices.shape
    bordered = np.zeros((count, height + 2, width + 2), np.float32)
    bordered[:, 1:-1, 1:-1] = slices
    return bordered


def _traced(grid: VolumeGrid, scan: ScanGeometry):
    """Yield (first view, traces) for pieces of views that fit in bounded memory."""
    bundle = ray_bundle(grid, scan)
    per_view = scan.detector_shape[0] * scan.detector_shape[1]
    views_at_once = max(1, _RAYS // per_view)
    extent = np.asarray(grid.shape[::-1], np.float64)
    edge = np.asarray(grid.voxel_mm[::-1], np.float64)
    for begin in range(0, len(scan), views_at_once):
        piece = [np.ascontiguousarray(a[begin : begin + views_at_once]) for a in bundle]
        count = len(piece[0]) * per_view
        traces = _Traces(
            np.empty(count, np.int8),
            *(np.empty(count, np.float64) for _ in range(4)),
            *(np.empty(count, np.int32) for _ in range(2)),
            np.empty(count, np.float32),
        )
        _trace(
            *piece,
            scan.detector_shape[0],
            scan.detector_shape[1],
            extent,
            edge,
            scan.beam == "cone",
            np.asarray(_LATERAL),
            *traces,
        )
        yield begin, traces


@parallel_kernel()
def _trace(
    origin,
    origin_i,
    origin_j,
    ray,
    ray_i,
    ray_j,
    rows,
    columns,
    extent,
    edge,
    cone,
    lateral,
    main_of,
    p,
    q,
    p_k,
    q_k,
    first,
    last,
    step,
):
    """Fill the fields of `_Traces` for a few views; the first six are `sampling.ray_bundle`.

    The fields arrive one by one because numba takes writes to arrays inside a tuple for dead code.
    """
    for line in prange(len(origin) * rows):
        v, i = line // rows, line % rows
        start, towards = np.empty(3), np.empty(3)
        for j in range(columns):
            for a in range(3):
                start[a] = origin[v, a] + i * origin_i[v, a] + j * origin_j[v, a]
                towards[a] = ray[v, a] + i * ray_i[v, a] + j * ray_j[v, a]
            main = 0 if abs(towards[0]) * TIE >= abs(towards[1]) else 1
            if abs(towards[main]) * TIE < abs(towards[2]):
                main = 2
            per_slice = 1.0 / towards[main]
            low, high = 0.0, extent[main] - 1.0
            if cone and towards[main] > 0:
                low = max(low, start[main])
            elif cone:
                high = min(high, start[main])
            n = line * columns + j
            for side in range(2):
                a = lateral[main, side]
                slope = towards[a] * per_slice
                at = start[a] - start[main] * slope
                if side == 0:
                    p[n], p_k[n] = at, slope
                else:
                    q[n], q_k[n] = at, slope
                if abs(slope) > _EPSILON:
                    enter, leave = (-1.0 - at) / slope, (extent[a] - at) / slope
                    low = max(low, min(enter, leave))
                    high = min(high, max(enter, leave))
                elif not -1.0 < at < extent[a]:
                    high = -1.0
            main_of[n] = main
            first[n] = np.int32(np.ceil(min(low, extent[main])))
            last[n] = np.int32(np.floor(max(high, -1.0)))
            length = 0.0
            for a in range(3):
                length += (towards[a] * edge[a]) ** 2
            step[n] = np.float32(np.sqrt(length) * abs(per_slice))


@kernel_part(UNGROUPED, inline=True)
def _cell(at, size):
    """Return the padded cell of a lateral index, and the weight of the next one."""
    cell = min(max(int(at + 1.0), 0), size - 2)
    return cell, np.float32(min(max(at + 1.0 - cell, 0.0), 1.0))


@parallel_kernel(UNGROUPED)
def _project(slices, axis, traces, out):
    """Fill the line integrals (n,) of the rays with this main axis; slices (N, P + 2, Q + 2)."""
    _, height, width = slices.shape
    for n in prange(len(traces.main)):
        if traces.main[n] != axis:
            continue
        acc = _ZERO
        p, q, p_k, q_k = traces.p[n], traces.q[n], traces.p_k[n], traces.q_k[n]
        for k in range(traces.first[n], traces.last[n] + 1):
            a, w = _cell(p + k * p_k, height)
            b, u = _cell(q + k * q_k, width)
            near = slices[k, a, b] + u * (slices[k, a, b + 1] - slices[k, a, b])
            far = slices[k, a + 1, b] + u * (slices[k, a + 1, b + 1] - slices[k, a + 1, b])
            acc += near + w * (far - near)
        out[n] = acc * traces.step[n]


@parallel_kernel(UNGROUPED)
def _backproject(values, axis, traces, slices):
    """Add rays (n,) of this main axis to slices (N, P + 2, Q + 2); a task owns `_SLAB` of them."""
    extent, height, width = slices.shape
    for slab in prange((extent + _SLAB - 1) // _SLAB):
        begin = slab * _SLAB
        for n in range(len(traces.main)):
            if traces.main[n] != axis:
                continue
            first, last = max(traces.first[n], begin), min(traces.last[n], begin + _SLAB - 1)
            if last < first:
                continue
            value = values[n] * traces.step[n]
            p, q, p_k, q_k = traces.p[n], traces.q[n], traces.p_k[n], traces.q_k[n]
            for k in range(first, last + 1):
                a, w = _cell(p + k * p_k, height)
                b, u = _cell(q + k * q_k, width)
                far = w * value
                near = value - far
                far_right, near_right = u * far, u * near
                slices[k, a, b] += near - near_right
                slices[k, a, b + 1] += near_right
                slices[k, a + 1, b] += far - far_right
                slices[k, a + 1, b + 1] += far_right
