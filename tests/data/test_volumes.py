from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
import tifffile

from diffnr_lightning.data import load_volume, save_volume
from diffnr_lightning.geometry import VolumeGrid


@pytest.fixture
def array() -> np.ndarray:
    """Random numbers, so that no turn or mirror of the array equals it."""
    return np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)


def test_nifti_round_trip_keeps_values_spacing_and_place(tmp_path, array):
    grid = VolumeGrid((4, 5, 6), (3.0, 2.0, 1.0), (10.0, -20.0, 30.0))
    loaded = load_volume(save_volume(tmp_path / "new" / "v.nii.gz", array, grid))
    np.testing.assert_array_equal(loaded.array, array)
    np.testing.assert_allclose(loaded.spacing_mm, grid.voxel_mm, rtol=1e-6)
    np.testing.assert_allclose(loaded.centre_mm, grid.centre_mm, rtol=1e-6)
    assert loaded.name == "v"
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["v.nii.gz"]


def test_saved_volume_is_in_hu_and_in_the_frame_of_its_source(tmp_path, array):
    grid = VolumeGrid((4, 5, 6), 1.0)
    save_volume(tmp_path / "v.nii", array, grid, (-1000.0, 1024.0), (7.0, 8.0, 9.0))
    loaded = load_volume(tmp_path / "v.nii", unit="HU")
    np.testing.assert_allclose(loaded.array, -1000 + 2024 * array, rtol=1e-5)
    np.testing.assert_allclose(loaded.centre_mm, (7.0, 8.0, 9.0), atol=1e-5)


def test_a_saved_volume_has_the_direction_of_its_source(tmp_path, array):
    turn = np.deg2rad(20.0)
    direction = (1, 0, 0, 0, np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn))
    grid = VolumeGrid((4, 5, 6), (3.0, 2.0, 1.0), (10.0, -20.0, 30.0))
    save_volume(tmp_path / "v.nii.gz", array, grid, None, (7.0, 8.0, 9.0), direction)
    image = SimpleITK.ReadImage(str(tmp_path / "v.nii.gz"))
    for index in ((0, 0, 0), (5, 4, 3), (2, 0, 1)):
        ours = np.asarray(grid.origin_mm) + np.multiply(index, grid.voxel_mm[::-1])
        world = np.reshape(direction, (3, 3)) @ ours + (7.0, 8.0, 9.0)
        found = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(found, world, atol=1e-4)
    loaded = load_volume(tmp_path / "v.nii.gz")
    np.testing.assert_allclose(loaded.direction, direction, atol=1e-6)
    np.testing.assert_array_equal(loaded.array, array)


@pytest.mark.parametrize(
    "direction",
    [
        (1, 0, 0, 0, 1, 0, 0, 0, 1),
        (-1, 0, 0, 0, -1, 0, 0, 0, 1),
        (0, 0, 1, 1, 0, 0, 0, -1, 0),
        (0, -1, 0, 0, 0, -1, 1, 0, 0),
    ],
)
def test_files_of_any_direction_put_every_voxel_where_it_lies(tmp_path, array, direction):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((5.0, 6.0, 7.0))
    image.SetDirection([float(d) for d in direction])
    SimpleITK.WriteImage(image, str(tmp_path / "v.nii"))
    loaded = load_volume(tmp_path / "v.nii")
    spacing, shape = np.asarray(loaded.spacing_mm[::-1]), np.asarray(loaded.array.shape[::-1])
    for index in ((0, 0, 0), (5, 0, 0), (2, 4, 1), (1, 3, 3)):
        world = np.asarray(image.TransformIndexToPhysicalPoint(index))
        ours = (world - loaded.centre_mm) / spacing + 0.5 * (shape - 1)
        x, y, z = np.round(ours).astype(int)
        np.testing.assert_allclose(ours, (x, y, z), atol=1e-4)
        assert loaded.array[z, y, x] == array[index[::-1]]


def test_every_type_gives_the_same_volume(tmp_path, array):
    np.save(tmp_path / "v.npy", array)
    tifffile.imwrite(tmp_path / "v.tif", array, photometric="minisblack")
    (tmp_path / "slices").mkdir()
    for index, page in enumerate(array):
        tifffile.imwrite(tmp_path / "slices" / f"{index:03d}.tif", page)
    for kind in ("mha", "mhd", "nrrd"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / f"v.{kind}"))
    for name in ("v.npy", "v.tif", "slices", "v.mha", "v.mhd", "v.nrrd"):
        loaded = load_volume(tmp_path / name, spacing_mm=0.5)
        np.testing.assert_array_equal(loaded.array, array, err_msg=name)
        assert loaded.spacing_mm == (0.5, 0.5, 0.5)


