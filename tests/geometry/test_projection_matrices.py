import numpy as np
import pytest

from diffnr_lightning.geometry import (
    ScanGeometry,
    from_projection_matrices,
    projection_matrices,
)

SCAN = ScanGeometry.cone(
    angles_rad=[0.1, 1.3, 4.0],
    source_to_axis_mm=50,
    source_to_detector_mm=80,
    detector_shape=(7, 9),
    pixel_mm=(1.5, 2.0),
    detector_offset_mm=(1.0, -3.0),
    height_mm=[0.0, 2.0, -1.0],
)


def test_a_point_on_the_ray_of_a_pixel_maps_to_it():
    row, column, depth = 2, 5, 0.7
    pixel = SCAN.detector_mm + (row - 3) * SCAN.v_mm + (column - 4) * SCAN.u_mm
    point = SCAN.source_mm + depth * (pixel - SCAN.source_mm)
    homogeneous = np.concatenate([point, np.ones((3, 1))], axis=1)
    seen = np.einsum("vij,vj->vi", projection_matrices(SCAN), homogeneous)
    np.testing.assert_allclose(seen, depth * np.array([[column, row, 1]] * 3), atol=1e-12)


@pytest.mark.parametrize("factor", [1.0, -0.2, 30.0])
def test_matrices_up_to_a_factor_give_the_poses_back(factor):
    again = from_projection_matrices(factor * projection_matrices(SCAN), (7, 9), 2.0)
    for name in ("source_mm", "detector_mm", "u_mm", "v_mm"):
        np.testing.assert_allclose(getattr(again, name), getattr(SCAN, name), atol=1e-9)


def test_what_is_no_cone_beam_is_refused():
    parallel = ScanGeometry.parallel(angles_rad=[0.0], detector_shape=(3, 3), pixel_mm=1.0)
    with pytest.raises(ValueError, match="parallel rays"):
        projection_matrices(parallel)
    with pytest.raises(ValueError, match=r"\(views, 3, 4\) is expected"):
        from_projection_matrices(np.zeros((2, 12)), (7, 9), 1.0)
    with pytest.raises(ValueError, match="no inverse"):
        from_projection_matrices(np.zeros((1, 3, 4)), (7, 9), 1.0)
    beside = projection_matrices(SCAN)
    beside[1, 2, 3] = 0
    with pytest.raises(ValueError, match="view 1 has its source beside the origin"):
        from_projection_matrices(beside, (7, 9), 1.0)
