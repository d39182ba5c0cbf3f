"""What density control asks of the renderings: how hard the projections pull at each Gaussian."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class ScreenStatistics:
    """Collect what density control asks for: how hard the projections pull at each centre.

    Attributes:
        gradient: (N,) sum over views of the norm of d loss / d projected centre, in half detector
            widths, times the number of views that are rendered together: a loss is a mean over
            them, and the pull of a view must not depend on how many others share its batch.
        visible: (N,) views that saw the Gaussian.
    """

    def __init__(self, count: int) -> None:
        self.gradient = np.zeros(count, np.float32)
        self.visible = np.zeros(count, np.float32)

    def watch(
        self, centres: Tensor, seen: Tensor, detector_shape: tuple[int, int], num_views: int
    ) -> None:
        """Add what the backward pass of one view brings to its projected centres.

        Args:
            centres: (N, 2) columns and rows, part of the graph.
            seen: (N,) whether the footprint meets the detector.
            detector_shape: (H, W).
            num_views: views that are rendered together, this one among them.
        """
        half = num_views * torch.tensor(detector_shape[::-1]).to(centres) / 2

        def add(gradient: Tensor) -> None:
            self.gradient += (gradient * half).norm(dim=1).float().cpu().numpy()
            self.visible += seen.float().cpu().numpy()

        if centres.requires_grad:
            centres.register_hook(add)
