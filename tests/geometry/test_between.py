import numpy as np
import pytest

from diffnr_lightning.geometry import ScanGeometry, uniform_angles, views_between

SCANNER = {
    "source_to_axis_mm": 70.0,
    "source_to_detector_mm": 100.0,
    "detector_shape": (6, 8),
    "pixel_mm": (2.0, 1.5),
    "detector_offset_mm": (1.0, -2.0),
    "axis_mm": (3.0, -4.0),
}


def vectors(scan):
    return np.stack([scan.source_mm, scan.detector_mm, scan.u_mm, scan.v_mm])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_full_circle_is_turned(share):
    angles = uniform_angles(7)
    shuffled = ScanGeometry.cone(angles_rad=np.roll(angles, 3)[::-1], **SCANNER)
    expected = ScanGeometry.cone(angles_rad=angles + share * (angles[1] - angles[0]), **SCANNER)
    found = views_between(shuffled, share)
    assert isinstance(found, ScanGeometry)
    np.testing.assert_allclose(vectors(found), vectors(expected), atol=1e-6)


def test_an_arc_ends_at_its_last_view():
    angles = np.deg2rad([350, 40, 10, 20])
    found = views_between(ScanGeometry.cone(angles_rad=angles, **SCANNER), 0.5)
    expected = ScanGeometry.cone(angles_rad=np.deg2rad([0, 15, 30]), **SCANNER)
    np.testing.assert_allclose(vectors(found), vectors(expected), atol=1e-6)


def test_heights_and_parallel_beams_change_evenly():
    angles = uniform_angles(5, 120.0)
    heights = np.arange(5.0) * 2
    helix = ScanGeometry.cone(angles_rad=angles, height_mm=heights, **SCANNER)
    np.testing.assert_allclose(views_between(helix, 0.25).source_mm[:, 2], heights[:-1] + 0.5)
    beam = {"detector_shape": (6, 8), "pixel_mm": 2.0, "axis_mm": (1.0, 2.0)}
    found = views_between(ScanGeometry.parallel(angles_rad=angles, **beam), 0.5)
    middle = 0.5 * (angles[1:] + angles[:-1])
    expected = ScanGeometry.parallel(angles_rad=middle, **beam)
    np.testing.assert_allclose(vectors(found), vectors(expected), atol=1e-6)


def test_what_has_nothing_between():
    one = ScanGeometry.cone(angles_rad=[0.0], **SCANNER)
    with pytest.raises(ValueError, match="two are expected"):
        views_between(one, 0.5)
    with pytest.raises(ValueError, match="0 to 1"):
        views_between(ScanGeometry.cone(angles_rad=[0.0, 1.0], **SCANNER), 1.5)
