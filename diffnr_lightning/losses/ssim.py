"""Structural similarity of slices, and of volumes as the mean over slices of three planes.

The convention is the one of 3D Gaussian splatting and R2-Gaussian: an 11 x 11 Gaussian window with
a standard deviation of 1.5 pixels, zeros outside of the image, C1 = (0.01 range)^2,
C2 = (0.03 range)^2, biased variances.

Source: Wang et al., "Image quality assessment: from error visibility to structural similarity",
IEEE Transactions on Image Processing, 2004.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffnr_lightning.kernels import num_threads
from diffnr_lightning.losses.ssim_kernels import (
    K1,
    K2,
    RADIUS,
    gaussian_window,
    similarity_of_slices,
)
from diffnr_lightning.triton_kernels import takes_triton


def ssim_2d_reference(prediction: Tensor, reference: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of N pairs of slices in plain torch, differentiable in both.

    Args:
        prediction: (N, H, W). Types below float32 are computed in float32, all of them in float64 on a GPU.
        reference: (N, H, W).
        data_range: what the full range of intensities is.

    Returns:
        (N,) mean of the index over the pixels of each slice.
    """
    kind = torch.promote_types(prediction.dtype, reference.dtype)
    kind = torch.promote_types(kind, torch.float32)
    exact = _type_of_moments(kind, prediction.device)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    # Differences of second moments do not survive half precision, so autocast must not touch them.
    with torch.autocast(prediction.device.type, enabled=False):
        x, y = prediction.to(exact), reference.to(exact)
        taps = torch.as_tensor(gaussian_window(), dtype=exact, device=x.device)
        moments = torch.stack((x, y, x * x, y * y, x * y)).flatten(0, 1).unsqueeze(1)
        moments = F.conv2d(moments, taps.view(1, 1, -1, 1), padding=(RADIUS, 0))
        moments = F.conv2d(moments, taps.view(1, 1, 1, -1), padding=(0, RADIUS))
        mx, my, xx, yy, xy = moments.view(5, *x.shape)
        luminance = mx * mx + my * my
        index = ((2 * mx * my + c1) * (2 * (xy - mx * my) + c2)) / (
            (luminance + c1) * (xx + yy - luminance + c2)
        )
    return index.mean(dim=(1, 2)).to(kind)


def _type_of_moments(kind: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the type that convolutions are to have, given that of the result.

    On a GPU torch lets them round float32 to TF32's eleven bits, forwards and backwards, unless it is told otherwise.
    """
    return torch.float64 if device.type == "cuda" else kind


def _accumulate(
    prediction: Tensor,
    reference: Tensor,
    slices: Tensor,
    strides: tuple[int, int],
    plane: tuple[int, int],
    data_range: float,
    scale: float,
    gradient: Tensor | None,
) -> Tensor:
    """Run the fused kernel on contiguous float32 CPU tensors; adds to `gradient` in place."""
    similarity = torch.empty(len(slices), dtype=torch.float32)
    similarity_of_slices(
        prediction.detach().reshape(-1).numpy(),
        reference.detach().reshape(-1).numpy(),
        slices.numpy(),
        strides[0],
        strides[1],
        plane[0],
        plane[1],
        gaussian_window()[RADIUS:].astype(np.float32),
        np.float32((K1 * data_range) ** 2),
        np.float32((K2 * data_range) ** 2),
        np.float32(scale),
        np.empty(0, np.float32) if gradient is None else gradient.view(-1).numpy(),
        similarity.numpy(),
        num_threads(),
    )
    return similarity


class _SliceSimilarity(torch.autograd.Function):
    """Fused index of N slices; the gradient of each is computed in the same visit and kept."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, reference: Tensor, data_range: float) -> Tensor:
        prediction, reference = prediction.contiguous(), reference.contiguous()
        count, height, width = prediction.shape
        gradient = torch.zeros_like(prediction) if ctx.needs_input_grad[0] else None
        similarity = _accumulate(
            prediction,
            reference,
            torch.arange(count),
            (height * width, width),
            (height, width),
            data_range,
            1.0,
            gradient,
        )
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].view(-1, 1, 1), None, None


