import logging

import pytest
import torch

from diffnr_lightning.data.pairs.features import with_features
from diffnr_lightning.data.pairs.files import open_pairs, write_pairs


class Means:
    """Embeds a pair of projections by their means, and counts."""

    def __init__(self, name="aa" * 32):
        self.name, self.calls = name, 0

    def digest(self):
        return self.name

    def __call__(self, biplanar):
        self.calls += len(biplanar)
        return biplanar.mean(dim=(2, 3))[..., None].expand(-1, -1, 5)


def write(folder, name, biplanar):
    volume = torch.rand(2, 6, 6)
    info = {"case": name, "views": 12}
    write_pairs(folder, name, degraded=volume[None], clean=volume, biplanar=biplanar, info=info)


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        write(tmp_path, f"scan_{number}", torch.full((2, 4, 4), 0.25 * number))
    return tmp_path


def test_features_are_computed_once_and_kept(folder):
    encoder = Means()
    first = with_features(folder, open_pairs(folder), encoder)
    assert encoder.calls == 3
    assert {tuple(scan.biplanar.shape) for scan in first.values()} == {(2, 5)}
    assert first["scan_2"].biplanar.dtype == torch.float32
    assert (first["scan_2"].biplanar == 0.5).all()
    again = with_features(folder, open_pairs(folder), encoder, start=2)
    assert encoder.calls == 3
    assert list(again) == list(first)
    for name, scan in again.items():
        assert torch.equal(scan.biplanar, first[name].biplanar)


def test_other_weights_other_projections_and_damage_are_computed_anew(folder):
    with_features(folder, open_pairs(folder), Means())
    other = Means("bb" * 32)
    with_features(folder, open_pairs(folder), other)
    assert other.calls == 3
    write(folder, "scan_1", torch.ones(2, 4, 4))
    (damaged,) = (folder / "features").glob("aa*/scan_2.safetensors")
    damaged.write_bytes(b"junk")
    encoder = Means()
    scans = with_features(folder, open_pairs(folder), encoder)
    assert encoder.calls == 2
    assert (scans["scan_1"].biplanar == 1).all()


def test_a_folder_that_cannot_be_written_serves_this_run(folder, caplog):
    (folder / "features").write_text("in the way")
    with caplog.at_level(logging.WARNING, "diffnr"):
        scans = with_features(folder, open_pairs(folder), Means())
    assert (scans["scan_2"].biplanar == 0.5).all()
    assert "features are not kept" in caplog.text
