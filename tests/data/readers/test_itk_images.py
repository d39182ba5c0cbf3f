"""MetaImage and NRRD headers, field by field."""

import gzip

import numpy as np
import pytest

from diffnr_lightning.data.volumes import load_volume

SHAPE = (4, 5, 6)


@pytest.fixture
def values():
    return np.linspace(-1000, 900, np.prod(SHAPE)).round().astype("<i2").reshape(SHAPE)


def meta_image(values, **fields):
    """Return the bytes of an .mha file."""
    fields = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "Offset": "1 2 3",
        "ElementSpacing": "0.5 0.75 2.5",
        "DimSize": "6 5 4",
        "ElementType": "MET_SHORT",
    } | fields
    lines = [f"{key} = {value}" for key, value in fields.items() if value is not None]
    return "\n".join([*lines, "ElementDataFile = LOCAL\n"]).encode() + values.tobytes()


def nrrd(values, *lines, kind="int16"):
    head = [
        "NRRD0005",
        f"type: {kind}",
        "dimension: 3",
        "sizes: 6 5 4",
        "endian: little",
        "encoding: raw",
        *lines,
    ]
    return "\n".join([*head, "\n"]).encode() + values.tobytes()


PLACED = ("space dimension: 3", "space directions: (0.5,0,0) (0,0.75,0) (0,0,2.5)")


@pytest.mark.parametrize(
    ("unit", "scale"), [(None, 1), ("mm", 1), ("um", 1e-3), ("cm", 10), ("?", 1)]
)
def test_units_of_a_meta_image(tmp_path, values, unit, scale):
    (tmp_path / "v.mha").write_bytes(meta_image(values, DistanceUnits=unit))
    volume = load_volume(tmp_path / "v.mha")
    assert np.array_equal(volume.array, values)
    np.testing.assert_allclose(volume.spacing_mm, np.multiply((2.5, 0.75, 0.5), scale))
    corner = np.array([1, 2, 3]) * scale
    half = 0.5 * np.array([5, 4, 3]) * volume.spacing_mm[::-1]
    np.testing.assert_allclose(volume.centre_mm, corner + half)


def test_the_scale_of_a_meta_images_values(tmp_path, values):
    scale = {"ElementToIntensityFunctionSlope": 0.5, "ElementToIntensityFunctionOffset": -12.25}
    (tmp_path / "v.mha").write_bytes(meta_image(values, **scale))
    assert np.array_equal(load_volume(tmp_path / "v.mha").array, values * 0.5 - 12.25)


def test_big_endian_and_a_file_of_values(tmp_path, values):
    (tmp_path / "v.mha").write_bytes(meta_image(values.byteswap(), BinaryDataByteOrderMSB=True))
    assert np.array_equal(load_volume(tmp_path / "v.mha").array, values)
    header = meta_image(values).split(b"LOCAL")[0] + b"v.raw\n"
    (tmp_path / "v.mhd").write_bytes(header)
    with pytest.raises(ValueError, match="its data file is missing"):
        load_volume(tmp_path / "v.mhd")
    (tmp_path / "v.raw").write_bytes(values.tobytes())
    assert np.array_equal(load_volume(tmp_path / "v.mhd").array, values)


@pytest.mark.parametrize(
    ("lines", "scale"),
    [
        (PLACED, 1),
        ((*PLACED, 'space units: "microns" "microns" "microns"'), 1e-3),
        ((*PLACED, 'space units: "mm" "mm" "mm"'), 1),
        ((*PLACED, 'space units: "" "" ""'), 1),
        (("spacings: 0.5 0.75 2.5", 'units: "um" "um" "um"'), 1e-3),
        (("spacings: 0.5 0.75 2.5",), 1),
    ],
)
def test_units_of_nrrd(tmp_path, values, lines, scale):
    (tmp_path / "v.nrrd").write_bytes(nrrd(values, *lines))
    volume = load_volume(tmp_path / "v.nrrd")
    np.testing.assert_allclose(volume.spacing_mm, np.multiply((2.5, 0.75, 0.5), scale))
    assert np.array_equal(volume.array, values)


