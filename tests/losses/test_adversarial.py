import math

import pytest
import torch

from diffnr_lightning.losses import (
    discriminator_adversarial,
    discriminator_half,
    generator_adversarial,
)

KINDS = ["hinge", "least_squares", "multilevel_sigmoid"]
LOW, HIGH = torch.full((2, 1, 3, 3), -0.5), torch.full((2, 1, 3, 3), 0.8)


@pytest.mark.parametrize("kind", KINDS)
def test_generator_prefers_a_deceived_discriminator(kind):
    assert generator_adversarial(HIGH, kind) < generator_adversarial(LOW, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_discriminator_prefers_real_above_fake(kind):
    right = discriminator_adversarial(HIGH, LOW, kind)
    undecided = discriminator_adversarial(LOW, LOW, kind)
    wrong = discriminator_adversarial(LOW, HIGH, kind)
    assert right < undecided < wrong


def test_closed_values():
    assert discriminator_adversarial(HIGH, LOW).item() == pytest.approx(0.5 * (0.2 + 0.5))
    assert discriminator_adversarial(HIGH, LOW, "least_squares").item() == pytest.approx(
        0.5 * (0.04 + 0.25)
    )
    assert generator_adversarial(LOW).item() == pytest.approx(0.5)
    assert generator_adversarial(LOW, "least_squares").item() == pytest.approx(0.5 * 2.25)


def cross_entropy(logit: float, target: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    return -target * math.log(probability) - (1 - target) * math.log(1 - probability)


def test_sigmoid_aims_at_four_fifths_for_reals_and_at_zero_for_fakes():
    kind = "multilevel_sigmoid"
    assert discriminator_adversarial(HIGH, LOW, kind).item() == pytest.approx(
        cross_entropy(0.8, 0.8) + cross_entropy(-0.5, 0.0)
    )
    assert generator_adversarial(LOW, kind).item() == pytest.approx(cross_entropy(-0.5, 0.8))
    best = torch.tensor([math.log(0.8 / 0.2)], requires_grad=True)
    generator_adversarial(best, kind).backward()
    assert best.grad.item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_levels_are_averaged_within_and_added(kind):
    generator = torch.Generator().manual_seed(0)
    real, fake = (
        [torch.randn(2, *shape, generator=generator) for shape in ((4, 4), (3, 3), (1,))]
        for _ in range(2)
    )
    pairs = zip(real, fake, strict=True)
    apart = sum(discriminator_adversarial(r, f, kind) for r, f in pairs)
    torch.testing.assert_close(discriminator_adversarial(real, tuple(fake), kind), apart)
    apart = sum(generator_adversarial(f, kind) for f in fake)
    torch.testing.assert_close(generator_adversarial(fake, kind), apart)
    pixels = generator_adversarial(fake[0], kind), generator_adversarial(fake[0].flatten(), kind)
    torch.testing.assert_close(*pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_halves_add_up(kind):
    halves = discriminator_half(HIGH, kind, real=True) + discriminator_half(LOW, kind, real=False)
    torch.testing.assert_close(halves, discriminator_adversarial(HIGH, LOW, kind))
    assert discriminator_half(HIGH, kind, real=True) < discriminator_half(LOW, kind, real=True)


def test_hinge_leaves_confident_scores_alone():
    real = torch.tensor([1.5]).requires_grad_()
    fake = torch.tensor([-1.5]).requires_grad_()
    discriminator_adversarial(real, fake).backward()
    assert real.grad.item() == 0
    assert fake.grad.item() == 0


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'wgan'"):
        generator_adversarial(LOW, "wgan")
    with pytest.raises(ValueError, match="'wgan'"):
        discriminator_adversarial(LOW, HIGH, "wgan")
    with pytest.raises(ValueError, match="hinge, least_squares, multilevel_sigmoid"):
        discriminator_half(LOW, "wgan", real=True)


def test_no_scores_are_refused():
    with pytest.raises(ValueError, match="no scores"):
        generator_adversarial([], "hinge")
