"""Distance of an image or volume from what was measured."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape; ValueError where the shapes differ."""
    # torch broadcasts with a warning at most; a silently repeated target is never meant.
    if prediction.shape != target.shape:
        raise ValueError(
            f"l1 got prediction {tuple(prediction.shape)} and target {tuple(target.shape)}; "
            "two tensors of one shape are expected."
        )
    return F.l1_loss(prediction, target)
