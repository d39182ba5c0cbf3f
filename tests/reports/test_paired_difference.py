import math

import numpy as np
import pytest

from diffnr_lightning.reports.paired_difference import bootstrap_interval, paired_difference


def test_bootstrap_interval_holds_the_mean_and_repeats():
    values = np.random.default_rng(1).normal(30, 2, 25)
    low, high = bootstrap_interval(values, seed=3)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 5, rel=0.1)
    assert bootstrap_interval(values, seed=3) == (low, high)
    assert bootstrap_interval(values, seed=4) != (low, high)
    assert bootstrap_interval([5.0, 5.0]) == (5.0, 5.0)
    assert all(math.isnan(end) for end in bootstrap_interval([5.0]))
    with pytest.raises(ValueError, match="one number per case"):
        bootstrap_interval([])


def test_paired_difference_is_tighter_than_the_spread_of_cases():
    cases = np.random.default_rng(2).normal(30, 4, 12)
    gain = paired_difference(cases + 1 + np.linspace(-0.2, 0.2, 12), cases)
    assert gain.mean == pytest.approx(1)
    assert 0.8 < gain.low < 1 < gain.high < 1.2
    assert (gain.wins, gain.count) == (12, 12)
    with pytest.raises(ValueError, match="12 and 11 cases"):
        paired_difference(cases, cases[1:])
