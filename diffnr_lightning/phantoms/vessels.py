"""Vessels and airways of the phantom: named trunks as smooth paths, and trees that fill the lungs.

A path is (points (N, 3), radii (N,)) in body millimetres. The trees grow by halving: every branch
heads for the middle of the tissue it supplies, splits there in two unequal parts, and its radius
follows Murray's law.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

from diffnr_lightning.phantoms.anatomy import SIDES, Thorax

Path = tuple[np.ndarray, np.ndarray]

# Radius of a branch that supplies n ends: tip * n ** (1 / 2.7).
MURRAY = 1 / 2.7
HILUM_MM = {-1.0: (-40.0, 8.0, 30.0), 1.0: (44.0, 10.0, 36.0)}


def smooth_path(*knots: tuple[float, float, float, float], step_mm: float = 4.0) -> Path:
    """Return the smooth path through (x, y, z, radius) knots."""
    knots = np.array(knots, dtype=float)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1))])
    steps = max(2, int(np.ceil(length[-1] / step_mm)) + 1)
    dense = CubicSpline(length, knots)(np.linspace(0, length[-1], steps))
    return dense[:, :3], np.maximum(dense[:, 3], knots[:, 3].min())


def trunks(thorax: Thorax, rng: np.random.Generator) -> dict[str, list[Path]]:
    """Return the large vessels, oesophagus and airways outside the lungs, by what flows in them.

    Returns:
        paths under "artery" (aorta and its branches), "lung artery", "lung vein", "vein", "airway"
        and "oesophagus".
    """
    heart, spine = thorax.heart_centre, thorax.spine_y
    lv, rv, ra, la = (
        thorax.chambers[f"{side} {part}"][0]
        for side, part in (
            ("left", "ventricle"),
            ("right", "ventricle"),
            ("right", "atrium"),
            ("left", "atrium"),
        )
    )
    wide = float(rng.uniform(0.88, 1.12))
    shift = rng.normal(0, 2, 6)
    behind = heart[1] + 16
    arch = 72 + shift[0]
    descending = [
        (20 + s, spine(z) - 17, z, r * wide)
        for z, r, s in (
            (40, 12, 1),
            (0, 11.5, 0),
            (-60, 11, 0),
            (-110, 10.5, -6),
            (-160, 10, -12),
            (-225, 9, -14),
        )
    ]
    aorta = smooth_path(
        (lv[0] - 16, lv[1] - 8, lv[2] + 14, 12 * wide),
        (-6, behind - 16, 12, 15.5 * wide),
        (-13, behind - 16, 40, 15.5 * wide),
        (-5, behind - 9, arch - 7, 14.5 * wide),
        (10, behind + 8, arch, 13.5 * wide),
        (20, spine(66) - 25, arch - 8, 12.5 * wide),
        *descending,
    )
    neck = [
        smooth_path(
            (-6, behind - 6, arch, 6.5),
            (-18, behind + 1, 100, 6),
            (-24, 6, 128, 4.5),
            (-25, 12, 230, 3.8),
        ),
        smooth_path(
            (6, behind + 4, arch, 4.5),
            (12, behind + 6, 100, 4.2),
            (23, 8, 130, 4),
            (25, 12, 230, 3.8),
        ),
        smooth_path(
            (15, behind + 14, arch, 5),
            (24, 16, 108, 5),
            (48, 12, 124, 4.5),
            (92, 10, 124, 4),
            (112, 16, 120, 4),
        ),
        smooth_path(
            (-18, behind + 2, 100, 5), (-48, 12, 124, 4.5), (-92, 10, 124, 4), (-112, 16, 120, 4)
        ),
    ]
    cava = smooth_path(
        (ra[0] + 4, ra[1], ra[2] + 8, 9),
        (-25, behind - 8, 30, 9),
        (-24, behind - 8, 62, 9),
        (-25, -2, 92, 8.5),
    )
    veins = [
        cava,
        smooth_path(
            (-25, -2, 90, 7),
            (4, behind - 24, 92, 6.5),
            (34, -2, 108, 6),
            (70, 2, 122, 5.5),
            (112, 8, 116, 4),
        ),
        smooth_path((-25, -2, 90, 7), (-38, 0, 110, 6), (-70, 2, 122, 5.5), (-112, 8, 116, 4)),
        *(
            smooth_path((s * 34, 0, 110, 6), (s * 34, 8, 140, 6), (s * 34, 10, 230, 5.5))
            for s in SIDES
        ),
        smooth_path(
            (ra[0] + 5, ra[1] + 6, ra[2] - 10, 11),
            (-20, 10, -75, 11),
            (-18, 20, -120, 11),
            (-16, 24, -225, 10),
        ),
        smooth_path(
            (-8, spine(-190) - 12, -220, 3),
            (-9, spine(-60) - 18, -60, 3),
            (-9, spine(40) - 16, 40, 3.2),
            (-16, spine(54) - 22, 54, 4),
            (-24, behind - 2, 54, 4.5),
        ),
    ]
    middle = (14.0, behind - 14, 36.0)
    lung_arteries = [
        smooth_path(
            (rv[0] + 12, rv[1] + 4, rv[2] + 14, 13), (18, heart[1] - 18, 18, 13), (*middle, 13)
        ),
        smooth_path(
            (*middle, 11), (4, behind, 36, 10.5), (-20, behind + 4, 33, 10), (*HILUM_MM[-1.0], 7.5)
        ),
        smooth_path((*middle, 11), (26, behind + 2, 44, 10.5), (*HILUM_MM[1.0], 8)),
    ]
    lung_veins = []
    for side in SIDES:
        for level, back in ((12, -6), (-14, 8)):
            end = (side * 42 + 2, 4 + back, la[2] + level)
            lung_veins.append(
                smooth_path((la[0] + side * 18, la[1], la[2] + 0.4 * level, 7.5), (*end, 5.5))
            )
    carina = (1.0 + shift[1] / 2, spine(50) - 34, 50.0)
    airways = [
        smooth_path(
            (0, spine(225) - 34, 225, 8.3),
            (0, spine(150) - 35, 150, 8.3),
            (1, spine(95) - 36, 95, 8.5),
            (*carina, 8.5),
        ),
        smooth_path((*carina, 7), (-16, carina[1] + 1, 38, 6.5), (-36, 16, 27, 5)),
        smooth_path((*carina, 6.5), (18, carina[1] + 2, 36, 6), (40, 18, 24, 4.8)),
    ]
    gullet = [
        (5 + s, spine(z) - back, z, 6.5)
        for z, back, s in (
            (225, 22, -3),
            (120, 23, -1),
            (70, 22, 0),
            (30, 24, 0),
            (-20, 26, 3),
            (-60, 32, 10),
            (-85, 38, 24),
        )
    ]
    return {
        "artery": [aorta, *neck],
        "lung artery": lung_arteries,
        "lung vein": lung_veins,
        "vein": veins,
        "airway": airways,
        "oesophagus": [smooth_path(*gullet)],
    }


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
