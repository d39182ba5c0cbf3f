"""Which part of the circle every view stands for."""

import numpy as np
import pytest

from diffnr_lightning.geometry import arc, arc_length, uniform_angles, view_steps


def test_arc_counts_the_step_of_the_last_view() -> None:
    assert arc(uniform_angles(36)) == pytest.approx(2 * np.pi)
    assert arc(uniform_angles(36, 180)) == pytest.approx(np.pi)
    assert arc(uniform_angles(10, 90, 315)) == pytest.approx(np.pi / 2)


@pytest.mark.parametrize("seed", range(5))
def test_random_views_cover_what_they_are_integrated_over(seed) -> None:
    """The arc that is printed is the one that FDK sums over."""
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, 12)
    steps, _ = view_steps(angles, 2 * np.pi)
    assert arc(angles) == arc_length(steps)


def test_steps_of_an_even_circle():
    steps, closed = view_steps(uniform_angles(24, 360, 77), 2 * np.pi)
    assert closed
    np.testing.assert_allclose(steps, 2 * np.pi / 24)


def test_steps_follow_the_gaps_in_any_order():
    angles = np.deg2rad([180.0, 0.0, 60.0, 300.0])
    steps, closed = view_steps(angles, 2 * np.pi)
    assert closed
    np.testing.assert_allclose(np.rad2deg(steps), [120.0, 60.0, 90.0, 90.0])


def test_an_arc_ends_at_its_large_gap():
    steps, closed = view_steps(uniform_angles(20, 200, 300), 2 * np.pi)
    assert not closed
    np.testing.assert_allclose(steps, np.deg2rad(10.0))
    assert arc_length(steps) == pytest.approx(np.deg2rad(200.0))


def test_opposite_views_share_their_step():
    steps, closed = view_steps(uniform_angles(12), np.pi)
    assert closed
    np.testing.assert_allclose(steps.sum(), np.pi)
    np.testing.assert_allclose(steps, np.pi / 12)


def test_one_view_that_is_repeated_stands_for_everything():
    steps, closed = view_steps(uniform_angles(2), np.pi)  # opposite parallel views
    assert closed
    np.testing.assert_allclose(steps, np.pi / 2)


def test_one_view_stands_for_everything():
    steps, closed = view_steps(np.array([1.0]), 2 * np.pi)
    assert closed
    np.testing.assert_allclose(steps, 2 * np.pi)
