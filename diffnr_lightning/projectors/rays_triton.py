"""Triton projector pair for any geometry: `rays` on a CUDA device.

Rays are traced once, in double precision, into eight numbers each; both directions read them, so that
they use the same weights.

* forward: a lane is a ray; rows of a detector column are neighbours, and so are voxels along z, so
  that near a circular scan the four loads of a warp fall on whole cache lines. 36 views of 256^2
  through 256^3 are 604 million samples of about 30 operations.
* adjoint: a lane is a voxel; the detector's map tells which pixels have rays within one voxel of it,
  and it gathers them with the weights of the forward projector: no atomics, and a fixed order. That
  is 4 to 6 rays a voxel and view, of about 12 operations and six loads from L1.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN202, N803

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors.device_tables import device_table
from diffnr_lightning.projectors.sampling import TIE, ray_bundle
from diffnr_lightning.projectors.voxel_driven_triton import centred_maps
from diffnr_lightning.triton_kernels import PaperLaunch, on_its_device

# Rays or voxels of a program, one for each thread: two a thread would spill registers on sm_80.
_LANES, _WARPS = 64, 2
# One compiled kernel serves all sizes, also those of 1 and multiples of 16.
_SIZES = ("views", "rows", "width", "count", "nz", "ny", "nx")
_RAYS = 1 << 22  # rays traced at one time, at 32 bytes
_TIE = tl.constexpr(TIE)
_EPSILON = tl.constexpr(1e-12)
# Rays within this part of a pixel of the support are looked at; their weight decides.
_MARGIN = tl.constexpr(0.01)


@on_its_device
def project(volume: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return line integrals (V, H, W) of a float32 volume (Z, Y, X); see `projectors.project`."""
    nz, ny, nx = grid.shape
    rows, width = scan.detector_shape
    # Zeros around instead of bounds checks; z is contiguous.
    padded = volume.new_zeros(ny + 2, nx + 2, nz + 2)
    padded[1:-1, 1:-1, 1:-1] = volume.detach().permute(1, 2, 0)
    out = volume.new_empty(len(scan), width, rows)
    for views, traces, _ in _traced(grid, scan, volume.device):
        target = out[views]
        count = target.numel()
        launch = (triton.cdiv(count, _LANES),)
        _project[launch](padded, traces, target, count, nz, ny, nx, LANES=_LANES, num_warps=_WARPS)
    return out.transpose(1, 2).contiguous()


@on_its_device
def backproject(projections: Tensor, grid: VolumeGrid, scan: ScanGeometry) -> Tensor:
    """Return the adjoint (Z, Y, X) applied to float32 projections (V, H, W)."""
    nz, ny, nx = grid.shape
    rows, width = scan.detector_shape
    values = projections.detach().transpose(1, 2).contiguous()
    maps = device_table(centred_maps, grid, scan, projections.device)
    out = projections.new_zeros(ny, nx, nz)
    launch = (triton.cdiv(out.numel(), _LANES),)
    for views, traces, axes in _traced(grid, scan, projections.device):
        part = values[views]
        _backproject[launch](
            part, traces, axes, maps[views], out, len(part), rows, width, part.numel(),
            nz, ny, nx, LANES=_LANES, num_warps=_WARPS,
        )  # fmt: skip
    return out.permute(2, 0, 1).contiguous()


