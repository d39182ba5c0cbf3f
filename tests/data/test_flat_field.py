from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffnr_lightning.data.flat_field import FlatFielded, flat_fielded, photons_per_count
from diffnr_lightning.data.readers.raw_scan import RawScan

FLAT, DARK = 20_000.0, 100.0


@pytest.fixture
def exact() -> np.ndarray:
    """Line integrals of a bar that leaves air on either side."""
    images = np.zeros((5, 24, 40))
    images[:, 4:, 12:28] = np.linspace(0.2, 2.0, 16)
    return images


@pytest.fixture
def raw(exact) -> RawScan:
    counts = np.rint(DARK + FLAT * np.exp(-exact))
    fields = np.full((24, 40), FLAT + DARK), np.full((24, 40), DARK)
    return RawScan(counts, *fields, np.arange(5.0), "bar", "bar.npz")


@pytest.fixture
def said(caplog):
    """Return the warnings so far."""
    return lambda: [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_values_that_were_divided_by_the_flat_field_already(raw, exact, said):
    """Nothing is cut off at one where one is the whole beam."""
    ratios = (raw.counts - raw.dark) / (raw.flat - raw.dark)
    divided = replace(raw, counts=ratios, flat=np.float64(1), dark=np.float64(0))
    np.testing.assert_allclose(flat_fielded(divided).line_integrals, exact, atol=1e-3)
    np.testing.assert_allclose(
        flat_fielded(divided).line_integrals, flat_fielded(raw).line_integrals, atol=1e-6
    )
    assert not said()


def test_the_unit_of_the_values_means_nothing(raw, exact):
    scaled = replace(raw, counts=raw.counts / 997, flat=raw.flat / 997, dark=raw.dark / 997)
    np.testing.assert_allclose(
        flat_fielded(scaled).line_integrals, flat_fielded(raw).line_integrals, atol=1e-6
    )


@pytest.mark.parametrize(("unit", "largest"), [(1.0, np.log(FLAT)), (1 / FLAT, 16 * np.log(2))])
def test_pixels_without_light_keep_a_finite_value(raw, said, unit, largest):
    """Of counts less than one cannot be told from none, of other values less than 2^-16."""
    counts = raw.counts.copy()
    counts[2, 9:12, 19:22] = DARK - 3
    dim = replace(raw, counts=counts * unit, flat=raw.flat * unit, dark=raw.dark * unit)
    assert flat_fielded(dim).line_integrals.max() == pytest.approx(largest, abs=1e-6)
    assert "no light" in said()[0]


def test_pixels_that_died_after_the_flat_field_take_their_neighbours_value(raw, exact, said):
    """One and two beside each other, but no opaque holder, which is wider."""
    counts = raw.counts.copy()
    counts[:, 2, 5] = counts[:, 0:2, 37] = DARK - 3
    counts[:, 20:, 12:20] = DARK
    found = flat_fielded(replace(raw, counts=counts))
    exact[:, 20:, 12:20] = np.log(FLAT)
    np.testing.assert_allclose(found.line_integrals, exact, atol=1e-3)
    assert (found.beam == 0).sum() == 3
    assert "bar: 3 pixel(s) get no light in any view" in said()[0]


def test_a_share_near_one_is_said_in_full(raw, said):
    counts = np.full_like(raw.counts, DARK)
    counts[:, 0, 0] += 1
    flat_fielded(replace(raw, counts=counts))
    assert "bar: 99.9 % of the pixels got no light" in said()[0]


def test_a_border_that_is_no_air_is_said_and_can_be_left_alone(raw, exact, said):
    wide = replace(raw, counts=np.rint(DARK + FLAT * np.exp(-exact - 0.7)))
    np.testing.assert_allclose(flat_fielded(wide).line_integrals, exact, atol=1e-3)
    assert "air_border=none" in said()[0]
    np.testing.assert_allclose(flat_fielded(wide, "none").line_integrals, exact + 0.7, atol=1e-3)
    assert len(said()) == 1


def test_few_photons_hide_no_drift_of_the_beam(raw, exact, said):
    """Of 200 photons a pixel scatters by 7 %, and the air beside the bar is even nevertheless."""
    drift = np.linspace(1.0, 0.7, 5)[:, None, None]
    counts = np.random.default_rng(0).poisson(200 * drift * np.exp(-exact)).astype(float)
    dim = replace(raw, counts=counts, flat=np.full((24, 40), 200.0), dark=np.zeros((24, 40)))
    air = flat_fielded(dim).line_integrals[:, :4].mean(axis=(1, 2))
    assert np.abs(air).max() < 0.05


def test_a_border_that_is_not_even_is_named(raw, exact, caplog):
    """So that who knows it to be air can say so."""
    caplog.set_level("INFO", logger="diffnr")
    slope = np.broadcast_to(np.linspace(0.5, 6.0, 40), exact.shape)
    sloping = replace(raw, counts=np.rint(DARK + FLAT * np.exp(-slope)))
    assert (flat_fielded(sloping).level == 1).all()
    assert "lets through 0.57 of the flat field" in caplog.text
    assert "if it is air, say air_border=left" in caplog.text
    assert flat_fielded(sloping, "left").level == pytest.approx(0.57, abs=0.01)


def test_the_border_can_be_named(raw, exact):
    """Brighter than the rest but no air: a gap on the left, the true air on the right."""
    bright = raw.counts.copy()
    bright[:, :, :2] *= 1.3
    leaky = replace(raw, counts=bright)
    found = flat_fielded(leaky, "right").line_integrals
    np.testing.assert_allclose(found[:, :, 2:], exact[:, :, 2:], atol=1e-3)
    np.testing.assert_allclose(flat_fielded(raw, "top").line_integrals, exact, atol=1e-3)


def test_unknown_borders_are_refused(raw, one_sentence):
    with pytest.raises(ValueError, match="air_border is 'north'") as error:
        flat_fielded(raw, "north")
    one_sentence(error)


def test_a_beam_that_reaches_less_than_half_of_the_detector_is_told(raw, one_sentence):
    flat = raw.flat.copy()
    flat[:, : flat.shape[1] * 3 // 5] = raw.dark[:, : flat.shape[1] * 3 // 5]
    with pytest.raises(ValueError, match="brighter than the dark field in 40% of the pixels") as e:
        flat_fielded(replace(raw, flat=flat))
    one_sentence(e)


@pytest.mark.parametrize("gain", [0.25, 8.0])
def test_photons_of_a_count_are_found_in_the_noise(gain):
    """`gain` photons a count, an uneven flat field, and edges that move."""
    generator = np.random.default_rng(3)
    bar = np.zeros((5, 120, 240))
    bar[:, 20:, 72:168] = np.linspace(0.2, 2.0, 96)
    moving = np.stack([np.roll(image, 2 * view, axis=1) for view, image in enumerate(bar)])
    flat = 2e3 * (1 + 0.2 * generator.random(bar.shape[1:]))
    counts = generator.poisson(gain * flat * np.exp(-moving)) / gain
    raw = RawScan(counts, flat, np.float64(0), np.arange(5.0), "bar", "bar.npz")
    assert photons_per_count(flat_fielded(raw)) == pytest.approx(gain, rel=0.1)


def test_noiseless_counts_tell_no_photons(exact):
    still = np.zeros((3, 4, 5))
    beam, level = np.full((4, 5), 9.0), np.ones((3, 1, 1))
    assert photons_per_count(FlatFielded(still, still + 7.0, beam, level)) == 0
