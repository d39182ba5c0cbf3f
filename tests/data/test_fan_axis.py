import numpy as np
import pytest

from diffnr_lightning.data.fan_axis import find_fan_axis
from diffnr_lightning.geometry import ScanGeometry

DISTANCE, ROWS = 200.0, 9


def fan(ellipsoid, axis, columns, views=90, start=0.0):
    scan = ScanGeometry.cone(
        angles_rad=start + np.arange(views) * 2 * np.pi / views,
        source_to_axis_mm=120,
        source_to_detector_mm=DISTANCE,
        detector_shape=(ROWS, columns),
        pixel_mm=1.0,
        detector_offset_mm=(0.0, 0.5 * (columns - 1) - axis),
    )
    bodies = ellipsoid((14, 9, 20), (5, -4, 0)), ellipsoid((4, 4, 20), (-9, 6, 0), density=0.03)
    return sum(body.line_integrals(scan) for body in bodies), scan.orbit.angles_rad


@pytest.mark.parametrize(("axis", "columns"), [(31.5, 64), (36.2, 64), (9.4, 44), (35.8, 44)])
def test_the_column_is_found_to_a_part_of_a_pixel(ellipsoid, axis, columns):
    projections, angles = fan(ellipsoid, axis, columns)
    assert find_fan_axis(projections, angles, DISTANCE, 4) == pytest.approx(axis, abs=0.15)


def test_order_and_start_of_the_turn_change_nothing(ellipsoid):
    projections, angles = fan(ellipsoid, 33.0, 64, start=2.0)
    order = np.random.default_rng(0).permutation(len(angles))
    assert find_fan_axis(projections[order], angles[order], DISTANCE, 4) == pytest.approx(
        33.0, abs=0.15
    )


def test_noise_moves_it_little(ellipsoid):
    projections, angles = fan(ellipsoid, 33.0, 64)
    noisy = projections + 0.02 * np.random.default_rng(0).standard_normal(projections.shape)
    assert find_fan_axis(noisy, angles, DISTANCE, 4) == pytest.approx(33.0, abs=0.3)


def test_a_turn_in_the_other_sense_is_refused(ellipsoid, one_sentence):
    projections, angles = fan(ellipsoid, 33.0, 64)
    for images, sense in ((projections, -angles), (projections[:, :, ::-1], angles)):
        with pytest.raises(ValueError) as error:
            find_fan_axis(images, sense, DISTANCE, 4)
        assert "clockwise" in one_sentence(error)
    # A mirror image is as good as the object.
    assert find_fan_axis(projections[:, :, ::-1], -angles, DISTANCE, 4) == pytest.approx(
        30.0, abs=0.15
    )


def test_angles_that_are_nearly_right_are_said(ellipsoid, caplog):
    projections, angles = fan(ellipsoid, 33.0, 64)
    find_fan_axis(projections, angles, DISTANCE, 4)
    assert not caplog.text
    uneven = angles + 0.2 * np.sin(angles)
    find_fan_axis(projections, uneven, DISTANCE, 4)
    assert "check angles and distances" in " ".join(caplog.text.split())


def test_views_of_different_objects_have_no_axis(ellipsoid, one_sentence):
    projections, angles = fan(ellipsoid, 33.0, 64)
    with pytest.raises(ValueError) as error:
        find_fan_axis(np.random.default_rng(0).permutation(projections), angles, DISTANCE, 4)
    assert "axis_column" in one_sentence(error)
