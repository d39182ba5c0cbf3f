"""WeightAverage: the average of a network's weights over a training, moving or of its last part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """Average of the trainable weights, kept in the checkpoint as buffers.

    Frozen weights are not averaged, so that a large frozen backbone costs nothing.

    Args:
        network: whose parameters with `requires_grad` are averaged.
        decay: weight of the old average in each update. Early on it is min(decay, (1 + n)/(10 + n))
            after n updates, so that the random start is forgotten soon.
        plain_after: updates after which the moving average is given up for the plain mean of the
            weights from then on; None keeps it.

    Raises:
        ValueError: decay outside [0, 1), or a negative plain_after.

    Source: P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, for
        the plain mean. Deviation: every step counts, and the learning rate goes on falling.
    """

    def __init__(
        self, network: nn.Module, decay: float = 0.999, plain_after: int | None = None
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; expected a number in [0, 1).")
        if plain_after is not None and plain_after < 0:
            raise ValueError(f"plain_after is {plain_after}; None or at least 0 is expected.")
        self.decay = decay
        self.plain_after = plain_after
        self.updates: Tensor
        self.register_buffer("updates", torch.tensor(0))
        # The same on the host, which would wait for a device to read it; None asks once.
        self._done: int | None = 0
        self._keys: list[str] = []
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                # A buffer's name may not hold a dot.
                self._keys.append(name.replace(".", "/"))
                self.register_buffer(self._keys[-1], parameter.detach().clone())

    def _pairs(self, network: nn.Module) -> tuple[list[Tensor], list[nn.Parameter]]:
        parameters = dict(network.named_parameters())
        buffers = dict(self.named_buffers())
        return (
            [buffers[key] for key in self._keys],
            [parameters[key.replace("/", ".")] for key in self._keys],
        )

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the present weights."""
        done = int(self.updates) if self._done is None else self._done
        if self.plain_after is not None and done >= self.plain_after:
            decay = 1 - 1 / (done - self.plain_after + 1)
        else:
            decay = min(self.decay, (1 + done) / (10 + done))
        averages, parameters = self._pairs(network)
        torch._foreach_lerp_(averages, list(parameters), 1 - decay)
        self.updates += 1
        self._done = done + 1

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Within the context the network computes with the averaged weights."""
        averages, parameters = self._pairs(network)
        present = [parameter.data for parameter in parameters]
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.data = average
        try:
            yield
        finally:
            for parameter, own in zip(parameters, present, strict=True):
                parameter.data = own

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._done = None
        super()._load_from_state_dict(*arguments, **options)
