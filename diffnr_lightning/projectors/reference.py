"""Readable torch projectors for any geometry, device and floating dtype: the oracle of all tests.

The forward projector gathers four voxels per slice of every ray; the adjoint scatters to the same
voxels with the same weights, so the pair is exactly adjoint. Work goes through memory in bounded
pieces of rays. On CUDA the adjoint's `index_add_` sums in an order that varies between calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors.sampling import TIE, ray_bundle

_SAMPLES = 1 << 20  # samples (ray times slice) that are in memory at one time; about 100 bytes each


class _Samples(NamedTuple):
    """Bilinear samples of a piece of rays.

    Attributes:
        rays: (n,) indices into the flattened projections.
        voxels: (4, n, K) indices into the flattened volume.
        weights: (4, n, K), zero outside the grid.
        step_mm: (n,) length between two slices.
    """

    rays: Tensor
    voxels: Tensor
    weights: Tensor
    step_mm: Tensor


def project(volume: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return line integrals (V, H, W) of a volume (Z, Y, X), in its dtype and on its device."""
    out = volume.new_zeros(len(scan) * scan.detector_shape[0] * scan.detector_shape[1])
    flat = volume.detach().reshape(-1)
    for part in _samples(grid, scan, volume):
        out[part.rays] = (flat[part.voxels] * part.weights).sum(dim=(0, 2)) * part.step_mm
    return out.view(len(scan), *scan.detector_shape)


def backproject(projections: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return the adjoint of `project` (Z, Y, X) applied to projections (V, H, W)."""
    out = projections.new_zeros(grid.shape).view(-1)
    flat = projections.detach().reshape(-1)
    for part in _samples(grid, scan, projections):
        values = (flat[part.rays] * part.step_mm)[:, None] * part.weights
        out.index_add_(0, part.voxels.reshape(-1), values.reshape(-1))
    return out.view(grid.shape)


def weighted_backproject(
    filtered: Tensor, grid: VolumeGrid, scan: ScanGeometry, weight: np.ndarray
) -> Tensor:
    """Return the sum over views of bilinear detector values, weighted; see `projectors`."""
    points = grid.points(device=filtered.device, dtype=filtered.dtype)
    rows, columns = scan.detector_shape
    out = filtered.new_zeros(grid.shape)
    for v in range(len(scan)):
        source, detector, u, v_step, normal, ray = (
            filtered.new_tensor(a[v])
            for a in (
                scan.source_mm,
                scan.detector_mm,
                scan.u_mm,
                scan.v_mm,
                scan.normal,
                scan.direction,
            )
        )
        if scan.beam == "cone":
            depth = (points - source) @ normal
            seen = depth > 0
            depth = torch.where(seen, depth, torch.ones_like(depth))
            reach = (detector - source) @ normal
            on_detector = source + (reach / depth)[..., None] * (points - source)
            share = torch.where(seen, (float(weight[v]) / depth) ** 2, torch.zeros_like(depth))
        else:
            slide = ((detector - points) @ normal) / (ray @ normal)
            on_detector = points + slide[..., None] * ray
            share = torch.full_like(slide, float(weight[v]) ** 2)
        local = on_detector - detector
        # Dual vectors, as u and v may be skew.
        over_u, over_v = torch.linalg.cross(v_step, normal), torch.linalg.cross(u, normal)
        j = (local @ over_u) / (u @ over_u) + 0.5 * (columns - 1)
        i = (local @ over_v) / (v_step @ over_v) + 0.5 * (rows - 1)
        # grid_sample wants the outer pixel edges at -1 and 1.
        place = torch.stack([(2 * j + 1) / columns - 1, (2 * i + 1) / rows - 1], dim=-1)
        sampled = torch.nn.functional.grid_sample(
            filtered[v][None, None],
            place.reshape(1, grid.shape[0], -1, 2),
            padding_mode="zeros",
            align_corners=False,
        )
        out += share * sampled.view(grid.shape)
    return out


def _samples(grid: VolumeGrid, scan: ScanGeometry, like: Tensor) -> Iterator[_Samples]:
    """Yield the samples of all rays, grouped by main axis, weights in the dtype of ``like``."""
    device = like.device
    bundle = [torch.from_numpy(a.copy()).to(device) for a in ray_bundle(grid, scan)]
    rows, columns = scan.detector_shape
    per_view = rows * columns
    size = torch.tensor(grid.shape[::-1], device=device)  # x, y, z
    edge = torch.tensor(grid.voxel_mm[::-1], dtype=torch.float64, device=device)
    stride = (1, grid.shape[2], grid.shape[1] * grid.shape[2])
    rays_at_once = max(1, _SAMPLES // max(grid.shape))
    for begin in range(0, len(scan) * per_view, rays_at_once):
        rays = torch.arange(begin, min(begin + rays_at_once, len(scan) * per_view), device=device)
        v, pixel = rays // per_view, rays % per_view
        i, j = (pixel // columns)[:, None], (pixel % columns)[:, None]
        origin, direction = (
            base[v] + i * step_i[v] + j * step_j[v]
            for base, step_i, step_j in (bundle[:3], bundle[3:])
        )  # float64, voxel indices (x, y, z)
        speed = direction.abs()
        main = torch.where(speed[:, 0] * TIE >= speed[:, 1], 0, 1)
        in_plane = speed.gather(1, main[:, None])[:, 0]
        main = torch.where(in_plane * TIE >= speed[:, 2], main, 2)
        for axis in range(3):
            mine = torch.nonzero(main == axis)[:, 0]
            if len(mine) == 0:
                continue
            a, b = [other for other in range(3) if other != axis]
            start, towards = origin[mine], direction[mine]
            k = torch.arange(int(size[axis]), device=device)
            t = (k - start[:, axis, None]) / towards[:, axis, None]  # (n, K)
            at_a = start[:, a, None] + t * towards[:, a, None]
            at_b = start[:, b, None] + t * towards[:, b, None]
            ahead = t > 0 if scan.beam == "cone" else torch.ones_like(t, dtype=torch.bool)
            cell_a, cell_b = at_a.floor(), at_b.floor()
            voxels, weights = [], []
            for step_a in (0, 1):
                for step_b in (0, 1):
                    ia, ib = cell_a + step_a, cell_b + step_b
                    inside = ahead & (ia >= 0) & (ia < size[a]) & (ib >= 0) & (ib < size[b])
                    weight = (1 - (at_a - ia).abs()) * (1 - (at_b - ib).abs())
                    index = ia * stride[a] + ib * stride[b] + k * stride[axis]
                    voxels.append(torch.where(inside, index, 0).long())
                    weights.append(torch.where(inside, weight, 0).to(like.dtype))
            length = torch.linalg.norm(towards * edge, dim=1) / towards[:, axis].abs()
            yield _Samples(
                rays[mine], torch.stack(voxels), torch.stack(weights), length.to(like.dtype)
            )
