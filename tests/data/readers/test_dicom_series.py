"""DICOM series: values, order and place by each slice's header; what contradicts is refused."""

import struct

import numpy as np
import pytest
from dicom_slices import EXPLICIT, SPACING, element, short, write_series, write_slice
from scipy import ndimage

from diffnr_lightning.data.datasets.volume_folder import find_volumes
from diffnr_lightning.data.volumes import load_volume

SHAPE = (6, 5, 4)


@pytest.fixture
def hu():
    """HU of every voxel (Z, Y, X), all different, from air to bone."""
    return np.linspace(-1000, 1500, np.prod(SHAPE)).round().reshape(SHAPE).astype(np.int16)


def test_a_series_is_read_in_hu_from_feet_to_head(tmp_path, hu):
    volume = load_volume(write_series(tmp_path / "LIDC-0001", hu))
    assert np.array_equal(volume.array, hu)
    assert volume.spacing_mm == pytest.approx(SPACING)
    assert volume.unit == "HU"
    assert volume.name == "LIDC-0001"
    half_mm = 0.5 * (np.array(SHAPE) - 1) * SPACING
    assert volume.centre_mm == pytest.approx(np.array([-10, -20, -40]) + half_mm[::-1])
    assert volume.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


@pytest.mark.parametrize("first", [1.0, 0.25])
def test_every_slice_is_scaled_by_its_own_slope(tmp_path, first):
    slopes = [first, 0.5, 0.25, 2.0]
    intercepts = [-1024.0, -1000.5, -900.25, -24.0]
    for n, (slope, intercept) in enumerate(zip(slopes, intercepts, strict=True)):
        stored = np.arange(12, dtype=np.uint16).reshape(3, 4) * (n + 1)
        scale = {"00281053": ("DS", str(slope)), "00281052": ("DS", str(intercept))}
        write_slice(tmp_path / f"{n}.dcm", stored, (0, 0, 2.0 * n), number=n + 1, **scale)
    array = load_volume(tmp_path).array
    for n, (slope, intercept) in enumerate(zip(slopes, intercepts, strict=True)):
        expected = np.arange(12).reshape(3, 4) * (n + 1) * slope + intercept
        assert np.array_equal(array[n], expected.astype(np.float32))


@pytest.mark.parametrize(("bits", "signed"), [(16, False), (16, True), (12, False), (12, True)])
def test_what_is_shown_white_does_not_turn_the_values(tmp_path, hu, bits, signed):
    stored = (hu if signed else hu + 1024).astype(np.int16 if signed else np.uint16)
    changes = {
        "00280004": ("CS", "MONOCHROME1"),
        "00280101": ("US", short(bits)),
        "00280102": ("US", short(bits - 1)),
        "00281052": ("DS", "0" if signed else "-1024"),
    }
    for n, layer in enumerate(stored):
        write_slice(tmp_path / f"{n}.dcm", layer, (0, 0, 2.0 * n), number=n + 1, **changes)
    assert np.array_equal(load_volume(tmp_path).array, hu)


@pytest.mark.parametrize("kind", ["SS", "US"])
def test_padding_is_air(tmp_path, hu, kind):
    stored = (hu + 1024).astype(np.int16)
    stored[:, 0, :2] = -2000
    stored[:, 0, 2] = -1990
    limits = {"00280120": (kind, short(-2000)), "00280121": (kind, short(-1990))}
    for n, layer in enumerate(stored):
        write_slice(tmp_path / f"{n}.dcm", layer, (0, 0, 2.0 * n), number=n + 1, **limits)
    expected = hu.copy()
    expected[:, 0, :3] = -1000
    assert np.array_equal(load_volume(tmp_path).array, expected)


