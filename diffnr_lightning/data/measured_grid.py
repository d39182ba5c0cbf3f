"""Which voxels a measured scan can show: the cylinder that its views see, as finely as its pixels."""

from __future__ import annotations

import logging

import numpy as np

from diffnr_lightning.geometry import Orbit, ScanGeometry, VolumeGrid, nominal_orbit, view_steps
from diffnr_lightning.geometry.poses import Poses

LOGGER = logging.getLogger("diffnr")
# A field of view narrower than this share of the detector is worth a word.
NARROW_SHARE = 0.5
# Rounding of a width that is a whole number of voxels.
ROUNDING = 1e-6
# An axis farther from z than this is none of a volume's slices.
LARGEST_TILT_RAD = np.deg2rad(10)


def grid_of(scan: ScanGeometry, name: str, size: int | None = None) -> VolumeGrid:
    """Return the grid around the circle of which every line is measured at least once.

    Over half a turn that circle reaches to the nearer end of the detector; over a whole one to the farther end, since
    opposite views see the other side. Its height is that of the detector, scaled down to the axis.

    Args:
        scan: all views.
        name: of the scan, for the log.
        size: voxels along x and y; None makes voxels as large as pixels, scaled down to the axis.

    Raises:
        ValueError: poses that lie about no axis along z.
    """
    nominal = nominal_orbit(scan)
    orbit = nominal.orbit
    if abs(orbit.axis_direction[2]) < np.cos(LARGEST_TILT_RAD) or not np.isfinite(
        orbit.magnification
    ):
        raise ValueError(
            f"{name}: the views do not lie about an axis along z, around which voxels could be placed; turn the world "
            "of their poses so that the rotation axis is z."
        )
    upright = nominal.orientation.upright_scan(scan)
    rows, columns = upright.detector_shape
    pitch_v, pitch_u = (p / orbit.magnification for p in orbit.pixel_mm)
    reach = _reach(upright, orbit)
    if 2 * reach < NARROW_SHARE * columns * pitch_u:
        LOGGER.warning(
            "%s: the rotation axis lies near an end of the detector and the views do not go all around, so that only a "
            "circle %.0f of %d columns wide is reconstructed; what lies outside disturbs it",
            name, 2 * reach / pitch_u, columns,
        )  # fmt: skip
    across = size or int(2 * reach / pitch_u + ROUNDING)
    voxel = 2 * reach / across if size else pitch_u
    shape = (max(1, round(rows * pitch_v / voxel)), across, across)
    # Half of the detector's rows lie above its centre, wherever the central ray meets it.
    height = orbit.axis_point_mm[2] - orbit.detector_offset_mm[0] / orbit.magnification
    places = (*orbit.axis_point_mm[:2], height)
    return VolumeGrid(shape, voxel, tuple(float(c) if abs(c) >= ROUNDING else 0.0 for c in places))


def _reach(upright: Poses, orbit: Orbit) -> float:
    """Return the radius in mm of the circle of which every line is measured at least once."""
    columns = upright.detector_shape[1]
    ends = [
        _least_distance(upright, orbit.axis_point_mm[:2], side * columns * upright.u_mm)
        for side in (-0.5, 0.5)
    ]
    _, all_around = view_steps(orbit.angles_rad, 2 * np.pi)
    return max(ends) if all_around else min(ends)


def _least_distance(scan: Poses, axis: np.ndarray, from_middle: np.ndarray) -> float:
    """Return how near the rays of points (V, 3) beside the detector's middle come to the axis (2,), over the views."""
    end = scan.detector_mm + from_middle
    along = (end - scan.source_mm if scan.beam == "cone" else scan.direction)[:, :2]
    along = along / np.linalg.norm(along, axis=1, keepdims=True)
    towards = end[:, :2] - axis
    return float(np.abs(along[:, 0] * towards[:, 1] - along[:, 1] * towards[:, 0]).min())
