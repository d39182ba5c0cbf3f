"""Circular scans: the circle nearest to the poses, and how far the views lie from it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from diffnr_lightning.geometry.angles import arc
from diffnr_lightning.geometry.orientation import DetectorOrientation, detector_orientation
from diffnr_lightning.geometry.poses import Poses

# Two lengths or directions closer than this (relative to the size of the scan) are the same.
POSITION_TOLERANCE = 1e-6
_PIXEL_TOLERANCE = 1e-3
# Columns and rows whose mean directions differ in length by less are lines that vary alike.
_SAME_DIRECTION = 1e-3

# Residuals beyond this share of the field of view may be of detectors rolled in their planes, which hide the axis.
_ROLLED = 0.1
# Normals of detectors turn in a plane where the least of their spreads is below this share of the next.
_PLANAR = 0.05

_Z = np.array([0.0, 0.0, 1.0])
# Sources over less of the circle than this say little about its radius; the detectors then do.
_CIRCLE_ARC = np.deg2rad(120.0)
_CIRCLE_STEPS = 10  # Gauss-Newton converges in three or four


@dataclass(frozen=True)
class Orbit:
    """Describe a circular scan by the numbers of its scanner.

    Attributes:
        angles_rad: (V,) position of the source about the axis, counter-clockwise from +x, in
            [0, 2 pi).
        source_to_axis_mm: distance of the source from the axis; None for parallel beam.
        source_to_detector_mm: distance of the source from the detector plane; None for parallel beam.
        pixel_mm: pixel pitch (v, u).
        detector_offset_mm: shift of the detector centre along (v, u) from the central ray, v against
            the axis and u counter-clockwise, whatever the order of the pixels.
        axis_mm: where the rotation axis crosses the plane z = 0, (x, y).
        height_mm: z of the central ray.
        axis_direction: unit vector along the rotation axis. Where it is not z, the numbers above hold
            in the frame in which it is, reached by the smallest turn.
    """

    angles_rad: np.ndarray
    source_to_axis_mm: float | None
    source_to_detector_mm: float | None
    pixel_mm: tuple[float, float]
    detector_offset_mm: tuple[float, float]
    axis_mm: tuple[float, float]
    height_mm: float
    axis_direction: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Orbit):
            return NotImplemented
        names = (field.name for field in fields(self))
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    @property
    def magnification(self) -> float:
        """How much larger a shadow is than the object at the axis; 1 for parallel beam, infinite of a source on it."""
        if self.source_to_axis_mm is None:
            return 1.0
        if self.source_to_axis_mm == 0:
            return np.inf
        return self.source_to_detector_mm / self.source_to_axis_mm

    @property
    def axis_point_mm(self) -> np.ndarray:
        """The point of the axis at the height of the central ray, (x, y, z) in the world."""
        turn = _turn_to_z(np.asarray(self.axis_direction))
        return turn.T @ np.array([*self.axis_mm, self.height_mm])


@dataclass(frozen=True)
class NominalOrbit:
    """Hold the circle that is nearest to the views of a scan, and how far they are from it.

    Attributes:
        orbit: the numbers of the circle, for pixels in the standing order of `DetectorOrientation`.
        orientation: what brings the scan's pixels into that order.
        deviation_mm: (V,) how far the rays of each view pass from their nominal ones inside the field
            of view: root mean square over the four corner pixels and over the two planes that touch
            the field of view in front of and behind the axis. Infinite where a cone beam does not lead
            to the axis: no circle describes it, and both distances of `orbit` are then those from
            source to detector.
        field_radius_mm: half the width of the detector, scaled down to the axis.
    """

    orbit: Orbit
    orientation: DetectorOrientation
    deviation_mm: np.ndarray
    field_radius_mm: float

    @property
    def residual_mm(self) -> float:
        """Root mean square of the deviations over the views."""
        return float(np.sqrt(np.square(self.deviation_mm).mean()))

    @property
    def residual_pixels(self) -> float:
        """The residual in detector pixels, scaled down to the axis."""
        return self.residual_mm * self.orbit.magnification / min(self.orbit.pixel_mm)

    @property
    def residual_share(self) -> float:
        """The residual as a share of the radius of the field of view."""
        return self.residual_mm / self.field_radius_mm


def nominal_orbit(scan: Poses) -> NominalOrbit:
    """Return the circle that describes a scan best in the sense of least squares.

    The rotation axis is z, or the mean direction of the detectors' columns where that leaves less
    than half of the residual; where both leave much, as of detectors rolled in their planes, it is the
    axis about which their normals turn. For a cone beam, axis and distances come from
    ``source = axis - DSO n`` with n the detectors' normals, linear in the unknowns; where that does
    not hold to rounding, n may also be turned by one angle about the axis (a detector that does not
    face it), and sources over more than 120 degrees are fitted with a circle by Gauss-Newton. For a
    parallel beam, the axis comes from the detector centres. Distances, offsets, pitches and height
    are means over the views.

    Args:
        scan: any poses.
    """
    about_z = _fit_about(scan, _Z)
    if np.abs(about_z.deviation_mm).max() <= POSITION_TOLERANCE * _size(scan):
        return about_z
    tilted = _fit_about(scan, _mean_axis(scan))
    nearest = tilted if tilted.residual_mm < 0.5 * about_z.residual_mm else about_z
    return nearest if nearest.residual_share < _ROLLED else _perhaps_rolled(scan, nearest)


def exact_orbit(scan: Poses) -> Orbit | None:
    """Return the numbers that rebuild the scan by `ScanGeometry.cone` or `parallel`, None where none do.

    They do where the pixels are in the standing order, the axis is z and no ray deviates by more than
    a millionth of the size of the scan, nor by a thousandth of a pixel, which sources far away leave small.
    """
    nominal = nominal_orbit(scan)
    pixel = min(nominal.orbit.pixel_mm) / nominal.orbit.magnification
    allowed = min(POSITION_TOLERANCE * _size(scan), _PIXEL_TOLERANCE * pixel)
    near = np.abs(nominal.deviation_mm).max() <= allowed
    standing = nominal.orientation == DetectorOrientation()
    about_z = nominal.orbit.axis_direction == (0.0, 0.0, 1.0)
    # The axis of a single view is sought near the origin, wherever the detector stands.
    behind = scan.beam == "cone" and nominal.orbit.magnification < 1.0
    return nominal.orbit if near and standing and about_z and not behind else None


def _size(scan: Poses) -> float:
    width = scan.detector_shape[1] * np.linalg.norm(scan.u_mm, axis=1).max()
    return float(np.abs(scan.source_mm - scan.detector_mm).max() + width)


def _mean_axis(scan: Poses) -> np.ndarray:
    """Return the mean direction of the detectors' columns, or rows where these vary less."""
    candidates, signed = [], []
    for steps in (scan.v_mm, scan.u_mm):
        unit = steps / np.linalg.norm(steps, axis=1, keepdims=True)
        candidates.append((unit * np.sign(unit @ unit[0])[:, None]).mean(axis=0))
        signed.append(float(np.linalg.norm(unit.mean(axis=0))))
    lengths = [float(np.linalg.norm(mean)) for mean in candidates]
    # Of opposite views both are lines of one direction; those along the axis point the same way.
    sure = signed if abs(lengths[1] - lengths[0]) < _SAME_DIRECTION else lengths
    # Of one view both are as sure; its columns are then taken.
    best = 1 if sure[1] > sure[0] + 1e-9 else 0
    axis = candidates[best] / lengths[best]
    return axis * np.sign(axis[np.abs(axis).argmax()])


