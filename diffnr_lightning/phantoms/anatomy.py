"""Shapes of the phantom's chest: body wall, lungs, mediastinum, diaphragm, heart.

All lengths are body millimetres (`canvas`), and shapes are signed distances: negative
inside, and first-order, that is exact near a surface, which is all that edges and thin layers need.
The body wall is given in polar coordinates around the chest's axis: `phi` is 0 at the spine, pi at
the sternum and the same on both sides; `rho` is the distance from the axis.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import PchipInterpolator

from diffnr_lightning.phantoms.canvas import Point, capsule

PHI = np.linspace(0.0, np.pi, 181)
LEVELS = np.arange(-240.0, 241.0, 2.0)
# Middle of the vertebral bodies T1 to T12 and L1 to L4, then of C7 to C2.
THORACIC_MM = (122, 104, 85.5, 66.5, 47, 27, 6, -15, -37, -60, -84, -109, -136, -164, -193, -222)
CERVICAL_MM = (139, 154.5, 169.5, 184, 198.5, 213)
SIDES = (-1.0, 1.0)
# Where a raised arm leaves the scan, and its radius there.
ARM_END = (124.0, -2.0, 235.0)
ARM_MM = 36.0


def curve(*points: tuple[float, float]) -> PchipInterpolator:
    """Return the smooth monotone-piece curve through (z, value) points."""
    z, value = np.array(points, dtype=float).T
    return PchipInterpolator(z, value, extrapolate=True)


def bump(value: np.ndarray, centre: float, width: float) -> np.ndarray:
    """Return a Gaussian bump of height 1."""
    return np.exp(-(((value - centre) / width) ** 2))


def smooth_min(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Return the union of two distances with a seam rounded over about `k` mm."""
    h = np.clip(k - np.abs(a - b), 0, None)
    return np.minimum(a, b) - h * h * (0.25 / k)


