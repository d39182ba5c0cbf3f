"""Slices that were cut short are named, wherever they lie; files that are no images are passed over."""

import numpy as np
import pytest
from dicom_slices import short, write_series, write_slice

from diffnr_lightning.data.volumes import load_volume

# The files of the lowest, a middle and the highest slice.
FIRST, MIDDLE, LAST = "0_1.2.3.4.dcm", "3_1.2.3.4.dcm", "4_1.2.3.4.dcm"
OBJECTS = {
    "contours": "1.2.840.10008.5.1.4.1.1.481.3",
    "report": "1.2.840.10008.5.1.4.1.1.88.11",
    "presentation": "1.2.840.10008.5.1.4.1.1.11.1",
    "index": "1.2.840.10008.1.3.10",
}
PIXELS = ("00280002", "00280004", "00280010", "00280011", "00280100", "00280101", "00280102",
          "00280103", "7fe00010")  # fmt: skip


@pytest.fixture
def hu():
    return np.linspace(-1000, 1500, 120).round().reshape(6, 5, 4).astype(np.int16)


@pytest.mark.parametrize("name", [FIRST, MIDDLE, LAST])
# A part of the pixels, the end of the header, its kind (within the UID and before it), everything.
@pytest.mark.parametrize("kept", [-20, 300, 170, 150, 100, 0])
def test_a_slice_that_was_cut_is_named(tmp_path, hu, name, kept, one_sentence):
    file = write_series(tmp_path, hu) / name
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{name} cannot be read.* was cut short") as error:
        load_volume(tmp_path)
    one_sentence(error)


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("series", ["1.2.3.4", "9.9"])
def test_what_is_no_image_is_passed_over(tmp_path, hu, kind, series):
    write_series(tmp_path, hu)
    changes = dict.fromkeys(PIXELS) | {"00080016": ("UI", OBJECTS[kind])}
    write_slice(tmp_path / "other.dcm", hu[0], (0, 0, 0), series, 99, **changes)
    assert np.array_equal(load_volume(tmp_path).array, hu)


def test_other_files_and_hidden_ones_are_passed_over(tmp_path, hu):
    write_series(tmp_path, hu)
    for name in ("LICENSE", "notes.txt", "._0_1.2.3.4.dcm"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "below.dcm").mkdir()
    (tmp_path / "table.bin").write_bytes(bytes(1000))
    assert np.array_equal(load_volume(tmp_path).array, hu)


def test_an_image_that_gdcm_cannot_read_is_named(tmp_path, hu):
    """A slice of a pixel format that there is not, at the end of the stack."""
    folder = write_series(tmp_path, hu)
    changes = {"00280100": ("US", short(13)), "00280101": ("US", short(0)), "7fe00010": None}
    write_slice(folder / LAST, hu[5] + 1024, (-10, -20, -27.5), number=6, **changes)
    with pytest.raises(ValueError, match=f"{LAST} cannot be read"):
        load_volume(tmp_path)