def _perhaps_rolled(scan: Poses, nearest: NominalOrbit) -> NominalOrbit:
    """Return the circle about the axis that detectors turn about, `nearest` where there is none or beams do not."""
    normals = scan.normal
    _, spreads, axes = np.linalg.svd(normals - normals.mean(axis=0), full_matrices=False)
    if len(spreads) < 3 or not spreads[2] < _PLANAR * spreads[1]:
        return nearest
    axis = axes[2] * np.sign(axes[2][np.abs(axes[2]).argmax()])
    climb, before = (
        np.ptp(scan.direction @ along) for along in (axis, nearest.orbit.axis_direction)
    )
    return _fit_about(scan, axis) if climb < 0.5 * before else nearest


def _turn_to_z(axis: np.ndarray) -> np.ndarray:
    """Return the matrix of the smallest turn that brings a unit vector onto z.

    By Rodrigues' formula; it is never half a turn, as the largest component of an axis is positive.
    """
    x, y, z = axis
    cross = np.array([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]])
    return np.eye(3) + cross + cross @ cross / (1.0 + z)


def _turned(scan: Poses, axis: np.ndarray) -> Poses:
    """Return the scan in the frame in which `axis` is z."""
    if np.array_equal(axis, _Z):
        return scan
    turn = _turn_to_z(axis)
    vectors = ("source_mm", "detector_mm", "u_mm", "v_mm")
    return replace(scan, **{name: getattr(scan, name) @ turn.T for name in vectors})


