"""Where on the detector the rotation axis lies, from views half a turn apart."""

from __future__ import annotations

import logging

import numpy as np

LOGGER = logging.getLogger("diffnr")
# Two views this far from half a turn apart (in steps of the scan) still mirror each other.
OPPOSITE_STEPS = 1.5
# So many pairs are compared, and those as near to half a turn as they are, up to the second number.
AXIS_PAIRS, MOST_PAIRS = 6, 32
# Mirror images overlap in at least this share of the columns, and in so many columns.
LEAST_OVERLAP_SHARE, LEAST_OVERLAP = 0.05, 6
# The correlation of noise alone stays below so many of its standard deviations, 1 / sqrt(n).
LEAST_DEVIATIONS = 6.0
# How far the column of one pair may lie from that of all, as a share of the detector.
PAIR_SPREAD = 0.06
# A side of the detector whose outermost columns (a share of all) attenuate by less than this share
# of the largest line integral sees air.
EDGE_SHARE, AIR_LEVEL = 0.02, 0.05
# See `_correlation`; the second one keeps exact matches from dividing by zero.
DAMPING, ROUNDING = 0.02, 1e-9


def find_axis(projections: np.ndarray, angles_rad: np.ndarray) -> float:
    """Return the detector column of the rotation axis, from views about half a turn apart.

    Views exactly half a turn apart are mirror images about the axis, in the columns that both
    see. All pairs near to that together choose the mirror, by the significance of their
    correlation: Fisher's z = atanh(r) sqrt(n), which weighs a good match over few columns n
    against a worse one over many. Sides of the detector that see air go on as air. Around the
    choice each pair gives the column of its own best mirror; a line through these columns, over
    what the pair lacks to half a turn, gives the column where nothing lacks.

    Args:
        projections: (V, H, W) line integrals.
        angles_rad: (V,).

    Returns:
        The column, counted from 0 at the centre of the first.

    Raises:
        ValueError: no two views are nearly half a turn apart, none mirrors another, or the best
            mirror is at the limit of the search.

    Source: R. A. Fisher, "On the probable error of a coefficient of correlation", Metron 1 (1921).
    """
    pairs, misses = _opposite_pairs(angles_rad)
    if not pairs:
        raise ValueError(
            "no two views are half a turn apart, so the rotation axis cannot be found; give "
            "axis_column."
        )
    width = projections.shape[2]
    reach = width - max(LEAST_OVERLAP, int(np.ceil(LEAST_OVERLAP_SHARE * width)))
    if reach < 1:
        raise ValueError(
            f"a detector of {width} columns is too narrow to find the rotation axis on; give "
            "axis_column."
        )
    margins = _air_margins(projections)
    sums = [_overlap_sums(projections[a], projections[b], margins) for a, b in pairs]
    together = sum(sums)
    shifts = np.arange(-reach, reach + 1)
    damped = _correlation(together, DAMPING)[shifts + width - 1]
    columns_seen = together[0][shifts + width - 1] / together[0][width - 1]
    significance = np.arctanh(damped) * np.sqrt(columns_seen)
    best = int(shifts[significance.argmax()])
    near = max(2, round(PAIR_SPREAD * width))
    window = np.arange(max(best - near, -reach), min(best + near, reach) + 1)
    # By correlation alone, since its weight draws the choice towards the middle of the detector.
    best, correlation = _peak(_correlation(together), window)
    _check_found(best, window, correlation, together[0][width - 1], width)
    found = [_peak(_correlation(s), window)[0] for s in sums]
    columns = 0.5 * (width - 1 + np.array(found))
    if np.ptp(misses) < 1e-6:
        return float(np.mean(columns))
    return float(np.polyval(np.polyfit(misses, columns, 1), 0.0))


def _check_found(
    shift: float, window: np.ndarray, correlation: float, number: float, width: int
) -> None:
    if not window[0] + 0.5 < shift < window[-1] - 0.5:
        raise ValueError(
            f"the search for the rotation axis ended at its limit, near column "
            f"{0.5 * (width - 1 + np.clip(shift, window[0], window[-1])):.0f} of {width}; give "
            "axis_column."
        )
    if not correlation * np.sqrt(number) > LEAST_DEVIATIONS:
        raise ValueError(
            f"views half a turn apart are no mirror images of each other (correlation "
            f"{correlation:.2f}), so the rotation axis cannot be found; check the angles and their "
            "unit, or give axis_column."
        )


