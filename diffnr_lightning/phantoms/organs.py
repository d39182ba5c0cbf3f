"""Organs and findings of the phantom's chest: upper abdomen, heart, nodules, calcified plaques."""

from __future__ import annotations

import numpy as np

from diffnr_lightning.phantoms.anatomy import (
    SIDES,
    Thorax,
    ellipsoid,
    smooth_max,
    smooth_min,
)
from diffnr_lightning.phantoms.canvas import Canvas, inside
from diffnr_lightning.phantoms.vessels import Path, lung_points

# HU of blood and perfused tissue without contrast agent, and early and late after it was injected.
PHASES = {
    "none": {
        "artery": 43,
        "left": 43,
        "right": 43,
        "lung artery": 43,
        "lung vein": 43,
        "vein": 43,
        "myocardium": 50,
        "liver": 58,
        "liver vessel": 42,
        "spleen": 49,
        "kidney": 33,
    },
    "arterial": {
        "artery": 310,
        "left": 300,
        "right": 220,
        "lung artery": 290,
        "lung vein": 300,
        "vein": 170,
        "myocardium": 105,
        "liver": 68,
        "liver vessel": 75,
        "spleen": 112,
        "kidney": 165,
    },
    "venous": {
        "artery": 168,
        "left": 165,
        "right": 160,
        "lung artery": 162,
        "lung vein": 166,
        "vein": 158,
        "myocardium": 112,
        "liver": 110,
        "liver vessel": 165,
        "spleen": 122,
        "kidney": 190,
    },
}
WALLS_MM = {"left ventricle": 9.0, "right ventricle": 3.0, "right atrium": 2.5, "left atrium": 2.5}


def abdomen(
    thorax: Thorax,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    wall: np.ndarray,
    below: np.ndarray,
    edge: float,
) -> np.ndarray:
    """Return the HU of the upper abdomen at points (N,).

    Args:
        thorax: the patient's shapes.
        x: body coordinates, mm.
        y: body coordinates, mm.
        z: body coordinates, mm.
        wall: distance to the inner side of the body wall, mm.
        below: distance to the upper side of the diaphragm, positive below, mm.
        edge: voxel edge, mm.
    """
    tissue = PHASES[thorax.patient.phase]
    hu = np.full(x.shape, -103, dtype=np.float32)
    room = smooth_max(wall + 3, 3.5 - below, 10.0)
    depth = -100.0 - 0.6 * thorax.patient.inflation_mm
    stomach = ellipsoid(x, y, z, (60, -10, depth - 10), (36, 46, 44))
    spleen = ellipsoid(x, y, z, (90, 44, depth - 14), (38, 46, 52))
    spleen = smooth_max(
        smooth_max(room, spleen, 4.0), -ellipsoid(x, y, z, (58, 10, depth - 22), (40, 50, 56)), 4.0
    )
    liver = ellipsoid(x, y, z, (-48, -8, depth - 22), (112, 100, 96))
    # The left lobe thins out towards the left; vena cava and spine press into the liver from
    # behind.
    liver = smooth_max(liver, 0.5 * (x + 12) + 0.75 * (y - 20) + 7 * np.sin(x / 20), 14.0)
    liver = smooth_max(smooth_max(room, liver, 8.0), -(stomach - 3), 6.0)
    kidney = ellipsoid(np.abs(x), y, z, (56, 54, -196), (27, 26, 52))
    stomach = smooth_max(room, stomach, 6.0)
    colon = smooth_max(room, ellipsoid(x, y, z, (66, -50, -172), (46, 22, 20)), 4.0)
    level = np.float32(-30.0)
    for distance, value in (
        (kidney, tissue["kidney"]),
        (spleen, tissue["spleen"]),
        (liver, tissue["liver"]),
        (colon, 35.0),
        (stomach, 40.0),
        (stomach + 4, 22.0),
        (np.maximum(stomach + 4, y - level), -990.0),
        (np.maximum(colon + 3, y + 46), -960.0),
        (np.maximum(below - 3.5, -below), 48.0),
    ):
        hu += inside(distance, edge) * (value - hu)
    return hu


def liver_vessels(canvas: Canvas, branches: list[Path], hu: float) -> None:
    """Paint vessels of the liver where the canvas shows liver."""
    share = np.zeros_like(canvas.hu)
    canvas.tubes(share, branches)
    where = np.nonzero(share)
    near = canvas.hu[where]
    canvas.hu[where] = near + share[where] * (hu - near) * (np.abs(near - hu) < 90)


