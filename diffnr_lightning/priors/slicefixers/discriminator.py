"""PatchDiscriminator: judges patches of a repaired slice beside the degraded one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from diffnr_lightning.losses import AdversarialKind

SMALLEST = 24
"""Edge in pixels below which the last convolution has nothing left to see."""


class PatchDiscriminator(nn.Module):
    """Conditional patch discriminator: every output sees 70 x 70 pixels of (degraded, candidate).

    Spectral normalisation of all convolutions keeps it from outrunning the generator; group
    normalisation (not batch) makes each slice's score its own.

    Attributes:
        adversarial_kind: the loss it is trained with, see `losses.discriminator_adversarial`.
        smallest: edge in pixels that slices must have at least.

    Args:
        width: channels after the first convolution; doubled by each of the next three.

    Raises:
        ValueError: width that is not a multiple of 8.

    Source: Isola et al., Image-to-image translation with conditional adversarial networks (2017),
        the 70 x 70 PatchGAN; Miyato et al., Spectral normalization (2018).
    """

    adversarial_kind: AdversarialKind = "hinge"
    smallest: int = SMALLEST

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"width is {width}; expected a positive multiple of 8.")
        self.architecture = {"width": width}
        layers: list[nn.Module] = [
            spectral_norm(nn.Conv2d(2, width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
        ]
        for factor, stride in ((1, 2), (2, 2), (4, 1)):
            layers += [
                spectral_norm(nn.Conv2d(factor * width, 2 * factor * width, 4, stride, padding=1)),
                nn.GroupNorm(8, 2 * factor * width),
                nn.LeakyReLU(0.2),
            ]
        layers.append(spectral_norm(nn.Conv2d(8 * width, 1, 4, padding=1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, degraded: Tensor, candidate: Tensor) -> Tensor:
        """Scores (logits) of the candidate, higher for clean ones.

        Args:
            degraded: (N, H, W) in [0, 1], what the generator was given; H and W at least 24.
            candidate: (N, H, W), clean or repaired.

        Returns:
            (N, h, w), one logit for each patch.

        Raises:
            ValueError: slices that are too small or do not match.
        """
        if degraded.shape != candidate.shape or min(degraded.shape[-2:]) < SMALLEST:
            raise ValueError(
                f"degraded has shape {tuple(degraded.shape)} and candidate "
                f"{tuple(candidate.shape)}; the discriminator expects two alike (N, H, W) with H "
                f"and W of at least {SMALLEST}: train on larger crops."
            )
        return self.layers(torch.stack((degraded, candidate), dim=1))[:, 0]
