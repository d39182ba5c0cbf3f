import numpy as np
import pytest

from diffnr_lightning.data.measured_grid import grid_of
from diffnr_lightning.geometry import ScanGeometry, from_astra_vectors

TURN = np.arange(36) * np.pi / 18


def cone(offset=(0.0, 0.0), angles=TURN, shape=(20, 60), **more):
    return ScanGeometry.cone(
        angles_rad=angles,
        source_to_axis_mm=100,
        source_to_detector_mm=200,
        detector_shape=shape,
        pixel_mm=1.0,
        detector_offset_mm=offset,
        **more,
    )


def radius_of(half_width):
    return 100 * np.sin(np.arctan(half_width / 200))


def test_the_cylinder_touches_the_outermost_rays():
    grid = grid_of(cone(), "scan", size=50)
    assert grid.shape[1:] == (50, 50)
    assert 25 * grid.voxel_mm[2] == pytest.approx(radius_of(30))
    assert grid.centre_mm == (0, 0, 0)
    # Half of the detector's height, at the axis.
    assert grid.shape[0] * grid.voxel_mm[0] == pytest.approx(10, abs=grid.voxel_mm[0])


def test_voxels_are_pixels_at_the_axis():
    assert grid_of(cone(), "scan").voxel_mm == pytest.approx((0.5, 0.5, 0.5))


def test_a_whole_turn_reaches_to_the_farther_end_of_the_detector(caplog):
    shifted = cone((0.0, 20.0))
    assert 25 * grid_of(shifted, "scan", size=50).voxel_mm[0] == pytest.approx(radius_of(50))
    half = cone((0.0, 20.0), angles=TURN[:19])
    assert 25 * grid_of(half, "scan", size=50).voxel_mm[0] == pytest.approx(radius_of(10))
    assert "near an end of the detector" in caplog.text


def test_the_cylinder_lies_where_the_axis_is():
    grid = grid_of(cone((4.0, 0.0), axis_mm=(7.0, -3.0), height_mm=5.0), "scan", size=50)
    assert grid.centre_mm[:2] == pytest.approx((7.0, -3.0))
    # The middle of the detector lies 4 mm below the central ray, 2 mm at the axis.
    assert grid.centre_mm[2] == pytest.approx(3.0)


def test_rows_and_columns_may_be_exchanged():
    scan = cone()
    vectors = np.concatenate([scan.source_mm, scan.detector_mm, scan.v_mm, scan.u_mm], axis=1)
    exchanged = grid_of(from_astra_vectors(vectors, (60, 20)), "scan", size=50)
    assert exchanged.voxel_mm == pytest.approx(grid_of(scan, "scan", size=50).voxel_mm)


def test_poses_about_another_axis_are_refused(one_sentence):
    scan = cone()
    turned = [a[:, [2, 0, 1]] for a in (scan.source_mm, scan.detector_mm, scan.u_mm, scan.v_mm)]
    with pytest.raises(ValueError) as error:
        grid_of(ScanGeometry("cone", (20, 60), *turned), "scan")
    assert "axis is z" in one_sentence(error)