def _fit_about(scan: Poses, axis: np.ndarray) -> NominalOrbit:
    turned = _turned(scan, axis)
    orientation = detector_orientation(turned)
    standing = orientation.upright_scan(turned)
    fit = _cone_orbit if scan.beam == "cone" else _parallel_orbit
    orbit = replace(fit(standing), axis_direction=tuple(float(c) for c in axis))
    half = 0.5 * standing.detector_shape[1] * orbit.pixel_mm[1]
    if not _leads_to_axis(orbit, POSITION_TOLERANCE * _size(scan)):
        length = float(np.linalg.norm(scan.detector_mm - scan.source_mm, axis=1).mean())
        orbit = replace(orbit, source_to_axis_mm=length, source_to_detector_mm=length)
        return NominalOrbit(orbit, orientation, np.full(len(scan), np.inf), half)
    radius = half / orbit.magnification
    return NominalOrbit(orbit, orientation, _deviation(standing, orbit, radius), radius)


def _leads_to_axis(orbit: Orbit, tolerance: float) -> bool:
    """Return whether the beam runs from the source to the axis: not along it, nor away from it, nor from within."""
    if orbit.source_to_axis_mm is None:
        return True
    return min(orbit.source_to_axis_mm, orbit.source_to_detector_mm) > tolerance


def _cone_orbit(scan: Poses) -> Orbit:
    """Fit axis and distances to sources and detectors of a scan about z in the standing order."""
    normal = _horizontal(scan.normal)
    source = scan.source_mm[:, :2]
    if np.ptp(normal, axis=0).max() < POSITION_TOLERANCE:
        # Views from one side, as a single one, do not say how far off the axis is: take the point of their central ray
        # nearest to the origin.
        axis = source.mean(axis=0) - (source.mean(axis=0) @ normal[0]) * normal[0]
    else:
        axis = _axis_of_sources(source, normal, POSITION_TOLERANCE * _size(scan))
    outward = source - axis
    distance = np.linalg.norm(outward, axis=1)
    angles = _wrapped(np.arctan2(outward[:, 1], outward[:, 0]))
    towards, u_hat = _frame(angles)
    from_source = scan.detector_mm - scan.source_mm
    return Orbit(
        angles_rad=angles,
        source_to_axis_mm=float(distance.mean()),
        source_to_detector_mm=float((from_source * towards).sum(axis=1).mean()),
        pixel_mm=_pitch(scan),
        detector_offset_mm=(
            float(-from_source[:, 2].mean()),
            float((from_source * u_hat).sum(axis=1).mean()),
        ),
        axis_mm=(float(axis[0]), float(axis[1])),
        height_mm=float(scan.source_mm[:, 2].mean()),
    )


def _horizontal(normal: np.ndarray) -> np.ndarray:
    """Return the directions (V, 2) of normals (V, 3) about z; x of detectors that face along z and have none."""
    length = np.linalg.norm(normal[:, :2], axis=1, keepdims=True)
    faces_along_z = length < POSITION_TOLERANCE
    return np.where(faces_along_z, [1.0, 0.0], normal[:, :2] / np.where(faces_along_z, 1.0, length))


