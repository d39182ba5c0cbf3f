from __future__ import annotations

import numpy as np
import pytest

from diffnr_lightning.data.pairs.shares import drawing_chances

CASES = [("pt_1_0", "pt_1"), ("pt_1_1", "pt_1"), ("pt_2_0", "pt_2"), ("phantom_5_0", "phantom_5")]


def test_a_pattern_gets_its_share_however_many_scans_match():
    chances = drawing_chances(CASES, {"pt_*": 3, "*": 1})
    np.testing.assert_allclose(chances, [0.25, 0.25, 0.25, 0.25])
    chances = drawing_chances(CASES, {"pt_*": 9, "phantom*": 1})
    np.testing.assert_allclose(chances, [0.3, 0.3, 0.3, 0.1])


def test_the_first_pattern_that_matches_case_or_volume_counts():
    chances = drawing_chances(CASES, {"pt_1_1": 2, "pt_1": 1, "*": 1})
    np.testing.assert_allclose(chances, [0.25, 0.5, 0.125, 0.125])


def test_without_shares_there_are_no_chances():
    assert drawing_chances(CASES, {}) is None


@pytest.mark.parametrize(
    ("shares", "match"),
    [
        ({"pt_*": 1}, "no pattern for the scans of 'phantom_5'"),
        ({"*": 1, "pt_*": 1}, r"'pt_\*', which matches no scan"),
        ({"*": -1}, "shares is"),
        ({"*": 0}, "shares is"),
    ],
)
def test_shares_that_make_no_sense_are_refused(shares, match):
    with pytest.raises(ValueError, match=match):
        drawing_chances(CASES, shares)