def smooth_max(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Return the intersection of two distances with an edge rounded over about `k` mm."""
    return -smooth_min(-a, -b, k)


def ellipsoid(
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    centre: Point,
    radii: Point,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """Return the distance to an ellipsoid whose axes are the rows of `axes` (default x, y, z)."""
    p = [v - float(c) for v, c in zip((x, y, z), centre, strict=True)]
    if axes is not None:
        p = [float(r[0]) * p[0] + float(r[1]) * p[1] + float(r[2]) * p[2] for r in axes]
    scaled = [v / float(r) for v, r in zip(p, radii, strict=True)]
    unit = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    steep = np.sqrt(sum((s / float(r)) ** 2 for s, r in zip(scaled, radii, strict=True)))
    return unit * (unit - 1) / (steep + 1e-6)


@dataclass(frozen=True)
class Patient:
    """Hold what differs between patients; `drawn` draws it from a seed.

    Attributes:
        scale: body size along x, y, z against the reference adult.
        angles_deg: posture: turn about z, tilt about x, tilt about y.
        offset_mm: where the patient lies off the cube's centre (x, y, z).
        fat_mm: thickness of the fat under the skin.
        muscle: thickness of the muscles, 1 for the reference.
        female: whether there are breasts.
        barrel: depth of the chest against its width, 1 for the reference.
        inflation_mm: how much deeper the diaphragm stands.
        heart: size of the heart, 1 for the reference.
        heart_turn_deg: turn of the heart's axis about z.
        bone: density of the bones, 1 for the reference.
        phase: contrast agent: "none", "arterial" or "venous".
        calcium: number of calcified plaques.
        lung_hu: HU of the lung at the chest's axis.
        nodules: number of lung nodules.
    """

    scale: Point
    angles_deg: Point
    offset_mm: Point
    fat_mm: float
    muscle: float
    female: bool
    barrel: float
    inflation_mm: float
    heart: float
    heart_turn_deg: float
    bone: float
    phase: str
    calcium: int
    lung_hu: float
    nodules: int

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Patient:
        """Draw a patient."""
        size = rng.uniform(0.93, 1.03)
        female = bool(rng.random() < 0.5)
        return cls(
            scale=tuple(float(size * rng.uniform(0.98, 1.02)) for _ in range(3)),
            angles_deg=tuple(float(a) for a in rng.normal(0, (2.0, 1.5, 0.8)).clip(-4, 4)),
            offset_mm=tuple(float(o) for o in rng.uniform(-5, 5, 3)),
            fat_mm=float(7 + 16 * rng.beta(1.6, 2.4)),
            muscle=float(rng.uniform(0.75, 1.0) if female else rng.uniform(0.85, 1.25)),
            female=female,
            barrel=float(rng.uniform(0.93, 1.07)),
            inflation_mm=float(rng.uniform(-14, 14)),
            heart=float(rng.uniform(0.9, 1.1)),
            heart_turn_deg=float(rng.uniform(-12, 12)),
            bone=float(rng.uniform(0.75, 1.15)),
            phase=str(rng.choice(["none", "arterial", "venous"], p=[0.5, 0.25, 0.25])),
            calcium=int(rng.integers(0, 9) * (rng.random() < 0.6)),
            lung_hu=float(rng.uniform(-875, -835)),
            nodules=int(rng.integers(1, 6)),
        )


@dataclass(frozen=True)
class Polar:
    """Hold points in the polar coordinates of the body wall: phi (rad), rho and z (mm)."""

    phi: np.ndarray
    rho: np.ndarray
    z: np.ndarray
    _corner: np.ndarray = field(repr=False)
    _right: np.ndarray = field(repr=False)
    _up: np.ndarray = field(repr=False)

    def look_up(self, table: np.ndarray) -> np.ndarray:
        """Interpolate a (LEVELS, PHI) table."""
        flat, stride = table.ravel(), len(PHI)
        low, high = flat.take(self._corner), flat.take(self._corner + stride)
        low += self._right * (flat.take(self._corner + 1) - low)
        high += self._right * (flat.take(self._corner + stride + 1) - high)
        return low + self._up * (high - low)

    def __getitem__(self, chosen: np.ndarray) -> Polar:
        parts = (self.phi, self.rho, self.z, self._corner, self._right, self._up)
        return Polar(*(part[chosen] for part in parts))


class Thorax:
    """Hold one patient's shapes.

    Points are given by their body coordinates x, y and z, arrays of one shape in mm. What is returned of them has that
    shape too: signed distances in mm, but where a method says otherwise.

    Args:
        patient: how it differs from the reference adult.

    Attributes:
        axis_y: y of the chest's axis at a level z.
        spine_y: y of the middle of the vertebral bodies at a level z.
        cage, muscle, skin: (LEVELS, PHI) float32 radii of the ribs' middle, the muscles' outside
            and the skin.
        chambers: name -> (centre, radii, axes) of the heart's chambers (blood pools).
    """

    def __init__(self, patient: Patient) -> None:
        self.patient = patient
        half_width = curve(
            (-240, 112),
            (-190, 118),
            (-130, 127),
            (-60, 131),
            (0, 126),
            (50, 112),
            (90, 90),
            (115, 68),
            (135, 50),
            (160, 44),
            (240, 44),
        )
        half_depth = curve(
            (-240, 80),
            (-190, 84),
            (-120, 90),
            (-30, 91),
            (50, 79),
            (90, 60),
            (115, 48),
            (135, 42),
            (240, 42),
        )
        self.axis_y = curve(
            (-240, -2), (-130, 0), (-30, 0), (50, 9), (90, 19), (130, 26), (240, 16)
        )
        self.spine_y = lambda z: self.axis_y(z) + half_depth(z) * patient.barrel - 39.0
        z, phi = np.meshgrid(LEVELS, PHI, indexing="ij")
        width, depth = half_width(z), half_depth(z) * patient.barrel
        cage = _superellipse(phi, width, depth, 2.35)
        gutter = curve((-240, 20), (-100, 26), (80, 26), (130, 14), (240, 6))(z) * bump(
            phi, 0, 0.34
        )
        cage = cage - gutter - 5 * bump(phi, np.pi, 0.22) * bump(z, 0, 90)
        self.cage = cage.astype(np.float32)
        self.muscle = self._muscle(z, phi, cage, gutter).astype(np.float32)
        fat = patient.fat_mm * (
            0.55
            + 0.55 * bump(phi, 2.6, 0.8) * bump(z, -150, 120)
            + 0.4 * bump(phi, 1.4, 0.5) * bump(z, -60, 120)
            + 0.25 * bump(phi, 0.25, 0.35)
        )
        # Muscles make furrows in the body's outline that fat and skin smooth over.
        skin = self.muscle.copy()
        for _ in range(60):
            skin[:, 1:-1] += 0.25 * (skin[:, 2:] - 2 * skin[:, 1:-1] + skin[:, :-2])
        skin = np.maximum(skin, self.muscle - 1) + fat + 2
        self.skin = skin.astype(np.float32)
        self.slopes = {name: _steepness(getattr(self, name)) for name in ("cage", "muscle", "skin")}
        self.scapula = self.cage[np.minimum(np.arange(len(LEVELS)), 148)] + np.float32(15)
        self.dome_z = {-1.0: -50.0 - patient.inflation_mm, 1.0: -63.0 - patient.inflation_mm}
        self.chambers = self._heart()

    def _muscle(
        self, z: np.ndarray, phi: np.ndarray, cage: np.ndarray, gutter: np.ndarray
    ) -> np.ndarray:
        strength = self.patient.muscle
        bulk = (
            6
            + 15 * bump(phi, 2.4, 0.42) * bump(z, 62, 46)
            + 9 * bump(phi, 1.25, 0.5) * bump(z, 35, 75)
            + 20 * bump(phi, 0.75, 0.42) * bump(z, 70, 60)
            + (17 - 5 * bump(phi, 0, 0.09)) * bump(phi, 0, 0.42)
            + 4 * bump(phi, 2.9, 0.3) * bump(z, -170, 60)
        )
        trunk = cage + 4 + gutter + bulk * strength
        width = curve(
            (-240, 1),
            (20, 20),
            (55, 92),
            (85, 132),
            (110, 146),
            (135, 138),
            (155, 108),
            (175, 76),
            (200, 62),
            (240, 60),
        )(z)
        back = curve(
            (-240, 1), (20, 20), (60, 80), (85, 95), (110, 92), (140, 76), (170, 60), (240, 54)
        )(z)
        front = curve((-240, 1), (20, 20), (70, 55), (110, 66), (135, 62), (165, 52), (240, 48))(z)
        shoulder = _superellipse(phi, width, np.where(phi < np.pi / 2, back, front), 2.2)
        return smooth_max(trunk, shoulder, 14.0)

    def _heart(self) -> dict[str, tuple[Point, Point, np.ndarray]]:
        turn = np.deg2rad(self.patient.heart_turn_deg)
        size = 1.05 * self.patient.heart
        c, s = np.cos(turn), np.sin(turn)
        rotate = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        long_axis = rotate @ np.array([0.70, -0.56, -0.44])
        long_axis /= np.linalg.norm(long_axis)
        across = np.cross(long_axis, [0.0, 0.0, 1.0])
        across /= np.linalg.norm(across)
        axes = np.stack([long_axis, across, np.cross(long_axis, across)])
        centre = np.array([14.0, -21.0, -29.0 - 0.6 * self.patient.inflation_mm])
        self.heart_centre, self.heart_axes = tuple(centre.tolist()), axes
        places = {
            "left ventricle": ((25, 3, -8), (40, 19, 20)),
            "right ventricle": ((-1, -25, -12), (38, 15, 25)),
            "right atrium": ((-38, -4, -2), (20, 23, 28)),
            "left atrium": ((-5, 22, 17), (20, 26, 18)),
        }
        return {
            name: (
                tuple((centre + size * (rotate @ np.array(at, dtype=float))).tolist()),
                tuple(size * r for r in radii),
                axes,
            )
            for name, (at, radii) in places.items()
        }

    def polar(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Polar:
        """Return the body-wall coordinates of points."""
        depth = y - np.interp(z, LEVELS, self.axis_y(LEVELS)).astype(np.float32)
        side = np.abs(x)
        phi = np.arctan2(side, depth)
        column = phi * np.float32((len(PHI) - 1) / np.pi)
        row = np.clip((z - np.float32(LEVELS[0])) * np.float32(0.5), 0, len(LEVELS) - 1.01)
        i, j = row.astype(np.int32), np.minimum(column.astype(np.int32), len(PHI) - 2)
        return Polar(phi, np.hypot(side, depth), z, i * len(PHI) + j, column - j, row - i)

    def wall(self, polar: Polar, name: str) -> np.ndarray:
        """Return the distance to the surface `name` ("cage", "muscle" or "skin")."""
        steep = polar.look_up(self.slopes[name])
        return (polar.rho - polar.look_up(getattr(self, name))) * steep

    def arms(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the distance to the muscles of the raised arms."""
        distance, along = capsule(np.abs(x), y, z, (118, 24, 112), ARM_END)
        return distance - (ARM_MM - 5 * along) * self.patient.muscle**0.5

    def breasts(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the distance to the breasts' outlines."""
        fat = self.patient.fat_mm
        front = float(self.axis_y(5.0)) - 84.0 * self.patient.barrel
        radii = (50 + 0.5 * fat, 26 + 1.1 * fat, 52 + 0.5 * fat)
        return ellipsoid(np.abs(x), y, z, (74, front + 6, 2), radii)

    def diaphragm(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the level z of the diaphragm's upper side."""
        level = None
        for side in SIDES:
            away = ((x - side * 62) / 62) ** 2 + ((y + 8) / 74) ** 2
            dome = self.dome_z[side] - 44 * away / (1 + 0.25 * away)
            level = dome if level is None else smooth_max(level, dome, 30.0)
        # The heart's weight flattens the middle; it stays nearly as high as the left dome.
        away = ((x - 10) / 48) ** 2 + ((y + 24) / 46) ** 2
        return smooth_max(level, self.dome_z[1.0] - 8 - 34 * away / (1 + 0.2 * away), 16.0)

    def heart(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the distance to the pericardium."""
        distance = None
        for centre, radii, axes in self.chambers.values():
            part = ellipsoid(x, y, z, centre, tuple(r + 8 for r in radii), axes)
            distance = part if distance is None else smooth_min(distance, part, 34.0)
        return distance

    def mediastinum(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the distance to what lies between the lungs."""
        spine = np.interp(z, LEVELS, self.spine_y(LEVELS)).astype(np.float32)
        axis = np.interp(z, LEVELS, self.axis_y(LEVELS)).astype(np.float32)
        # Vertebrae and, to their left, the descending aorta with the oesophagus before them.
        distance = np.hypot(x / 1.1, y - spine - 4) - 21
        distance = smooth_min(distance, np.hypot(x - 20, y - spine + 17) - 15.5, 8.0)
        distance = smooth_min(distance, np.hypot(x - 4, (y - spine + 30) / 1.3) - 13, 12.0)
        # Great vessels and trachea, and the thin septum before them.
        upper = np.hypot((x - 1) / 30, (y - spine + 41) / 34) * 30 - 30
        upper = np.maximum(upper, 18 - z)
        distance = smooth_min(distance, upper, 12.0)
        septum = np.maximum(np.abs(x - 3) - 5, y - axis)
        distance = smooth_min(distance, septum, 16.0)
        for side in SIDES:
            hilum = ellipsoid(x, y, z, (side * 33 + 2, 8, 33), (17, 19, 25))
            distance = smooth_min(distance, hilum, 12.0)
        distance = smooth_min(distance, ellipsoid(x, y, z, (17, 12, 72), (19, 28, 19)), 10.0)
        return smooth_min(distance, self.heart(x, y, z), 7.0)

    def lung(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, cage: np.ndarray) -> np.ndarray:
        """Return the distance to the lungs, given the distance to the middle of the ribs."""
        apex = np.sqrt(
            ((np.abs(x) - 47) / 74) ** 2
            + ((y - 14) / 84) ** 2
            + (np.maximum(z, 10) - 10) ** 2 / 118**2
        )
        apex = (apex - 1) * 74 - np.clip(10 - z, 0, None)
        distance = smooth_max(cage + 4.5, apex, 8.0)
        distance = smooth_max(distance, (self.diaphragm(x, y) - z) * 0.75, 5.0)
        return smooth_max(distance, -self.mediastinum(x, y, z), 5.0)

    def lung_at(self, points: np.ndarray) -> np.ndarray:
        """Return the distance of points (N, 3) to the lungs."""
        x, y, z = points.astype(np.float32).T
        return self.lung(x, y, z, self.wall(self.polar(x, y, z), "cage"))


def _superellipse(
    phi: np.ndarray, width: np.ndarray, depth: np.ndarray, power: float
) -> np.ndarray:
    across, along = np.abs(np.sin(phi)) / width, np.abs(np.cos(phi)) / depth
    return (across**power + along**power) ** (-1 / power)


def _steepness(radius: np.ndarray) -> np.ndarray:
    """Return the cosine between a surface's normal and the radius, (LEVELS, PHI) float32."""
    along_z, along_phi = np.gradient(radius, LEVELS[1] - LEVELS[0], PHI[1] - PHI[0])
    return (1 / np.sqrt(1 + (along_phi / radius) ** 2 + along_z**2)).astype(np.float32)
