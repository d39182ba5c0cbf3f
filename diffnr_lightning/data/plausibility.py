"""What angles and line integrals can be: wrong units, signs and missing logarithms are found here."""

from __future__ import annotations

import logging

import numpy as np

LOGGER = logging.getLogger("diffnr")
# Angles are sums of rounded steps.
ARC_TOLERANCE_RAD = 1e-3
# Angles of more than two turns are degrees, or can be taken modulo a turn.
LARGEST_SPAN_RAD = 4 * np.pi + ARC_TOLERANCE_RAD
# Columns at either end of the detector, as a share of it, that see air in most scans.
BORDER_SHARE = 0.05
# Intensities are largest there, nearly as large as anywhere, and smaller behind the object. Line
# integrals are zero there, and of a cut-off object hardly larger than in the middle.
BRIGHT_BORDER, DARK_MIDDLE = 0.8, 0.8
QUANTILES = (0.1, 0.99)


def check_angles(angles_rad: np.ndarray, total_deg: float | None, where: str) -> None:
    """Refuse angles that lie outside the arc of the scan, such as degrees; warn of a wrong arc.

    The stated arc is held against the arc on the circle: an arc that passes through zero may be
    written with its angles from 0 to 2 pi.

    Args:
        angles_rad: (V,) as the file has them, which should be radians.
        total_deg: arc that the file states, or None.
        where: how an error names the file.

    Raises:
        ValueError: angles over more than two turns, or over more than a turn and the stated arc.
    """
    span = float(np.ptp(angles_rad))
    stated = 2 * np.pi if total_deg is None else np.deg2rad(total_deg)
    if span > LARGEST_SPAN_RAD or span > max(2 * np.pi, stated) + ARC_TOLERANCE_RAD:
        raise ValueError(
            f"{where} has angles that span {span:.4g} rad; at most one turn (2 pi) is expected: "
            "turn degrees into radians, and take angles of several turns modulo 2 pi."
        )
    arc = _smallest_arc(angles_rad)
    if arc > stated + ARC_TOLERANCE_RAD:
        LOGGER.warning(
            "%s has angles that span %.4g degrees, more than its totalAngle of %g; the angles "
            "are used",
            where, np.rad2deg(arc), total_deg,
        )  # fmt: skip


def _smallest_arc(angles_rad: np.ndarray) -> float:
    """Return the length (rad) of the smallest arc of the circle that holds all angles (V,)."""
    ordered = np.sort(np.mod(angles_rad, 2 * np.pi))
    gaps = np.diff(ordered, append=ordered[0] + 2 * np.pi)
    return float(2 * np.pi - gaps.max())


def check_line_integrals(projections: np.ndarray, where: str) -> None:
    """Refuse projections that no object gives; warn of those that look like intensities.

    Args:
        projections: (V, H, W) line integrals of attenuation.
        where: how an error names the file.

    Raises:
        ValueError: zeros only, one value only, or more below zero than above.
    """
    if not projections.any():
        raise ValueError(
            f"{where} has projections of zeros only; a scan that shows something is expected."
        )
    if projections.min() == projections.max():
        raise ValueError(
            f"{where} has projections that are {projections.flat[0]:g} everywhere; a scan that "
            "shows something is expected."
        )
    total, absolute = (float(p.sum(dtype=np.float64)) for p in (projections, abs(projections)))
    if total < 0:
        raise ValueError(
            f"{where} has projections with {0.5 * (1 - total / absolute):.0%} of their weight below "
            "zero; line integrals -log(I / I0), positive behind matter, are expected: is the sign "
            "reversed or I0 too small?"
        )
    if _like_intensities(projections):
        LOGGER.warning(
            "%s: the projections are brightest at the border of the detector and darker in its "
            "middle, as intensities are; line integrals -log(I / I0) are expected",
            where,
        )


def _like_intensities(projections: np.ndarray) -> bool:
    mean = projections.mean(axis=0, dtype=np.float64)  # (H, W)
    columns = mean.shape[1]
    wide = max(1, round(BORDER_SHARE * columns))
    if columns < 4 * wide:
        return False
    border = min(mean[:, :wide].mean(), mean[:, -wide:].mean())
    low, high = np.quantile(mean[:, wide:-wide], QUANTILES)
    return bool(border > BRIGHT_BORDER * high and low < DARK_MIDDLE * border)
