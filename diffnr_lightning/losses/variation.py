"""Total variation of a volume."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffnr_lightning.kernels import kernel_part, num_threads, parallel_kernel, prange
from diffnr_lightning.triton_kernels import takes_triton


@kernel_part()
def _row_variation(row: np.ndarray, other: np.ndarray) -> float:
    total = 0.0
    for j in range(row.size):
        total += abs(row[j] - other[j])
    return total


@kernel_part()
def _add_signs(row: np.ndarray, other: np.ndarray, scale: float, gradient: np.ndarray) -> None:
    """Add scale * sign(row - other) to the gradient of `row`."""
    for j in range(row.size):
        difference = row[j] - other[j]
        gradient[j] += scale * np.float32(np.int32(difference > 0) - np.int32(difference < 0))


@parallel_kernel()
def _variation(
    volume: np.ndarray, scale: float, sums: np.ndarray, gradient: np.ndarray, num_threads: int
) -> None:
    """Sum |differences| of every slice with its predecessors; differentiate scale * their total.

    Each voxel collects the signs of its (at most six) differences itself, so no two threads write
    to one place; `sums` holds one total per slice, so the order of summation is fixed.

    Args:
        volume: (Z, Y, X) float32.
        scale: factor of the gradient.
        sums: (Z,) float64 output.
        gradient: (Z, Y, X) zeros, or an empty array where no gradient is wanted.
        num_threads: number of blocks of slices.
    """
    depth, height, width = volume.shape
    for thread in prange(num_threads):
        for z in range(thread * depth // num_threads, (thread + 1) * depth // num_threads):
            total = 0.0
            for y in range(height):
                row = volume[z, y]
                total += _row_variation(row[1:], row[: width - 1])
                if y > 0:
                    total += _row_variation(row, volume[z, y - 1])
                if z > 0:
                    total += _row_variation(row, volume[z - 1, y])
                if gradient.size > 0:
                    slope = gradient[z, y]
                    _add_signs(row[1:], row[: width - 1], scale, slope[1:])
                    _add_signs(row[: width - 1], row[1:], scale, slope[: width - 1])
                    if y > 0:
                        _add_signs(row, volume[z, y - 1], scale, slope)
                    if y < height - 1:
                        _add_signs(row, volume[z, y + 1], scale, slope)
                    if z > 0:
                        _add_signs(row, volume[z - 1, y], scale, slope)
                    if z < depth - 1:
                        _add_signs(row, volume[z + 1, y], scale, slope)
            sums[z] = total


def _count_differences(shape: torch.Size) -> int:
    depth, height, width = shape
    return (
        (depth - 1) * height * width + depth * (height - 1) * width + depth * height * (width - 1)
    )


class _Variation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, volume: Tensor) -> Tensor:
        volume = volume.contiguous()
        scale = 1.0 / _count_differences(volume.shape)
        gradient = torch.zeros_like(volume) if ctx.needs_input_grad[0] else None
        if gradient is not None:
            ctx.save_for_backward(gradient)
        if takes_triton(volume):
            from diffnr_lightning.losses import variation_triton

            return variation_triton.variation(volume.detach(), scale, gradient)
        sums = np.zeros(volume.shape[0])
        _variation(
            volume.detach().numpy(),
            np.float32(scale),
            sums,
            np.empty((0, 0, 0), np.float32) if gradient is None else gradient.numpy(),
            num_threads(),
        )
        return torch.tensor(sums.sum() * scale, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0]


def tv_3d_reference(volume: Tensor) -> Tensor:
    """Compute `tv_3d` in plain torch, on any device and in any floating type; sums are float32 at least."""
    kind = torch.promote_types(volume.dtype, torch.float32)  # float16 ends at 65,504
    total = sum(volume.diff(dim=axis).abs().sum(dtype=kind) for axis in range(3))
    return total / _count_differences(volume.shape)


def tv_3d(volume: Tensor) -> Tensor:
    """Anisotropic total variation: the mean absolute difference of neighbouring voxels.

    The mean runs over all differences along z, y and x together. float32 volumes are served by fused
    kernels on CPU and CUDA, with a hand-written gradient (0 where two neighbours are equal).

    Args:
        volume: (Z, Y, X), at least two voxels.

    Returns:
        Scalar, in the unit of the volume; float32 of types below it.

    Raises:
        ValueError: an array that is not (Z, Y, X), or has fewer than two voxels.
    """
    if volume.dim() != 3 or volume.numel() < 2:
        raise ValueError(
            f"tv_3d got a volume of shape {tuple(volume.shape)}; (Z, Y, X) with two voxels or more "
            "is expected."
        )
    if volume.dtype == torch.float32 and (volume.device.type == "cpu" or takes_triton(volume)):
        return _Variation.apply(volume)
    return tv_3d_reference(volume)