def _traced(
    grid: VolumeGrid, scan: ScanGeometry, device: torch.device
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield views, their traces (8, rays of the piece) and their main axes (V,), a bit for each axis."""
    rows, width = scan.detector_shape
    per_view = rows * width
    table = device_table(_bundle, grid, scan, device)
    views_at_once = max(1, _RAYS // per_view)
    nz, ny, nx = grid.shape
    for begin in range(0, len(scan), views_at_once):
        views = slice(begin, min(begin + views_at_once, len(scan)))
        count = views.stop - views.start
        traces = torch.empty(8, count * per_view, dtype=torch.float32, device=device)
        axes = torch.zeros(count, dtype=torch.int32, device=device)
        # Pixels along x, where CUDA counts to 2^31; along y it ends at 65535, which 2048^2 pixels pass.
        launch = (triton.cdiv(per_view, _LANES), count)
        _trace[launch](
            table[views], traces, axes, rows, width, count * per_view, nz, ny, nx,
            CONE=scan.beam == "cone", LANES=_LANES, num_warps=_WARPS,
        )  # fmt: skip
        yield views, traces, axes


def _bundle(grid: VolumeGrid, scan: ScanGeometry) -> np.ndarray:
    """Return `sampling.ray_bundle` and the voxel edges (x, y, z) as (V, 21) float64."""
    edges = np.broadcast_to(np.asarray(grid.voxel_mm[::-1]), (len(scan), 3))
    return np.concatenate([*ray_bundle(grid, scan), edges], axis=1)


@triton.jit(do_not_specialize=_SIZES)
def _trace(
    bundle, traces, axes, rows, width, count, nz, ny, nx, CONE: tl.constexpr, LANES: tl.constexpr
):
    """Fill traces (8, count): main axis, p, q, change of both a slice, first, last slice, step in mm.

    p and q are the lateral indices at slice 0: y and z of rays along x, x and z along y, y and x along z.
    """
    view = tl.program_id(1)
    n = tl.program_id(0) * LANES + tl.arange(0, LANES)
    here = n < rows * width
    i, j = (n % rows).to(tl.float64), (n // rows).to(tl.float64)
    ray = bundle + view * 21
    x = tl.load(ray) + i * tl.load(ray + 3) + j * tl.load(ray + 6)
    y = tl.load(ray + 1) + i * tl.load(ray + 4) + j * tl.load(ray + 7)
    z = tl.load(ray + 2) + i * tl.load(ray + 5) + j * tl.load(ray + 8)
    to_x = tl.load(ray + 9) + i * tl.load(ray + 12) + j * tl.load(ray + 15)
    to_y = tl.load(ray + 10) + i * tl.load(ray + 13) + j * tl.load(ray + 16)
    to_z = tl.load(ray + 11) + i * tl.load(ray + 14) + j * tl.load(ray + 17)
    along_y = tl.abs(to_x) * _TIE < tl.abs(to_y)
    along_z = tl.where(along_y, tl.abs(to_y), tl.abs(to_x)) * _TIE < tl.abs(to_z)
    p_is_x = along_y & (along_z == 0)
    start = tl.where(along_z, z, tl.where(along_y, y, x))
    speed = tl.where(along_z, to_z, tl.where(along_y, to_y, to_x))
    per_slice = 1.0 / speed
    p_k = tl.where(p_is_x, to_x, to_y) * per_slice
    q_k = tl.where(along_z, to_x, to_z) * per_slice
    p = tl.where(p_is_x, x, y) - start * p_k
    q = tl.where(along_z, x, z) - start * q_k
    extent = tl.where(along_z, nz, tl.where(along_y, ny, nx)).to(tl.float64)
    p_extent = tl.where(p_is_x, nx, ny).to(tl.float64)
    q_extent = tl.where(along_z, nx, nz).to(tl.float64)
    low, high = extent * 0.0, extent - 1.0
    if CONE:
        low = tl.where(speed > 0.0, tl.maximum(low, start), low)
        high = tl.where(speed > 0.0, high, tl.minimum(high, start))
    p_level, q_level = tl.abs(p_k) <= _EPSILON, tl.abs(q_k) <= _EPSILON
    p_enter, p_leave = (
        (-1.0 - p) / tl.where(p_level, 1.0, p_k),
        (p_extent - p) / tl.where(p_level, 1.0, p_k),
    )
    q_enter, q_leave = (
        (-1.0 - q) / tl.where(q_level, 1.0, q_k),
        (q_extent - q) / tl.where(q_level, 1.0, q_k),
    )
    low = tl.where(p_level, low, tl.maximum(low, tl.minimum(p_enter, p_leave)))
    low = tl.where(q_level, low, tl.maximum(low, tl.minimum(q_enter, q_leave)))
    high = tl.where(p_level, high, tl.minimum(high, tl.maximum(p_enter, p_leave)))
    high = tl.where(q_level, high, tl.minimum(high, tl.maximum(q_enter, q_leave)))
    outside = (p_level & ((p <= -1.0) | (p >= p_extent))) | (
        q_level & ((q <= -1.0) | (q >= q_extent))
    )
    high = tl.where(outside, -1.0, high)
    mm_x, mm_y, mm_z = to_x * tl.load(ray + 18), to_y * tl.load(ray + 19), to_z * tl.load(ray + 20)
    step = tl.sqrt(mm_x * mm_x + mm_y * mm_y + mm_z * mm_z) * tl.abs(per_slice)
    main = tl.where(along_z, 2, tl.where(along_y, 1, 0))
    out = traces + view.to(tl.int64) * rows * width + n
    size = count.to(tl.int64)
    tl.store(out, main.to(tl.float32), mask=here)
    tl.store(out + size, p.to(tl.float32), mask=here)
    tl.store(out + 2 * size, q.to(tl.float32), mask=here)
    tl.store(out + 3 * size, p_k.to(tl.float32), mask=here)
    tl.store(out + 4 * size, q_k.to(tl.float32), mask=here)
    tl.store(out + 5 * size, tl.ceil(tl.minimum(low, extent)).to(tl.float32), mask=here)
    tl.store(out + 6 * size, tl.floor(tl.maximum(high, -1.0)).to(tl.float32), mask=here)
    tl.store(out + 7 * size, step.to(tl.float32), mask=here)
    met = tl.max(tl.where(here & (main == 0), 1, 0), axis=0)
    met += tl.max(tl.where(here & (main == 1), 2, 0), axis=0)
    met += tl.max(tl.where(here & (main == 2), 4, 0), axis=0)
    tl.atomic_or(axes + view, met)


@triton.jit(do_not_specialize=_SIZES)
def _project(padded, traces, out, count, nz, ny, nx, LANES: tl.constexpr):
    """Fill the line integrals (count,) from voxels (Y + 2, X + 2, Z + 2), zero at their frame."""
    n = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    here = n < count
    size = count.to(tl.int64)
    trace = traces + n
    main = tl.load(trace, mask=here, other=0.0).to(tl.int32)
    p, q = (
        tl.load(trace + size, mask=here, other=0.0),
        tl.load(trace + 2 * size, mask=here, other=0.0),
    )
    p_k = tl.load(trace + 3 * size, mask=here, other=0.0)
    q_k = tl.load(trace + 4 * size, mask=here, other=0.0)
    first = tl.load(trace + 5 * size, mask=here, other=0.0).to(tl.int32)
    last = tl.load(trace + 6 * size, mask=here, other=-1.0).to(tl.int32)
    next_x = (nz + 2).to(tl.int64)
    next_y = next_x * (nx + 2)
    next_slice = tl.where(main == 2, 1, tl.where(main == 1, next_y, next_x))
    next_p = tl.where(main == 1, next_x, next_y)
    next_q = tl.where(main == 2, next_x, 1)
    p_limit, q_limit = tl.where(main == 1, nx, ny), tl.where(main == 2, nx, nz)
    total = tl.zeros([LANES], tl.float32)
    for k in range(tl.min(first, axis=0), tl.max(last, axis=0) + 1):
        met = (k >= first) & (k <= last)
        at_p, at_q = p + k * p_k + 1.0, q + k * q_k + 1.0
        cell_p = tl.minimum(tl.maximum(at_p.to(tl.int32), 0), p_limit)
        cell_q = tl.minimum(tl.maximum(at_q.to(tl.int32), 0), q_limit)
        w = tl.minimum(tl.maximum(at_p - cell_p, 0.0), 1.0)
        u = tl.minimum(tl.maximum(at_q - cell_q, 0.0), 1.0)
        near = padded + (k + 1) * next_slice + cell_p * next_p + cell_q * next_q
        far = near + next_p
        near_low = tl.load(near, mask=met, other=0.0)
        near_high = tl.load(near + next_q, mask=met, other=0.0)
        far_low = tl.load(far, mask=met, other=0.0)
        far_high = tl.load(far + next_q, mask=met, other=0.0)
        low = near_low + w * (far_low - near_low)
        high = near_high + w * (far_high - near_high)
        total += low + u * (high - low)
    tl.store(out + n, total * tl.load(trace + 7 * size, mask=here, other=0.0), mask=here)


@triton.jit
def _pixels_that_see(numerator, depth, change_a, change_b, depth_a, depth_b, middle, size):
    """Return the first and last row (or column) whose ray may pass a voxel in less than one voxel.

    The index is ``middle + numerator / depth``, and both change by so much with a voxel along the two
    axes across the main one.
    """
    change = tl.abs(depth_a) + tl.abs(depth_b)
    least = depth - change
    seen = least > 0.0
    at = numerator / tl.where(seen, depth, 1.0)
    # One voxel aside the index moves by (change_a - at depth_a) / depth there, which is `least` or more.
    moved = tl.abs(change_a - at * depth_a) + tl.abs(change_b - at * depth_b)
    reach = moved / tl.where(seen, least, 1.0) + _MARGIN
    # Beside the source any pixel may, behind it none.
    low = tl.where(seen, tl.maximum(tl.ceil(at + middle - reach), 0.0), 0.0)
    high = tl.where(seen, tl.minimum(tl.floor(at + middle + reach), size - 1.0), size - 1.0)
    high = tl.where(depth + change > 0.0, high, -1.0)
    return tl.minimum(low, size + 0.0).to(tl.int32), tl.maximum(high, -1.0).to(tl.int32)


@triton.jit(do_not_specialize=_SIZES)
def _backproject(
    values, traces, axes, maps, out, views, rows, width, count, nz, ny, nx, LANES: tl.constexpr
):
    """Add rays (views, W, H) to voxels (Y, X, Z), each of which gathers those that pass it."""
    n = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    here = n < tl.cast(ny, tl.int64) * nx * nz
    z, x, y = (n % nz).to(tl.float32), (n // nz % nx).to(tl.float32), (n // nz // nx).to(tl.float32)
    from_x, from_y, from_z = x - 0.5 * (nx - 1), y - 0.5 * (ny - 1), z - 0.5 * (nz - 1)
    size = count.to(tl.int64)
    total = tl.zeros([LANES], tl.float32)
    for v in range(views):
        to = maps + v * 12
        row_x, row_y, row_z = tl.load(to), tl.load(to + 1), tl.load(to + 2)
        col_x, col_y, col_z = tl.load(to + 4), tl.load(to + 5), tl.load(to + 6)
        depth_x, depth_y, depth_z = tl.load(to + 8), tl.load(to + 9), tl.load(to + 10)
        row = row_x * from_x + row_y * from_y + row_z * from_z + tl.load(to + 3)
        col = col_x * from_x + col_y * from_y + col_z * from_z + tl.load(to + 7)
        depth = depth_x * from_x + depth_y * from_y + depth_z * from_z + tl.load(to + 11)
        present = tl.load(axes + v)
        for axis in tl.static_range(3):
            if (present & (1 << axis)) > 0:
                # k counts slices of the main axis, a and b are the lateral indices p and q of `_trace`.
                if axis == 0:
                    k, a, b = x, y, z
                    row_a, row_b, col_a, col_b = row_y, row_z, col_y, col_z
                    depth_a, depth_b = depth_y, depth_z
                elif axis == 1:
                    k, a, b = y, x, z
                    row_a, row_b, col_a, col_b = row_x, row_z, col_x, col_z
                    depth_a, depth_b = depth_x, depth_z
                else:
                    k, a, b = z, y, x
                    row_a, row_b, col_a, col_b = row_y, row_x, col_y, col_x
                    depth_a, depth_b = depth_y, depth_x
                i_low, i_high = _pixels_that_see(
                    row, depth, row_a, row_b, depth_a, depth_b, 0.5 * (rows - 1), rows
                )
                j_low, j_high = _pixels_that_see(
                    col, depth, col_a, col_b, depth_a, depth_b, 0.5 * (width - 1), width
                )
                i_high = tl.where(here, i_high, -1)
                row_count = tl.max(i_high - i_low, axis=0) + 1
                for s in range(tl.max(j_high - j_low, axis=0) + 1):
                    line = v * width + j_low + s
                    for t in range(row_count):
                        i = i_low + t
                        near = (i <= i_high) & (j_low + s <= j_high)
                        ray = line.to(tl.int64) * rows + i
                        trace = traces + ray
                        near &= tl.load(trace, mask=near, other=-1.0) == axis
                        at_p = tl.load(trace + size, mask=near, other=0.0)
                        at_p += k * tl.load(trace + 3 * size, mask=near, other=0.0)
                        at_q = tl.load(trace + 2 * size, mask=near, other=0.0)
                        at_q += k * tl.load(trace + 4 * size, mask=near, other=0.0)
                        w = tl.maximum(1.0 - tl.abs(a - at_p), 0.0)
                        w *= tl.maximum(1.0 - tl.abs(b - at_q), 0.0)
                        near &= w > 0.0
                        near &= k >= tl.load(trace + 5 * size, mask=near, other=0.0)
                        near &= k <= tl.load(trace + 6 * size, mask=near, other=0.0)
                        value = tl.load(values + ray, mask=near, other=0.0)
                        total += w * value * tl.load(trace + 7 * size, mask=near, other=0.0)
    before = tl.load(out + n, mask=here, other=0.0)
    tl.store(out + n, before + total, mask=here)


def paper_launches() -> list[PaperLaunch]:
    """Return the launches of a projection and of a backprojection of all views."""
    views, size = 36, 256
    voxels, rays = size**3, views * size**2
    lanes = {"LANES": "constexpr"}
    traced = dict.fromkeys(("rows", "width", "count", "nz", "ny", "nx"), "i32")
    return [
        PaperLaunch(
            name="any poses: trace",
            kernel=_trace,
            signature={"bundle": "*fp64", "traces": "*fp32", "axes": "*i32"}
            | traced
            | {"CONE": "constexpr"}
            | lanes,
            constants={"CONE": 1, "LANES": _LANES},
            warps=_WARPS,
            programs=rays // _LANES,
            bytes=32 * rays,
            flops=2 * 120 * rays,  # in double precision, of which a card for games does few
        ),
        # Every view reads the volume once, which is more than fits into L2; 40 instructions a sample,
        # each in the place of a fused multiply-add.
        PaperLaunch(
            name="any poses: project",
            kernel=_project,
            signature=dict.fromkeys(("padded", "traces", "out"), "*fp32")
            | dict.fromkeys(("count", "nz", "ny", "nx"), "i32")
            | lanes,
            constants={"LANES": _LANES},
            warps=_WARPS,
            programs=rays // _LANES,
            bytes=4 * views * voxels + 36 * rays,
            flops=2 * 40 * views * voxels,
        ),
        # The traces of a view stay in L2 while all voxels gather from it. 9 to 12 rays are looked at for
        # a voxel and view, of 14 instructions, and 60 find them.
        PaperLaunch(
            name="any poses: backproject",
            kernel=_backproject,
            signature={"values": "*fp32", "traces": "*fp32", "axes": "*i32"}
            | dict.fromkeys(("maps", "out"), "*fp32")
            | {"views": "i32"}
            | traced
            | lanes,
            constants={"LANES": _LANES},
            warps=_WARPS,
            programs=voxels // _LANES,
            bytes=8 * voxels + 36 * rays,
            flops=2 * 220 * views * voxels,
        ),
    ]