def test_every_axis_has_its_own_unit(tmp_path, values):
    units = 'space units: "um" "mm" "cm"'
    (tmp_path / "v.nrrd").write_bytes(nrrd(values, *PLACED, "space origin: (10,2,3)", units))
    volume = load_volume(tmp_path / "v.nrrd")
    np.testing.assert_allclose(volume.spacing_mm, (25.0, 0.75, 0.0005))
    np.testing.assert_allclose(volume.centre_mm, (0.01 + 0.00125, 2 + 1.5, 30 + 37.5))


def test_spacings_that_are_not_known_are_assumed_and_said(tmp_path, values, caplog):
    (tmp_path / "v.nrrd").write_bytes(nrrd(values, "spacings: nan nan nan"))
    with caplog.at_level("WARNING", "diffnr"):
        assert load_volume(tmp_path / "v.nrrd").spacing_mm == (1.0, 1.0, 1.0)
    assert "stores neither space directions nor spacings" in caplog.text


def test_space_and_detached_values_of_nrrd(tmp_path, values):
    space = ("space: right-anterior-superior", PLACED[1])
    whole = nrrd(values, *space)
    (tmp_path / "v.nrrd").write_bytes(whole)
    assert np.array_equal(load_volume(tmp_path / "v.nrrd").array, values[:, ::-1, ::-1])
    header = whole.split(b"\n\n")[0].replace(b"encoding: raw", b"encoding: gzip")
    (tmp_path / "v.nhdr").write_bytes(header + b"\ndata file: v.raw.gz\n")
    (tmp_path / "v.raw.gz").write_bytes(gzip.compress(values.tobytes()))
    assert np.array_equal(load_volume(tmp_path / "v.nhdr").array, values[:, ::-1, ::-1])


@pytest.mark.parametrize("name", ["v.mha", "v.nrrd"])
def test_no_voxel_size_is_said(tmp_path, values, caplog, name):
    content = meta_image(values, ElementSpacing=None) if name == "v.mha" else nrrd(values)
    (tmp_path / name).write_bytes(content)
    assert load_volume(tmp_path / name).spacing_mm == (1.0, 1.0, 1.0)
    assert "1 mm is assumed" in caplog.text
    caplog.clear()
    assert load_volume(tmp_path / name, spacing_mm=0.2).spacing_mm == (0.2, 0.2, 0.2)
    assert "assumed" not in caplog.text


def floats(values, value):
    values = values.astype("<f4")
    values[0, 0, :3] = value
    return values


SHEARED = ("space dimension: 3", "space directions: (0.5,0,0) (0.2,0.75,0) (0,0,2.5)")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "v.mha",
            lambda v: meta_image(floats(v, np.nan), ElementType="MET_FLOAT"),
            "3 NaN or infinite",
        ),
        (
            "v.nrrd",
            lambda v: nrrd(floats(v, -np.inf), *PLACED, kind="float"),
            "3 NaN or infinite",
        ),
        ("v.nrrd", lambda v: nrrd(v, *SHEARED), "axes are not perpendicular"),
        ("v.mha", lambda v: meta_image(v)[:-40], "truncated"),
        ("v.nrrd", lambda v: nrrd(v, *PLACED)[:-40], "truncated"),
        ("v.mha", lambda v: b"", "cannot be read"),
        ("v.nrrd", lambda v: b"", "cannot be read"),
        ("v.mha", lambda v: meta_image(v, DistanceUnits="ells"), "'ells' is no unit of length"),
        ("v.nrrd", lambda v: nrrd(v, *PLACED, 'space units: "s" "s" "s"'), "no unit of length"),
        (
            "v.mha",
            lambda v: meta_image(v, ElementToIntensityFunctionSlope="steep"),
            "no number",
        ),
        (
            "v.mha",
            lambda v: meta_image(v, ElementNumberOfChannels=3, DimSize="2 5 4"),
            "3 value(s) a voxel",
        ),
    ],
)
def test_what_is_refused(tmp_path, values, name, content, words, one_sentence):
    (tmp_path / name).write_bytes(content(values))
    with pytest.raises(ValueError) as error:
        load_volume(tmp_path / name)
    text = one_sentence(error)
    assert words in text
    assert name in text
