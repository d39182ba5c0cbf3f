"""Triton kernels of the steps of `primal_dual` on a CUDA device.

A lane is a voxel. Plain torch passes over the volume some 40 times a step; these read and write what
they change once, 8 and 9 volumes.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN202, N803

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from diffnr_lightning.triton_kernels import PaperLaunch, on_its_device

_LANES = 512  # voxels of a program, four for each thread of four warps
# One compiled kernel serves all sizes, also those of 1 and multiples of 16.
_SIZES = ("nz", "ny", "nx")


@on_its_device
def descend(
    volume: Tensor,
    ahead: Tensor,
    drift: Tensor,
    dual: Tensor,
    step: Tensor,
    ratios: tuple[float, float, float],
) -> None:
    """Move a volume; see `primal_dual.descend`. All tensors are float32 and contiguous."""
    launch = (triton.cdiv(volume.numel(), _LANES),)
    _descend[launch](volume, ahead, drift, dual, step, *ratios, *volume.shape, LANES=_LANES)


@on_its_device
def ascend(
    dual: Tensor,
    ahead: Tensor,
    step: Tensor,
    bound: Tensor,
    scale: float,
    ratios: tuple[float, float, float],
) -> None:
    """Move the dual variable; see `primal_dual.ascend`. All tensors are float32 and contiguous."""
    launch = (triton.cdiv(ahead.numel(), _LANES),)
    _ascend[launch](dual, ahead, step, bound, float(scale), *ratios, *ahead.shape, LANES=_LANES)


@triton.jit(do_not_specialize=_SIZES)
def _descend(volume, ahead, drift, dual, step, wz, wy, wx, nz, ny, nx, LANES: tl.constexpr):
    """Subtract slopes from a volume (Z, Y, X), hold it at zero, and extrapolate it."""
    n = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    next_z = tl.cast(ny, tl.int64) * nx
    voxels = next_z * nz
    inside = n < voxels
    z, y, x = n // next_z, n // nx % ny, n % nx
    # Across the far faces the dual variable is zero.
    along_z, along_y, along_x = dual + n, dual + voxels + n, dual + 2 * voxels + n
    flow = wz * tl.load(along_z - next_z, mask=inside & (z > 0), other=0.0)
    flow -= wz * tl.load(along_z, mask=inside, other=0.0)
    flow += wy * tl.load(along_y - nx, mask=inside & (y > 0), other=0.0)
    flow -= wy * tl.load(along_y, mask=inside, other=0.0)
    flow += wx * tl.load(along_x - 1, mask=inside & (x > 0), other=0.0)
    flow -= wx * tl.load(along_x, mask=inside, other=0.0)
    slope = tl.load(drift + n, mask=inside, other=0.0) + flow
    old = tl.load(volume + n, mask=inside, other=0.0)
    new = tl.maximum(old - tl.load(step + n, mask=inside, other=0.0) * slope, 0.0)
    tl.store(volume + n, new, mask=inside)
    tl.store(ahead + n, 2.0 * new - old, mask=inside)


@triton.jit(do_not_specialize=_SIZES)
def _ascend(dual, ahead, step, bound, scale, wz, wy, wx, nz, ny, nx, LANES: tl.constexpr):
    """Add differences to the dual variable (3, Z, Y, X) and shorten it to its bound."""
    n = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    next_z = tl.cast(ny, tl.int64) * nx
    voxels = next_z * nz
    inside = n < voxels
    z, y, x = n // next_z, n // nx % ny, n % nx
    own = tl.load(ahead + n, mask=inside, other=0.0)
    dz = tl.load(ahead + n + next_z, mask=inside & (z < nz - 1), other=own) - own
    dy = tl.load(ahead + n + nx, mask=inside & (y < ny - 1), other=own) - own
    dx = tl.load(ahead + n + 1, mask=inside & (x < nx - 1), other=own) - own
    length = tl.load(step + n, mask=inside, other=0.0)
    along_z, along_y, along_x = dual + n, dual + voxels + n, dual + 2 * voxels + n
    dz = tl.load(along_z, mask=inside, other=0.0) + length * (wz * dz)
    dy = tl.load(along_y, mask=inside, other=0.0) + length * (wy * dy)
    dx = tl.load(along_x, mask=inside, other=0.0) + length * (wx * dx)
    most = scale * tl.load(bound + n, mask=inside, other=0.0)
    norm = tl.sqrt(dz * dz + dy * dy + dx * dx)
    factor = most / tl.maximum(tl.maximum(norm, most), 1e-37)
    tl.store(along_z, factor * dz, mask=inside)
    tl.store(along_y, factor * dy, mask=inside)
    tl.store(along_x, factor * dx, mask=inside)


def paper_launches() -> list[PaperLaunch]:
    """Return the launches of one step of the solver with weighted total variation."""
    voxels = 256**3
    numbers = dict.fromkeys(("scale", "wz", "wy", "wx"), "fp32") | dict.fromkeys(_SIZES, "i32")
    return [
        PaperLaunch(
            name=f"total variation, {name}",
            kernel=kernel,
            signature={
                a: "constexpr" if a == "LANES" else numbers.get(a, "*fp32")
                for a in kernel.arg_names
            },
            constants={"LANES": _LANES},
            warps=4,
            programs=triton.cdiv(voxels, _LANES),
            bytes=4 * volumes * voxels,
            flops=operations * voxels,
        )
        # Read: volume, drift, step, dual; written: volume, ahead. Read: ahead, step, bound, dual; written: dual.
        for name, kernel, volumes, operations in (
            ("primal step", _descend, 8, 20),
            ("dual step", _ascend, 9, 30),
        )
    ]
