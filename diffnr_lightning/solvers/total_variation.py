"""Isotropic total variation of a volume and its gradient.

``TV = sum over voxels of sqrt(dz^2 + dy^2 + dx^2 + smoothing^2)`` with forward differences, zero
across the far faces; differences are divided by the voxel edge relative to the smallest one, so
that flat voxels do not count their steps too often.
"""

# Arguments of kernels are float32 arrays.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.kernels import RELAXED, parallel_kernel, prange
from diffnr_lightning.triton_kernels import takes_triton

_ZERO = np.float32(0.0)


def total_variation(
    volume: Tensor, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), smoothing: float = 1e-4
) -> Tensor:
    """Return the total variation of a volume as a scalar; differentiable, any device and dtype.

    Args:
        volume: (Z, Y, X).
        spacing: voxel edges (z, y, x); only their ratios matter.
        smoothing: rounds the corner at zero gradient, in the unit of the volume.
    """
    ratios = tuple(min(spacing) / edge for edge in spacing)
    squares = differences(volume, ratios).square().sum(dim=0) + smoothing**2
    return squares.sqrt().sum()


def differences(volume: Tensor, ratios: tuple[float, float, float]) -> Tensor:
    """Return the forward differences (3, Z, Y, X) along z, y and x, zero across the far faces.

    Args:
        volume: (Z, Y, X).
        ratios: what differences along z, y and x are multiplied by.
    """
    steps = []
    for axis, ratio in enumerate(ratios):
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (2 - axis) + 1] = 1
        steps.append(torch.nn.functional.pad(ratio * torch.diff(volume, dim=axis), pad))
    return torch.stack(steps)


def differences_adjoint(vectors: Tensor, ratios: tuple[float, float, float]) -> Tensor:
    """Return the adjoint (Z, Y, X) of `differences` applied to vectors (3, Z, Y, X)."""
    total = torch.zeros_like(vectors[0])
    for axis, ratio in enumerate(ratios):
        last = total.shape[axis] - 1
        flow = ratio * vectors[axis].narrow(axis, 0, last)
        total.narrow(axis, 0, last).sub_(flow)
        total.narrow(axis, 1, last).add_(flow)
    return total


def total_variation_gradient(
    volume: Tensor, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), smoothing: float = 1e-4
) -> Tensor:
    """Return the gradient (Z, Y, X) of `total_variation`: a fused kernel for float32 on CPU and CUDA.

    Args:
        volume: (Z, Y, X); on the CPU the gradient lies in memory as it does.
        spacing: voxel edges (z, y, x); only their ratios matter.
        smoothing: rounds the corner at zero gradient, in the unit of the volume; positive.
    """
    if volume.dtype == torch.float32 and takes_triton(volume):
        from diffnr_lightning.solvers import total_variation_triton

        return total_variation_triton.total_variation_gradient(volume, spacing, smoothing)
    if volume.device.type != "cpu" or volume.dtype != torch.float32:
        with torch.enable_grad():
            leaf = volume.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(total_variation(leaf, spacing, smoothing), leaf)
        return gradient
    axes = axes_in_memory(volume)
    source = volume.detach().permute(axes).contiguous().numpy()
    inverse, out = np.empty_like(source), np.empty_like(source)
    ratios = np.square([min(spacing) / spacing[a] for a in axes]).astype(np.float32)
    _inverse_norms(source, ratios, np.float32(smoothing**2), inverse)
    _gradient(source, ratios, inverse, out)
    return torch.from_numpy(out).permute([axes.index(a) for a in range(3)])


def axes_in_memory(volume: Tensor) -> tuple[int, int, int]:
    """Return the axes of a volume (Z, Y, X) from the slowest to the fastest in memory."""
    return tuple(sorted(range(3), key=lambda axis: -volume.stride(axis)))


@parallel_kernel(RELAXED)
def _inverse_norms(volume, ratios, floor, out):
    """Fill one over the length of the forward-difference gradient of every voxel."""
    nz, ny, nx = volume.shape
    wz, wy, wx = ratios[0], ratios[1], ratios[2]
    one = np.float32(1.0)
    for z in prange(nz):
        above = min(z + 1, nz - 1)
        for y in range(ny):
            behind = min(y + 1, ny - 1)
            row, up, back = volume[z, y], volume[above, y], volume[z, behind]
            for x in range(nx - 1):
                dz, dy, dx = up[x] - row[x], back[x] - row[x], row[x + 1] - row[x]
                out[z, y, x] = one / np.sqrt(floor + wz * dz * dz + wy * dy * dy + wx * dx * dx)
            x = nx - 1
            dz, dy = up[x] - row[x], back[x] - row[x]
            out[z, y, x] = one / np.sqrt(floor + wz * dz * dz + wy * dy * dy)


@parallel_kernel(RELAXED)
def _gradient(volume, ratios, inverse, out):
    """Fill the gradient: minus the divergence of the normalised forward differences."""
    nz, ny, nx = volume.shape
    wz, wy, wx = ratios[0], ratios[1], ratios[2]
    for z in prange(nz):
        above, below = min(z + 1, nz - 1), max(z - 1, 0)
        for y in range(ny):
            behind, before = min(y + 1, ny - 1), max(y - 1, 0)
            row, own, line = volume[z, y], inverse[z, y], out[z, y]
            up, back = volume[above, y], volume[z, behind]
            down, down_inverse = volume[below, y], inverse[below, y]
            front, front_inverse = volume[z, before], inverse[z, before]
            # At a near face the voxel before is the voxel itself, and its difference zero.
            for x in range(nx):
                value = row[x]
                line[x] = (
                    (wz * (value - up[x]) + wy * (value - back[x])) * own[x]
                    + wz * (value - down[x]) * down_inverse[x]
                    + wy * (value - front[x]) * front_inverse[x]
                )
            for x in range(nx - 1):
                step = wx * (row[x + 1] - row[x]) * own[x]
                line[x] -= step
                line[x + 1] += step
