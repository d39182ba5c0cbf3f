"""Losses of a generator and its discriminator, from the discriminator's unbounded scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

AdversarialKind = Literal["hinge", "least_squares", "multilevel_sigmoid"]

REAL_TARGET = 0.8
"""Probability of "real" that `multilevel_sigmoid` asks for: below 1, so that logits stay bounded."""


def generator_adversarial(
    fake: Tensor | Sequence[Tensor], kind: AdversarialKind = "hinge"
) -> Tensor:
    """Loss of the generator: low where the discriminator takes its images for real.

    Args:
        fake: scores of generated images, any shape; high means "real". A sequence holds the scores
            of several levels, whose losses are added.
        kind: "hinge", "least_squares" (real is 1, fake is 0) or "multilevel_sigmoid" (cross-entropy
            of logits; real is 0.8).

    Returns:
        Scalar mean over the scores of a level, summed over the levels.

    Raises:
        ValueError: an unknown kind, or no scores.

    Source:
        Lim and Ye, "Geometric GAN", 2017; Mao et al., "Least squares GAN", ICCV 2017; Kumari et
        al., "Ensembling off-the-shelf models for GAN training", CVPR 2022, whose code calls the
        last one "multilevel_sigmoid_s".
    """
    _check_kind(kind)
    if kind == "hinge":
        losses = [-scores.mean() for scores in _levels(fake)]
    elif kind == "least_squares":
        losses = [0.5 * (scores - 1).square().mean() for scores in _levels(fake)]
    else:
        losses = [_cross_entropy(scores, REAL_TARGET) for scores in _levels(fake)]
    return torch.stack(losses).sum()


def discriminator_half(
    scores: Tensor | Sequence[Tensor], kind: AdversarialKind = "hinge", *, real: bool
) -> Tensor:
    """One of the two terms of `discriminator_adversarial`, for training in two steps.

    Args:
        scores: of real or of generated images, any shape; a sequence holds several levels.
        kind: as of `discriminator_adversarial`.
        real: whether the scored images are real ones.

    Returns:
        Scalar; the terms for real and for generated images add up to `discriminator_adversarial`.

    Raises:
        ValueError: an unknown kind, or no scores.
    """
    _check_kind(kind)
    levels = _levels(scores)
    if kind == "hinge":
        sign = -1 if real else 1
        losses = [0.5 * F.relu(1 + sign * level).mean() for level in levels]
    elif kind == "least_squares":
        losses = [0.5 * (level - float(real)).square().mean() for level in levels]
    else:
        losses = [_cross_entropy(level, REAL_TARGET if real else 0.0) for level in levels]
    return torch.stack(losses).sum()


def discriminator_adversarial(
    real: Tensor | Sequence[Tensor],
    fake: Tensor | Sequence[Tensor],
    kind: AdversarialKind = "hinge",
) -> Tensor:
    """Loss of the discriminator: low where real images score above generated ones.

    Args:
        real: scores of real images, any shape. A sequence holds the scores of several levels, whose
            losses are added.
        fake: scores of generated images, likewise; generated images must come detached.
        kind: "hinge", "least_squares" (real is 1, fake is 0) or "multilevel_sigmoid" (cross-entropy
            of logits; real is 0.8, fake is 0).

    Returns:
        Scalar; of the losses for real and for generated images the mean, except under
        "multilevel_sigmoid", where it is their sum as in its source.

    Raises:
        ValueError: an unknown kind, or no scores.

    Source:
        As of `generator_adversarial`.
    """
    return discriminator_half(real, kind, real=True) + discriminator_half(fake, kind, real=False)


def _check_kind(kind: str) -> None:
    if kind not in get_args(AdversarialKind):
        raise ValueError(
            f"the adversarial loss is '{kind}'; one of {', '.join(get_args(AdversarialKind))} is "
            "expected."
        )


def _levels(scores: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    levels = [scores] if isinstance(scores, Tensor) else scores
    if not levels:
        raise ValueError("the adversarial loss got no scores; a tensor or several are expected.")
    return levels


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
