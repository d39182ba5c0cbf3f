"""Resampling of volumes between voxel grids, by area where the target is coarser."""

from __future__ import annotations

import numpy as np

# Samples a source voxel when voxels are averaged into a coarser one; the mean of a linear
# interpolation at four points differs from its integral by less than float32 images show.
SAMPLES_PER_VOXEL = 4


def axis_weights(
    source_count: int,
    source_mm: float,
    target_count: int,
    target_mm: float,
    offset_mm: float = 0.0,
) -> np.ndarray:
    """Return the matrix (target_count, source_count) that resamples one axis.

    The source is interpolated linearly between voxel centres, constant up to its outer faces and
    zero beyond. Where the target voxel is larger than the source voxel its value is the mean over
    the voxel, otherwise the value at its centre. A target voxel through which an outer face goes
    counts by the share that lies inside, so that an object is as long on all grids.

    Args:
        source_count: voxels of the source along the axis.
        source_mm: their edge.
        target_count: voxels of the target.
        target_mm: their edge.
        offset_mm: position of the target's centre relative to the source's centre.
    """
    coarser = target_mm > source_mm * (1 + 1e-6)
    samples = int(np.ceil(SAMPLES_PER_VOXEL * target_mm / source_mm)) if coarser else 1
    within = (np.arange(samples) + 0.5) / samples - 0.5
    centres = np.arange(target_count) - 0.5 * (target_count - 1)
    position = (centres[:, None] + within) * target_mm + offset_mm
    position = position / source_mm + 0.5 * (source_count - 1)
    # What a sample stands for reaches half of this to both sides.
    reach = target_mm / source_mm / samples
    low = np.maximum(position - 0.5 * reach, -0.5)
    high = np.minimum(position + 0.5 * reach, source_count - 0.5)
    inside = np.clip((high - low) / reach, 0, 1)
    inside[inside > 1 - 1e-6] = 1
    position = np.where(inside < 1, 0.5 * (low + high), position)
    position = np.clip(position, 0, source_count - 1)
    lower = np.minimum(position.astype(np.int64), max(source_count - 2, 0))
    upper = np.minimum(lower + 1, source_count - 1)
    fraction = position - lower
    weights = np.zeros((target_count, source_count))
    rows = np.broadcast_to(np.arange(target_count)[:, None], position.shape)
    np.add.at(weights, (rows, lower), (1 - fraction) * inside / samples)
    np.add.at(weights, (rows, upper), fraction * inside / samples)
    return weights.astype(np.float32)


def resample(
    volume: np.ndarray,
    spacing_mm: tuple[float, float, float],
    shape: tuple[int, int, int],
    voxel_mm: tuple[float, float, float],
    offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Resample a volume onto another grid of parallel axes; zero outside the source.

    Args:
        volume: (Z, Y, X) float32; zero must mean empty.
        spacing_mm: its voxel edges (z, y, x).
        shape: voxels (Z, Y, X) of the target.
        voxel_mm: voxel edges (z, y, x) of the target.
        offset_mm: centre of the target relative to the centre of the source, (z, y, x).

    Returns:
        (Z, Y, X) float32 of `shape`.
    """
    along_z, along_y, along_x = (
        axis_weights(*numbers)
        for numbers in zip(volume.shape, spacing_mm, shape, voxel_mm, offset_mm, strict=True)
    )
    # Axes that shrink first keep the intermediate arrays small.
    steps = sorted(range(3), key=lambda axis: shape[axis] / volume.shape[axis])
    result = volume
    for axis in steps:
        if axis == 0:
            flat = result.reshape(result.shape[0], -1)
            result = (along_z @ flat).reshape(shape[0], *result.shape[1:])
        elif axis == 1:
            result = np.matmul(along_y, result)
        else:
            result = np.matmul(result, along_x.T)
    return np.ascontiguousarray(result, dtype=np.float32)
