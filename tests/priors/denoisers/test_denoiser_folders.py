"""Denoisers that come with the package are found by name, load, and have a model card."""

import shutil

import pytest
import torch

from diffnr_lightning.priors import (
    CompactDenoiser,
    UNetDenoiser,
    bundled_denoisers,
    load_denoiser,
    save_denoiser,
)
from diffnr_lightning.priors.denoisers import denoiser_folders
from diffnr_lightning.solvers.diffusion.slice_stacks import check_stacks


@pytest.mark.parametrize("name", bundled_denoisers())
def test_a_bundled_denoiser_predicts_and_has_a_card(name):
    denoiser = load_denoiser(name)
    edge = getattr(denoiser, "patch", 16)
    noisy = torch.randn(1, denoiser.channels, *(edge,) * denoiser.dimensions)
    assert torch.isfinite(denoiser.predict(noisy, denoiser.schedule.steps - 1)).all()
    card = denoiser_folders.BUNDLED / name / "README.md"
    assert "licence" in card.read_text(encoding="utf-8").lower()


def test_bundled_denoisers_are_small():
    files = denoiser_folders.BUNDLED.rglob("*.safetensors")
    assert sum(path.stat().st_size for path in files) < 32e6


def test_a_name_is_a_bundled_denoiser_and_a_path_stays_one(tmp_path, monkeypatch):
    """A name goes before a folder of that name, and folders without a denoiser have no name."""
    monkeypatch.setattr(denoiser_folders, "BUNDLED", tmp_path / "assets")
    folder = tmp_path / "assets" / "made-up"
    save_denoiser(folder, CompactDenoiser(channels=1, widths=(8,), gaps=0))
    (tmp_path / "assets" / "empty").mkdir()
    assert bundled_denoisers() == ["made-up"]
    monkeypatch.chdir(tmp_path)
    save_denoiser(tmp_path / "made-up", CompactDenoiser(channels=3, widths=(8,)))
    assert load_denoiser("made-up").channels == 1
    assert load_denoiser(tmp_path / "made-up").channels == 3
    shutil.copytree(tmp_path / "made-up", tmp_path / "mine")
    assert load_denoiser("mine").channels == 3
    with pytest.raises(FileNotFoundError, match=r"^slice is no folder .* \(one of made-up\);"):
        load_denoiser("slice")


def test_a_pipeline_of_others_is_asked_for_nothing_that_it_does_not_say(tmp_path):
    """Its labels do not say that single slices were trained, and a network of an exploding schedule returns scores."""
    save_denoiser(tmp_path / "ours", CompactDenoiser(channels=3, widths=(8,), fold=1))
    assert load_denoiser(tmp_path / "ours").alone
    (tmp_path / "ours" / "denoiser.json").unlink()
    theirs = load_denoiser(tmp_path / "ours")
    assert (theirs.gaps, theirs.alone) == (4, False)
    with pytest.raises(ValueError, match="stacks is single and the denoiser sees 3 slices"):
        check_stacks(theirs, "single")
    unet = CompactDenoiser(channels=1, widths=(8,), fold=1, gaps=0).unet
    save_denoiser(tmp_path / "ve", UNetDenoiser(unet, {"_class_name": "ScoreSdeVeScheduler"}))
    assert not (tmp_path / "ve" / "model_index.json").exists()
    (tmp_path / "ve" / "denoiser.json").unlink()
    with pytest.raises(ValueError, match="its variance explodes"):
        load_denoiser(tmp_path / "ve")


@pytest.mark.parametrize(
    "scheduler",
    [
        {"_class_name": "ScoreSdeVeScheduler", "sigma_max": 50.0, "num_train_timesteps": 40},
        {"_class_name": "DDIMScheduler", "beta_end": 0.01, "prediction_type": "sample"},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
    ],
)
def test_a_schedule_is_written_as_it_is(tmp_path, scheduler):
    unet = CompactDenoiser(channels=1, widths=(8,), fold=1, gaps=0).unet
    denoiser = UNetDenoiser(unet, scheduler)
    save_denoiser(tmp_path / "denoiser", denoiser)
    again = load_denoiser(tmp_path / "denoiser").schedule
    assert torch.equal(again.deviation, denoiser.schedule.deviation)
    assert torch.equal(again.signal, denoiser.schedule.signal)
    assert again.prediction == denoiser.schedule.prediction


class Scaled(CompactDenoiser):
    """Has a weight that its U-Net does not hold."""

    def __init__(self):
        super().__init__(channels=1, widths=(8,), gaps=0)
        self.factor = torch.nn.Parameter(torch.ones(()))


def test_what_a_folder_would_lose_is_refused(tmp_path):
    for denoiser in (Scaled(), torch.nn.Identity()):
        with pytest.raises(ValueError, match="cannot be kept in a folder"):
            save_denoiser(tmp_path / "lost", denoiser)
    assert not (tmp_path / "lost").exists()
