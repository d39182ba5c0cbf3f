"""Where on the detector the rotation axis of a whole turn of a cone beam lies."""

from __future__ import annotations

import logging

import numpy as np

LOGGER = logging.getLogger("diffnr")

# Columns and views of the first, coarse search; so many views are compared with what all have at last.
COARSE_COLUMNS, COARSE_VIEWS = 96, 180
# Rows around the central ray, as a share of the detector, in which cone and fan are alike.
ROWS_SHARE = 0.01
# A candidate must let the two sides of so much of the image (its squares) be compared.
LEAST_COMPARED = 0.1
# Steps of the last search, in columns.
FINE_STEP = 0.1
# Halves of a turn that differ by more than this share of their squares do not show the same object.
LARGEST_DIFFERENCE = 0.05
# A share that is worth a word: made-up scans of 20,000 and 30,000 photons leave 0.0003 and 0.0002, a tooth whose turn
# was taken for one and a half 0.016.
NOTABLE_DIFFERENCE = 0.01
# The other sense of rotation is the right one if it leaves less than this share of the difference.
CLEARLY_BETTER = 0.5


def find_fan_axis(
    projections: np.ndarray, angles_rad: np.ndarray, source_to_detector_pixels: float, row: float
) -> float:
    """Return the detector column on which the rotation axis of a cone beam falls, from rays that are measured twice.

    In the plane of the central rays the ray at angle gamma to the one through the axis, of the source at beta, is that
    of the source at beta + pi - 2 gamma at the angle -gamma. The column is that for which both measure alike.

    Args:
        projections: (V, H, W) line integrals of a whole turn.
        angles_rad: (V,) of the source, counter-clockwise.
        source_to_detector_pixels: distance from source to detector, in pixels.
        row: that the central ray meets.

    Returns:
        The column, counted from 0 at the centre of the first.

    Raises:
        ValueError: a turn whose halves do not show the same object, whatever the column, or only if it runs the other
            way.

    Source: the redundancy of fan beams, Parker, Med. Phys. 9 (1982) 254, eq. 5.
    """
    reach = max(1, round(ROWS_SHARE * projections.shape[1]))
    low, high = max(0, round(row) - reach), round(row) + reach + 1
    fan = projections[:, low:high].mean(axis=1, dtype=np.float64)  # (V, W)
    column, difference = _likeliest(fan, angles_rad, source_to_detector_pixels)
    if not difference < LARGEST_DIFFERENCE:
        raise ValueError(
            "no column of the detector makes the two halves of the turn show the same object (they differ by "
            f"{min(difference, 1):.0%} or more); give axis_column, and check distances, angles and clockwise."
        )
    _, reversed_difference = _likeliest(fan, -angles_rad, source_to_detector_pixels)
    if reversed_difference < CLEARLY_BETTER * difference:
        raise ValueError(
            "the two halves of the turn show the same object by far better if the angles run the other way "
            f"(they differ by {reversed_difference:.2g} of their squares, not {difference:.2g}); change clockwise, or "
            "reverse the columns, whichever is wrong."
        )
    if difference > NOTABLE_DIFFERENCE:
        LOGGER.warning(
            "the two halves of the turn differ by %.1f %% of their squares at the rotation axis that was found; check "
            "angles and distances, or give axis_column",
            100 * difference,
        )
    return column


def _likeliest(fan: np.ndarray, angles_rad: np.ndarray, distance: float) -> tuple[float, float]:
    """Return the column by which rays that are measured twice differ least, and by how much they do.

    Args:
        fan: (V, W) line integrals in the plane of the central rays.
        angles_rad: (V,) of the source, counter-clockwise, in any order.
        distance: from source to detector, in columns.
    """
    order = np.argsort(np.mod(angles_rad, 2 * np.pi), kind="stable")
    fan, angles = fan[order], np.mod(angles_rad, 2 * np.pi)[order]
    width = fan.shape[1]
    thinned, step = _thinned(fan, angles, max(1, width // COARSE_COLUMNS))
    places = np.linspace(0, width - 1, 2 * thinned[0].shape[1] + 1)
    coarse = [_difference(*thinned, distance / step, (c + 0.5) / step - 0.5) for c in places]
    best = places[int(np.argmin(coarse))]
    around = places[1] - places[0]
    fine = np.arange(max(0, best - around), min(width - 1, best + around) + FINE_STEP, FINE_STEP)
    errors = [_difference(fan, angles, distance, c) for c in fine]
    least = int(np.argmin(errors))
    return float(fine[least]), errors[least]


def _thinned(
    fan: np.ndarray, angles: np.ndarray, columns: int
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Return a fan (v, w) of fewer views and of means over columns, with its angles, and how many columns these are."""
    views = slice(None, None, max(1, len(fan) // COARSE_VIEWS))
    whole = fan.shape[1] // columns * columns
    means = fan[views, :whole].reshape(-1, whole // columns, columns).mean(axis=2)
    return (means, angles[views]), columns


def _difference(fan: np.ndarray, angles: np.ndarray, distance: float, column: float) -> float:
    """Return the squared difference of rays that are measured twice, as a share of their squares.

    Args:
        fan: (V, W) line integrals.
        angles: (V,) ascending, in [0, 2 pi).
        distance: from source to detector, in columns.
        column: on which the axis falls.

    Returns:
        The share; infinite where too little can be compared.
    """
    places = np.arange(fan.shape[1])
    partners = 2 * column - places
    seen = (partners >= 0) & (partners <= fan.shape[1] - 1)
    if not seen.any():
        return np.inf
    gamma = np.arctan((places[seen] - column) / distance)
    low = np.minimum(partners[seen].astype(int), fan.shape[1] - 2)
    share = partners[seen] - low
    mirrored = (1 - share) * fan[:, low] + share * fan[:, low + 1]  # (V, W')
    compared = slice(None, None, max(1, len(fan) // COARSE_VIEWS))
    own = fan[compared, seen]
    wanted = np.mod(angles[compared, None] + np.pi - 2 * gamma, 2 * np.pi)
    after = np.searchsorted(angles, wanted) % len(angles)
    before = after - 1
    gap = np.mod(angles[after] - angles[before], 2 * np.pi)
    weight = np.mod(wanted - angles[before], 2 * np.pi) / np.where(gap > 0, gap, 1.0)
    across = np.arange(own.shape[1])
    other = (1 - weight) * mirrored[before, across] + weight * mirrored[after, across]
    if np.square(own).sum() < LEAST_COMPARED * np.square(fan[compared]).sum():
        return np.inf
    return float(np.square(own - other).sum() / (np.square(own) + np.square(other)).sum())
