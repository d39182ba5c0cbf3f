"""The way through the levels of a U-Net whose ways down and up are joined by addition."""

from __future__ import annotations

from torch import Tensor, nn


def through_levels(
    x: Tensor,
    embedding: Tensor,
    *,
    down: nn.ModuleList,
    shrink: nn.ModuleList,
    up: nn.ModuleList,
    grow: nn.ModuleList,
) -> Tensor:
    """Return features after all levels, finest first on the way down and last on the way up.

    Args:
        x: (N, C, *spatial) features of the finest level.
        embedding: (N, E) or (1, E), which every block is given.
        down: residual blocks of each level on the way down, L lists.
        shrink: from each level to the next coarser one, L - 1.
        up: residual blocks of each level on the way up, L lists.
        grow: to each level from the next coarser one, L - 1.

    Returns:
        (N, C, *spatial).
    """
    skips = []
    for level, stage in enumerate(down):
        if level:
            x = shrink[level - 1](x)
        for block in stage:
            x = block(x, embedding)
        skips.append(x)
    for level in reversed(range(len(up))):
        if level < len(grow):
            x = grow[level](x) + skips[level]
        for block in up[level]:
            x = block(x, embedding)
    return x
