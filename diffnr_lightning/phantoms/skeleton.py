"""Bones of the phantom's chest: rib cage, spine and shoulder girdle.

Ribs, sternum and shoulder blades lie in shells parallel to the body wall, so they are shapes in its
polar coordinates. The spine, collar bones and upper arms are tubes and ellipsoids. All of them
write signed distances (mm, negative inside); the union of the bones is painted once, with a
cortical shell.
"""

from __future__ import annotations

import numpy as np

from diffnr_lightning.phantoms.anatomy import (
    ARM_END,
    CERVICAL_MM,
    PHI,
    SIDES,
    THORACIC_MM,
    Polar,
    Thorax,
    smooth_min,
)
from diffnr_lightning.phantoms.canvas import Canvas, Point, capsule

RIB_START = 0.27
# For every rib: how far it drops (mm), where its bone ends and its cartilage ends (phi), how far
# the cartilage rises (mm).
RIBS = (
    (32, 2.60, 2.98, 0),
    (50, 2.58, 2.98, 3),
    (56, 2.55, 2.97, 6),
    (65, 2.55, 2.96, 15),
    (72, 2.52, 2.96, 26),
    (80, 2.45, 2.96, 36),
    (85, 2.36, 2.98, 46),
    (88, 2.20, 2.70, 44),
    (85, 2.05, 2.50, 42),
    (74, 1.88, 2.25, 32),
    (55, 1.45, 1.50, 0),
    (38, 0.95, 1.00, 0),
)


