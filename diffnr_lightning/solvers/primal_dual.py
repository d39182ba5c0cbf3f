"""The two halves of a primal-dual step with total variation, each in one pass over memory.

The dual variable (3, Z, Y, X) lives on the forward differences along z, y and x of every voxel, zero across the far
faces, as in `total_variation`. Volumes may lie in memory as `projectors.lay_out` makes them, all of a call alike: the
kernels run through them in the order in which they lie.
"""

# Arguments of kernels are float32 arrays.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.kernels import UNGROUPED, parallel_kernel, prange
from diffnr_lightning.solvers.total_variation import (
    axes_in_memory,
    differences,
    differences_adjoint,
)
from diffnr_lightning.triton_kernels import takes_triton

Ratios = tuple[float, float, float]


def descend(
    volume: Tensor, ahead: Tensor, drift: Tensor, dual: Tensor, step: Tensor, ratios: Ratios
) -> None:
    """Step against the drift and the divergence of the dual variable, no further down than zero, in place.

    Args:
        volume: (Z, Y, X) x, becomes ``x' = max(0, x - step (drift + D^T dual))``.
        ahead: (Z, Y, X), becomes ``2 x' - x``.
        drift: (Z, Y, X) slope of the data term.
        dual: (3, Z, Y, X).
        step: (Z, Y, X) not negative.
        ratios: what differences along z, y and x are multiplied by.
    """
    if volume.device.type == "cpu" and volume.dtype == torch.float32:
        axes = axes_in_memory(volume)
        own = (a.permute(axes).numpy() for a in (volume, ahead, drift, step))
        _descend(*own, *_components(dual, axes), *(np.float32(ratios[a]) for a in axes))
        return
    if takes_triton(volume) and volume.dtype == torch.float32:
        from diffnr_lightning.solvers import primal_dual_triton

        primal_dual_triton.descend(volume, ahead, drift, dual, step, ratios)
        return
    slope = differences_adjoint(dual, ratios).add_(drift)
    ahead.copy_(volume).neg_()
    volume.addcmul_(step, slope, value=-1.0).clamp_(min=0.0)
    ahead.add_(volume, alpha=2.0)


def ascend(
    dual: Tensor, ahead: Tensor, step: Tensor, bound: Tensor, scale: float, ratios: Ratios
) -> None:
    """Step along the differences of a volume, and shorten vectors that become longer than the bound, in place.

    Args:
        dual: (3, Z, Y, X).
        ahead: (Z, Y, X).
        step: (Z, Y, X) not negative.
        bound: (Z, Y, X) not negative.
        scale: factor of the bound.
        ratios: what differences along z, y and x are multiplied by.
    """
    if dual.device.type == "cpu" and dual.dtype == torch.float32:
        axes = axes_in_memory(ahead)
        own = (a.permute(axes).numpy() for a in (ahead, step, bound))
        weights = (np.float32(ratios[a]) for a in axes)
        _ascend(*_components(dual, axes), *own, np.float32(scale), *weights)
        return
    if takes_triton(dual) and dual.dtype == torch.float32:
        from diffnr_lightning.solvers import primal_dual_triton

        primal_dual_triton.ascend(dual, ahead, step, bound, scale, ratios)
        return
    dual.addcmul_(differences(ahead, ratios), step)
    most = scale * bound
    length = torch.maximum(dual.norm(dim=0), most)
    dual *= torch.where(length > 0, most / length, 0.0)


def vectors_like(volume: Tensor) -> Tensor:
    """Return zeros (3, Z, Y, X), each component of which lies in memory as a volume (Z, Y, X) does."""
    axes = axes_in_memory(volume)
    zeros = volume.new_zeros(3, *(volume.shape[a] for a in axes))
    return zeros.permute(0, *(1 + axes.index(a) for a in range(3)))


def _components(dual: Tensor, axes: tuple[int, int, int]) -> list[np.ndarray]:
    """Return the components of a dual variable along some axes, each with its own axes in that order."""
    return [dual[a].permute(axes).numpy() for a in axes]


def least_of_neighbours(values: Tensor) -> Tensor:
    """Return (Z, Y, X) the least of every voxel and the next ones along each axis.

    A twelfth of it, of one over the steps of a volume, is a step of the dual variable with which both converge.
    """
    least = values.clone()
    for axis in range(3):
        last = values.shape[axis] - 1
        inner = least.narrow(axis, 0, last)
        torch.minimum(inner, values.narrow(axis, 1, last), out=inner)
    return least


@parallel_kernel(UNGROUPED)
def _descend(volume, ahead, drift, step, dual_z, dual_y, dual_x, wz, wy, wx):
    """See `descend`; z, y and x are whichever axes the arrays have, x fastest."""
    nz, ny, nx = volume.shape
    zero, two = np.float32(0.0), np.float32(2.0)
    for z in prange(nz):
        below, from_below = max(z - 1, 0), wz if z > 0 else zero
        for y in range(ny):
            before, from_before = max(y - 1, 0), wy if y > 0 else zero
            own_z, own_y, own_x = dual_z[z, y], dual_y[z, y], dual_x[z, y]
            down, front = dual_z[below, y], dual_y[z, before]
            row, line, pull, length = volume[z, y], ahead[z, y], drift[z, y], step[z, y]
            for x in range(nx):
                line[x] = (
                    (from_below * down[x] - wz * own_z[x])
                    + (from_before * front[x] - wy * own_y[x])
                    - wx * own_x[x]
                )
            for x in range(1, nx):
                line[x] += wx * own_x[x - 1]
            for x in range(nx):
                old = row[x]
                new = max(old - length[x] * (pull[x] + line[x]), zero)
                row[x] = new
                line[x] = two * new - old


@parallel_kernel(UNGROUPED, "numpy")
def _ascend(dual_z, dual_y, dual_x, ahead, step, bound, scale, wz, wy, wx):
    """See `ascend` and `_descend`; at a far face the next voxel is the voxel itself, and its difference zero."""
    nz, ny, nx = ahead.shape
    tiny = np.float32(1e-37)
    for z in prange(nz):
        above = min(z + 1, nz - 1)
        for y in range(ny):
            behind = min(y + 1, ny - 1)
            row, up, back = ahead[z, y], ahead[above, y], ahead[z, behind]
            along_z, along_y, along_x = dual_z[z, y], dual_y[z, y], dual_x[z, y]
            length, limit = step[z, y], bound[z, y]
            for x in range(nx - 1):
                dz = along_z[x] + length[x] * (wz * (up[x] - row[x]))
                dy = along_y[x] + length[x] * (wy * (back[x] - row[x]))
                dx = along_x[x] + length[x] * (wx * (row[x + 1] - row[x]))
                most = scale * limit[x]
                factor = most / max(np.sqrt(dz * dz + dy * dy + dx * dx), most, tiny)
                along_z[x], along_y[x], along_x[x] = factor * dz, factor * dy, factor * dx
            x = nx - 1
            dz = along_z[x] + length[x] * (wz * (up[x] - row[x]))
            dy = along_y[x] + length[x] * (wy * (back[x] - row[x]))
            most = scale * limit[x]
            factor = most / max(np.sqrt(dz * dz + dy * dy), most, tiny)
            along_z[x], along_y[x] = factor * dz, factor * dy
