"""The factor on the gradients of float16, which every step of an optimiser may change."""

from __future__ import annotations

from collections.abc import Iterator
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
