from __future__ import annotations

import numpy as np
import pytest

from diffnr_lightning.data.rotation_axis import find_axis

WIDTH = 64
BALLS = (((0, 0, 0), 22, 0.02), ((12, 4, 8), 5, 0.03), ((-8, 10, -10), 4, 0.02))
DEGREES = {
    "half": np.arange(0, 181, 3.0),
    "full": np.arange(0, 360, 2.0),
    "odd": np.arange(0, 360, 360 / 25),
    "golden": np.mod(np.arange(90) * 180 * (np.sqrt(5) - 1), 360),
}


def views(axis: float, degrees: np.ndarray, photons: float = 20_000, cylinder: float = 0.0):
    """Line integrals of balls, with noise; a cylinder wider than the detector on request."""
    u, w = np.arange(WIDTH) - axis, np.arange(40)[:, None] - 19.5
    images = []
    for angle in np.deg2rad(degrees):
        total = np.zeros((40, WIDTH)) + cylinder * 2 * np.sqrt(80**2 - u**2)
        for (x, y, z), radius, density in BALLS:
            across = u - (-np.sin(angle) * x + np.cos(angle) * y)
            total += density * 2 * np.sqrt(np.maximum(radius**2 - across**2 - (w + z) ** 2, 0))
        images.append(total)
    counts = np.random.default_rng(0).poisson(photons * np.exp(-np.stack(images)))
    return -np.log(np.maximum(counts, 1) / photons)


@pytest.mark.parametrize("kind", DEGREES)
@pytest.mark.parametrize("axis", [24.0, 33.3])
def test_axis_is_found_on_every_arc(kind, axis):
    found = find_axis(views(axis, DEGREES[kind]), np.deg2rad(DEGREES[kind]))
    # Where no two views are exactly half a turn apart, a line through pairs has to do.
    assert found == pytest.approx(axis, abs=0.1 if kind in ("half", "full") else 0.3)


@pytest.mark.parametrize("axis", [5.0, 8.0, 12.0, 55.0])
def test_axis_is_found_near_the_end_of_the_detector(axis):
    """The object is cut off on one side; most of each view has no mirror image."""
    found = find_axis(views(axis, DEGREES["full"]), np.deg2rad(DEGREES["full"]))
    assert found == pytest.approx(axis, abs=0.1)


def test_axis_is_found_without_noise():
    exact = views(33.3, DEGREES["half"], photons=1e12)
    assert find_axis(exact, np.deg2rad(DEGREES["half"])) == pytest.approx(33.3, abs=0.02)


def test_axis_is_found_in_a_sample_wider_than_the_detector():
    wide = views(33.3, DEGREES["half"], cylinder=0.005)
    assert find_axis(wide, np.deg2rad(DEGREES["half"])) == pytest.approx(33.3, abs=0.1)


@pytest.mark.parametrize("axis", [-10.0, -1.0, 1.0])
def test_the_search_does_not_answer_with_its_limit(axis, one_sentence):
    """With the axis beyond the detector the best mirror lies at the end of the search."""
    with pytest.raises(ValueError) as error:
        find_axis(views(axis, DEGREES["full"]), np.deg2rad(DEGREES["full"]))
    assert "limit" in one_sentence(error)
    assert "axis_column" in str(error.value)


def test_views_that_mirror_nothing_are_refused(one_sentence):
    noise = np.random.default_rng(1).normal(size=(61, 8, 16))
    with pytest.raises(ValueError) as error:
        find_axis(noise, np.deg2rad(DEGREES["half"]))
    assert "axis" in one_sentence(error)


def test_detectors_too_narrow_are_refused(one_sentence):
    with pytest.raises(ValueError, match="too narrow") as error:
        find_axis(np.random.default_rng(1).random((61, 8, 5)), np.deg2rad(DEGREES["half"]))
    one_sentence(error)
