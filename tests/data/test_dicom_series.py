import locale

import numpy as np
import pytest
import SimpleITK

from diffnr_lightning.data.volumes import load_volume

SHAPE = (6, 5, 4)
SPACING = (2.5, 0.8, 0.7)


@pytest.fixture
def hu():
    """HU of every voxel (Z, Y, X), all different, from air to bone."""
    return np.linspace(-1000, 1500, np.prod(SHAPE)).round().reshape(SHAPE).astype(np.int16)


def write_series(folder, hu, series="1.2.3.4"):
    """Write axial slices whose names are in no order; ITK stores HU plus 1024, as the intercept says."""
    folder.mkdir(parents=True, exist_ok=True)
    # The writer leaves the process in the C locale, where later tests could not read UTF-8.
    before = locale.setlocale(locale.LC_ALL)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, layer in enumerate(hu):
        image = SimpleITK.GetImageFromArray(layer[None])
        image.SetSpacing((SPACING[2], SPACING[1], SPACING[0]))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{series}.{number + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0020|0013": str(number + 1),
            "0020|0032": f"-10\\-20\\{number * SPACING[0] - 40}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{(number * 5) % 7}_{series}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)
    return folder


def test_a_series_is_read_in_hu_from_feet_to_head(tmp_path, hu):
    volume = load_volume(write_series(tmp_path / "LIDC-0001", hu))
    assert np.array_equal(volume.array, hu)
    assert volume.spacing_mm == pytest.approx(SPACING)
    assert volume.unit == "HU"
    assert volume.name == "LIDC-0001"
    half_mm = 0.5 * (np.array(SHAPE) - 1) * SPACING
    assert volume.centre_mm == pytest.approx(np.array([-10, -20, -40]) + half_mm[::-1])


def test_a_missing_slice_is_named(tmp_path, hu):
    folder = write_series(tmp_path / "s", hu)
    (folder / "1_1.2.3.4.dcm").unlink()
    with pytest.raises(ValueError, match=r"not evenly spaced: 5.00 mm from .* 2.50 mm is expected"):
        load_volume(folder)


def test_two_series_are_refused_by_name(tmp_path, hu):
    write_series(tmp_path / "s", hu)
    write_series(tmp_path / "s", hu, series="1.2.3.5")
    with pytest.raises(ValueError, match=r"2 DICOM series \(1.2.3.4, 1.2.3.5\); one is expected"):
        load_volume(tmp_path / "s")


def test_one_slice_is_no_volume(tmp_path, hu):
    with pytest.raises(ValueError, match="holds one DICOM slice; at least two"):
        load_volume(write_series(tmp_path / "s", hu[:1]))


def test_slices_of_two_sizes_are_refused(tmp_path, hu):
    folder = write_series(tmp_path / "s", hu)
    other = write_series(tmp_path / "t", np.concatenate([hu, hu], axis=2))
    (other / "3_1.2.3.4.dcm").replace(folder / "3_1.2.3.4.dcm")
    with pytest.raises(ValueError, match=r"(damaged or of another size|not evenly|DICOM series)"):
        load_volume(folder)


def test_a_folder_without_slices(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ValueError, match="holds no slices; one DICOM series, or .tif"):
        load_volume(tmp_path)
