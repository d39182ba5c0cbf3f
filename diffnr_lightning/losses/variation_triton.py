"""Triton kernel of anisotropic total variation with its gradient: `variation` on a CUDA device.

A lane is a voxel, which collects the signs of its six differences; a program leaves the sum of its own,
and the programs' sums are added in a fixed order.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN202, N803

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffnr_lightning.triton_kernels import PaperLaunch, on_its_device

_LANES = 512  # voxels of a program, four for each thread of four warps
# One compiled kernel serves all sizes, also those of 1 and multiples of 16.
_SIZES = ("nz", "ny", "nx")


@on_its_device
def variation(volume: Tensor, scale: float, gradient: Tensor | None) -> Tensor:
    """Return ``scale`` times the sum of absolute differences of neighbours, as a float32 scalar.

    Args:
        volume: (Z, Y, X) float32, contiguous.
        scale: factor of the sum and of the gradient.
        gradient: (Z, Y, X) to be filled, None where it is not wanted.
    """
    nz, ny, nx = volume.shape
    programs = triton.cdiv(volume.numel(), _LANES)
    sums = volume.new_empty(programs)
    wanted = gradient is not None
    _variation[(programs,)](
        volume, gradient if wanted else volume, sums, scale, nz, ny, nx, WANTED=wanted, LANES=_LANES
    )
    return (sums.sum(dtype=torch.float64) * scale).float()


@triton.jit
def _sign(value):
    return (value > 0.0).to(tl.float32) - (value < 0.0).to(tl.float32)


@triton.jit(do_not_specialize=_SIZES)
def _variation(
    volume, gradient, sums, scale, nz, ny, nx, WANTED: tl.constexpr, LANES: tl.constexpr
):
    """Fill the sum of every program's |differences| with the voxels before, and the gradient (Z, Y, X)."""
    program = tl.program_id(0)
    n = program.to(tl.int64) * LANES + tl.arange(0, LANES)
    next_z = tl.cast(ny, tl.int64) * nx
    inside = n < next_z * nz
    z, y, x = n // next_z, n // nx % ny, n % nx
    here = volume + n
    own = tl.load(here, mask=inside, other=0.0)
    down = own - tl.load(here - next_z, mask=inside & (z > 0), other=own)
    front = own - tl.load(here - nx, mask=inside & (y > 0), other=own)
    left = own - tl.load(here - 1, mask=inside & (x > 0), other=own)
    tl.store(sums + program, tl.sum(tl.abs(down) + tl.abs(front) + tl.abs(left), axis=0))
    if WANTED:
        up = own - tl.load(here + next_z, mask=inside & (z < nz - 1), other=own)
        back = own - tl.load(here + nx, mask=inside & (y < ny - 1), other=own)
        right = own - tl.load(here + 1, mask=inside & (x < nx - 1), other=own)
        signs = _sign(down) + _sign(front) + _sign(left) + _sign(up) + _sign(back) + _sign(right)
        tl.store(gradient + n, scale * signs, mask=inside)


def paper_launches() -> list[PaperLaunch]:
    """Return the launch of the value and the gradient, on the 32^3 of the paper's settings."""
    voxels = 32**3
    return [
        PaperLaunch(
            name="total variation 32^3 with gradient",
            kernel=_variation,
            signature=dict.fromkeys(("volume", "gradient", "sums"), "*fp32")
            | {"scale": "fp32"}
            | dict.fromkeys(("nz", "ny", "nx"), "i32")
            | {"WANTED": "constexpr", "LANES": "constexpr"},
            constants={"WANTED": 1, "LANES": _LANES},
            warps=4,
            programs=triton.cdiv(voxels, _LANES),
            bytes=8 * voxels,
            flops=40 * voxels,  # six differences and their signs
        )
    ]
