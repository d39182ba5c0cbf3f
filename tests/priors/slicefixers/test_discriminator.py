from __future__ import annotations

import pytest
import torch

from diffnr_lightning.losses import discriminator_adversarial, generator_adversarial
from diffnr_lightning.priors import PatchDiscriminator


def pairs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares with streaks, and the squares without them, (4, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.zeros(4, 32, 32)
    for image, corner in zip(clean, torch.randint(4, 14, (4, 2), generator=generator), strict=True):
        image[corner[0] : corner[0] + 14, corner[1] : corner[1] + 14] = 0.6
    streaks = 0.3 * torch.sin(torch.arange(32) * 2.0).expand(4, 32, 32)
    return (clean + streaks).clamp(0, 1), clean


@pytest.mark.parametrize(
    ("shape", "logits"), [((24, 24), (1, 1)), ((32, 48), (2, 4)), ((96, 96), (10, 10))]
)
def test_one_logit_for_each_patch(shape, logits):
    degraded, candidate = torch.rand(2, 3, *shape)
    assert PatchDiscriminator(width=8)(degraded, candidate).shape == (3, *logits)


def test_a_logit_sees_seventy_pixels():
    candidate = torch.rand(1, 160, 160, requires_grad=True)
    network = PatchDiscriminator(width=8)
    # Without the normalisation over the slice, which spreads (faintly) over all of it.
    network.layers = torch.nn.Sequential(
        *(layer for layer in network.layers if not isinstance(layer, torch.nn.GroupNorm))
    )
    network(torch.zeros(1, 160, 160), candidate)[0, 9, 9].backward()
    seen = candidate.grad[0].abs().sum(dim=0).nonzero()
    assert seen.max() - seen.min() + 1 == 70


def test_scores_of_a_slice_are_its_own():
    network = PatchDiscriminator(width=8).eval()
    degraded, candidate = torch.rand(2, 3, 32, 32)
    whole = network(degraded, candidate)
    torch.testing.assert_close(network(degraded[1:2], candidate[1:2]), whole[1:2])


def test_hinge_losses_order_fakes_below_reals_after_a_few_steps():
    torch.manual_seed(0)
    network = PatchDiscriminator(width=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, betas=(0.5, 0.99))
    losses = []
    for step in range(40):
        degraded, clean = pairs(step)
        loss = discriminator_adversarial(network(degraded, clean), network(degraded, degraded))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    degraded, clean = pairs(seed=1000)
    with torch.no_grad():
        real, fake = network(degraded, clean), network(degraded, degraded)
    assert losses[-1] < 0.5 * losses[0]
    assert fake.mean() < real.mean() - 0.5
    assert generator_adversarial(fake) > generator_adversarial(real)


def test_spectral_normalisation_bounds_the_layers():
    network = PatchDiscriminator(width=8).train()
    for layer in network.layers:
        if isinstance(layer, torch.nn.Conv2d):
            with torch.no_grad():
                layer.parametrizations.weight.original.mul_(100)
    degraded, clean = pairs(0)
    for _ in range(30):  # each pass refines the estimate of the norms
        network(degraded, clean)
    for layer in network.eval().layers:
        if isinstance(layer, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2) < 1.1


def test_slices_that_are_too_small_or_unlike_are_refused():
    network = PatchDiscriminator(width=8)
    with pytest.raises(ValueError, match="at least 24"):
        network(torch.rand(1, 23, 40), torch.rand(1, 23, 40))
    with pytest.raises(ValueError, match="expects two alike"):
        network(torch.rand(1, 32, 32), torch.rand(2, 32, 32))


@pytest.mark.parametrize("width", [0, 4, 12])
def test_width_is_checked(width):
    with pytest.raises(ValueError, match=f"width is {width}; expected a positive multiple of 8"):
        PatchDiscriminator(width)
