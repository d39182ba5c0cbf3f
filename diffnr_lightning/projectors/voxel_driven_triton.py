"""Triton voxel-driven backprojection of FDK and FBP: `voxel_driven` on a CUDA device.

A lane is a voxel. With z contiguous, a warp reads two detector columns at neighbouring rows, if columns
run along z; other poses cost cache lines, not another kernel. 36 views at 256^3 are 604 million lookups
of about 40 operations and four loads from L1; the kernel for aligned detectors would save a third of
the operations, and it is memory that FDK waits for.

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
from diffnr_lightning.projectors.sampling import require_rows_along_axis
from diffnr_lightning.projectors.voxel_driven import homography
from diffnr_lightning.triton_kernels import PaperLaunch, on_its_device

_LANES = 256  # voxels of a program, two for each thread of four warps
# One compiled kernel serves all sizes, also those of 1 and multiples of 16.
_SIZES = ("views", "rows", "width", "nz", "ny", "nx")


@on_its_device
def backproject_aligned(
    filtered: Tensor, grid: VolumeGrid, scan: ScanGeometry, weight: np.ndarray
) -> Tensor:
    """Return detector values summed over views; see `projectors.weighted_backproject`.

    Raises:
        ValueError: detector rows that do not run along z.
    """
    require_rows_along_axis(scan)
    return backproject_posed(filtered, grid, scan, weight)


@on_its_device
def backproject_posed(
    filtered: Tensor, grid: VolumeGrid, scan: ScanGeometry, weight: np.ndarray
) -> Tensor:
    """Return detector values summed over views in any poses; see `projectors.weighted_backproject`."""
    rows, width = scan.detector_shape
    nz, ny, nx = grid.shape
    # Zeros around instead of bounds checks; rows are contiguous.
    framed = filtered.new_zeros(len(scan), width + 2, rows + 2)
    framed[:, 1:-1, 1:-1] = filtered.detach().transpose(1, 2)
    weights = torch.from_numpy(weight.astype(np.float32)).to(filtered.device)
    out = filtered.new_empty(ny, nx, nz)
    launch = (triton.cdiv(out.numel(), _LANES),)
    _backproject[launch](
        framed, device_table(centred_maps, grid, scan, filtered.device), weights, out,
        len(scan), rows, width, nz, ny, nx, LANES=_LANES,
    )  # fmt: skip
    return out.permute(2, 0, 1).contiguous()


def centred_maps(grid: VolumeGrid, scan: ScanGeometry) -> np.ndarray:
    """Return `homography` (V, 3, 4) in float32, from the middle of the grid to that of the detector.

    Row and column count from the middle of the detector and voxels from that of the grid, where
    float32 is finest.
    """
    maps = homography(grid, scan)
    middle = 0.5 * (np.asarray(scan.detector_shape) - 1.0)
    maps[:, :2] -= middle[:, None] * maps[:, 2:]
    maps[:, :, 3] += maps[:, :, :3] @ (0.5 * (np.asarray(grid.shape[::-1]) - 1.0))
    return maps.astype(np.float32)


@triton.jit(do_not_specialize=_SIZES)
def _backproject(framed, maps, weights, out, views, rows, width, nz, ny, nx, LANES: tl.constexpr):
    """Fill voxels (Y, X, Z) from detectors (V, W + 2, H + 2), zero at their frames."""
    n = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    here = n < tl.cast(ny, tl.int64) * nx * nz
    x = (n // nz % nx).to(tl.float32) - 0.5 * (nx - 1)
    y = (n // nz // nx).to(tl.float32) - 0.5 * (ny - 1)
    z = (n % nz).to(tl.float32) - 0.5 * (nz - 1)
    total = tl.zeros([LANES], tl.float32)
    for v in range(views):
        to = maps + v * 12
        row = tl.load(to) * x + tl.load(to + 1) * y + tl.load(to + 2) * z + tl.load(to + 3)
        column = tl.load(to + 4) * x + tl.load(to + 5) * y + tl.load(to + 6) * z + tl.load(to + 7)
        depth = tl.load(to + 8) * x + tl.load(to + 9) * y + tl.load(to + 10) * z + tl.load(to + 11)
        # A voxel behind the source is not seen; one on the source has no finite weight.
        seen = here & (depth > 0.0)
        scale = 1.0 / tl.where(seen, depth, 1.0)
        row = row * scale + 0.5 * (rows + 1)
        column = column * scale + 0.5 * (width + 1)
        seen &= (row > 0.0) & (row < rows + 1.0) & (column > 0.0) & (column < width + 1.0)
        i, j = tl.where(seen, row, 0.0).to(tl.int32), tl.where(seen, column, 0.0).to(tl.int32)
        p, q = row - i, column - j
        near = framed + (v * (width + 2) + j).to(tl.int64) * (rows + 2) + i
        far = near + rows + 2
        near_low = tl.load(near, mask=seen, other=0.0)
        near_high = tl.load(near + 1, mask=seen, other=0.0)
        far_low = tl.load(far, mask=seen, other=0.0)
        far_high = tl.load(far + 1, mask=seen, other=0.0)
        low = near_low + q * (far_low - near_low)
        high = near_high + q * (far_high - near_high)
        share = tl.load(weights + v) * scale
        total += tl.where(seen, share * share * (low + p * (high - low)), 0.0)
    tl.store(out + n, total, mask=here)


def paper_launches() -> list[PaperLaunch]:
    """Return the launch of the backprojection of all filtered views."""
    views, size = 36, 256
    voxels, pixels = size**3, views * size**2
    return [
        PaperLaunch(
            name="FDK backproject",
            kernel=_backproject,
            signature=dict.fromkeys(("framed", "maps", "weights", "out"), "*fp32")
            | dict.fromkeys(_SIZES, "i32")
            | {"LANES": "constexpr"},
            constants={"LANES": _LANES},
            warps=4,
            programs=voxels // _LANES,
            bytes=4 * (voxels + pixels),  # the views stay in L2
            flops=2
            * 40
            * views
            * voxels,  # instructions, each in the place of a fused multiply-add
        )
    ]
