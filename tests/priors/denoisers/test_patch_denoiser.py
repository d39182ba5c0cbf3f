import json

import pytest
import torch

from diffnr_lightning.priors import Denoiser, PatchDenoiser, load_denoiser, save_denoiser
from diffnr_lightning.priors.denoisers.patch_denoiser import _folded, _unfolded
from diffnr_lightning.volume_patches import patch_coordinates


def tiny() -> PatchDenoiser:
    torch.manual_seed(0)
    denoiser = PatchDenoiser(8, (8, 16), embedding=16)
    for block in (*denoiser.down[0], *denoiser.up[0]):
        torch.nn.init.normal_(block.conv_out.weight, std=0.05)
    return denoiser


def test_cubes_of_voxels_become_channels_and_voxels_again():
    x = torch.rand(2, 1, 4, 8, 6)
    assert torch.equal(_unfolded(_folded(x, 2), 2), x)
    assert torch.equal(_folded(x, 2)[:, 5], x[:, 0, 1::2, ::2, 1::2])


def test_what_is_told_matters():
    denoiser = tiny()
    assert isinstance(denoiser, Denoiser)
    noisy, context = torch.randn(2, 2, 1, 8, 8, 8).unbind()
    plain = denoiser.predict(noisy, torch.tensor([100, 500]))
    assert plain.shape == noisy.shape
    torch.testing.assert_close(denoiser.predict(noisy[:1], 100), plain[:1])
    corner = torch.tensor([[4, 4, 4]])
    for told in ({"context": context}, {"coordinates": patch_coordinates(corner, (16,) * 3, 8)}):
        assert (denoiser.predict(noisy, torch.tensor([100, 500]), told) - plain).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"patches \(N, 1, 8, 8, 8\) are expected"):
        denoiser.predict(torch.zeros(1, 1, 16, 16, 16), 3)


def test_a_saved_denoiser_predicts_the_same(tmp_path):
    denoiser = tiny()
    for weight in denoiser.parameters():
        weight.data = weight.data.half().float()
    save_denoiser(tmp_path / "one", denoiser, {"iterations": 3})
    again = load_denoiser(tmp_path / "one")
    noisy = torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(again.predict(noisy, 7), denoiser.predict(noisy, 7))
    extras = tmp_path / "one" / "denoiser.json"
    content = json.loads(extras.read_text())
    content["architecture"]["widths"] = [8, 24]
    extras.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no usable denoiser .*names and shapes"):
        load_denoiser(tmp_path / "one")


@pytest.mark.parametrize("wrong", [{"patch": 10}, {"widths": (12,)}, {"blocks": 0}])
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match="expected"):
        PatchDenoiser(**wrong)
