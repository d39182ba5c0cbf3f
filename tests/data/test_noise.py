from __future__ import annotations

import numpy as np
import pytest

from diffnr_lightning.data import ScanRecipe, simulate_case
from diffnr_lightning.data.noise import (
    MOST_PHOTONS,
    MU_WATER_PER_MM,
    Noise,
    attenuation_scale,
    photon_noise,
    tigre_noise,
)


@pytest.mark.parametrize("line_integral", [0.0, 1.0, 3.0])
def test_mean_and_variance_follow_the_counts(line_integral):
    noise = Noise(photons=1e5, electronic=10.0)
    clean = np.full(200_000, line_integral)
    noisy = photon_noise(clean, noise, np.random.default_rng(1)).line_integrals
    counts = 1e5 * np.exp(-line_integral)
    variance = (counts + 10.0**2) / counts**2
    assert noisy.var() == pytest.approx(variance, rel=0.02)
    # The logarithm's curvature shifts the mean by half the variance.
    assert noisy.mean() == pytest.approx(
        line_integral + variance / 2, abs=5 * np.sqrt(variance / clean.size)
    )


def test_starved_pixels_stay_finite():
    noisy = photon_noise(
        np.full(1000, 50.0), Noise(photons=1e3), np.random.default_rng(0)
    ).line_integrals
    assert np.isfinite(noisy).all()
    assert noisy.max() == pytest.approx(np.log(1e3))


def test_the_most_photons_can_be_counted():
    measured = photon_noise(np.zeros(3), Noise(photons=MOST_PHOTONS), np.random.default_rng(0))
    np.testing.assert_allclose(measured.line_integrals, 0, atol=1e-6)


def test_tigre_noise_is_that_toolbox_rule():
    noise = Noise(mode="tigre", photons=1e4, electronic=10.0)
    clean = np.random.default_rng(5).random((3, 8, 9)) * 40
    noisy = tigre_noise(clean, noise, np.random.default_rng(2)).line_integrals
    again = np.random.default_rng(2)
    counts = again.poisson(1e4 * np.exp(-clean / clean.max()))
    counts = counts + 10.0 * again.standard_normal(clean.shape)
    expected = -np.log(counts / 1e4) * clean.max()
    expected[expected < 0] = 0
    np.testing.assert_allclose(noisy, expected, rtol=1e-12)
    assert noisy.min() >= 0


def test_water_attenuates_like_water():
    # 1000 HU above air is water, whatever the window.
    for low, high in ((-1000.0, 1024.0), (-1000.0, 3000.0)):
        scale = attenuation_scale(np.zeros(1), Noise(), (low, high))
        water = 1000 / (high - low)
        assert scale * water == pytest.approx(MU_WATER_PER_MM)


def test_unknown_unit_gets_the_peak_asked_for():
    projections = np.array([0.0, 7.0, 14.0])
    assert attenuation_scale(projections, Noise(peak_line_integral=2.0), None) * 14 == 2.0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"photons": -1.0}, "photons"),
        ({"photons": 0.0}, "photons"),
        ({"photons": float("nan")}, "photons"),
        # Every pixel would read as one photon, and numpy draws no larger numbers.
        ({"photons": 0.5}, "photons"),
        ({"photons": 1e19}, "photons"),
        ({"electronic": -1.0}, "electronic"),
        ({"peak_line_integral": 0.0}, "peak_line_integral"),
        ({"mode": "loud"}, "mode"),
    ],
)
def test_senseless_noise_is_refused(arguments, named, one_sentence):
    with pytest.raises(ValueError) as error:
        Noise(**arguments)
    assert named in one_sentence(error)


def test_an_object_that_no_light_passes_is_refused(ellipsoid, one_sentence):
    """Of 120 m of water, as where micrometres are taken for millimetres: no case of infinities."""
    loaded = ellipsoid((6e4, 5e4, 4e4), (0, 0, 0)).loaded((16, 16, 16), (1e4,) * 3)
    with pytest.raises(ValueError, match="no light passes it, as line integrals go up to") as error:
        simulate_case(loaded, ScanRecipe(size=16, num_views=4, test_views=2))
    assert "spacing_mm" in one_sentence(error)