@pytest.mark.parametrize("unit", [None, ("LO", "Z_EFF")])
def test_padding_of_other_units_is_no_air(tmp_path, unit):
    """Of an industrial scan, whose grey values have no rescale: 0 is outside, and no -1000 HU."""
    stored = np.arange(100, 100 + np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)
    stored[:, 0, :2] = 0
    grey = {"00281052": None, "00281053": None, "00281054": unit, "00280120": ("US", short(0))}
    for n, layer in enumerate(stored):
        write_slice(tmp_path / f"{n}.dcm", layer, (0, 0, 2.0 * n), number=n + 1, **grey)
    volume = load_volume(tmp_path)
    assert volume.unit == "arbitrary"
    assert np.array_equal(volume.array, np.where(stored == 0, stored[stored > 0].min(), stored))


def test_the_unit_is_the_headers(tmp_path, hu, caplog):
    tissue = np.clip(hu, 20, 120)
    assert load_volume(write_series(tmp_path / "ct", tissue)).unit == "HU"
    assert "far above air" in caplog.text
    other = {"00281054": ("LO", "Z_EFF")}
    assert load_volume(write_series(tmp_path / "z", hu, **other)).unit == "arbitrary"
    unnamed = {"00080060": ("CS", "MR")}
    assert load_volume(write_series(tmp_path / "mr", tissue, **unnamed)).unit == "arbitrary"
    assert load_volume(tmp_path / "z", unit="HU").unit == "HU"


def tilted_head(folder, tilt_deg):
    """Slices that are tilted but stacked straight along z, with two dense balls in water."""
    tilt = np.deg2rad(tilt_deg)
    row, column = np.array([1.0, 0, 0]), np.array([0, np.cos(tilt), -np.sin(tilt)])
    count, edge, step = 48, 2.0, 2.5
    v, u = np.mgrid[:count, :count]
    written = "\\".join(f"{n:.6f}" for n in (*row, *column))
    for n in range(40):
        corner = np.array([0, 0, (n - 19.5) * step]) - 0.5 * (count - 1) * edge * (row + column)
        points = corner + edge * (u[..., None] * row + v[..., None] * column)
        values = np.where((points**2).sum(-1) < 40**2, 0, -1000)
        for ball in BALLS_MM:
            values[((points - ball) ** 2).sum(-1) < 36] = 800
        changes = {
            "00200037": ("DS", written),
            "00280030": ("DS", "2\\2"),
            "00281052": ("DS", "0"),
        }
        write_slice(folder / f"{n}.dcm", values.astype(np.int16), corner, number=n + 1, **changes)
    return folder


BALLS_MM = np.array([(0.0, 16.0, 28.0), (12.0, -14.0, -26.0)])


@pytest.mark.parametrize("tilt_deg", [20.0, -12.0])
def test_a_gantrys_tilt_is_taken_out(tmp_path, caplog, tilt_deg):
    volume = load_volume(tilted_head(tmp_path / "head", tilt_deg))
    assert f"tilted by {abs(tilt_deg)} degrees" in caplog.text
    assert volume.array.min() == -1000
    labels, count = ndimage.label(volume.array > 400)
    assert count == 2
    middle = 0.5 * (np.array(volume.array.shape) - 1)
    found = [(np.array(c) - middle) * volume.spacing_mm
             for c in ndimage.center_of_mass(labels > 0, labels, (2, 1))]  # fmt: skip
    # (z, y, x) along the volume's own axes to the patient's (x, y, z).
    placed = [np.reshape(volume.direction, (3, 3)) @ c[::-1] + volume.centre_mm for c in found]
    np.testing.assert_allclose(placed, BALLS_MM, atol=0.7)
    apart = np.linalg.norm(np.subtract(*placed))
    assert apart == pytest.approx(np.linalg.norm(np.subtract(*BALLS_MM)), abs=0.7)


def test_a_series_without_pixel_size_is_refused_unless_it_is_said(tmp_path, hu):
    folder = write_series(tmp_path / "s", hu, **{"00280030": None})
    with pytest.raises(ValueError, match="has no PixelSpacing.*say it by spacing_mm"):
        load_volume(folder)
    volume = load_volume(folder, spacing_mm=(3.0, 2.0, 2.0))
    assert volume.spacing_mm == (3.0, 2.0, 2.0)
    assert np.array_equal(volume.array, hu)


