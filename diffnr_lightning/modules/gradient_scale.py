"""The factor on the gradients of float16, which every step of an optimiser may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def gradients_in_scale(precision: Any, network: nn.Module) -> Iterator[None]:
    """Within the context another network makes a step; bring gradients kept of this one to the scale after it.

    Args:
        precision: plugin of the Trainer; only one with a `scaler` changes anything.
        network: whose gradients of earlier batches are kept, and added to.
    """
    scaler = getattr(precision, "scaler", None)
    before = 1.0 if scaler is None else scaler.get_scale()
    yield
    after = 1.0 if scaler is None else scaler.get_scale()
    for parameter in network.parameters() if after != before else ():
        if parameter.grad is not None:
            parameter.grad.mul_(after / before)


def refuse_idle_steps(gan_start: int, steps: str, weights: Mapping[str, float]) -> None:
    """Refuse settings by which an optimiser steps without gradients, which their scaler cannot.

    Args:
        gan_start: batches before the discriminator's training begins.
        steps: their order, `joint` or `original`.
        weights: of each term of the loss, by name.

    Raises:
        ValueError: a discriminator that starts later, or original steps of the prior without a term.
    """
    if gan_start:
        raise ValueError(
            f"gan_start is {gan_start} with float16; the scaler of gradients cannot idle with the discriminator: "
            "expected precision bf16-mixed or 32-true, or gan_start 0."
        )
    if steps == "original" and not any(w for term, w in weights.items() if term != "gan"):
        raise ValueError(
            "lambda_gan is the only weight with steps 'original' and float16; the scaler of gradients cannot idle in "
            "the first step of a batch: expected precision bf16-mixed or 32-true, steps 'joint', or another weight."
        )


def step_idly(optimizer: Any) -> None:
    """Step without gradients, which changes nothing and keeps `global_step` in pace."""
    optimizer.zero_grad()
    optimizer.step()
