"""TIFF stacks: order of the slices, voxel sizes of three conventions, and what is refused."""

from importlib.util import find_spec

import numpy as np
import pytest
import tifffile

from diffnr_lightning.data.readers.tiff_stack import natural_key
from diffnr_lightning.data.volumes import load_volume


@pytest.fixture
def stack():
    """Grey values (Z, Y, X), all different."""
    return np.arange(12 * 5 * 6, dtype=np.uint16).reshape(12, 5, 6)


def write_slices(folder, stack, name="slice_{}.tif", first=1, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(stack, first):
        tifffile.imwrite(folder / name.format(number), image, **options)
    return folder


@pytest.mark.parametrize(
    "name", ["slice_{}.tif", "slice_{:04d}.TIF", "{}.tiff", "a2_{}_10x.tif", "10mm-{:02d}.tif"]
)
def test_slices_are_in_the_order_of_their_numbers(tmp_path, stack, name):
    folder = write_slices(tmp_path, stack, name)
    (folder / "._slice_1.tif").write_bytes(b"what macOS leaves on other disks")
    assert np.array_equal(load_volume(folder).array, stack)


def test_natural_order():
    names = ["b1", "a10b2", "a2b10", "a2b9", "10", "9", "a"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a2b9", "a2b10", "a10b2", "b1"]


def test_a_gap_in_the_numbers_is_said(tmp_path, stack, caplog):
    folder = write_slices(tmp_path / "s", stack)
    load_volume(folder)
    assert "missing" not in caplog.text
    (folder / "slice_7.tif").unlink()
    assert len(load_volume(folder).array) == 11
    assert "from slice_6.tif to slice_8.tif the numbers step by 2" in caplog.text


def test_two_stacks_in_a_folder_are_refused(tmp_path, stack):
    write_slices(tmp_path / "s", stack)
    write_slices(tmp_path / "s", stack[:3], "mask_{}.tif")
    with pytest.raises(ValueError, match=r"several kinds \(12 called slice_#, 3 called mask_#\)"):
        load_volume(tmp_path / "s")


def ome(stack, file, **sizes):
    tifffile.imwrite(file, stack, ome=True, photometric="minisblack",
                     metadata={"axes": "ZYX", **sizes})  # fmt: skip


def imagej(stack, file, pixels_per_unit, **described):
    tifffile.imwrite(file, stack, imagej=True, resolution=(pixels_per_unit,) * 2,
                     metadata={"axes": "ZYX", **described})  # fmt: skip


def test_voxel_sizes_of_ome(tmp_path, stack):
    sizes = {"PhysicalSizeX": 2.5, "PhysicalSizeY": 3.0, "PhysicalSizeZ": 5.0}
    ome(stack, tmp_path / "a.ome.tif", **sizes)
    volume = load_volume(tmp_path / "a.ome.tif")
    assert volume.spacing_mm == pytest.approx((0.005, 0.003, 0.0025))
    assert np.array_equal(volume.array, stack)
    units = {f"PhysicalSize{axis}Unit": "nm" for axis in "XYZ"}
    ome(stack, tmp_path / "b.ome.tif", **sizes, **units)
    assert load_volume(tmp_path / "b.ome.tif").spacing_mm == pytest.approx((5e-6, 3e-6, 2.5e-6))


@pytest.mark.parametrize(
    ("unit", "scale"), [("um", 1e-3), ("micron", 1e-3), ("mm", 1.0), ("\\u00B5m", 1e-3)]
)
def test_voxel_sizes_of_imagej(tmp_path, stack, unit, scale):
    imagej(stack, tmp_path / "v.tif", 0.5, unit=unit, spacing=5.0)
    assert load_volume(tmp_path / "v.tif").spacing_mm == pytest.approx(
        (5 * scale, 2 * scale, 2 * scale)
    )


@pytest.mark.parametrize(
    ("version", "slices_mm"), [("1.54f", 1.0), ("1.49", 1.0), ("1.11a", 0.5), ("", 0.5)]
)
def test_slices_one_unit_apart_are_left_out_by_imagej(tmp_path, stack, version, slices_mm, caplog):
    """Other writers, such as tifffile with its 1.11a, leave out what they do not know."""
    imagej(stack, tmp_path / "v.tif", 2.0, unit="mm")
    written = tifffile.tiffcomment(tmp_path / "v.tif")
    tifffile.tiffcomment(tmp_path / "v.tif", written.replace("=1.11a", f"={version}", 1))
    assert load_volume(tmp_path / "v.tif").spacing_mm == pytest.approx((slices_mm, 0.5, 0.5))
    told = "no distance of slices, which ImageJ takes for 1 mm; it is taken to be 0.5 mm"
    assert (told in caplog.text) is (slices_mm == 0.5)


HOUNSFIELD = {"cf": 0, "c0": -32768.0, "c1": 1.0, "vunit": "Gray Value"}


def test_values_that_imagej_calibrated(tmp_path, stack):
    """As ImageJ stores signed numbers, such as those of a CT that it read from DICOM."""
    hu = stack.astype(np.int32) - 1000
    shifted = (hu + 32768).astype(np.uint16)
    imagej(shifted, tmp_path / "v.tif", 1.0, unit="mm", spacing=2.0, **HOUNSFIELD)
    volume = load_volume(tmp_path / "v.tif")
    assert np.array_equal(volume.array, hu) and volume.unit == "HU"
    # Every slice has a line of its own.
    (tmp_path / "s").mkdir()
    for number, image in enumerate(shifted):
        own = {**HOUNSFIELD, "c0": -32768.0 + number, "axes": "YX"}
        tifffile.imwrite(tmp_path / f"s/{number}.tif", image, imagej=True, metadata=own)
    expected = hu + np.arange(len(hu))[:, None, None]
    assert np.array_equal(load_volume(tmp_path / "s").array, expected)
    imagej(stack, tmp_path / "none.tif", 1.0, cf=20, vunit="Gray Value")
    assert np.array_equal(load_volume(tmp_path / "none.tif").array, stack)


@pytest.mark.parametrize(
    ("line", "words"),
    [({"cf": 1, "c0": 0.0, "c1": 1.0, "c2": 2.0}, "function 1"), ({"cf": 0, "c0": "low"}, "'low'"),
     ({"cf": 0}, "None")],
)  # fmt: skip
def test_calibrations_that_are_no_line_are_refused(tmp_path, stack, line, words, one_sentence):
    imagej(stack, tmp_path / "v.tif", 1.0, **line)
    with pytest.raises(ValueError) as error:
        load_volume(tmp_path / "v.tif")
    assert words in one_sentence(error) and "v.tif" in str(error.value)


def test_voxel_sizes_of_plain_tiff(tmp_path, stack, caplog):
    centimetres = {"resolution": (40.0, 20.0), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "v.tif", stack, photometric="minisblack", **centimetres)
    assert load_volume(tmp_path / "v.tif").spacing_mm == pytest.approx((0.25, 0.5, 0.25))
    assert "no distance of slices; it is taken to be 0.25 mm" in caplog.text
    folder = write_slices(tmp_path / "s", stack, **centimetres)
    assert load_volume(folder).spacing_mm == pytest.approx((0.25, 0.5, 0.25))
    assert load_volume(folder, spacing_mm=3.0).spacing_mm == (3.0, 3.0, 3.0)


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_a_printers_resolution_is_no_voxel_size(tmp_path, stack, caplog, dpi):
    options = {"resolution": (dpi, dpi), "resolutionunit": "INCH", "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "v.tif", stack, **options)
    assert load_volume(tmp_path / "v.tif").spacing_mm == (1.0, 1.0, 1.0)
    assert f"{dpi} dots per inch" in caplog.text
    caplog.clear()
    imagej(stack, tmp_path / "v.tif", dpi, unit="inch")
    assert load_volume(tmp_path / "v.tif").spacing_mm == (1.0, 1.0, 1.0)
    assert f"{dpi} dots per inch" in caplog.text


def test_sizes_that_are_none(tmp_path, stack, caplog):
    imagej(stack, tmp_path / "v.tif", 2.0, unit="furlong")
    assert load_volume(tmp_path / "v.tif").spacing_mm == (1.0, 1.0, 1.0)
    assert "'furlong' is no unit of length" in caplog.text
    ome(stack, tmp_path / "v.ome.tif")
    assert load_volume(tmp_path / "v.ome.tif").spacing_mm == (1.0, 1.0, 1.0)


def test_one_frame_of_four_dimensions(tmp_path, stack):
    axes = {"axes": "TZCYX", "unit": "mm", "spacing": 2.0}
    tifffile.imwrite(tmp_path / "v.tif", stack[None, :, None], imagej=True, metadata=axes)
    assert np.array_equal(load_volume(tmp_path / "v.tif").array, stack)


def test_times_and_white_are_said(tmp_path, stack, caplog):
    tifffile.imwrite(tmp_path / "t.tif", stack, imagej=True, metadata={"axes": "TYX"})
    assert np.array_equal(load_volume(tmp_path / "t.tif").array, stack)
    assert "its 12 pages are called times" in caplog.text
    tifffile.imwrite(tmp_path / "w.tif", stack, photometric="miniswhite")
    assert np.array_equal(load_volume(tmp_path / "w.tif").array, stack)
    assert "zero is white" in caplog.text


def colours(folder, stack):
    tifffile.imwrite(folder / "v.tif", np.repeat(stack[0, ..., None], 3, -1), photometric="rgb")


def palette(folder, stack):
    table = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(
        folder / "v.tif", stack.astype(np.uint8), photometric="palette", colormap=table
    )


def two_sizes(folder, stack):
    with tifffile.TiffWriter(folder / "v.tif") as tif:
        tif.write(stack, photometric="minisblack")
        tif.write(stack[:, :3], photometric="minisblack")


def two_frames(folder, stack):
    tifffile.imwrite(folder / "v.tif", np.stack([stack, stack]), photometric="minisblack")


def truncated(**options):
    def write(folder, stack):
        tifffile.imwrite(folder / "v.tif", stack, photometric="minisblack", **options)
        content = (folder / "v.tif").read_bytes()
        (folder / "v.tif").write_bytes(content[: len(content) // 2])

    return write


def pages(folder, stack):
    with tifffile.TiffWriter(folder / "v.tif") as tif:
        for image in stack:
            tif.write(image, metadata=None)
    content = (folder / "v.tif").read_bytes()
    (folder / "v.tif").write_bytes(content[: len(content) // 2])


def holed(folder, stack):
    values = stack.astype(np.float32)
    values[1, 1, 1] = np.nan
    tifffile.imwrite(folder / "v.tif", values, photometric="minisblack")


def complex_numbers(folder, stack):
    tifffile.imwrite(folder / "v.tif", stack.astype(np.complex64), photometric="minisblack")


def half_of_a_set(folder, stack):
    """An OME file that names another one, which is not there."""
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
        for z, name in enumerate(("v.tif", "w.tif"))
    )
    described = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:0"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
        'Type="uint16" SizeX="6" SizeY="5" SizeZ="2" SizeC="1" SizeT="1">'
        f'<Channel ID="Channel:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
    )
    tifffile.imwrite(folder / "v.tif", stack[0], description=described, metadata=None)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (colours, "is in colours"),
        (palette, "is in colours"),
        (two_sizes, "2 series of images (of 12x5x6, 12x3x6)"),
        (two_frames, "4 dimensions"),
        (truncated(), "truncated, damaged"),
        (truncated(compression="zlib"), "truncated, damaged"),
        (half_of_a_set, "truncated, damaged, or one of several files"),
        (pages, "truncated, damaged"),
        (holed, "1 NaN or infinite"),
        (complex_numbers, "complex64"),
        (lambda folder, stack: (folder / "v.tif").write_bytes(b""), "cannot be read"),
        (lambda folder, stack: tifffile.imwrite(folder / "v.tif", stack[0]), "2 dimensions"),
    ],
)
def test_what_is_refused(tmp_path, stack, write, words, one_sentence):
    write(tmp_path, stack)
    with pytest.raises(ValueError) as error:
        load_volume(tmp_path / "v.tif")
    text = one_sentence(error)
    assert words in text
    assert "v.tif" in text


def test_slices_that_do_not_fit(tmp_path, stack):
    folder = write_slices(tmp_path / "s", stack)
    tifffile.imwrite(folder / "slice_5.tif", stack[0, :3])
    with pytest.raises(ValueError, match=r"slice_5.tif has shape \(3, 6\)"):
        load_volume(folder)
    tifffile.imwrite(folder / "slice_5.tif", stack[:2], photometric="minisblack")
    with pytest.raises(ValueError, match="slice_5.tif holds 2 pages"):
        load_volume(folder)
    content = (folder / "slice_4.tif").read_bytes()
    (folder / "slice_4.tif").write_bytes(content[:-30])
    with pytest.raises(ValueError, match="slice_4.tif cannot be read"):
        load_volume(folder)


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="imagecodecs unpacks all")
def test_a_compression_that_cannot_be_unpacked_is_no_damage(tmp_path, stack, one_sentence):
    tifffile.imwrite(tmp_path / "lzw.tif", stack)
    with tifffile.TiffFile(tmp_path / "lzw.tif", mode="r+b") as tif:
        for page in tif.pages:
            page.tags["Compression"].overwrite(5)
    with pytest.raises(ValueError, match="compressed by LZW.*pip install imagecodecs") as error:
        load_volume(tmp_path / "lzw.tif")
    one_sentence(error)
