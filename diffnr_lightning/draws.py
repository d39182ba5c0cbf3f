"""Random draws from (seed, number), so that a resumed run draws what an uninterrupted one does."""

from __future__ import annotations

import torch


def generator_at(
    seed: int, number: int, *, stream: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the generator of one draw of a run.

    Args:
        seed: of the run.
        number: of the draw, such as the iteration or the step.
        stream: is added to its seed, so that several draws of one number differ.
        device: that it draws on.
    """
    return torch.Generator(device).manual_seed(seed * 1_000_003 + number + stream)
