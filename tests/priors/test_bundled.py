"""What comes with the package: each weight file is read, and has a model card beside it."""

import pytest

from diffnr_lightning.priors import bundled_denoisers, bundled_weights, load_denoiser, load_prior
from diffnr_lightning.priors.checkpoints import BUNDLED, DEFAULT, bundled_priors
from diffnr_lightning.workflows.methods.sampler import PRIORS

CARDS = {DEFAULT: BUNDLED / "README.md"}


@pytest.mark.parametrize("name", bundled_priors())
def test_a_prior_is_read_and_has_its_card(name):
    parameters = sum(p.numel() for p in load_prior(bundled_weights(name)).parameters())
    card = CARDS.get(name, BUNDLED / f"{name}.md").read_text(encoding="utf-8")
    assert f"`{name}.safetensors`" in card and f"{parameters / 1e6:.2g} M parameters" in card


@pytest.mark.parametrize("name", bundled_denoisers())
def test_a_denoiser_is_read_and_has_its_card(name):
    parameters = sum(p.numel() for p in load_denoiser(name).parameters())
    card = (BUNDLED / "denoisers" / name / "README.md").read_text(encoding="utf-8")
    assert card.startswith(f"# Model card: {name}\n")
    assert f"{parameters / 1e6:.2f} M parameters" in card


def test_every_sampler_finds_a_prior():
    assert {"slices", *PRIORS.values()} == set(bundled_denoisers())


def test_denoisers_are_small():
    files = (BUNDLED / "denoisers").rglob("*.safetensors")
    assert sum(file.stat().st_size for file in files) <= 16 * 2**20
