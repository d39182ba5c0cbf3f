"""Whether the rays of a scan meet a volume."""

from __future__ import annotations

import itertools

import numpy as np

from diffnr_lightning.geometry.grid import VolumeGrid
from diffnr_lightning.geometry.scan import ScanGeometry


def check_scan_sees_grid(scan: ScanGeometry, grid: VolumeGrid) -> None:
    """Refuse a scan whose source lies inside the volume or whose rays all miss it.

    Raises:
        ValueError: naming the view, or saying that no ray meets the box of the grid.
    """
    low, high = (np.asarray(c) for c in grid.corners_mm)
    if scan.beam == "cone":
        inside = ((scan.source_mm > low) & (scan.source_mm < high)).all(axis=1)
        if inside.any():
            view = int(np.flatnonzero(inside)[0])
            raise ValueError(
                f"the source of view {view} lies inside the volume; check distances and voxel size."
            )
    if not views_that_see(scan, grid).any():
        raise ValueError(
            "no ray of the scan meets the volume; check offsets, units and voxel size."
        )


def views_that_see(scan: ScanGeometry, grid: VolumeGrid) -> np.ndarray:
    """Return (V,) whether the beam of each view meets the box of the grid ahead of the source.

    The beam of a cone is the pyramid from the source through the four corner pixels and on, that of a
    parallel view the prism along its rays. Two convex bodies miss each other exactly where their
    shadows on the normal of a face of either, or on the cross product of an edge of each, do not
    overlap: nineteen directions a view, however many pixels there are.

    Args:
        scan: any poses.
        grid: the voxels.

    Source: S. Gottschalk, M. C. Lin, D. Manocha, "OBBTree", SIGGRAPH 1996, section 5 (separating axes).
    """
    rows, columns = scan.detector_shape
    corners = np.stack(
        [
            scan.detector_mm + i * (rows - 1) * scan.v_mm + j * (columns - 1) * scan.u_mm
            for i, j in ((-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5))
        ]
    )  # (4, V, 3), around the detector
    world = np.eye(3)
    if scan.beam == "cone":
        points = scan.source_mm[None]
        rays = corners - points
        sides = np.cross(rays, np.roll(rays, -1, axis=0))
        across = np.concatenate([np.cross(rays, edge) for edge in world])
        faces = np.broadcast_to(world[:, None], (3, len(scan), 3))
        axes = np.concatenate([faces, sides, across])
    else:
        points, rays = corners, None
        edges = [scan.u_mm, scan.v_mm, *np.broadcast_to(world[:, None], (3, len(scan), 3))]
        axes = np.stack([np.cross(scan.direction, edge) for edge in edges])
    return ~_separated(axes, points, rays, np.array(list(itertools.product(*_sides(grid)))))


def _sides(grid: VolumeGrid) -> list[tuple[float, float]]:
    """Return the two faces of the box along x, y and z."""
    return list(zip(*grid.corners_mm, strict=True))


def _separated(
    axes: np.ndarray, points: np.ndarray, rays: np.ndarray | None, box: np.ndarray
) -> np.ndarray:
    """Return (V,) whether any of the axes (A, V, 3) parts the beam from the corners (8, 3) of the box.

    The beam is what the points (P, V, 3) and, from them on, the rays (R, V, 3) span.
    """
    axes = axes / np.maximum(np.linalg.norm(axes, axis=-1, keepdims=True), 1e-300)
    on_box = axes @ box.T  # (A, V, 8)
    on_points = np.einsum("avc,pvc->avp", axes, points)
    low, high = on_points.min(axis=-1), on_points.max(axis=-1)
    if rays is not None:
        rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        on_rays = np.einsum("avc,rvc->avr", axes, rays)
        # A ray that lies in the plane does not leave it by rounding.
        low = np.where((on_rays < -1e-12).any(axis=-1), -np.inf, low)
        high = np.where((on_rays > 1e-12).any(axis=-1), np.inf, high)
    return ((on_box.min(axis=-1) > high) | (on_box.max(axis=-1) < low)).any(axis=0)
