"""Circular scans: the numbers of the scanner, recovered from the poses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from diffnr_lightning.geometry.scan import ScanGeometry

# Two lengths or directions closer than this (relative to the size of the scan) are the same.
POSITION_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Orbit:
    """Describe a circular scan by the numbers of its scanner; derived from `ScanGeometry.orbit`.

    Attributes:
        angles_rad: (V,) position of the source about +z, counter-clockwise from +x, in [0, 2 pi).
        source_to_axis_mm: distance of the source from the axis; None for parallel beam.
        source_to_detector_mm: distance of the source from the detector plane; None for parallel beam.
        pixel_mm: pixel pitch (v, u).
        detector_offset_mm: shift of the detector centre along (v, u) from the central ray.
        axis_mm: where the rotation axis crosses the plane z = 0, (x, y).
        height_mm: z of the central ray.
    """

    angles_rad: np.ndarray
    source_to_axis_mm: float | None
    source_to_detector_mm: float | None
    pixel_mm: tuple[float, float]
    detector_offset_mm: tuple[float, float]
    axis_mm: tuple[float, float]
    height_mm: float


def uniform_angles(num_views: int, arc_deg: float = 360.0, start_deg: float = 0.0) -> np.ndarray:
    """Return ``num_views`` equally spaced source angles in radians; the end of the arc is left out.

    Raises:
        ValueError: fewer than one view, or an arc outside (0, 360].
    """
    if num_views < 1:
        raise ValueError(f"num_views is {num_views}; at least one is expected.")
    if not 0 < arc_deg <= 360:
        raise ValueError(f"arc_deg is {arc_deg}; a number in (0, 360] is expected.")
    return np.deg2rad(start_deg + arc_deg * np.arange(num_views) / num_views)


def arc(angles_rad: np.ndarray) -> float:
    """Return the arc the views stand for in radians: the circle less the largest gap, plus one mean step."""
    ordered = np.sort(np.mod(angles_rad, 2 * np.pi))
    if len(ordered) == 1:
        return 0.0
    gaps = np.diff(np.append(ordered, ordered[0] + 2 * np.pi))
    covered = 2 * np.pi - gaps.max()
    return float(min(2 * np.pi, covered + covered / (len(ordered) - 1)))


def fit_orbit(scan: ScanGeometry) -> Orbit | None:
    """Solve for axis, distances and offsets that reproduce the scan's vectors; None where none do."""
    pitch_u, pitch_v = np.linalg.norm(scan.u_mm, axis=1), np.linalg.norm(scan.v_mm, axis=1)
    scale = float(
        np.abs(scan.source_mm - scan.detector_mm).max() + scan.detector_shape[1] * pitch_u.max()
    )
    u_hat, v_hat, normal = scan.u_mm / pitch_u[:, None], scan.v_mm / pitch_v[:, None], scan.normal
    downwards = np.abs(v_hat - [0.0, 0.0, -1.0]).max() < POSITION_TOLERANCE
    constant = (
        np.ptp(pitch_u) + np.ptp(pitch_v) + np.ptp(scan.source_mm[:, 2])
        < POSITION_TOLERANCE * scale
    )
    right_handed = (np.abs(np.cross(v_hat, normal) - u_hat)).max() < POSITION_TOLERANCE
    if not (downwards and constant and right_handed):
        return None
    views = len(scan)
    ones, zeros = np.ones(views), np.zeros(views)
    if scan.beam == "cone":
        # source_xy = axis - DSO * normal_xy: two equations a view for (axis_x, axis_y, DSO).
        rows = np.concatenate(
            [np.stack([ones, zeros, -normal[:, 0]], 1), np.stack([zeros, ones, -normal[:, 1]], 1)]
        )
        target = np.concatenate([scan.source_mm[:, 0], scan.source_mm[:, 1]])
        (axis_x, axis_y, distance), *_ = np.linalg.lstsq(rows, target, rcond=None)
        if views == 1:
            # One view says nothing about where the axis is: take the point of its central ray nearest to the origin.
            distance = float(-scan.source_mm[0] @ normal[0])
            axis_x, axis_y = scan.source_mm[0, :2] + distance * normal[0, :2]
        residual = rows @ [axis_x, axis_y, distance] - target
        to_detector = ((scan.detector_mm - scan.source_mm) * normal).sum(axis=1)
        offset = scan.detector_mm - scan.source_mm - to_detector[:, None] * normal
        offset_u, offset_v = (offset * u_hat).sum(axis=1), (offset * v_hat).sum(axis=1)
        spread = np.abs(residual).max() + np.ptp(to_detector) + np.ptp(offset_u) + np.ptp(offset_v)
        distances = (float(distance), float(to_detector[0]))
        height = float(scan.source_mm[0, 2])
    else:
        # detector . u_hat = axis . u_hat + offset_u: one equation a view; the minimum-norm axis where it is ambiguous.
        rows = np.stack([u_hat[:, 0], u_hat[:, 1], ones], axis=1)
        target = (scan.detector_mm[:, :2] * u_hat[:, :2]).sum(axis=1)
        (axis_x, axis_y, shift), *_ = np.linalg.lstsq(rows, target, rcond=None)
        offset_u, offset_v = np.full(views, shift), -scan.detector_mm[:, 2]
        crooked = np.abs(scan.direction - normal).max() * scale
        spread = np.abs(rows @ [axis_x, axis_y, shift] - target).max() + np.ptp(offset_v) + crooked
        distances = (None, None)
        height = 0.0
    if spread > POSITION_TOLERANCE * scale:
        return None
    angles = np.mod(np.arctan2(-normal[:, 1], -normal[:, 0]) + 1e-9, 2 * np.pi) - 1e-9
    return Orbit(
        angles_rad=angles,
        source_to_axis_mm=distances[0],
        source_to_detector_mm=distances[1],
        pixel_mm=(float(pitch_v[0]), float(pitch_u[0])),
        detector_offset_mm=(float(offset_v[0]), float(offset_u[0])),
        axis_mm=(float(axis_x), float(axis_y)),
        height_mm=height,
    )
