"""Trainings that have diverged, which end with a sentence instead of going on for hours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def refuse_diverged_weights(task: nn.Module, iteration: int) -> None:
    """Refuse weights that hold no numbers any more; they are those of all processes, so all of them end.

    A step with float16 gradients that overflow is left out and harms no weight.

    Args:
        task: whose trainable weights are looked at.
        iteration: batches done.

    Raises:
        ValueError: a trainable weight with NaN or infinite values.
    """
    trained = {name: p.detach() for name, p in task.named_parameters() if p.requires_grad}
    # One answer for all weights: the device is waited for once.
    finite = torch.stack([weight.isfinite().all() for weight in trained.values()])
    if not bool(finite.all()):
        first = [*trained][int(finite.int().argmin())]
        raise ValueError(
            f"the training has diverged by iteration {iteration}, with NaN or infinite values in {first} where finite "
            "ones are expected; lower its rates."
        )


def refuse_diverged_scores(scores: Mapping[str, Tensor], iteration: int) -> None:
    """Refuse scores of held-out batches that are no numbers.

    Args:
        scores: number by name, the same on all processes.
        iteration: batches done.

    Raises:
        ValueError: a score that is NaN or infinite.
    """
    for name, score in scores.items():
        if not bool(score.isfinite()):
            raise ValueError(
                f"the training has diverged by iteration {iteration}, with {name} = {float(score):g} where a finite "
                "number is expected; lower its rates."
            )