def _air_margins(projections: np.ndarray) -> tuple[int, int]:
    """Return by how many columns of air the views go on to the left and to the right.

    Beyond a side of the detector that sees air there is nothing but air; beyond one that cuts the
    object off nothing is known.
    """
    width = projections.shape[2]
    edge = max(1, round(EDGE_SHARE * width))
    largest = np.quantile(projections, 0.99)
    left, right = (
        side.mean(dtype=np.float64)
        for side in (projections[:, :, :edge], projections[:, :, -edge:])
    )
    return tuple(width if abs(side) < AIR_LEVEL * largest else 0 for side in (left, right))


def _opposite_pairs(angles_rad: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return the pairs of views nearest to half a turn apart and what they miss of it, signed."""
    first, second = np.triu_indices(len(angles_rad), 1)
    turned = np.mod(angles_rad[second] - angles_rad[first], 2 * np.pi) - np.pi
    if not len(turned):
        return [], turned
    order = np.argsort(np.abs(turned), kind="stable")
    gaps = np.diff(np.sort(np.mod(angles_rad, 2 * np.pi)))
    step = np.median(gaps[gaps > 1e-9]) if (gaps > 1e-9).any() else 0.0
    lack = np.abs(turned)
    if lack[order[0]] > OPPOSITE_STEPS * step:
        return [], turned[:0]
    # On a full circle every view has an opposite one: pairs all around it count alike.
    last = lack[order[min(AXIS_PAIRS, len(order)) - 1]]
    nearest = order[: int(np.searchsorted(lack[order], last + 1e-6 * step, side="right"))]
    # Pairs of more steps than these mirror each other too badly to help.
    nearest = nearest[lack[nearest] <= (OPPOSITE_STEPS + 2) * step]
    if len(nearest) > MOST_PAIRS:
        nearest = nearest[np.linspace(0, len(nearest) - 1, MOST_PAIRS).astype(int)]
    return [(int(first[n]), int(second[n])) for n in nearest], turned[nearest]


def _overlap_sums(view: np.ndarray, opposite: np.ndarray, margins: tuple[int, int]) -> np.ndarray:
    """Return what correlations of `view` with the mirrored `opposite`, both (H, W), are made of.

    Args:
        view: one view.
        opposite: another one, not mirrored yet.
        margins: columns of air to the left and to the right of both.

    Returns:
        (6, 2 W - 1): number, sums of both, sums of their squares and of their product over the
        columns that overlap, for shifts from -(W - 1) to W - 1. Column j of the one meets column
        j - shift of the other, mirrored.
    """
    rows, width = view.shape
    left, right = margins
    a, b = (np.pad(image.astype(np.float64), ((0, 0), (left, right))) for image in (view, opposite))
    b = b[:, ::-1]
    # Mirrored, the margins of the other have changed sides.
    lag = left - right
    shifts = np.arange(-(width - 1), width) + lag
    whole = a.shape[1]
    start, stop = np.maximum(shifts, 0), whole + np.minimum(shifts, 0)

    def over(columns: np.ndarray, moved: np.ndarray | int) -> np.ndarray:
        running = np.concatenate([[0.0], np.cumsum(columns)])
        return running[stop - moved] - running[start - moved]

    length = 1 << (2 * whole - 1).bit_length()
    spectra = np.fft.rfft(a, length, axis=1) * np.conj(np.fft.rfft(b, length, axis=1))
    product = np.fft.irfft(spectra.sum(axis=0), length)[shifts]
    return np.stack(
        [
            rows * (stop - start).astype(float),
            over(a.sum(axis=0), 0),
            over(b.sum(axis=0), shifts),
            over((a * a).sum(axis=0), 0),
            over((b * b).sum(axis=0), shifts),
            product,
        ]
    )


def _correlation(sums: np.ndarray, damping: float = ROUNDING) -> np.ndarray:
    """Return Pearson's coefficient of each shift.

    Args:
        sums: (6, S) from `_overlap_sums`.
        damping: share of the variance of the whole detector that is added to that of the overlap,
            so that an overlap of little content does not count as a good match.
    """
    number, a, b, aa, bb, ab = sums
    middle = len(number) // 2
    variances = (aa / number - (a / number) ** 2, bb / number - (b / number) ** 2)
    whole = max(variance[middle] for variance in variances)
    spread = np.sqrt(np.prod([np.maximum(variance, 0.0) for variance in variances], axis=0))
    return (ab / number - a * b / number**2) / (spread + damping * whole)


def _peak(correlation: np.ndarray, window: np.ndarray) -> tuple[float, float]:
    """Return the shift of the largest correlation in `window`, to a fraction, and its value."""
    middle = len(correlation) // 2
    best = int(window[correlation[window + middle].argmax()])
    before, here, after = correlation[middle + best - 1 : middle + best + 2]
    curvature = before - 2 * here + after
    # The top of the parabola through the best score and its neighbours; on a slope there is none.
    inside = before < here > after
    return best + (0.5 * (before - after) / curvature if inside else 0.0), float(here)