def _axis_of_sources(source: np.ndarray, normal: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the point (x, y) of the axis from sources and horizontal unit normals, (V, 2) each."""
    views = len(source)
    ones, zeros = np.ones(views), np.zeros(views)
    # source = axis - DSO n - b n', n' = n turned by 90 degrees: two equations a view.
    columns = [
        np.concatenate([ones, zeros]),
        np.concatenate([zeros, ones]),
        np.concatenate([-normal[:, 0], -normal[:, 1]]),
        np.concatenate([normal[:, 1], -normal[:, 0]]),
    ]
    target = np.concatenate([source[:, 0], source[:, 1]])
    system = np.stack(columns[:3], axis=1)
    solution, *_ = np.linalg.lstsq(system, target, rcond=None)
    if np.abs(system @ solution - target).max() <= tolerance or views < 3:
        return solution[:2]
    solution, *_ = np.linalg.lstsq(np.stack(columns, axis=1), target, rcond=None)
    axis, radius = solution[:2], float(np.hypot(*solution[2:]))
    around = source - axis
    if arc(np.arctan2(around[:, 1], around[:, 0])) < _CIRCLE_ARC:
        return axis
    for _ in range(_CIRCLE_STEPS):
        away = source - axis
        distance = np.linalg.norm(away, axis=1)
        slope = np.concatenate([-away / distance[:, None], -ones[:, None]], axis=1)
        step, *_ = np.linalg.lstsq(slope, radius - distance, rcond=None)
        axis, radius = axis + step[:2], radius + float(step[2])
    return axis


def _parallel_orbit(scan: Poses) -> Orbit:
    """Fit the axis to the detector centres of a scan about z in the standing order."""
    angles = _wrapped(np.arctan2(-scan.direction[:, 1], -scan.direction[:, 0]))
    _, u_hat = _frame(angles)
    # detector . u_hat = axis . u_hat + offset_u: one equation a view. One or two views fit many axes; that of the world
    # is taken where it is one of them.
    rows = np.stack([u_hat[:, 0], u_hat[:, 1], np.ones(len(scan))], axis=1)
    target = (scan.detector_mm[:, :2] * u_hat[:, :2]).sum(axis=1)
    axis_x, axis_y, shift = 0.0, 0.0, target.mean()
    if np.abs(target - shift).max() > POSITION_TOLERANCE * _pitch(scan)[1]:
        (axis_x, axis_y, shift), *_ = np.linalg.lstsq(rows, target, rcond=None)
    return Orbit(
        angles_rad=angles,
        source_to_axis_mm=None,
        source_to_detector_mm=None,
        pixel_mm=_pitch(scan),
        detector_offset_mm=(float(-scan.detector_mm[:, 2].mean()), float(shift)),
        axis_mm=(float(axis_x), float(axis_y)),
        height_mm=0.0,
    )


def _pitch(scan: Poses) -> tuple[float, float]:
    return (
        float(np.linalg.norm(scan.v_mm, axis=1).mean()),
        float(np.linalg.norm(scan.u_mm, axis=1).mean()),
    )


def _wrapped(angles: np.ndarray) -> np.ndarray:
    """Return angles in [0, 2 pi), with rounding below zero left there rather than near 2 pi."""
    return np.mod(angles + 1e-9, 2 * np.pi) - 1e-9


def _frame(angles_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors from the source to the axis and along u, (V, 3) each."""
    cos, sin, zero = np.cos(angles_rad), np.sin(angles_rad), np.zeros_like(angles_rad)
    return np.stack([-cos, -sin, zero], axis=1), np.stack([-sin, cos, zero], axis=1)


def _deviation(scan: Poses, orbit: Orbit, radius: float) -> np.ndarray:
    """Return (V,) how far the corner rays pass from their nominal ones; see `NominalOrbit`.

    It is infinite where one of them runs along the planes on which they are compared.
    """
    towards, u_hat = _frame(orbit.angles_rad)
    centre = np.array([*orbit.axis_mm, orbit.height_mm])
    offset = orbit.detector_offset_mm[0] * -_Z + orbit.detector_offset_mm[1] * u_hat
    if scan.beam == "cone":
        source = centre - orbit.source_to_axis_mm * towards
        detector = source + orbit.source_to_detector_mm * towards + offset
        # The source itself stays in front of the nearer plane.
        radius = min(radius, 0.5 * orbit.source_to_axis_mm)
    else:
        detector = centre + offset
        source = detector - towards
    pitch_v, pitch_u = orbit.pixel_mm
    nominal = replace(
        scan, source_mm=source, detector_mm=detector, u_mm=pitch_u * u_hat, v_mm=-pitch_v * _Z + 0 * u_hat
    )  # fmt: skip
    squares = [
        np.square(
            _on_plane(scan, centre, towards, depth) - _on_plane(nominal, centre, towards, depth)
        ).sum(axis=-1)
        for depth in (-radius, radius)
    ]
    return np.nan_to_num(np.sqrt(np.mean(squares, axis=(0, 1))), nan=np.inf, posinf=np.inf)


def _on_plane(scan: Poses, centre: np.ndarray, normal: np.ndarray, depth: float) -> np.ndarray:
    """Return where the corner rays (4, V, 3) meet the planes ``(x - centre) . normal = depth``."""
    rows, columns = scan.detector_shape
    points = []
    for i in (-0.5 * (rows - 1), 0.5 * (rows - 1)):
        for j in (-0.5 * (columns - 1), 0.5 * (columns - 1)):
            pixel = scan.detector_mm + i * scan.v_mm + j * scan.u_mm
            ray = pixel - scan.source_mm if scan.beam == "cone" else scan.direction
            start = scan.source_mm if scan.beam == "cone" else pixel
            with np.errstate(divide="ignore", invalid="ignore"):
                along = (depth - ((start - centre) * normal).sum(axis=1)) / (ray * normal).sum(
                    axis=1
                )
                points.append(start + along[:, None] * ray)
    return np.stack(points)
