"""Every line counts once."""

import numpy as np
import pytest

from diffnr_lightning.geometry import uniform_angles, view_steps
from diffnr_lightning.solvers.redundancy import ray_weights

ACROSS = np.linspace(-30.0, 30.0, 61)
FAN = np.arctan2(ACROSS, 200.0)


@pytest.mark.parametrize(
    ("arc_deg", "edges"),
    [
        (200.0, None),
        (240.0, None),
        (330.0, None),
        (360.0, None),
        (360.0, (-10.0, 30.0)),
        (360.0, (-30.0, 12.0)),
    ],
)
def test_shares_of_a_line_sum_to_one(arc_deg, edges):
    """Interpolated at the angle from which the same line is seen again."""
    count = int(arc_deg) * 4
    angles = uniform_angles(count, arc_deg, 40)
    steps, closed = view_steps(angles, 2 * np.pi)
    shares = ray_weights(angles, FAN, ACROSS, edges, steps, closed)
    start = angles[0]
    for j in range(0, len(ACROSS), 7):
        again = np.mod(angles + np.pi - 2 * FAN[j] - start, 2 * np.pi)
        period = 2 * np.pi if closed else None
        other = np.interp(
            again, angles - start, shares[:, len(ACROSS) - 1 - j], right=0.0, period=period
        )
        np.testing.assert_allclose(shares[:, j] + other, 1.0, atol=0.02)


def test_shares_are_smooth_over_a_short_arc():
    angles = uniform_angles(840, 210, 0)
    steps, closed = view_steps(angles, 2 * np.pi)
    shares = ray_weights(angles, FAN, ACROSS, None, steps, closed)
    assert np.abs(np.diff(shares, axis=0)).max() < 0.1
    assert np.abs(np.diff(shares, axis=1)).max() < 0.35