def rib_cage(thorax: Thorax, polar: Polar, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of points near the body wall to its bones and to the rib cartilage.

    Args:
        thorax: the patient's shapes.
        polar: (N,) points within about 12 mm of the middle of the ribs.
        x: (N,) their x, mm.

    Returns:
        bone and cartilage, each (N,) float32.
    """
    bone = np.full(polar.phi.shape, 50, dtype=np.float32)
    cartilage = bone.copy()
    if not len(bone):
        return bone, cartilage
    radius = polar.look_up(thorax.cage)
    off = (polar.rho - radius) * polar.look_up(thorax.slopes["cage"])
    low, high = float(polar.z.min()) - 12, float(polar.z.max()) + 12
    for number, (drop, bone_end, end, rise) in enumerate(RIBS):
        along = np.clip((PHI - RIB_START) / (bone_end - RIB_START), 0, None)
        sternal = np.clip((PHI - bone_end) / (end - bone_end), 0, 1)
        level = THORACIC_MM[number] + 3 - drop * np.minimum(along, 1) ** 1.25
        level = level - 10 * np.clip(along - 1, 0, 0.15) + rise * sternal**1.2
        if level.min() > high or level.max() < low:
            continue
        slope = np.gradient(level, PHI) / 95.0
        height = np.interp(polar.phi, PHI, level).astype(np.float32)
        steep = np.interp(polar.phi, PHI, 1 / np.sqrt(1 + slope**2)).astype(np.float32)
        upright = (polar.z - height) * steep
        tall, thick = (5.2, 3.8) if number else (6.5, 3.4)
        q = np.sqrt((upright / tall) ** 2 + (off / thick) ** 2)
        profile = q * (q - 1) / (np.sqrt((upright / tall**2) ** 2 + (off / thick**2) ** 2) + 1e-6)
        before = (np.float32(RIB_START) - polar.phi) * radius
        beyond = (polar.phi - np.float32(bone_end)) * radius
        np.minimum(bone, np.maximum(profile, np.maximum(before, beyond)), out=bone)
        closing = (polar.phi - np.float32(end)) * radius
        np.minimum(cartilage, np.maximum(profile, np.maximum(-beyond, closing)), out=cartilage)
    manubrium = np.clip((polar.z - 56) / 40, 0, 1)
    half = np.where(polar.z > 56, 14 + 14 * manubrium**0.7, 14 + 4 * np.cos(polar.z / 12.5))
    ends = np.maximum(polar.z - 97, -48 - polar.z)
    # The joint between manubrium and body is a gap in the bone.
    ends = np.maximum(ends, 1.2 - np.abs(polar.z - 55))
    plate = np.maximum(np.maximum(np.abs(off + 1) - 5.0, np.abs(x) - half), ends)
    front = polar.phi > np.float32(np.pi / 2)
    np.minimum(bone, np.where(front, plate, np.float32(50)), out=bone)
    return bone, cartilage


def shoulder_blades(thorax: Thorax, polar: Polar) -> np.ndarray:
    """Return the distance of points (N,) to the plates of the shoulder blades."""
    radius = polar.look_up(thorax.scapula)
    across = polar.phi * radius
    # Corners in (distance from the midline, z): upper, lower, and at the shoulder joint; the edges'
    # normals point outwards.
    corners = ((64, 106), (84, -14), (132, 112))
    inside = None
    for (u, z), (u_next, z_next) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = np.hypot(u_next - u, z_next - z)
        edge = ((across - u) * (z_next - z) - (polar.z - z) * (u_next - u)) / length
        inside = edge if inside is None else np.maximum(inside, edge)
    half = 1.5 + 2.2 * np.exp(np.minimum(inside, 0) / 4)
    return np.maximum(np.abs(polar.rho - radius) - half, inside)


def spine(thorax: Thorax, canvas: Canvas, bone: np.ndarray) -> None:
    """Lower `bone` (Z, Y, X) to the distance to the vertebrae."""
    levels = np.array(CERVICAL_MM[::-1] + THORACIC_MM)
    pitches = -np.gradient(levels)
    for number, (level, pitch) in enumerate(zip(levels.tolist(), pitches.tolist(), strict=True)):
        grown = float(np.clip((number - len(CERVICAL_MM)) / 13, 0, 1))
        half_width, half_depth = 13.5 + 7 * grown, 11 + 5 * grown
        half_height = 0.5 * pitch - 2.0 - 0.9 * grown
        centre = (0.0, float(thorax.spine_y(level)), float(level))
        box = canvas.box((-48, centre[1] - 24, level - 42), (48, centre[1] + 72, level + 20))
        if box is None:
            continue
        x, y, z = canvas.at(box)
        waist = 1.0 - 0.1 * np.cos(np.clip((z - level) / half_height, -1, 1) * (np.pi / 2))
        u, v = x / (half_width * waist), (y - centre[1]) / (half_depth * waist)
        ring = np.sqrt(u**2 + v**2 + 1e-9)
        distance = np.maximum((ring - 1) * half_depth, np.abs(z - level) - half_height)
        canal = centre[1] + half_depth + 8.5
        for start, end, first, last in _arch(centre[1] + half_depth, canal, level, pitch, grown):
            for side in SIDES if start[0] or end[0] else SIDES[:1]:
                span, along = capsule(side * x, y, z, start, end)
                distance = smooth_min(distance, span - (first + along * (last - first)), 3.0)
        # The canal stays open whatever grows around it.
        distance = np.maximum(distance, 8.3 - np.hypot(x / 1.15, y - canal))
        np.minimum(bone[box], distance, out=bone[box])


def _arch(
    back: float, canal: float, level: float, pitch: float, grown: float
) -> list[tuple[Point, Point, float, float]]:
    """Return pedicle, lamina and processes as (start, end, first radius, last radius)."""
    corner = (14.0, canal + 2, level + 1)
    joint = (14.0, canal + 5.5)
    tip = level - (20 if 2 < grown * 13 < 10 else 9)
    return [
        ((10.5, back - 4, level + 3), (12.0, canal, level + 2), 4.2, 4.2),
        (corner, (0, canal + 14, level - 4), 3.6, 3.4),
        ((*joint, level + 0.42 * pitch), (*joint, level - 0.46 * pitch), 3.4, 3.4),
        (corner, (30.0 + 3 * grown, canal + 12 - 6 * grown, level + 3), 4.2, 3.4),
        ((0, canal + 13, level - 4), (0, canal + 34, tip), 3.8, 2.8),
    ]


def shoulder_girdle(thorax: Thorax, canvas: Canvas, bone: np.ndarray) -> None:
    """Lower `bone` (Z, Y, X) to the distance to collar bones, shoulders and upper arms."""
    front = float(thorax.axis_y(96)) - 56 * thorax.patient.barrel
    tubes = (
        ((22, front + 2, 97), (55, front - 4, 108), 7.0, 5.2),
        ((55, front - 4, 108), (86, front + 20, 120), 5.2, 5.2),
        ((86, front + 20, 120), (112, 18, 136), 5.2, 6.0),
        ((112, 18, 136), (118, 34, 140), 6.0, 6.0),
        ((66, 88, 70), (100, 78, 100), 3.0, 4.2),
        ((100, 78, 100), (118, 36, 140), 4.2, 6.0),
        ((98, 52, 108), (104, 36, 110), 7.0, 9.0),
        ((121, 22, 114), (121, 20, 118), 20.0, 20.5),
        ((121, 20, 116), (122, 6, 170), 14.0, 11.0),
        ((122, 6, 170), ARM_END, 11.0, 10.5),
    )
    for start, end, first, last in tubes:
        reach = max(first, last) + 2 * canvas.edge
        for side in SIDES:
            ends = [(side * p[0], p[1], p[2]) for p in (start, end)]
            box = canvas.box(
                tuple(min(a, b) - reach for a, b in zip(*ends, strict=True)),
                tuple(max(a, b) + reach for a, b in zip(*ends, strict=True)),
            )
            if box is None:
                continue
            span, along = capsule(*canvas.at(box), *ends)
            np.minimum(bone[box], span - (first + along * (last - first)), out=bone[box])
