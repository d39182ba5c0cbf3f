from pathlib import Path

import pytest

from diffnr_lightning.data.readers.volume_files import volume_content, volume_files


def names(path):
    return [file.name for file in volume_files(path)]


def test_a_header_comes_with_its_voxels_and_a_folder_with_its_slices(tmp_path):
    for name in ("head.mhd", "head.raw", "head_2.raw", "whole.nii.gz"):
        (tmp_path / name).touch()
    assert names(tmp_path / "head.mhd") == ["head.mhd", "head.raw"]
    assert names(tmp_path / "whole.nii.gz") == ["whole.nii.gz"]
    slices = tmp_path / "slices"
    slices.mkdir()
    for name in ("2.tif", "1.tif", ".hidden"):
        (slices / name).touch()
    assert names(slices) == ["1.tif", "2.tif"]
    assert not volume_files(tmp_path / "gone.nii.gz")


def test_the_content_of_a_volume_is_read_once(tmp_path, monkeypatch):
    for name in ("1.tif", "2.tif"):
        (tmp_path / name).write_bytes(b"before")
    before = volume_content(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *given: pytest.fail("read again"))
        assert volume_content(tmp_path) == before
    (tmp_path / "2.tif").write_bytes(b"corrected")
    corrected = volume_content(tmp_path)
    assert corrected != before
    (tmp_path / "1.tif").unlink()
    assert volume_content(tmp_path) not in (before, corrected)