def test_a_missing_slice_is_named(tmp_path, hu):
    folder = write_series(tmp_path / "s", hu)
    (folder / "1_1.2.3.4.dcm").unlink()
    with pytest.raises(ValueError, match=r"not evenly spaced: 5 mm from .* 2.5 mm is expected"):
        load_volume(folder)


def test_a_slice_that_is_there_twice(tmp_path, hu):
    folder = write_series(tmp_path / "s", hu)
    write_slice(folder / "again.dcm", hu[2] + 1024, (-10, -20, 2 * SPACING[0] - 40), number=99)
    with pytest.raises(ValueError, match="0 mm from .* a slice is there twice"):
        load_volume(folder)


def test_a_series_with_every_slice_twice(tmp_path, hu, one_sentence):
    folder = write_series(tmp_path / "s", hu)
    for number, layer in enumerate(hu):
        place = (-10, -20, number * SPACING[0] - 40)
        write_slice(folder / f"again_{number}.dcm", layer + 1024, place, number=100 + number)
    with pytest.raises(ValueError, match=r"most slices twice .* at one place, such as") as error:
        load_volume(folder)
    one_sentence(error)


@pytest.mark.parametrize("heights", [0.02 * np.arange(6), (0.625 * np.arange(6)).round(1)])
def test_distances_are_even_as_far_as_slices_lie_apart(tmp_path, hu, heights):
    for number, (layer, height) in enumerate(zip(hu, heights, strict=True)):
        write_slice(tmp_path / f"{number}.dcm", layer + 1024, (0, 0, height), number=number + 1)
    assert np.array_equal(load_volume(tmp_path).array, hu)


def test_a_series_is_a_data_set_of_one_volume_and_the_index_of_a_cd_none(tmp_path, hu):
    folder = write_series(tmp_path / "thin", hu)
    assert find_volumes(folder) == {"thin": folder}
    write_slice(tmp_path / "DICOMDIR", hu[0] + 1024, (0, 0, 0.0), series="9.9")
    assert find_volumes(tmp_path) == {"thin": folder}


def test_hidden_files_neither_hide_a_series_nor_are_one(tmp_path, hu):
    """An archive from a Mac holds a ._NAME for each file, and a trash of what was removed."""
    folder = write_series(tmp_path / "thin", hu)
    for file in sorted(folder.iterdir()):
        file.with_name(f"._{file.name}").write_bytes(b"what macOS leaves on other disks")
    write_series(tmp_path / ".Trash" / "thick", hu)
    assert find_volumes(tmp_path) == {"thin": folder}
    with pytest.raises(ValueError, match="DICOM series lie below it in .*thin: name one"):
        load_volume(tmp_path)


def test_a_rescale_that_is_no_number_names_the_file(tmp_path, hu):
    folder = write_series(tmp_path / "s", hu)
    changes = {"00280120": ("SS", short(-2000)), "00281052": ("DS", "-10x")}
    write_slice(folder / "0_1.2.3.4.dcm", hu[0] + 1024, (-10, -20, -40), **changes)
    with pytest.raises(ValueError, match=r"0_1.2.3.4.dcm has '-10x' in \(0028,1052\)"):
        load_volume(folder)


def test_a_slice_of_another_orientation_is_named(tmp_path, hu):
    folder = write_series(tmp_path / "s", hu)
    coronal = {"00200037": ("DS", "1\\0\\0\\0\\0\\-1")}
    write_slice(folder / "odd.dcm", hu[2] + 1024, (-10, -20, -30), number=9, **coronal)
    with pytest.raises(ValueError, match=r"two orientations: that of odd.dcm is 1\\0"):
        load_volume(folder)


