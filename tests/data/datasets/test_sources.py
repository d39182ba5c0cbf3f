"""What tells the content of a volume apart, whatever its files are called."""

import pytest

from diffnr_lightning.data.datasets import source_sha256


@pytest.mark.parametrize(
    ("volume", "changed", "beside"),
    [
        ("head.npy", "head.npy", "notes.txt"),
        ("head.mhd", "head.raw", "other.raw"),
        ("slices", "slices/2.tif", "slices/.hidden"),
    ],
)
def test_a_hash_is_of_the_files_of_a_volume(tmp_path, volume, changed, beside):
    (tmp_path / "slices").mkdir()
    for name in ("head.npy", "head.mhd", "head.raw", "slices/1.tif", "slices/2.tif"):
        (tmp_path / name).write_bytes(b"before")
    before = source_sha256(str(tmp_path / volume))
    (tmp_path / beside).write_bytes(b"something else")
    assert source_sha256(str(tmp_path / volume)) == before
    (tmp_path / changed).write_bytes(b"corrected")
    assert source_sha256(str(tmp_path / volume)) != before


def test_what_has_no_files_has_no_hash(tmp_path):
    assert source_sha256("phantom:3") is None
    assert source_sha256(str(tmp_path / "away.npy")) is None
    assert source_sha256("luna16:nobody") is None
