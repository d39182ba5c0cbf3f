"""NIfTI headers, field by field, in files written byte by byte."""

import gzip
import struct

import numpy as np
import pytest

from diffnr_lightning.data.readers.nifti import NIFTI_1, NIFTI_2
from diffnr_lightning.data.volumes import load_volume

SHAPE = (6, 5, 4)  # I, J, K
EDGES = (0.5, 0.75, 2.5)
MARKED = (4, 1, 2)
CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024}


@pytest.fixture
def values():
    """HU (K, J, I), all different but for one voxel of bone."""
    hu = np.linspace(-1000, 200, np.prod(SHAPE)).round().reshape(SHAPE[::-1])
    hu[MARKED[::-1]] = 900
    return hu


def nifti(values, kind="i2", order="<", version=1, trailing=(), **fields):
    """Return the bytes of a file; `fields` are header fields by the names of nifti1.h."""
    layout, size = (NIFTI_1, 348) if version == 1 else (NIFTI_2, 540)
    start = size + 4
    shape = (*values.shape[::-1], *trailing)
    fields = {
        "dim": (len(shape), *shape, *[1] * (7 - len(shape))),
        "datatype": CODES.get(kind, 0),
        "pixdim": (1.0, *EDGES, 0, 0, 0, 0),
        "vox_offset": start,
        "xyzt_units": 2,
        "sform_code": 1,
        "srow": (EDGES[0], 0, 0, -10, 0, EDGES[1], 0, -20, 0, 0, EDGES[2], 30),
    } | fields
    header = bytearray(start)
    struct.pack_into(f"{order}i", header, 0, size)
    place, magic = (344, b"n+1\0") if version == 1 else (4, b"n+2\0\r\n\x1a\n")
    header[place : place + len(magic)] = magic
    for name, value in fields.items():
        form, offset = layout[name]
        struct.pack_into(order + form, header, offset, *np.atleast_1d(value).tolist())
    return bytes(header) + values.astype(order + kind).tobytes()


def placed(volume):
    """Return the patient's (x, y, z) of the marked voxel."""
    middle = 0.5 * (np.array(volume.array.shape) - 1)
    index = np.array(np.unravel_index(volume.array.argmax(), volume.array.shape))
    offset = ((index - middle) * volume.spacing_mm)[::-1]
    return np.reshape(volume.direction, (3, 3)) @ offset + volume.centre_mm


def expected(rows, scale=1.0):
    """Where the header's affine (3, 4) puts the marked voxel, in DICOM's axes."""
    return np.array([-1, -1, 1]) * (np.reshape(rows, (3, 4)) @ [*MARKED, 1]) * scale


ROWS = (EDGES[0], 0, 0, -10, 0, EDGES[1], 0, -20, 0, 0, EDGES[2], 30)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i2", "i4", "f4", "f8", "i8"])
def test_every_number_type_and_byte_order(tmp_path, values, kind, order, version):
    (tmp_path / "v.nii").write_bytes(nifti(values, kind, order, version))
    volume = load_volume(tmp_path / "v.nii")
    assert np.array_equal(volume.array, values[:, ::-1, ::-1])
    assert volume.spacing_mm == pytest.approx(EDGES[::-1])
    np.testing.assert_allclose(placed(volume), expected(ROWS), atol=1e-5)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "u4"])
def test_scaled_values(tmp_path, kind):
    stored = np.arange(np.prod(SHAPE)).reshape(SHAPE[::-1])
    (tmp_path / "v.nii").write_bytes(nifti(stored, kind, scl_slope=2.5, scl_inter=-100.25))
    volume = load_volume(tmp_path / "v.nii", unit="arbitrary")
    assert np.array_equal(volume.array, (stored * 2.5 - 100.25)[:, ::-1, ::-1])
    (tmp_path / "v.nii").write_bytes(nifti(stored, kind, scl_slope=0.0, scl_inter=-100.25))
    assert load_volume(tmp_path / "v.nii").array.max() == stored.max()


@pytest.mark.parametrize(("code", "scale"), [(0, 1), (1, 1000), (2, 1), (3, 1e-3)])
def test_units_of_length(tmp_path, values, code, scale):
    (tmp_path / "v.nii").write_bytes(nifti(values, xyzt_units=code))
    volume = load_volume(tmp_path / "v.nii")
    np.testing.assert_allclose(volume.spacing_mm, np.multiply(EDGES[::-1], scale))
    np.testing.assert_allclose(placed(volume), expected(ROWS, scale), rtol=1e-6)


def turned(axis, degrees):
    t = np.deg2rad(degrees)
    turn = np.eye(3)
    p, q = [n for n in range(3) if n != axis]
    turn[p, p] = turn[q, q] = np.cos(t)
    turn[p, q], turn[q, p] = -np.sin(t), np.sin(t)
    return turn


@pytest.mark.parametrize("handed", [1.0, -1.0])
def test_the_quaternion_alone(tmp_path, values, handed):
    half = np.deg2rad(12.0) / 2
    pixdim = (handed, *EDGES, 0, 0, 0, 0)
    quaternion = {"quatern": (np.sin(half), 0, 0), "qoffset": (-10, -20, 30)}
    (tmp_path / "v.nii").write_bytes(
        nifti(values, sform_code=0, qform_code=1, pixdim=pixdim, **quaternion)
    )
    volume = load_volume(tmp_path / "v.nii")
    t = np.deg2rad(12.0)
    turn = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])
    rows = np.column_stack([turn * EDGES * [1, 1, handed], (-10, -20, 30)])
    np.testing.assert_allclose(placed(volume), expected(rows), atol=1e-4)