def test_two_series_are_refused_by_name(tmp_path, hu):
    write_series(tmp_path / "s", hu)
    write_series(tmp_path / "s", hu[:2], series="1.2.3.5")
    with pytest.raises(
        ValueError, match=r"2 DICOM series \(1.2.3.4 of 6 slices, 1.2.3.5 of 2 slices\)"
    ):
        load_volume(tmp_path / "s")


def test_series_in_folders_below_are_named(tmp_path, hu):
    write_series(tmp_path / "study" / "3-thin", hu)
    with pytest.raises(ValueError, match=r"holds no slices;.* lie below it in .*3-thin: name one"):
        load_volume(tmp_path)
    with pytest.raises(ValueError, match=r"is one DICOM file; the folder of its series.*3-thin"):
        load_volume(next((tmp_path / "study" / "3-thin").iterdir()))


def test_one_slice_is_no_volume(tmp_path, hu):
    with pytest.raises(ValueError, match="holds one DICOM slice; at least two"):
        load_volume(write_series(tmp_path / "s", hu[:1]))


def sequence(tag, items, form):
    """A sequence of explicit or implicit form, of known or of open length."""
    undefined, implicit = form == "open", form == "implicit"
    content = b""
    for item in items:
        length = 0xFFFFFFFF if undefined else len(item)
        content += struct.pack("<HHI", 0xFFFE, 0xE000, length) + item
        content += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) if undefined else b""
    content += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if undefined else b""
    length = 0xFFFFFFFF if undefined else len(content)
    kind = b"" if implicit else b"SQ\0\0"
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind + struct.pack("<I", length) + content


def enhanced(file, hu, form="known", rescale="shared", slopes=("1",), heights=None, groups=True):
    """Write an enhanced CT file whose frames run from head to feet."""

    def value(tag, kind, text):
        whole = element(tag, kind, text)
        bare = whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]
        return bare if form == "implicit" else whole

    def scale(n):
        text = slopes[n % len(slopes)]
        item = value(0x00281052, "DS", "-1024") + value(0x00281053, "DS", text)
        return sequence(0x00289145, [item + value(0x00281054, "LO", "HU")], form)

    measures = value(0x00280030, "DS", f"{SPACING[1]}\\{SPACING[2]}")
    common = sequence(0x00209116, [value(0x00200037, "DS", "1\\0\\0\\0\\1\\0")], form)
    common += sequence(0x00289110, [measures], form)
    frames = []
    heights = SPACING[0] * np.arange(len(hu)) - 40 if heights is None else heights
    for n, height in enumerate(heights[::-1]):
        place = sequence(0x00209113, [value(0x00200032, "DS", f"-10\\-20\\{height}")], form)
        frames.append(place + (scale(n) if rescale == "frame" else b""))
    common += scale(0) if rescale == "shared" else b""
    stored = (hu[::-1] + 1024).astype("<u2")
    kind = "1.2.840.10008.5.1.4.1.1.2.1"
    body = value(0x00080016, "UI", kind) + value(0x00080018, "UI", "1.2.9")
    body += value(0x00080060, "CS", "CT")
    body += value(0x0020000D, "UI", "1.2.3") + value(0x0020000E, "UI", "1.2.3.4")
    body += value(0x00280002, "US", short(1)) + value(0x00280004, "CS", "MONOCHROME2")
    body += value(0x00280008, "IS", str(len(hu)))
    for tag, number in ((0x10, hu.shape[1]), (0x11, hu.shape[2]), (0x100, 16), (0x101, 16),
                        (0x102, 15), (0x103, 0)):  # fmt: skip
        body += value(0x00280000 + tag, "US", short(number))
    if groups:
        body += sequence(0x52009229, [common], form) + sequence(0x52009230, frames, form)
    pixels = element(0x7FE00010, "OW", stored.tobytes())
    pixels = pixels[:4] + pixels[8:] if form == "implicit" else pixels
    syntax = "1.2.840.10008.1.2" if form == "implicit" else EXPLICIT
    meta = element(0x00020002, "UI", kind) + element(0x00020010, "UI", syntax)
    length = element(0x00020000, "UL", struct.pack("<I", len(meta)))
    file.write_bytes(bytes(128) + b"DICM" + length + meta + body + pixels)


