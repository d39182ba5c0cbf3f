import numpy as np
import pytest
import SimpleITK

from diffnr_lightning import phantoms
from diffnr_lightning.downstream import compare_lungs, lung_segmenter, segment_lungs

VOXEL_MM = (200 / 48,) * 3


@pytest.fixture(scope="module")
def chest():
    return phantoms.chest(300, 48).array


def ellipsoid(shape, centre, half_axes):
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    parts = zip(grids, centre, half_axes, strict=True)
    return sum(((grid - c) / a) ** 2 for grid, c, a in parts) <= 1


def test_lungs_are_found_and_air_outside_is_not():
    shape = (40, 48, 48)
    volume = np.full(shape, -1000, np.float32)
    volume[ellipsoid(shape, (20, 24, 24), (90, 20, 22))] = 40
    lungs = ellipsoid(shape, (20, 24, 14), (14, 11, 7)) | ellipsoid(
        shape, (20, 24, 34), (12, 11, 7)
    )
    volume[lungs] = -850
    # A vessel inside of a lung counts with it, a bubble elsewhere does not.
    volume[15:25, 23:25, 13:15] = 30
    volume[36:39, 10:13, 23:26] = -1000
    found = segment_lungs(volume, (4.0, 4.0, 4.0))
    score = compare_lungs(found, lungs, (4.0, 4.0, 4.0))
    assert score.dice_percent > 97
    assert score.surface_distance_mm < 2
    assert found[15:25, 23:25, 13:15].all()
    assert not found[36:39, 10:13, 23:26].any()


def test_lungs_of_a_phantom_stand_noise(chest):
    lungs = segment_lungs(chest, VOXEL_MM)
    assert 400 < compare_lungs(lungs, lungs, VOXEL_MM).volume_ml < 800
    noise = 100 * np.random.default_rng(0).standard_normal(chest.shape).astype(np.float32)
    noisy = compare_lungs(segment_lungs(chest + noise, VOXEL_MM), lungs, VOXEL_MM)
    assert noisy.dice_percent > 95


def test_distances_are_in_mm_and_symmetric():
    first, second = np.zeros((2, 20, 20, 20), bool)
    first[5:15, 5:15, 5:15] = True
    second[5:15, 5:15, 7:17] = True
    there = compare_lungs(first, second, (1.0, 1.0, 3.0))
    back = compare_lungs(second, first, (1.0, 1.0, 3.0))
    assert there == back
    assert there.dice_percent == pytest.approx(80)
    # Faces across x are 6 mm apart, edges of the others up to as much.
    assert 1 < there.surface_distance_mm < 6
    assert there.volume_ml == pytest.approx(3.0)


def test_without_lungs(chest):
    water = np.zeros((16, 16, 16), np.float32)
    assert not segment_lungs(water, (5.0, 5.0, 5.0)).any()
    none = np.zeros(chest.shape, bool)
    missed = compare_lungs(none, segment_lungs(chest, VOXEL_MM), VOXEL_MM)
    assert missed.dice_percent == 0 and missed.surface_distance_mm is None
    with pytest.raises(ValueError, match="no lungs are found in the true volume"):
        compare_lungs(none, none, VOXEL_MM)
    with pytest.raises(ValueError, match="one shape"):
        compare_lungs(none, none[1:], VOXEL_MM)


def test_the_network_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr("diffnr_lightning.downstream.lungs.find_spec", lambda name: None)
    assert lung_segmenter("auto") == ("embedded", segment_lungs)
    with pytest.raises(ImportError, match=r"diffnr-lightning\[lungmask\]"):
        lung_segmenter("lungmask")
    monkeypatch.setattr("diffnr_lightning.downstream.lungs.find_spec", lambda name: object())
    assert lung_segmenter("auto")[0] == "lungmask"
    assert lung_segmenter("embedded")[0] == "embedded"


@pytest.mark.data
def test_a_lung_that_others_have_segmented(real_data):
    image = SimpleITK.ReadImage(str(real_data / "lung_right.mha"))
    mask = SimpleITK.ReadImage(str(real_data / "lung_right_mask.mha"))
    voxel_mm = image.GetSpacing()[::-1]
    found = segment_lungs(SimpleITK.GetArrayFromImage(image).astype(np.float32), voxel_mm)
    score = compare_lungs(found, SimpleITK.GetArrayFromImage(mask) > 0, voxel_mm)
    assert score.dice_percent > 95
    assert score.surface_distance_mm < 1


def test_a_few_slices_have_no_lungs():
    assert not segment_lungs(np.full((3, 20, 20), -900, np.float32), (1.0, 1.0, 1.0)).any()
