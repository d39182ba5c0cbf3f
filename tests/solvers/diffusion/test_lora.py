"""LoRA of a denoiser changes what it finds while it lasts, and nothing before and after."""

import sys

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser

from diffnr_lightning.priors import CompactDenoiser
from diffnr_lightning.solvers.diffusion.lora import adapted

NOISY = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def denoiser() -> CompactDenoiser:
    torch.manual_seed(0)
    return CompactDenoiser(channels=1, widths=(8, 16), gaps=0).eval().requires_grad_(False)


def found(denoiser):
    with torch.no_grad():
        return denoiser.predict(NOISY, 500)


def tune(denoiser, adapter):
    return adapter.tune(
        lambda _: denoiser.predict(NOISY, 500).square().mean(), updates=2, rate=0.01
    )


@pytest.mark.parametrize("failing", [False, True])
def test_the_prior_is_left_bit_by_bit_as_it_was(denoiser, failing):
    weights = {name: value.clone() for name, value in denoiser.state_dict().items()}
    modules, before = dict(denoiser.named_modules()), found(denoiser)
    with pytest.raises(KeyboardInterrupt), adapted(denoiser, 2, 0, biases=True) as adapter:
        assert torch.equal(found(denoiser), before)
        tune(denoiser, adapter)
        assert not torch.equal(found(denoiser), before)
        if not failing:
            tune(denoiser, adapter)
        raise KeyboardInterrupt
    assert dict(denoiser.named_modules()) == modules
    assert denoiser.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[n]) for n, value in denoiser.state_dict().items())
    assert not any(p.requires_grad for p in denoiser.parameters())
    assert not hasattr(denoiser, "peft_config")
    assert torch.equal(found(denoiser), before)


def test_lora_is_trained_alone_and_can_be_left_aside(denoiser):
    before = found(denoiser)
    with adapted(denoiser, 2, 0) as adapter:
        first = adapter.values()
        moments = tune(denoiser, adapter)
        tuned, values = found(denoiser), adapter.values()
        with adapter.left_aside():
            assert torch.equal(found(denoiser), before)
        assert torch.equal(found(denoiser), tuned)
        assert not any(torch.equal(values[name], first[name]) for name in first)
        adapter.load(first)
        assert torch.equal(found(denoiser), before)
        adapter.load(values)
        assert torch.equal(found(denoiser), tuned)
        assert len(moments["state"]) == len(first)


def test_first_factors_are_drawn_from_the_seed(denoiser):
    values = []
    for seed in (1, 1, 2):
        with adapted(denoiser, 4, seed) as adapter:
            values.append(torch.cat([v.flatten() for v in adapter.values().values()]))
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_refusals_say_what_was_expected(denoiser, monkeypatch):
    with (
        pytest.raises(ValueError, match="has 0 layers in blocks"),
        adapted(GaussianDenoiser(), 4, 0),
    ):
        pass
    with pytest.raises(ValueError, match="rank is 0"), adapted(denoiser, 0, 0):
        pass
    monkeypatch.setitem(sys.modules, "peft", None)
    with (
        pytest.raises(ImportError, match="need the package peft"),
        adapted(denoiser, 1, 0),
    ):
        pass
