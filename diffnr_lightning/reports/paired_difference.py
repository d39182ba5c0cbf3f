"""Means over cases with their bootstrap intervals, and how far one method is above another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over cases.

    Args:
        values: one number per case (patient), not per slice.
        seed: of the resampling.
        confidence: share of resampled means between the two ends.
        resamples: number of resampled means.

    Returns:
        (low, high); two NaN for a single case, which says nothing about the spread.

    Raises:
        ValueError: no values, or a confidence outside of (0, 1).
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ValueError(f"values have shape {numbers.shape}; one number per case is expected.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; a share between 0 and 1 is expected.")
    if numbers.size == 1:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(numbers.size, size=(resamples, numbers.size))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(numbers[draws].mean(axis=1), (tail, 100 - tail))
    return float(low), float(high)


class PairedDifference(NamedTuple):
    """How much one method is above another on the same cases.

    Attributes:
        mean: of first minus second.
        low: lower end of the bootstrap interval of the mean (NaN for one case).
        high: upper end.
        wins: cases in which the first is higher.
        count: cases.
    """

    mean: float
    low: float
    high: float
    wins: int
    count: int


def paired_difference(
    first: Sequence[float], second: Sequence[float], seed: int = 0
) -> PairedDifference:
    """Compare two methods case by case, with a bootstrap interval over cases.

    Args:
        first: one number per case.
        second: one number per case, in the same order.
        seed: of the resampling.

    Returns:
        Mean, interval and number of wins of first minus second.

    Raises:
        ValueError: different numbers of cases, or none.
    """
    if len(first) != len(second):
        raise ValueError(
            f"paired_difference got {len(first)} and {len(second)} cases; the same cases in one "
            "order are expected."
        )
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    low, high = bootstrap_interval(differences, seed)
    return PairedDifference(
        float(differences.mean()), low, high, int((differences > 0).sum()), differences.size
    )