@pytest.mark.parametrize("form", ["known", "open", "implicit"])
@pytest.mark.parametrize("rescale", ["shared", "frame"])
def test_an_enhanced_file_is_read_frame_by_frame(tmp_path, hu, form, rescale):
    enhanced(tmp_path / "all.dcm", hu, form, rescale)
    volume = load_volume(tmp_path)
    assert np.array_equal(volume.array, hu)
    assert volume.spacing_mm == pytest.approx(SPACING)
    assert volume.unit == "HU"
    half_mm = 0.5 * (np.array(SHAPE) - 1) * SPACING
    assert volume.centre_mm == pytest.approx(np.array([-10, -20, -40]) + half_mm[::-1])


def test_enhanced_files_of_one_frame_make_a_series(tmp_path, hu):
    for n, layer in enumerate(hu):
        enhanced(tmp_path / f"{n}.dcm", layer[None], heights=np.array([SPACING[0] * n]))
    assert np.array_equal(load_volume(tmp_path).array, hu)


def test_enhanced_files_that_are_refused(tmp_path, hu):
    enhanced(tmp_path / "all.dcm", hu, rescale="frame", slopes=("1", "2"))
    with pytest.raises(ValueError, match="multi-frame file of 6 frames with .* 2 rescales"):
        load_volume(tmp_path)
    enhanced(tmp_path / "all.dcm", hu, heights=np.array([0, 1, 2, 4, 5, 6]))
    with pytest.raises(ValueError, match="not evenly spaced: 2 mm"):
        load_volume(tmp_path)
    enhanced(tmp_path / "all.dcm", hu, groups=False)
    with pytest.raises(ValueError, match="does not say where its slices lie: .* multi-frame"):
        load_volume(tmp_path)


def test_a_place_that_is_no_place_is_named(tmp_path, hu):
    folder = write_series(tmp_path / "s", hu, **{"00280030": ("DS", "0.8")})
    with pytest.raises(ValueError, match=r"has '0.8' in \(0028,0030\); 2 numbers are expected"):
        load_volume(folder)


def test_colours_are_refused(tmp_path, hu):
    colours = {
        "00280002": ("US", short(3)),
        "00280004": ("CS", "RGB"),
        "00280006": ("US", short(0)),
        "00280100": ("US", short(8)),
        "00280101": ("US", short(8)),
        "00280102": ("US", short(7)),
        "7fe00010": ("OW", bytes(3 * hu[0].size)),
    }
    for n in range(3):
        write_slice(tmp_path / f"{n}.dcm", hu[n] + 1024, (0, 0, n), number=n + 1, **colours)
    with pytest.raises(ValueError, match=r"is in colours \(RGB\)"):
        load_volume(tmp_path)


def test_slices_of_two_sizes_are_refused(tmp_path, hu):
    folder = write_series(tmp_path / "s", hu)
    other = write_series(tmp_path / "t", np.concatenate([hu, hu], axis=2))
    (other / "3_1.2.3.4.dcm").replace(folder / "3_1.2.3.4.dcm")
    with pytest.raises(ValueError, match=r"two sizes: 3_1.2.3.4.dcm has \(5, 8\) pixels"):
        load_volume(folder)


def test_slices_without_a_place_are_refused(tmp_path, hu):
    with pytest.raises(ValueError, match="does not say where its slices lie"):
        load_volume(write_series(tmp_path / "s", hu, **{"00200032": None}))


def test_a_folder_without_slices(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ValueError, match="holds no slices; one DICOM series, or .tif"):
        load_volume(tmp_path)
