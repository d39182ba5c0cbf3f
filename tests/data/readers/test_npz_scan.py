from __future__ import annotations

import numpy as np
import pytest

from diffnr_lightning.data.readers.npz_scan import read_npz

DEGREES = np.arange(0, 180, 20.0)


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        arrays = {
            "raw": np.full((9, 4, 6), 700, np.uint16),
            "flat": np.full((3, 4, 6), 5e3),
            "dark": np.zeros((4, 6)),
            "angles_deg": DEGREES,
            **changes,
        }
        path = tmp_path / "scan.npz"
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return write


def test_either_unit_is_read_by_its_name(write):
    for changes in ({}, {"angles_deg": None, "angles_rad": np.deg2rad(DEGREES)}):
        raw = read_npz(write(**changes))
        np.testing.assert_allclose(raw.angles_rad, np.deg2rad(DEGREES))
        assert raw.flat.shape == (4, 6)


def test_one_number_stands_for_a_field(write):
    raw = read_npz(write(dark=np.float32(100), flat=1))
    assert (raw.dark == 100).all()
    assert raw.flat.shape == (4, 6)


@pytest.mark.parametrize(
    ("changes", "unit"),
    [
        ({"angles_deg": np.deg2rad(DEGREES)}, "rad"),
        ({"angles_deg": None, "angles_rad": DEGREES}, "deg"),
    ],
)
def test_angles_in_the_other_unit_are_named_and_the_advice_works(
    write, changes, unit, one_sentence
):
    path = write(**changes)
    with pytest.raises(ValueError, match=f"angle_unit={unit}") as error:
        read_npz(path)
    one_sentence(error)
    np.testing.assert_allclose(read_npz(path, unit).angles_rad, np.deg2rad(DEGREES))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"raw": np.full((9, 4, 6), "x")}, "counts of type"),
        ({"raw": np.full((9, 4, 6), 1j)}, "counts of type"),
        ({"raw": np.zeros((0, 4, 6))}, "(0, 4, 6)"),
        ({"flat": np.zeros((0, 4, 6))}, "flat field of shape (0, 4, 6)"),
        ({"angles_deg": np.full(9, "x")}, "angles_deg"),
        ({"angles_deg": np.where(DEGREES > 90, np.nan, DEGREES)}, "NaN"),
        ({"dark": None}, "dark = 0"),
        ({"angles_deg": None}, "angles_deg"),
        ({"raw": np.array([{}], dtype=object)}, "damaged"),
    ],
)
def test_entries_that_are_no_scan(write, changes, expected, one_sentence):
    with pytest.raises(ValueError) as error:
        read_npz(write(**changes))
    assert expected in one_sentence(error)
    assert "scan.npz" in str(error.value)


def test_unknown_units_are_refused(write, one_sentence):
    with pytest.raises(ValueError, match="angle_unit is 'gon'") as error:
        read_npz(write(), "gon")
    one_sentence(error)


def test_an_array_that_claims_to_be_an_archive(tmp_path, one_sentence):
    with (tmp_path / "scan.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="damaged") as error:
        read_npz(tmp_path / "scan.npz")
    one_sentence(error)
