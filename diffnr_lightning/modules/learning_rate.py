"""How learning rates rise and fall over a run, and with what a run would not learn."""

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


def refuse_idle_learning(gradient_norm: float, final_rate: float, log_every: int) -> None:
    """Refuse settings with which steps lead nowhere or uphill, or a run breaks off when it logs.

    Args:
        gradient_norm: to which gradients are scaled down at most.
        final_rate: share of the peak rate that is left at the end.
        log_every: batches between two log entries.

    Raises:
        ValueError: a norm that is not positive, a negative share, or a count below one.
    """
    if not gradient_norm > 0 or not final_rate >= 0 or log_every < 1:
        raise ValueError(
            f"gradient_norm={gradient_norm}, final_rate={final_rate}, log_every={log_every}; expected "
            "gradient_norm > 0, final_rate >= 0 and log_every >= 1: infinity as gradient_norm scales nothing down."
        )
