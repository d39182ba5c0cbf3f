from __future__ import annotations

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
    for arguments in ({"unit": "m"}, {"beam": "fan"}, {"detector": 0.0}, {"detector_pixels": 0}):
        with pytest.raises(ValueError) as error:
            Scanner(**arguments)
        assert next(iter(arguments)) in one_sentence(error)