def test_unit_is_guessed_from_air_and_can_be_given(tmp_path, array):
    np.save(tmp_path / "grey.npy", array)
    np.save(tmp_path / "hu.npy", array * 100 - 800)
    assert load_volume(tmp_path / "grey.npy").unit == "arbitrary"
    assert load_volume(tmp_path / "hu.npy").unit == "HU"
    assert load_volume(tmp_path / "hu.npy", unit="arbitrary").unit == "arbitrary"


@pytest.mark.parametrize(
    ("low", "high", "unit"),
    [(-3024, 3071, "HU"), (-1000, 30000, "HU"), (-12000, 9000, None), (-500, 65535, None)],
)
def test_values_that_cannot_be_hu_are_refused(tmp_path, array, caplog, low, high, unit):
    share = (array - array.min()) / np.ptp(array)
    np.save(tmp_path / "v.npy", low + share * (high - low))
    if unit is not None:
        assert load_volume(tmp_path / "v.npy").unit == unit
        return
    with pytest.raises(ValueError, match=r"which cannot be HU .* say --unit arbitrary"):
        load_volume(tmp_path / "v.npy")
    assert load_volume(tmp_path / "v.npy", unit="arbitrary").unit == "arbitrary"
    assert load_volume(tmp_path / "v.npy", unit="HU").unit == "HU"
    assert "cannot all be HU" in caplog.text


def _bad_files(folder, array):
    np.save(folder / "flat.npy", array[0])
    np.save(folder / "four.npy", array[None])
    np.save(folder / "constant.npy", np.ones((3, 3, 3)))
    np.save(folder / "complex.npy", array * 1j)
    fields = np.zeros((3, 3, 3), dtype=[("red", "u1"), ("green", "u1")])
    np.save(folder / "colours.npy", fields)
    np.save(folder / "channels.npy", np.stack([array] * 3, axis=-1))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "thin.npy", array[:1])
    holed = array.copy()
    holed[1, 2, 3] = np.nan
    np.save(folder / "nan.npy", holed)
    whole = (folder / "nan.npy").read_bytes()
    (folder / "truncated.npy").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.nii.gz").write_bytes(b"not a volume")
    (folder / "noise.tif").write_bytes(b"II*\0\xff\xff\xff\xff")
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.txt").write_text("text")
    (folder / "none").mkdir()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing.nii", "does not exist"),
        ("flat.npy", "2 dimensions"),
        ("four.npy", "4 dimensions"),
        ("constant.npy", "constant"),
        ("complex.npy", "complex"),
        ("colours.npy", "real numbers"),
        ("channels.npy", "4 dimensions"),
        ("objects.npy", "cannot be read"),
        ("thin.npy", "two voxels"),
        ("nan.npy", "1 NaN or infinite"),
        ("truncated.npy", "cannot be read"),
        ("empty.npy", "cannot be read"),
        ("noise.nii.gz", "cannot be read"),
        ("noise.tif", "cannot be read"),
        ("text.txt", "unknown type"),
        ("none", "holds no slices"),
    ],
)
def test_bad_file_is_named_in_one_sentence(tmp_path, array, name, expected, one_sentence):
    _bad_files(tmp_path, array)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_volume(tmp_path / name)
    text = one_sentence(error)
    assert expected in text
    assert name in text


def test_unwritable_volume_is_an_error_and_leaves_nothing(tmp_path, array, one_sentence):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot be written") as error:
        save_volume(tmp_path / "file" / "v.nii.gz", array, VolumeGrid((4, 5, 6), 1.0))
    one_sentence(error)
    with pytest.raises(ValueError, match="grid"):
        save_volume(tmp_path / "v.nii.gz", array, VolumeGrid((4, 5, 7), 1.0))
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_a_volume_that_a_disk_has_no_room_for_is_an_error(tmp_path, name, small_files):
    array = np.random.default_rng(0).random((40, 40, 40), np.float32)
    with small_files(), pytest.raises(ValueError, match="cannot be written: it was cut short"):
        save_volume(tmp_path / name, array, VolumeGrid((40, 40, 40), 1.0))
    assert not list(tmp_path.iterdir())


@pytest.mark.data
def test_real_volumes_lie_with_the_head_up(real_data):
    loaded = load_volume(real_data / "headneck" / "pt_2.nii.gz")
    assert loaded.unit == "HU"
    assert loaded.spacing_mm[0] == pytest.approx(3.0)
    body = loaded.array > -500
    # Shoulders are wider than the head, and the nose (front, -y) is in the upper half.
    width = body.any(axis=1).sum(axis=1)
    assert width[: len(width) // 3].max() > width[-len(width) // 3 :].max()
