"""Triton pieces shared by splatting and voxelising: rotations, their gradients, what is finite.

The counterpart of `shape`; arguments are tensors of as many Gaussians as a program takes.

Not yet run on a GPU; tested in Triton's interpreter.
"""

# Arguments of kernels are pointers and numbers as their docstrings say.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton
import triton.language as tl

from diffnr_lightning.triton_kernels import PaperLaunch

# exp(-q / 2) as a power of two. Not a function: the interpreter takes long to call one.
HALF_LOG2_E = tl.constexpr(-0.7213475204444817)


@triton.jit
def load_three(pointer, g, within):
    """Return x, y, z of rows of a (N, 3) array."""
    row = pointer + 3 * g
    return (
        tl.load(row, mask=within, other=1.0),
        tl.load(row + 1, mask=within, other=1.0),
        tl.load(row + 2, mask=within, other=1.0),
    )


@triton.jit
def load_quaternion(pointer, g, within):
    """Return w, x, y, z of rows of a (N, 4) array."""
    row = pointer + 4 * g
    return (
        tl.load(row, mask=within, other=1.0),
        tl.load(row + 1, mask=within, other=0.0),
        tl.load(row + 2, mask=within, other=0.0),
        tl.load(row + 3, mask=within, other=0.0),
    )


@triton.jit
def add_three(pointer, g, within, x, y, z):
    """Add to rows of a (N, 3) array, which belong to this program alone."""
    row = pointer + 3 * g
    tl.store(row, tl.load(row, mask=within) + x, mask=within)
    tl.store(row + 1, tl.load(row + 1, mask=within) + y, mask=within)
    tl.store(row + 2, tl.load(row + 2, mask=within) + z, mask=within)


@triton.jit
def store_three(pointer, g, within, x, y, z):
    """Write rows of a (N, 3) array."""
    row = pointer + 3 * g
    tl.store(row, x, mask=within)
    tl.store(row + 1, y, mask=within)
    tl.store(row + 2, z, mask=within)


@triton.jit
def add_quaternion(pointer, g, within, w, x, y, z):
    """Add to rows of a (N, 4) array, which belong to this program alone."""
    row = pointer + 4 * g
    tl.store(row, tl.load(row, mask=within) + w, mask=within)
    tl.store(row + 1, tl.load(row + 1, mask=within) + x, mask=within)
    tl.store(row + 2, tl.load(row + 2, mask=within) + y, mask=within)
    tl.store(row + 3, tl.load(row + 3, mask=within) + z, mask=within)


@triton.jit
def rotation(w, x, y, z):
    """Return the matrix of unit quaternions, row after row."""
    return (
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    )


@triton.jit
def rotation_gradient(w, x, y, z, d00, d01, d02, d10, d11, d12, d20, d21, d22):
    """Return the gradient of unit quaternions, given that of their matrices."""
    return (
        2 * (z * (d10 - d01) + y * (d02 - d20) + x * (d21 - d12)),
        2 * (y * (d01 + d10) + z * (d02 + d20) + w * (d21 - d12) - 2 * x * (d11 + d22)),
        2 * (x * (d01 + d10) + z * (d12 + d21) + w * (d02 - d20) - 2 * y * (d00 + d22)),
        2 * (x * (d02 + d20) + y * (d12 + d21) + w * (d10 - d01) - 2 * z * (d00 + d11)),
    )


@triton.jit
def report_finite(flag, x, y, z, sx, sy, sz, qw, qx, qy, qz, density):
    """Write 0 to the flag where a Gaussian is not finite; all that write, write the same.

    A difference of a number with itself is 0 where it is finite, and no number elsewhere.
    """
    sums = x + y + z + sx + sy + sz + qw + qx + qy + qz + density
    tl.store(flag, 0, mask=tl.min((sums - sums == 0.0).to(tl.int32), 0) == 0)


def paper_launches() -> list[PaperLaunch]:
    """Return nothing: these are parts of other kernels."""
    return []
