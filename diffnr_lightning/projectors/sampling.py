"""The discretisation that every projector shares: Joseph's rule in voxel indices.

A ray is sampled where it crosses the slices of its *main axis*, the axis along which it advances
most voxels, and the volume is interpolated bilinearly inside the slice, with zeros outside the
grid. The sum times the length of the ray between two slices (mm) is the line integral. Rays start
at the source and go on to infinity; slices behind the source do not count.

Source: P. M. Joseph, "An improved algorithm for reprojecting rays through pixel images", IEEE TMI
1982.
"""

from __future__ import annotations

import numpy as np

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid

# Along a diagonal ray two axes tie up to rounding. The earlier of x, y, z wins unless the later
# one is larger by this factor, so that all backends take the same axis for the same ray.
TIE = 1.0 + 1e-6


def ray_bundle(
    grid: VolumeGrid, scan: ScanGeometry
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the rays as affine functions of the pixel, in voxel indices.

    The ray of pixel (row i, column j) of view v starts at ``origin + i * origin_i + j * origin_j``
    and runs along ``direction + i * direction_i + j * direction_j``; all (V, 3) float64 in (x, y,
    z) voxel indices. For a cone beam the ray parameter is 0 at the source and 1 on the detector.

    Args:
        grid: the voxels whose indices are the coordinates.
        scan: the poses.
    """
    edge = np.asarray(grid.voxel_mm[::-1])
    rows, columns = scan.detector_shape
    first = scan.detector_mm - 0.5 * (rows - 1) * scan.v_mm - 0.5 * (columns - 1) * scan.u_mm
    first = (first - np.asarray(grid.origin_mm)) / edge
    step_i, step_j, zero = scan.v_mm / edge, scan.u_mm / edge, np.zeros_like(first)
    if scan.beam == "cone":
        source = (scan.source_mm - np.asarray(grid.origin_mm)) / edge
        return source, zero, zero, first - source, step_i, step_j
    return first, step_i, step_j, scan.direction / edge, zero, zero


def steepest_climb(grid: VolumeGrid, scan: ScanGeometry) -> float:
    """Return how many z voxels the steepest ray climbs per voxel of its main in-plane axis."""
    _, _, _, direction, step_i, step_j = ray_bundle(grid, scan)
    rows, columns = scan.detector_shape
    corner_rows, corner_columns = np.meshgrid([0, rows - 1], np.arange(columns), indexing="ij")
    rays = (
        direction[:, None, None]
        + corner_rows[..., None] * step_i[:, None, None]
        + corner_columns[..., None] * step_j[:, None, None]
    )
    plane = np.abs(rays[..., :2]).max(axis=-1)
    return float((np.abs(rays[..., 2]) / np.maximum(plane, 1e-300)).max())


def require_rows_along_axis(scan: ScanGeometry) -> None:
    """Refuse a scan that the separable kernels cannot serve.

    Raises:
        ValueError: detector rows that do not run along z.
    """
    if not scan.rows_along_axis:
        raise ValueError(
            "backend 'separable' was given a scan whose detector rows do not run along z; "
            "use 'rays'."
        )
