from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile
from dicom_slices import write_slice

from diffnr_lightning.data import load_volume
from diffnr_lightning.data.readers import volume_files as volume_files_module
from diffnr_lightning.data.readers.volume_files import volume_content, volume_files


def names(path):
    return [file.name for file in volume_files(path)]


@pytest.fixture
def beside(tmp_path):
    """A folder of many empty files."""
    (tmp_path / "sub").mkdir()
    for name in (
        "sub/head.raw",
        "head.raw",
        "head_2.raw",
        "head.seg.nrrd",
        "head.png",
        "my scan.raw",
    ):
        (tmp_path / name).touch()
    for number in range(1, 5):
        (tmp_path / f"slice_{number:02d}.raw").touch()
    return tmp_path


SLICES = ["slice_01.raw", "slice_02.raw", "slice_03.raw"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("head.raw", ["head.raw"]),
        ("head_2.raw", ["head_2.raw"]),
        ("my scan.raw", ["my scan.raw"]),
        ("sub/head.raw", ["head.raw"]),
        ("LIST\nslice_01.raw\nslice_02.raw\nslice_03.raw", SLICES),
        ("slice_%02d.raw 1 3 1", SLICES),
        ("slice_%02d.raw 1 3 2", SLICES[::2]),
        ("slice_%s%s.raw 1 3 1", []),
        ("away.raw", []),
        ("LOCAL", []),
    ],
)
@pytest.mark.parametrize("name", ["head.mhd", "head.mha", "head.nhdr", "head.nrrd"])
def test_a_header_comes_with_the_files_that_it_names(beside, name, entry, expected):
    nrrd = name.startswith("head.n")
    head = (
        f"NRRD0004\ntype: short\ndata file: {entry}\n\n"
        if nrrd
        else f"NDims = 3\nElementDataFile = {entry}\n"
    )
    (beside / name).write_text(head)
    assert sorted(names(beside / name)) == sorted([name, *expected])


def test_values_behind_a_header_name_no_files(beside):
    for name, head in (
        ("own.nrrd", b"NRRD0004\nencoding: raw\n\ndata file: head.raw\n"),
        ("own.mha", b"ElementDataFile = LOCAL\nElementDataFile = head.raw\n"),
        ("damaged.mhd", b"ElementDataFile = LIST\n" + 2**9 * b"long" + b"\n\0\n"),
    ):
        (beside / name).write_bytes(head)
        assert names(beside / name) == [name]


def test_a_folder_comes_with_its_slices(tmp_path):
    (tmp_path / "whole.nii.gz").touch()
    assert names(tmp_path / "whole.nii.gz") == ["whole.nii.gz"]
    assert not volume_files(tmp_path / "gone.nii.gz")
    for name in ("2.tif", "1.tif", ".hidden", "Thumbs.db"):
        (tmp_path / name).touch()
    assert names(tmp_path) == ["1.tif", "2.tif"]
    # Slices of a series come first, as when they are read.
    for number in (2, 1):
        write_slice(tmp_path / f"{number}.dcm", np.zeros((2, 2), np.int16), (0, 0, number))
    assert names(tmp_path) == ["1.dcm", "2.dcm"]


def test_what_earlier_versions_recorded_is_known(tmp_path):
    """They hashed all files of a folder, and all of the name of a header."""
    for name in ("1.tif", "2.tif", "notes.xml"):
        (tmp_path / name).write_bytes(name.encode())
    now, before = volume_content(tmp_path), "538d689a7b24"
    assert volume_content(tmp_path, before) == before != now == volume_content(tmp_path, now)
    (tmp_path / "2.tif").write_bytes(b"corrected")
    assert volume_content(tmp_path, before) not in (before, now)


def test_the_content_of_a_volume_is_read_once(tmp_path, monkeypatch):
    for name in ("1.tif", "2.tif"):
        (tmp_path / name).write_bytes(b"before")
    before = volume_content(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *given: pytest.fail("read again"))
        patched.setattr(
            volume_files_module, "series_files", lambda *given: pytest.fail("read again")
        )
        assert volume_content(tmp_path) == before
    (tmp_path / "2.tif").write_bytes(b"corrected")
    corrected = volume_content(tmp_path)
    assert corrected != before
    (tmp_path / "1.tif").unlink()
    assert volume_content(tmp_path) not in (before, corrected)


@pytest.mark.parametrize("locked", ["scan.mhd", "scan.raw", "slices/2.tif"])
def test_what_may_not_be_read_is_told_of_as_such(tmp_path, monkeypatch, locked):
    SimpleITK.WriteImage(SimpleITK.Image(4, 4, 4, SimpleITK.sitkInt16), tmp_path / "scan.mhd")
    (tmp_path / "slices").mkdir()
    for number in range(4):
        tifffile.imwrite(tmp_path / "slices" / f"{number}.tif", np.eye(4, dtype=np.uint16))
    monkeypatch.setattr(volume_files_module, "access", lambda file, _: file != tmp_path / locked)
    volume = tmp_path / ("slices" if locked.startswith("slices") else "scan.mhd")
    with pytest.raises(ValueError, match=rf"^\S*{locked} cannot be read: Permission denied; make"):
        load_volume(volume)
