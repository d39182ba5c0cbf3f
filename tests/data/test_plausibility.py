from __future__ import annotations

import numpy as np
import pytest

from diffnr_lightning.data.plausibility import check_angles, check_line_integrals


@pytest.fixture
def images() -> np.ndarray:
    """Line integrals of a noisy cylinder with air around it."""
    across = np.arange(40) - 19.5
    chords = 0.1 * 2 * np.sqrt(np.maximum(14**2 - across**2, 0))
    return chords + np.random.default_rng(0).normal(0, 0.02, (6, 10, 40))


@pytest.fixture
def said(caplog):
    return lambda: [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_line_integrals_pass_without_a_word(images, said):
    check_line_integrals(images, "scan")
    # Wider than the detector, or mostly air.
    check_line_integrals(images[:, :, 12:28], "scan")
    check_line_integrals(images * (np.arange(40) > 32), "scan")
    assert not said()


def test_reversed_signs_are_refused(images, one_sentence):
    with pytest.raises(ValueError, match="below zero") as error:
        check_line_integrals(-images, "scan")
    assert "sign" in one_sentence(error)


@pytest.mark.parametrize("counts", [1, 50_000])
def test_intensities_are_said(images, said, counts):
    check_line_integrals(counts * np.exp(-images), "scan")
    assert "intensities" in said()[0]


@pytest.mark.parametrize("value", [0, 3])
def test_projections_that_show_nothing_are_refused(value, one_sentence):
    with pytest.raises(ValueError, match="shows something") as error:
        check_line_integrals(np.full((3, 4, 5), value), "scan")
    one_sentence(error)


@pytest.mark.parametrize("total", [None, 360.0])
def test_degrees_are_refused(total, one_sentence):
    with pytest.raises(ValueError, match="radians") as error:
        check_angles(np.arange(0, 360, 5.0), total, "scan")
    assert "angles" in one_sentence(error)


def test_angles_within_their_arc_pass(said):
    check_angles(np.linspace(0, 2 * np.pi, 25), 360.0, "scan")
    check_angles(np.linspace(0, np.pi, 25), 180.0, "scan")
    check_angles(np.linspace(0, 4 * np.pi, 25), 720.0, "scan")
    check_angles(np.linspace(-np.pi, np.pi, 25), None, "scan")
    assert not said()
    check_angles(np.linspace(0, 2 * np.pi, 25), 180.0, "scan")
    assert "totalAngle" in said()[0]


def test_an_arc_through_zero_is_judged_on_the_circle(said):
    arc = np.deg2rad(np.linspace(-88, 92, 25))
    check_angles(np.mod(arc, 2 * np.pi), 180.0, "scan")
    assert not said()
    check_angles(np.mod(arc, 2 * np.pi), 90.0, "scan")
    assert "angles that span 180 degrees, more than its totalAngle of 90" in said()[0]
