"""Losses of a generator and its discriminator, from the discriminator's unbounded scores."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

AdversarialKind = Literal["hinge", "least_squares"]


def _check_kind(kind: str) -> None:
    if kind not in ("hinge", "least_squares"):
        raise ValueError(
            f"the adversarial loss is '{kind}'; 'hinge' or 'least_squares' is expected."
        )


def generator_adversarial(fake: Tensor, kind: AdversarialKind = "hinge") -> Tensor:
    """Loss of the generator: low where the discriminator takes its images for real.

    Args:
        fake: scores of generated images, any shape; high means "real".
        kind: "hinge" or "least_squares" (real is 1, fake is 0).

    Returns:
        Scalar mean over the scores.

    Raises:
        ValueError: an unknown kind.

    Source:
        Lim and Ye, "Geometric GAN", 2017; Mao et al., "Least squares GAN", ICCV 2017.
    """
    _check_kind(kind)
    if kind == "hinge":
        return -fake.mean()
    return 0.5 * (fake - 1).square().mean()


def discriminator_adversarial(
    real: Tensor, fake: Tensor, kind: AdversarialKind = "hinge"
) -> Tensor:
    """Loss of the discriminator: low where real images score above generated ones.

    Args:
        real: scores of real images, any shape.
        fake: scores of generated images, any shape; generated images must come detached.
        kind: "hinge" or "least_squares" (real is 1, fake is 0).

    Returns:
        Scalar; the mean of the halves for real and for generated images.

    Raises:
        ValueError: an unknown kind.

    Source:
        Lim and Ye, "Geometric GAN", 2017; Mao et al., "Least squares GAN", ICCV 2017.
    """
    _check_kind(kind)
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())
