"""What tells the content of a volume apart, whatever its files are called."""

import pytest

from diffnr_lightning.data.datasets import source_sha256
from diffnr_lightning.files import json_sha256, sha256


@pytest.mark.parametrize(
    ("volume", "changed", "beside"),
    [
        ("head.npy", "head.npy", "notes.txt"),
        ("head.mhd", "voxels.raw", "head.seg.nrrd"),
        ("slices", "slices/2.tif", "slices/.hidden"),
        ("slices", "slices/2.tif", "slices/Thumbs.db"),
    ],
)
def test_a_hash_is_of_the_files_of_a_volume(tmp_path, volume, changed, beside):
    (tmp_path / "slices").mkdir()
    for name in ("head.npy", "voxels.raw", "slices/1.tif", "slices/2.tif"):
        (tmp_path / name).write_bytes(b"before")
    (tmp_path / "head.mhd").write_text("ElementDataFile = voxels.raw")
    before = source_sha256(str(tmp_path / volume))
    (tmp_path / beside).write_bytes(b"something else")
    assert source_sha256(str(tmp_path / volume)) == before
    (tmp_path / changed).write_bytes(b"corrected")
    assert source_sha256(str(tmp_path / volume)) != before


@pytest.mark.parametrize("beside", ["head.json", None])
def test_a_hash_of_an_earlier_version_is_known(tmp_path, beside):
    """It was of all files of the name of a header, mostly those that it names."""
    (tmp_path / "head.mhd").write_text("ElementDataFile = head.raw")
    (tmp_path / "head.raw").write_bytes(b"before")
    files = ["head.mhd", "head.raw"]
    if beside:
        (tmp_path / beside).write_bytes(b"notes")
        files.insert(0, beside)
    before = json_sha256([sha256(tmp_path / name) for name in files])
    volume = str(tmp_path / "head.mhd")
    assert source_sha256(volume, before) == before
    assert (source_sha256(volume) == before) is (beside is None)
    (tmp_path / "head.raw").write_bytes(b"corrected")
    assert source_sha256(volume, before) != before


def test_what_has_no_files_has_no_hash(tmp_path):
    assert source_sha256("phantom:3") is None
    assert source_sha256(str(tmp_path / "away.npy")) is None
    assert source_sha256("luna16:nobody") is None
