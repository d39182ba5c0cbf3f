"""Exact line integrals of 3D Gaussians in a cone beam, and what the affine splatting misses.

The integral of a Gaussian along the line through the source s with unit direction d is ``density
sqrt(2 pi / (d P d)) exp(-q / 2)``, with P the inverse covariance and q the least squared Mahalanobis
distance of the line from the centre. As in `render`, a Gaussian ends at `cut` deviations
and the kept mass makes up for what lies beyond.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffnr_lightning.geometry import ScanGeometry
from diffnr_lightning.representations.gaussians import line_kernels as kernels
from diffnr_lightning.representations.gaussians.poses import (
    arrays_of,
    pose_rows,
    rotation_matrices,
    rows_of_a_task,
)
from diffnr_lightning.representations.gaussians.shape import kept_mass
from diffnr_lightning.representations.gaussians.statistics import ScreenStatistics

Integral = Literal["affine", "exact"]
Gaussians = tuple[Tensor, Tensor, Tensor, Tensor]

REFERENCE_ELEMENTS = 2**22


def check_integral(integral: str) -> None:
    """Refuse an integral that is not known.

    Raises:
        ValueError: anything but "affine" and "exact".
    """
    if integral not in ("affine", "exact"):
        raise ValueError(f"integral is {integral!r}; 'affine' or 'exact' is expected.")


def render_lines(
    gaussians: Gaussians,
    scan: ScanGeometry,
    cut: float,
    backend: str,
    statistics: ScreenStatistics | None,
) -> Tensor:
    """Return the line integrals (V, H, W) of Gaussians, differentiable.

    Args:
        gaussians: centres (N, 3), deviations (N, 3), unit quaternions (N, 4), densities (N,).
        scan: cone beam, any poses.
        cut: where a Gaussian ends, in deviations.
        backend: "numba" for float32 on the CPU, "triton" on a GPU, or "reference".
        statistics: filled in the backward pass.
    """
    if backend == "numba":
        return _Lines.apply(*gaussians, scan, cut, statistics)
    if backend == "triton":
        from diffnr_lightning.representations.gaussians.lines_triton import Lines

        return Lines.apply(*gaussians, scan, cut, statistics)
    views = [scan[view] for view in range(len(scan))]
    return torch.stack(
        [_render_view(gaussians, view, cut, statistics, len(views)) for view in views]
    )


def affine_mass_loss(
    positions: Tensor, scales: Tensor, densities: Tensor, scan: ScanGeometry
) -> float:
    """Estimate which share of the mass of the projections affine splatting loses.

    For a round Gaussian of deviation s whose centre lies at distance L from the source, on a ray at
    angle a to the detector's normal, let r be the distance from its projected centre in deviations
    and x the part of r away from the foot of the source. The exact integral is the affine one times
    ``1 + r^2 (b - b^2) / 2 + r^4 b^2 / 8``, with ``b = 2 e tan(a) x + e^2 (x^2 / cos(a)^2 + r^2 -
    x^2)`` and ``e = s / L``. Its mean over a 2D Gaussian is ``1 + e^2 (4 + 6 tan(a)^2)`` to second
    order in e; the terms in e alone are odd in x and cancel.

    Args:
        positions: (N, 3) centres in mm.
        scales: (N, 3) deviations in mm; the root of their mean square counts.
        densities: (N,) peak values.
        scan: the views; 0 for parallel beam, where splatting is exact.

    Returns:
        The share, averaged over views and Gaussians by the mass of their images. Those that splatting
        leaves out, beside or behind the source, do not count; others that reach to the source make it
        large, and it is no estimate then.
    """
    if scan.beam != "cone":
        return 0.0
    squares = scales.detach().double().square().mean(1).cpu().numpy()  # (N,)
    mass = (
        densities.detach().double().cpu().numpy() * scales.detach().double().prod(1).cpu().numpy()
    )
    centres = positions.detach().double().cpu().numpy()
    lost = total = 0.0
    for source, detector, normal in zip(scan.source_mm, scan.detector_mm, scan.normal, strict=True):
        offset = centres - source
        depth = offset @ normal
        seen = depth >= kernels.NEAR * ((detector - source) @ normal)
        offset, depth = offset[seen], depth[seen]
        distance2 = (offset**2).sum(1)
        tangent2 = np.maximum(distance2 / depth**2 - 1, 0)
        # An image has the magnification squared, and obliquely the cosine, times the line's mass.
        weight = mass[seen] * np.sqrt(distance2) / depth**3
        lost += float((weight * squares[seen] / distance2 * (4 + 6 * tangent2)).sum())
        total += float(weight.sum())
    return lost / total if total > 0 else 0.0


def _render_view(
    gaussians: Gaussians,
    scan: ScanGeometry,
    cut: float,
    statistics: ScreenStatistics | None,
    num_views: int,
) -> Tensor:
    """Return one view (H, W) in torch; the reference that the kernels are held against."""
    positions, scales, rotations, densities = gaussians
    like = {"device": positions.device, "dtype": positions.dtype}
    view = torch.tensor(pose_rows(scan)[0], **like)
    u, v = (torch.tensor(a[0], **like) for a in (scan.u_mm, scan.v_mm))
    foot, normal, (distance, column_0, row_0) = view[0:3], view[3:6], view[12:15]
    rows, columns = scan.detector_shape
    offset = positions - foot  # (N, 3)
    depth = offset @ normal + view[15]
    offset = offset + view[15] * normal
    seen = depth >= kernels.NEAR * distance
    # Columns and rows by which the centres are moved: none, but a gradient passes.
    shift = 0.0 * positions[:, :2]
    per_pixel = (depth / distance)[:, None]
    offset = offset + per_pixel * (shift[:, :1] * u + shift[:, 1:] * v)
    whitening = rotation_matrices(rotations).transpose(1, 2) / scales[:, :, None]  # (N, 3, 3)
    m = torch.einsum("nij,nj->ni", whitening, offset)
    heights = torch.where(seen, densities, 0.0) * (np.sqrt(2 * np.pi) / kept_mass(cut, 2))
    j = (torch.arange(columns, **like) - column_0)[:, None] * u  # (W, 3)
    image, hit = [], torch.zeros_like(seen)
    for i in torch.arange(rows, **like).split(
        max(1, REFERENCE_ELEMENTS // max(3 * columns * len(positions), 1))
    ):
        ray = distance * normal + (i - row_0)[:, None, None] * v + j  # (h, W, 3)
        e = torch.einsum("nij,hwj->hwni", whitening, ray)
        square = e.square().sum(-1)  # (h, W, N)
        distance2 = torch.linalg.cross(m.expand_as(e), e).square().sum(-1) / square
        within = distance2 <= cut * cut
        hit |= within.any(1).any(0) & seen
        bell = torch.where(within, torch.exp(-0.5 * distance2), 0.0)
        image.append(ray.norm(dim=-1) * ((bell / square.sqrt()) @ heights))
    if statistics is not None:
        statistics.watch(shift, hit, scan.detector_shape, num_views)
    return torch.cat(image)


class _Lines(torch.autograd.Function):
    """Render by the numba kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        scales: Tensor,
        rotations: Tensor,
        densities: Tensor,
        scan: ScanGeometry,
        cut: float,
        statistics: ScreenStatistics | None,
    ) -> Tensor:
        *shapes, peaks = arrays_of(positions, scales, rotations, densities)
        count, shape = len(positions), scan.detector_shape
        views = pose_rows(scan).astype(np.float32)
        across = np.stack([scan.u_mm, scan.v_mm], axis=1).astype(np.float32)  # (V, 2, 3)
        gain = np.float32(np.sqrt(2 * np.pi) / kept_mass(cut, 2))
        heights = gain * peaks
        cut2 = np.float32(cut * cut)
        # Without a way back each view takes the room of the one before.
        kept = len(scan) if any(ctx.needs_input_grad) else 1
        lines = np.empty((kept, count, 17), np.float32)
        first, last = np.empty((2, kept, count), np.int32)
        images = np.zeros((len(scan), *shape), np.float32)
        for k, view in enumerate(views):
            seen = (lines[k % kept], first[k % kept], last[k % kept])
            kernels.trace_gaussians(*shapes, view, across[k], cut2, shape, *seen)
            kernels.splat_lines(
                seen[0], heights, *seen[1:], cut2, rows_of_a_task(shape[0]), images[k]
            )
        lengths = _ray_lengths(scan)
        images *= lengths
        ctx.shapes, ctx.views, ctx.across, ctx.lengths = shapes, views, across, lengths
        ctx.numbers, ctx.seen = (gain, heights, cut2), (lines, first, last)
        ctx.statistics = statistics
        return torch.from_numpy(images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        gradient = grad_outputs[0].numpy() * ctx.lengths
        num_views, rows, columns = gradient.shape
        half_detector = 0.5 * num_views * np.array([columns, rows], np.float32)
        gain, heights, cut2 = ctx.numbers
        gradients = [np.zeros_like(array) for array in (*ctx.shapes, heights)]
        statistics = ctx.statistics or ScreenStatistics(len(heights))
        statistics.move_to(grad_outputs[0].device)
        lines, first, last = ctx.seen
        for k, view in enumerate(ctx.views):
            kernels.lines_backward(
                *ctx.shapes,
                view,
                ctx.across[k],
                half_detector,
                gain,
                lines[k],
                heights,
                first[k],
                last[k],
                cut2,
                gradient[k],
                *gradients,
                statistics.gradient.numpy(),
                statistics.visible.numpy(),
            )
        return (*(torch.from_numpy(g) for g in gradients), None, None, None)


def _ray_lengths(scan: ScanGeometry) -> np.ndarray:
    """Return the distances of the pixels from the source (V, H, W) in mm, float32."""
    rows, columns = scan.detector_shape
    i = np.arange(rows)[:, None, None] - 0.5 * (rows - 1)
    j = np.arange(columns)[:, None] - 0.5 * (columns - 1)
    lengths = np.empty((len(scan), rows, columns), np.float32)
    for k, middle in enumerate(scan.detector_mm - scan.source_mm):
        lengths[k] = np.linalg.norm(middle + i * scan.v_mm[k] + j * scan.u_mm[k], axis=-1)
    return lengths