@pytest.mark.parametrize("degrees", [(17, 8), (-30, 100)])
def test_an_oblique_volume_keeps_its_direction(tmp_path, values, degrees):
    turn = turned(0, degrees[0]) @ turned(2, degrees[1])
    rows = np.column_stack([turn * EDGES, (-10, -20, 30)])
    (tmp_path / "v.nii").write_bytes(nifti(values, srow=rows.ravel()))
    volume = load_volume(tmp_path / "v.nii")
    np.testing.assert_allclose(placed(volume), expected(rows), atol=1e-4)
    direction = np.reshape(volume.direction, (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-6)
    assert (np.diag(direction) > 0.7).all()


def test_forms_that_differ_are_both_named(tmp_path, values, caplog):
    mirrored = {"qform_code": 1, "quatern": (0, 1, 0), "qoffset": (-10, -20, 30)}
    (tmp_path / "v.nii").write_bytes(nifti(values, **mirrored))
    volume = load_volume(tmp_path / "v.nii")
    assert "its sform (" in caplog.text
    assert "its qform (" in caplog.text
    assert "the sform is used" in caplog.text
    np.testing.assert_allclose(placed(volume), expected(ROWS), atol=1e-5)
    caplog.clear()
    agreeing = {"qform_code": 1, "quatern": (0, 0, 0), "qoffset": (-10, -20, 30)}
    (tmp_path / "v.nii").write_bytes(nifti(values, **agreeing))
    load_volume(tmp_path / "v.nii")
    assert "form" not in caplog.text


def test_voxel_edges_that_contradict_the_affine_are_named(tmp_path, values, caplog):
    (tmp_path / "v.nii").write_bytes(nifti(values, pixdim=(1, 1, 1, 1, 0, 0, 0, 0)))
    assert load_volume(tmp_path / "v.nii").spacing_mm == pytest.approx(EDGES[::-1])
    assert "the affine is used" in caplog.text


def test_what_a_header_leaves_out_is_said(tmp_path, values, caplog):
    (tmp_path / "v.nii").write_bytes(nifti(values, sform_code=0))
    volume = load_volume(tmp_path / "v.nii")
    assert np.array_equal(volume.array, values)
    assert volume.spacing_mm == EDGES[::-1]
    assert "says nothing about its axes" in caplog.text
    (tmp_path / "v.nii").write_bytes(nifti(values, sform_code=0, pixdim=(1, 0, 0, 0, 0, 0, 0, 0)))
    assert load_volume(tmp_path / "v.nii").spacing_mm == (1.0, 1.0, 1.0)
    assert "stores no voxel size; 1 mm is assumed" in caplog.text


def test_one_frame_is_a_volume_and_two_are_not(tmp_path, values):
    (tmp_path / "v.nii").write_bytes(nifti(values, trailing=(1, 1)))
    assert np.array_equal(load_volume(tmp_path / "v.nii").array, values[:, ::-1, ::-1])
    (tmp_path / "v.nii").write_bytes(nifti(np.stack([values, values])))
    with pytest.raises(ValueError, match="has the shape 6x5x4x2 .* save the one"):
        load_volume(tmp_path / "v.nii")


def test_a_file_that_does_not_say_where_its_values_begin(tmp_path, values):
    (tmp_path / "v.nii").write_bytes(nifti(values, vox_offset=0))
    assert np.array_equal(load_volume(tmp_path / "v.nii").array, values[:, ::-1, ::-1])


def test_compression_is_told_by_content(tmp_path, values):
    (tmp_path / "a.nii.gz").write_bytes(nifti(values))
    (tmp_path / "b.nii").write_bytes(gzip.compress(nifti(values)))
    for name in ("a.nii.gz", "b.nii"):
        assert np.array_equal(load_volume(tmp_path / name).array, values[:, ::-1, ::-1])


def sheared():
    rows = np.array(ROWS).reshape(3, 4)
    rows[1, 2] = 2.5 * np.tan(np.deg2rad(18))
    return {"srow": rows.ravel()}


def with_value(value):
    def spoil(values):
        values = values.copy()
        values[0, 0, :2] = value
        return nifti(values, "f4")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (with_value(np.nan), "2 NaN or infinite"),
        (with_value(np.inf), "2 NaN or infinite"),
        (lambda values: nifti(values, **sheared()), "axes are not perpendicular"),
        (lambda values: nifti(values)[:-20], "truncated, with 220 bytes of values where 240"),
        (lambda values: nifti(values)[:200], "cannot be read"),
        (lambda values: gzip.compress(nifti(values))[:-30], "compression is damaged or truncated"),
        (lambda values: b"", "cannot be read"),
        (lambda values: nifti(values, datatype=32), "complex numbers"),
        (lambda values: nifti(values, datatype=128), "colours (RGB)"),
        (lambda values: nifti(values, datatype=1), "single bits"),
        (lambda values: nifti(values, xyzt_units=5), "unit code 5"),
        (lambda values: nifti(values, srow=[0.0] * 12), "voxel edges of 0, 0, 0"),
        (lambda values: nifti(values, srow=[np.nan] * 12), "voxel edges of nan"),
        (lambda values: nifti(values[0]), "has the shape 6x5"),
        (lambda values: nifti(values, dim=(3, 6, 0, 4, 1, 1, 1, 1)), "has the shape 6x0x4"),
        (lambda values: nifti(values, vox_offset=1e9), "truncated, with 0 bytes"),
    ],
)
def test_what_is_refused(tmp_path, values, spoil, words, one_sentence):
    (tmp_path / "v.nii").write_bytes(spoil(values))
    with pytest.raises(ValueError) as error:
        load_volume(tmp_path / "v.nii")
    text = one_sentence(error)
    assert words in text
    assert "v.nii" in text
