"""Views that were not measured, between those that were."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from diffnr_lightning.geometry.angles import view_steps
from diffnr_lightning.geometry.orbit import nominal_orbit
from diffnr_lightning.geometry.poses import Poses

Scan = TypeVar("Scan", bound=Poses)


def views_between(scan: Scan, share: float) -> Scan:
    """Move every view towards the next one about the axis.

    Both neighbours are turned to the new place and averaged by their nearness, so that views on a circle stay on it,
    and what changes from view to view (heights, a detector that moves) changes evenly.

    Args:
        scan: of at least two views, in any order.
        share: of the way to the next view; 0 is the view itself, 1 the next.

    Returns:
        Views in the order of their angles. Of views that do not close the circle the last one has no next and is left
        out.

    Raises:
        ValueError: fewer than two views, or a share outside [0, 1].
    """
    if len(scan) < 2:
        raise ValueError(
            f"the scan has {len(scan)} view; two are expected to find views between them."
        )
    if not 0 <= share <= 1:
        raise ValueError(
            f"share is {share}; a part of the way to the next view, 0 to 1, is expected."
        )
    orbit = nominal_orbit(scan).orbit
    order = np.argsort(orbit.angles_rad, kind="stable")
    angles = orbit.angles_rad[order]
    gaps = np.diff(np.append(angles, angles[0] + 2 * np.pi))
    if not view_steps(angles, 2 * np.pi)[1]:
        # The arc begins behind its widest gap.
        first = (int(np.argmax(gaps)) + 1) % len(order)
        order, gaps = np.roll(order, -first), np.roll(gaps, -first)[:-1]
    after = np.roll(order, -1)[: len(gaps)]
    order = order[: len(gaps)]
    axis = np.array(orbit.axis_direction)
    moved = {}
    for name in ("source_mm", "detector_mm", "u_mm", "v_mm"):
        vectors = getattr(scan, name)
        origin = orbit.axis_point_mm if name.endswith(("source_mm", "detector_mm")) else np.zeros(3)
        here = _turned(vectors[order] - origin, axis, share * gaps)
        there = _turned(vectors[after] - origin, axis, (share - 1) * gaps)
        moved[name] = (1 - share) * here + share * there + origin
    return replace(scan, **moved)


def _turned(vectors: np.ndarray, axis: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Turn vectors (V, 3) about an axis through the origin, each by its angle (Rodrigues' formula)."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    along = (vectors @ axis)[:, None] * axis
    return cos * (vectors - along) + sin * np.cross(axis, vectors) + along
