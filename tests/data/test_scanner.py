from __future__ import annotations

from dataclasses import replace

import pytest

from diffnr_lightning.data import Scanner


def test_lengths_are_in_cube_edges_or_mm():
    cube = Scanner().scan([0.0, 1.0], side_mm=200.0, pixels=64).orbit
    assert cube.source_to_axis_mm == pytest.approx(500.0)
    assert cube.source_to_detector_mm == pytest.approx(750.0)
    assert cube.pixel_mm == pytest.approx((5.0, 5.0))
    metric = Scanner(source_to_axis=800, source_to_detector=1200, detector=600, unit="mm")
    orbit = metric.scan([0.0, 1.0], side_mm=200.0, pixels=60).orbit
    assert (orbit.source_to_axis_mm, orbit.pixel_mm[0]) == pytest.approx((800.0, 10.0))


def test_unusable_scanner_is_refused(one_sentence):
    for arguments in (
        {"unit": "m"},
        {"beam": "fan"},
        {"detector": 0.0},
        {"source_to_axis": -1.0},
        {"detector_pixels": 0},
        {"detector_rows": 0},
    ):
        with pytest.raises(ValueError) as error:
            Scanner(**arguments)
        assert next(iter(arguments)) in one_sentence(error)


@pytest.mark.parametrize("missing", ["source_to_axis", "source_to_detector", "detector"])
def test_no_length_in_mm_is_assumed(missing, one_sentence):
    lengths = {"source_to_axis": 800.0, "source_to_detector": 1200.0, "detector": 600.0}
    with pytest.raises(ValueError) as error:
        Scanner(unit="mm", **{**lengths, missing: None})
    assert f"unit is 'mm' without {missing};" in one_sentence(error)
    with pytest.raises(ValueError):
        replace(Scanner(), unit="mm")


def test_a_parallel_beam_has_no_distances():
    scan = Scanner(beam="parallel", unit="mm", detector=60.0).scan([0.0], side_mm=9.0, pixels=60)
    assert scan.orbit.pixel_mm == pytest.approx((1.0, 1.0))


def test_a_description_holds_the_lengths_in_use():
    described = Scanner(source_to_axis=3.0).describe()
    assert (described["source_to_axis"], described["source_to_detector"]) == (3.0, 3.75)
    assert Scanner(detector=1.6).describe() == Scanner().describe()


def test_a_detector_may_have_fewer_rows_than_columns():
    scan = Scanner(detector_rows=8).scan([0.0, 1.0], side_mm=200.0, pixels=64)
    assert scan.detector_shape == (8, 64)
    assert scan.orbit.pixel_mm == pytest.approx((5.0, 5.0))
    assert Scanner(detector_rows=8).describe()["detector_rows"] == 8
    assert "detector_rows" not in Scanner().describe()


def test_pixels_are_as_wide_at_the_axis_without_magnification():
    cone, parallel = (
        Scanner(beam).scan([0.0, 1.0], side_mm=64.0, pixels=Scanner(beam).columns(64)).orbit
        for beam in ("cone", "parallel")
    )
    magnified = cone.source_to_detector_mm / cone.source_to_axis_mm
    assert parallel.pixel_mm == pytest.approx([edge / magnified for edge in cone.pixel_mm])
    assert Scanner("parallel", detector_pixels=20).columns(64) == 20