def heart(thorax: Thorax, canvas: Canvas) -> None:
    """Paint pericardium, fat around the heart, muscle and blood pools."""
    tissue = PHASES[thorax.patient.phase]
    box = canvas.ball_box(thorax.heart_centre, 95.0)
    if box is None:
        return
    x, y, z = canvas.at(box)
    sac = thorax.heart(x, y, z)
    canvas.blend(box, inside(sac, canvas.edge), 20.0)
    canvas.blend(box, inside(sac + 1.5, canvas.edge), -95.0)
    muscle, pools = None, []
    for name, (centre, radii, axes) in thorax.chambers.items():
        pool = ellipsoid(x, y, z, centre, radii, axes)
        pools.append((pool, tissue[name.split()[0]]))
        part = pool - WALLS_MM[name]
        muscle = part if muscle is None else smooth_min(muscle, part, 7.0)
    muscle = smooth_max(muscle, sac + 2.5, 3.0)
    canvas.blend(box, inside(muscle, canvas.edge), tissue["myocardium"])
    for pool, hu in reversed(pools):
        canvas.blend(box, inside(smooth_max(pool, muscle + 2, 2.0), canvas.edge), hu)


def nodules(thorax: Thorax, canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint lobed nodules of 4 to 14 mm in the lungs, some calcified, some of ground glass."""
    for _ in range(thorax.patient.nodules):
        side = SIDES[int(rng.integers(2))]
        radius = float(rng.uniform(2.0, 7.0))
        centre = lung_points(thorax, 1, radius + 2, side, rng)[0]
        kind = rng.random()
        hu = float(
            rng.uniform(20, 70) if kind < 0.7 else rng.uniform(250, 600) if kind < 0.85 else -560.0
        )
        lobes = [(centre, radius)]
        for _ in range(3):
            direction = rng.normal(size=3)
            away = 0.5 * radius * direction / np.linalg.norm(direction)
            lobes.append((centre + away, float(radius * rng.uniform(0.4, 0.7))))
        box = canvas.ball_box(tuple(centre.tolist()), 2 * radius + canvas.edge)
        if box is None:
            continue
        x, y, z = canvas.at(box)
        distance = None
        for middle, lobe in lobes:
            part = ellipsoid(x, y, z, tuple(middle.tolist()), (lobe, lobe, lobe))
            distance = part if distance is None else smooth_min(distance, part, 1.5)
        canvas.blend(box, inside(distance, canvas.edge), hu)


def plaques(thorax: Thorax, canvas: Canvas, aorta: Path, rng: np.random.Generator) -> None:
    """Paint calcified plaques in the wall of the aorta and along the left coronary artery."""
    share = np.zeros_like(canvas.hu)
    points, radii = aorta
    paths: list[Path] = []
    for _ in range(thorax.patient.calcium):
        at = int(rng.integers(len(points) // 8, len(points) - 1))
        along = points[at] - points[at - 1]
        out = np.cross(along, rng.normal(size=3))
        place = points[at] + out / np.linalg.norm(out) * (radii[at] - 0.6)
        thickness = rng.uniform(1.0, 2.0)
        paths.append((np.stack([place - 0.8 * along, place + 0.8 * along]), np.full(2, thickness)))
    left, right = (np.array(thorax.chambers[f"{side} ventricle"][0]) for side in ("left", "right"))
    for _ in range(thorax.patient.calcium // 2):
        # The vessel runs along the furrow between the ventricles, on their front.
        along = float(rng.uniform(-24, 12))
        furrow = 0.5 * (left + right) + along * thorax.heart_axes[0] + np.array([2.0, -14.0, 16.0])
        step = 3.0 * thorax.heart_axes[0]
        paths.append((np.stack([furrow - step, furrow + step]), np.full(2, rng.uniform(0.8, 1.5))))
    canvas.tubes(share, paths)
    canvas.hu += share * (820.0 - canvas.hu)


def table(canvas: Canvas, back_mm: float) -> None:
    """Paint a curved couch top of carbon fibre and foam at y = `back_mm`, behind the patient."""
    x = canvas.x
    top = canvas.y - back_mm + x * x / 900.0
    shell = np.maximum(np.maximum(-top, top - 24), np.abs(x) - 170)
    canvas.hu += inside(shell, canvas.edge) * (canvas.hu < -900) * (-150.0 - canvas.hu)
    canvas.hu += (
        inside(shell + 2.5, canvas.edge) * (canvas.hu < -100) * (top > 0) * (-930.0 - canvas.hu)
    )
