"""How learning rates rise and fall over a run."""

from __future__ import annotations

import math


def warmed_cosine(iteration: int, iterations: int, warmup: int, final: float) -> float:
    """Return the share of the peak learning rate at a batch: linear warm-up, then cosine decay.

    Args:
        iteration: batches done.
        iterations: of the run.
        warmup: batches over which the rate rises.
        final: share of the peak that is left at the end.
    """
    if iteration < warmup:
        return (iteration + 1) / warmup
    done = (iteration - warmup) / max(iterations - warmup, 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
