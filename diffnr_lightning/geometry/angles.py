"""Source angles: how they are spread, and which part of the circle every view stands for."""

from __future__ import annotations

import numpy as np


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


def view_steps(angles_rad: np.ndarray, period: float) -> tuple[np.ndarray, bool]:
    """Return the angle that every view stands for, and whether the views close the circle.

    A view stands for half of the gap on either side. One gap more than twice as large as every
    other is where the arc ends: it belongs to no view, and the two end views reach half a mean
    step into it.

    Args:
        angles_rad: (V,) in any order; repeated angles share their step.
        period: 2 pi, or pi where opposite views are the same measurement.

    Returns:
        steps (V,) in radians, and True if there is no such gap. A single view, or one that is repeated,
        stands for the whole period.
    """
    wrapped = np.mod(angles_rad, period)
    # 2 pi - 1e-17 wraps to 2 pi: the same angle as 0.
    wrapped = np.where(period - wrapped < 1e-9, 0.0, wrapped)
    order = np.argsort(wrapped, kind="stable")
    ordered = wrapped[order]
    gaps = np.diff(np.append(ordered, ordered[0] + period))  # gap after each view
    closed = True
    # Views that are all the same are one view.
    if np.ptp(ordered) > 1e-9:
        widest = int(np.argmax(gaps))
        others = np.delete(gaps, widest)
        closed = bool(gaps[widest] <= 2.0 * others.max() + 1e-9)
        if not closed:
            gaps[widest] = others.mean()
    steps = np.empty_like(gaps)
    steps[order] = 0.5 * (gaps + np.roll(gaps, 1))
    return steps, closed


def arc_length(steps: np.ndarray) -> float:
    """Return the arc (rad) that views with these steps cover."""
    return float(min(steps.sum(), 2.0 * np.pi))


def arc(angles_rad: np.ndarray) -> float:
    """Return the arc (rad) that the views stand for: the sum of their `view_steps` on the circle."""
    steps, _ = view_steps(np.asarray(angles_rad, dtype=np.float64), 2.0 * np.pi)
    return arc_length(steps)