def _fused(prediction: Tensor, reference: Tensor) -> bool:
    """Whether a fused kernel serves this pair: float32 only, and no gradient of the reference."""
    tensors = (prediction, reference)
    return (
        not reference.requires_grad
        and prediction.device == reference.device
        and all(t.dtype == torch.float32 for t in tensors)
        and (prediction.device.type == "cpu" or takes_triton(prediction))
    )


def _check_range(data_range: float) -> None:
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}; a positive range of values is expected.")


def ssim_2d(prediction: Tensor, reference: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of N pairs of slices.

    float32 tensors on the CPU and on CUDA devices are served by fused kernels with a hand-written
    gradient for the prediction; everything else (other devices and types, a reference that wants a
    gradient) by `ssim_2d_reference`.

    Args:
        prediction: (N, H, W).
        reference: (N, H, W).
        data_range: what the full range of intensities is; the intensities should be of this order.

    Returns:
        (N,) mean of the index over the pixels of each slice; 1 for equal slices.

    Raises:
        ValueError: shapes that differ or are not (N, H, W), or a data range that is not positive.
    """
    if prediction.shape != reference.shape or prediction.dim() != 3:
        raise ValueError(
            f"ssim_2d got prediction {tuple(prediction.shape)} and reference "
            f"{tuple(reference.shape)}; two stacks of slices of one shape (N, H, W) are expected."
        )
    _check_range(data_range)
    if _fused(prediction, reference):
        if prediction.is_cuda:
            from diffnr_lightning.losses.ssim_triton import slice_similarity

            return slice_similarity(prediction, reference, data_range)
        return _SliceSimilarity.apply(prediction, reference, data_range)
    return ssim_2d_reference(prediction, reference, data_range)


class SsimReference:
    """Prepare a fixed volume for many calls of `ssim_3d`.

    It remembers which slices count; the CPU's kernel has it copy the sagittal slices, for contiguous rows.

    Args:
        volume: (Z, Y, X); kept without gradient.
        skip_empty: leave out the slices without a value above zero, as R2-Gaussian and DiffNR do.
        occupied: (Z, Y, X) bool on the CPU, where the volume is above zero; spares waiting for another device.

    Raises:
        ValueError: a volume that is not (Z, Y, X), or one of which no slice counts.
    """

    def __init__(
        self, volume: Tensor, skip_empty: bool = True, occupied: Tensor | None = None
    ) -> None:
        if volume.dim() != 3:
            raise ValueError(
                f"the reference volume has shape {tuple(volume.shape)}; (Z, Y, X) is expected."
            )
        self.volume = volume.detach().contiguous()
        self.skip_empty = skip_empty
        values = self.volume if occupied is None else occupied.byte()
        others = ((1, 2), (0, 2), (0, 1))
        self.slices = tuple(
            torch.nonzero(values.amax(dim) > 0).squeeze(1).cpu()
            if skip_empty
            else torch.arange(self.volume.shape[axis])
            for axis, dim in enumerate(others)
        )
        if not all(len(indices) for indices in self.slices):
            raise ValueError(
                "the reference volume has no value above zero, so no slice counts in its "
                "structural similarity; pass a volume that is not empty, or skip_empty=False."
            )

    @cached_property
    def sagittal(self) -> Tensor:
        """The slices along x, (X, Z, Y), with contiguous rows."""
        return self.volume.permute(2, 0, 1).contiguous()

    @cached_property
    def slices_on_device(self) -> tuple[Tensor, ...]:
        """Ascending indices of the slices that count along z, y and x, on the device of the volume."""
        return tuple(indices.to(self.volume.device, non_blocking=True) for indices in self.slices)


class _VolumeSimilarity(torch.autograd.Function):
    """Fused mean over three planes; one gradient volume collects all of them."""

    @staticmethod
    def forward(
        ctx: Any,
        prediction: Tensor,
        reference: SsimReference,
        chosen: tuple[Tensor, Tensor, Tensor],
        data_range: float,
    ) -> Tensor:
        prediction = prediction.contiguous()
        gradient = torch.zeros_like(prediction) if ctx.needs_input_grad[0] else None
        depth, height, width = prediction.shape
        z, y, x = chosen
        scales = [1.0 / (3 * len(indices)) for indices in chosen]
        volume_strides = (height * width, width)
        axial = _accumulate(
            prediction,
            reference.volume,
            z,
            volume_strides,
            (height, width),
            data_range,
            scales[0],
            gradient,
        )
        coronal = _accumulate(
            prediction,
            reference.volume,
            y,
            volume_strides[::-1],
            (depth, width),
            data_range,
            scales[1],
            gradient,
        )
        # The rows of a sagittal slice are not contiguous in the volume: copy them out, (x, Z, Y).
        turned = prediction.permute(2, 0, 1)
        turned = (turned if len(x) == width else turned[x]).contiguous()
        turned_gradient = None if gradient is None else torch.zeros_like(turned)
        sagittal = _accumulate(
            turned,
            reference.sagittal if len(x) == width else reference.sagittal[x],
            torch.arange(len(x)),
            (depth * height, height),
            (depth, height),
            data_range,
            scales[2],
            turned_gradient,
        )
        if gradient is not None and turned_gradient is not None:
            gradient.index_add_(2, x, turned_gradient.permute(1, 2, 0))
            ctx.save_for_backward(gradient)
        return (axial.mean() + coronal.mean() + sagittal.mean()) / 3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None


def ssim_3d(
    prediction: Tensor,
    reference: Tensor | SsimReference,
    *,
    data_range: float = 1.0,
    skip_empty: bool = True,
) -> Tensor:
    """Structural similarity of volumes: mean over three axes of the mean `ssim_2d` of the slices.

    Args:
        prediction: (Z, Y, X), differentiable.
        reference: (Z, Y, X); give a `SsimReference` where one volume is the reference many times.
        data_range: what the full range of intensities is.
        skip_empty: leave out slices of which the reference has no value above zero.

    Returns:
        Scalar; 1 for equal volumes.

    Raises:
        ValueError: shapes that differ, a reference without a slice that counts, or a `SsimReference` made with another
            `skip_empty`.

    Source:
        Zha et al., "R2-Gaussian", NeurIPS 2024 (metric), and DiffNR, AAAI 2026 (loss).
    """
    if not isinstance(reference, SsimReference):
        reference = SsimReference(reference, skip_empty)
    if reference.skip_empty != skip_empty:
        raise ValueError(
            f"ssim_3d got skip_empty={skip_empty} and a SsimReference made with "
            f"skip_empty={reference.skip_empty}; make both the same."
        )
    if prediction.shape != reference.volume.shape:
        raise ValueError(
            f"ssim_3d got prediction {tuple(prediction.shape)} and reference "
            f"{tuple(reference.volume.shape)}; two volumes of one shape (Z, Y, X) are expected."
        )
    _check_range(data_range)
    chosen = reference.slices_on_device
    if _fused(prediction, reference.volume):
        if prediction.is_cuda:
            from diffnr_lightning.losses.ssim_triton import volume_similarity

            return volume_similarity(prediction, reference.volume, chosen, data_range)
        return _VolumeSimilarity.apply(prediction, reference, chosen, data_range)
    means = []
    for axis, indices in enumerate(chosen):
        x = prediction.index_select(axis, indices).movedim(axis, 0)
        y = reference.volume.index_select(axis, indices).movedim(axis, 0)
        means.append(ssim_2d_reference(x, y, data_range).mean())
    return torch.stack(means).mean()
