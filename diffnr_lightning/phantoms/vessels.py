"""Vessels and airways of the phantom: named trunks as smooth paths, and trees that fill the lungs.

A path is (points (N, 3), radii (N,)) in body millimetres. The trees grow by halving: every branch
heads for the middle of the tissue it supplies, splits there in two unequal parts, and its radius
follows Murray's law.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from diffnr_lightning.phantoms.anatomy import SIDES, Thorax
from diffnr_lightning.phantoms.canvas import Point

Path = tuple[np.ndarray, np.ndarray]

# Radius of a branch that supplies n ends: tip * n ** (1 / 2.7).
MURRAY = 1 / 2.7
# Height, radius, and how far to the patient's left of its usual place, mm.
DESCENDING_AORTA = (
    (40, 12, 1),
    (0, 11.5, 0),
    (-60, 11, 0),
    (-110, 10.5, -6),
    (-160, 10, -12),
    (-225, 9, -14),
)
# Height, how far before the spine, and how far to the patient's left of its usual place, mm.
OESOPHAGUS = (
    (225, 22, -3),
    (120, 23, -1),
    (70, 22, 0),
    (30, 24, 0),
    (-20, 26, 3),
    (-60, 32, 10),
    (-85, 38, 24),
)
HILUM_MM = {-1.0: (-40.0, 8.0, 30.0), 1.0: (44.0, 10.0, 36.0)}


def smooth_path(*knots: tuple[float, float, float, float], step_mm: float = 4.0) -> Path:
    """Return the smooth path through (x, y, z, radius) knots."""
    knots = np.array(knots, dtype=float)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1))])
    steps = max(2, int(np.ceil(length[-1] / step_mm)) + 1)
    dense = CubicSpline(length, knots)(np.linspace(0, length[-1], steps))
    return dense[:, :3], np.maximum(dense[:, 3], knots[:, 3].min())


class Landmarks(NamedTuple):
    """What the knots of the trunks are counted from, in body millimetres.

    Attributes:
        spine: y of the vertebral bodies' middle by z.
        left_ventricle: middle (x, y, z), as of the other chambers.
        right_ventricle: likewise.
        left_atrium: likewise.
        right_atrium: likewise.
        heart_y: middle of the heart.
        behind: y a little behind it, where the great vessels are.
        arch: z of the top of the aortic arch.
        carina: where the windpipe divides.
        width: of this patient's aorta over the usual one.
    """

    spine: Callable[[float], float]
    left_ventricle: Point
    right_ventricle: Point
    left_atrium: Point
    right_atrium: Point
    heart_y: float
    behind: float
    arch: float
    carina: Point
    width: float

    @classmethod
    def drawn(cls, thorax: Thorax, rng: np.random.Generator) -> Landmarks:
        """Return those of a thorax, with what differs between patients drawn."""
        width = float(rng.uniform(0.88, 1.12))
        shift = rng.normal(0, 2, 6)
        return cls(
            thorax.spine_y,
            *(
                thorax.chambers[name][0]
                for name in ("left ventricle", "right ventricle", "left atrium", "right atrium")
            ),
            thorax.heart_centre[1],
            thorax.heart_centre[1] + 16,
            72 + shift[0],
            (1.0 + shift[1] / 2, thorax.spine_y(50) - 34, 50.0),
            width,
        )


def trunks(thorax: Thorax, rng: np.random.Generator) -> dict[str, list[Path]]:
    """Return the large vessels, oesophagus and airways outside the lungs, by what flows in them.

    Returns:
        paths under "artery" (aorta and its branches), "lung artery", "lung vein", "vein", "airway"
        and "oesophagus".
    """
    at = Landmarks.drawn(thorax, rng)
    return {
        "artery": [_aorta(at), *_neck_arteries(at)],
        "lung artery": _lung_arteries(at),
        "lung vein": _lung_veins(at),
        "vein": [*_upper_veins(at), _lower_cava(at), _azygos(at)],
        "airway": _airways(at),
        "oesophagus": [_oesophagus(at)],
    }


def _aorta(at: Landmarks) -> Path:
    x, y, z = at.left_ventricle
    return smooth_path(
        (x - 16, y - 8, z + 14, 12 * at.width),
        (-6, at.behind - 16, 12, 15.5 * at.width),
        (-13, at.behind - 16, 40, 15.5 * at.width),
        (-5, at.behind - 9, at.arch - 7, 14.5 * at.width),
        (10, at.behind + 8, at.arch, 13.5 * at.width),
        (20, at.spine(66) - 25, at.arch - 8, 12.5 * at.width),
        *((20 + dx, at.spine(z) - 17, z, r * at.width) for z, r, dx in DESCENDING_AORTA),
    )


def _neck_arteries(at: Landmarks) -> list[Path]:
    """Innominate with the right carotid, left carotid, left subclavian, right subclavian."""
    return [
        smooth_path(
            (-6, at.behind - 6, at.arch, 6.5),
            (-18, at.behind + 1, 100, 6),
            (-24, 6, 128, 4.5),
            (-25, 12, 230, 3.8),
        ),
        smooth_path(
            (6, at.behind + 4, at.arch, 4.5),
            (12, at.behind + 6, 100, 4.2),
            (23, 8, 130, 4),
            (25, 12, 230, 3.8),
        ),
        smooth_path(
            (15, at.behind + 14, at.arch, 5),
            (24, 16, 108, 5),
            (48, 12, 124, 4.5),
            (92, 10, 124, 4),
            (112, 16, 120, 4),
        ),
        smooth_path(
            (-18, at.behind + 2, 100, 5),
            (-48, 12, 124, 4.5),
            (-92, 10, 124, 4),
            (-112, 16, 120, 4),
        ),
    ]


def _upper_veins(at: Landmarks) -> list[Path]:
    """Superior cava, left and right brachiocephalic with subclavian, the jugular ones."""
    x, y, z = at.right_atrium
    return [
        smooth_path(
            (x + 4, y, z + 8, 9),
            (-25, at.behind - 8, 30, 9),
            (-24, at.behind - 8, 62, 9),
            (-25, -2, 92, 8.5),
        ),
        smooth_path(
            (-25, -2, 90, 7),
            (4, at.behind - 24, 92, 6.5),
            (34, -2, 108, 6),
            (70, 2, 122, 5.5),
            (112, 8, 116, 4),
        ),
        smooth_path((-25, -2, 90, 7), (-38, 0, 110, 6), (-70, 2, 122, 5.5), (-112, 8, 116, 4)),
        *(
            smooth_path((s * 34, 0, 110, 6), (s * 34, 8, 140, 6), (s * 34, 10, 230, 5.5))
            for s in SIDES
        ),
    ]


def _lower_cava(at: Landmarks) -> Path:
    x, y, z = at.right_atrium
    return smooth_path(
        (x + 5, y + 6, z - 10, 11), (-20, 10, -75, 11), (-18, 20, -120, 11), (-16, 24, -225, 10)
    )


def _azygos(at: Landmarks) -> Path:
    return smooth_path(
        (-8, at.spine(-190) - 12, -220, 3),
        (-9, at.spine(-60) - 18, -60, 3),
        (-9, at.spine(40) - 16, 40, 3.2),
        (-16, at.spine(54) - 22, 54, 4),
        (-24, at.behind - 2, 54, 4.5),
    )


def _lung_arteries(at: Landmarks) -> list[Path]:
    """Trunk, right and left artery."""
    x, y, z = at.right_ventricle
    middle = (14.0, at.behind - 14, 36.0)
    return [
        smooth_path((x + 12, y + 4, z + 14, 13), (18, at.heart_y - 18, 18, 13), (*middle, 13)),
        smooth_path(
            (*middle, 11),
            (4, at.behind, 36, 10.5),
            (-20, at.behind + 4, 33, 10),
            (*HILUM_MM[-1.0], 7.5),
        ),
        smooth_path((*middle, 11), (26, at.behind + 2, 44, 10.5), (*HILUM_MM[1.0], 8)),
    ]


def _lung_veins(at: Landmarks) -> list[Path]:
    """Upper and lower one of each side."""
    x, y, z = at.left_atrium
    return [
        smooth_path(
            (x + side * 18, y, z + 0.4 * level, 7.5), (side * 42 + 2, 4 + back, z + level, 5.5)
        )
        for side in SIDES
        for level, back in ((12, -6), (-14, 8))
    ]


def _airways(at: Landmarks) -> list[Path]:
    """Windpipe, right and left main bronchus."""
    y = at.carina[1]
    return [
        smooth_path(
            (0, at.spine(225) - 34, 225, 8.3),
            (0, at.spine(150) - 35, 150, 8.3),
            (1, at.spine(95) - 36, 95, 8.5),
            (*at.carina, 8.5),
        ),
        smooth_path((*at.carina, 7), (-16, y + 1, 38, 6.5), (-36, 16, 27, 5)),
        smooth_path((*at.carina, 6.5), (18, y + 2, 36, 6), (40, 18, 24, 4.8)),
    ]


def _oesophagus(at: Landmarks) -> Path:
    return smooth_path(*((5 + dx, at.spine(z) - dy, z, 6.5) for z, dy, dx in OESOPHAGUS))


def lung_points(
    thorax: Thorax, count: int, depth_mm: float, side: float, rng: np.random.Generator
) -> np.ndarray:
    """Return (count, 3) random points at least `depth_mm` inside one lung."""
    found: list[np.ndarray] = []
    while sum(map(len, found)) < count:
        points = rng.uniform((2, -100, -150), (135, 105, 132), (4000, 3)) * (side, 1, 1)
        found.append(points[thorax.lung_at(points) < -depth_mm])
    return np.concatenate(found)[:count]


def tree(root: np.ndarray, ends: np.ndarray, tip_mm: float, rng: np.random.Generator) -> list[Path]:
    """Grow a tree from `root` (3,) to `ends` (N, 3).

    Args:
        root: where the tree starts.
        ends: what it supplies.
        tip_mm: radius at an end.
        rng: source of the branches' irregularity.

    Returns:
        one path of three points for every branch.
    """
    branches = []
    waiting = [(np.asarray(root, dtype=float), ends, len(ends))]
    while waiting:
        start, supplied, before = waiting.pop()
        count = len(supplied)
        middle = supplied.mean(axis=0)
        share = 1.0 if count == 1 else rng.uniform(0.28, 0.5)
        stop = start + share * (middle - start)
        length = np.linalg.norm(stop - start)
        bend = 0.5 * (start + stop) + rng.normal(0, 0.06, 3) * length
        radius = tip_mm * count**MURRAY
        first = min(tip_mm * before**MURRAY, 1.15 * radius)
        branches.append((np.stack([start, bend, stop]), np.array([first, radius, 0.93 * radius])))
        if count == 1:
            continue
        away = supplied - stop
        away = away - away.mean(axis=0)
        axis = np.linalg.svd(away, full_matrices=False)[2][0] if count > 2 else away[0]
        order = np.argsort(away @ axis)
        cut = int(np.clip(round(count * rng.uniform(0.3, 0.7)), 1, count - 1))
        waiting.append((stop, supplied[order[:cut]], count))
        waiting.append((stop, supplied[order[cut:]], count))
    return branches


def lung_trees(thorax: Thorax, rng: np.random.Generator) -> dict[str, list[Path]]:
    """Return the branches inside both lungs under "lung artery", "lung vein" and "airway"."""
    grown: dict[str, list[Path]] = {"lung artery": [], "lung vein": [], "airway": []}
    left_atrium = thorax.chambers["left atrium"][0]
    for side in SIDES:
        ends = 480 if side < 0 else 420
        hilum = np.array(HILUM_MM[side])
        grown["lung artery"] += tree(hilum, lung_points(thorax, ends, 4.0, side, rng), 0.64, rng)
        supplied = lung_points(thorax, ends, 4.0, side, rng)
        level = left_atrium[2] + 8
        for part, (rise, back) in (
            (supplied[:, 2] >= level, (12, -6)),
            (supplied[:, 2] < level, (-14, 8)),
        ):
            root = np.array([side * 42 + 2, 4 + back, left_atrium[2] + rise])
            grown["lung vein"] += tree(root, supplied[part], 0.58, rng)
        bronchus = np.array([-36.0, 16.0, 27.0] if side < 0 else [40.0, 18.0, 24.0])
        grown["airway"] += tree(bronchus, lung_points(thorax, 36, 22.0, side, rng), 1.15, rng)
    return grown
