"""What travels between data and modules: named tuples of tensors with documented fields."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ViewBatch(NamedTuple):
    """Measured views of one scan, or the same window of all of them.

    Attributes:
        view: (B,) int64 indices of the views in the scan.
        projection: (B, H, W) float32 line integrals, unit of the volume times mm.
        rows: rows of the detector that the projection shows; all unless said otherwise.
        columns: columns of the detector that the projection shows.
        weights: (B, H, W) factors on the differences from the projection, about 1 behind the object
            (`ray_factors`); None where all rays count alike.
    """

    view: Tensor
    projection: Tensor
    rows: slice = slice(None)
    columns: slice = slice(None)
    weights: Tensor | None = None


class SlicePair(NamedTuple):
    """Degraded slices, what they should be, and what the repair may look at.

    Attributes:
        degraded: (B, C, H, W) float32 in [0, 1]; the slice itself in the middle channel, its
            neighbours around it.
        clean: (B, 1, H, W) float32 in [0, 1].
        biplanar: (B, 2, h, w) float32; two projections nearly at right angles, normalised.
        position: (B,) float32 place of the slice along its axis, from -1 (first) to 1 (last).
        plane: (B,) int64 volume axis that the slice is perpendicular to: 0 axial, 1 coronal, 2
            sagittal.
        views: (B,) float32 number of projections behind the degraded volume, 0 where unknown.
        residual: (B, C, H, W) float32 slices of the backprojected residual, 0 where unknown.
        noise: (B, 1, H, W) float32 standard deviation of the noise in it, 0 where unknown.
    """

    degraded: Tensor
    clean: Tensor
    biplanar: Tensor
    position: Tensor
    plane: Tensor
    views: Tensor
    residual: Tensor
    noise: Tensor


class VolumePair(NamedTuple):
    """A whole degraded volume, what it should be, and what the repair may look at.

    Attributes:
        degraded: (Z, Y, X) float32 in [0, 1].
        clean: (Z, Y, X) float32 in [0, 1].
        biplanar: (2, h, w) float32; two projections nearly at right angles, normalised.
        views: () float32 number of projections behind the degraded volume.
        residual: (Z, Y, X) float32 backprojected residual, 0 where unknown.
        noise: (Z, Y, X) float32 standard deviation of the noise in it, 0 where unknown.
    """

    degraded: Tensor
    clean: Tensor
    biplanar: Tensor
    views: Tensor
    residual: Tensor
    noise: Tensor


class CleanSlices(NamedTuple):
    """Neighbouring slices of clean volumes, from which a denoiser learns.

    Attributes:
        clean: (B, C, H, W) float32 in [0, 1], slices `gap` apart.
        gap: (B,) int64 slices from one channel to the next; 0 where all channels are the same slice.
        coordinates: (B, 2, H, W) float32 row and column of every pixel in its slice, -1 at the centre of the first
            and 1 at that of the last.
    """

    clean: Tensor
    gap: Tensor
    coordinates: Tensor


class CleanPatches(NamedTuple):
    """A clean volume and patches in it, from which a denoiser learns.

    Attributes:
        clean: (Z, Y, X) float32 in [0, 1].
        corner: (B, 3) int64 first voxel (z, y, x) of each patch.
    """

    clean: Tensor
    corner: Tensor
