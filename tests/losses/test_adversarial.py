import pytest
import torch

from diffnr_lightning.losses import discriminator_adversarial, generator_adversarial

KINDS = ["hinge", "least_squares"]
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
