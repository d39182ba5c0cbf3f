from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffnr_lightning.data.flat_field import line_integrals
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
    np.testing.assert_allclose(line_integrals(divided), exact, atol=1e-3)
    np.testing.assert_allclose(line_integrals(divided), line_integrals(raw), atol=1e-9)
    assert not said()


def test_the_unit_of_the_values_means_nothing(raw, exact):
    scaled = replace(raw, counts=raw.counts / 997, flat=raw.flat / 997, dark=raw.dark / 997)
    np.testing.assert_allclose(line_integrals(scaled), line_integrals(raw), atol=1e-9)


@pytest.mark.parametrize(("unit", "largest"), [(1.0, np.log(FLAT)), (1 / FLAT, 16 * np.log(2))])
def test_pixels_without_light_keep_a_finite_value(raw, said, unit, largest):
    """Of counts less than one cannot be told from none, of other values less than 2^-16."""
    counts = raw.counts.copy()
    counts[:, 10, 20] = DARK - 3
    dim = replace(raw, counts=counts * unit, flat=raw.flat * unit, dark=raw.dark * unit)
    assert line_integrals(dim).max() == pytest.approx(largest, abs=1e-6)
    assert "no light" in said()[0]


def test_a_border_that_is_no_air_is_said_and_can_be_left_alone(raw, exact, said):
    wide = replace(raw, counts=np.rint(DARK + FLAT * np.exp(-exact - 0.7)))
    np.testing.assert_allclose(line_integrals(wide), exact, atol=1e-3)
    assert "air_border=none" in said()[0]
    np.testing.assert_allclose(line_integrals(wide, "none"), exact + 0.7, atol=1e-3)
    assert len(said()) == 1


def test_the_border_can_be_named(raw, exact):
    """Brighter than the rest but no air: a gap on the left, the true air on the right."""
    bright = raw.counts.copy()
    bright[:, :, :2] *= 1.3
    leaky = replace(raw, counts=bright)
    found = line_integrals(leaky, "right")
    np.testing.assert_allclose(found[:, :, 2:], exact[:, :, 2:], atol=1e-3)
    np.testing.assert_allclose(line_integrals(raw, "top"), exact, atol=1e-3)


def test_unknown_borders_are_refused(raw, one_sentence):
    with pytest.raises(ValueError, match="air_border is 'north'") as error:
        line_integrals(raw, "north")
    one_sentence(error)
