"""What density control asks of the renderings: how hard the projections pull at each Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor


class ScreenStatistics:
    """Collect what density control asks for: how hard the projections pull at each centre.

    Attributes:
        gradient: (N,) sum over views of the norm of d loss / d projected centre, in half detector
            widths, times the number of views that are rendered together: a loss is a mean over
            them, and the pull of a view must not depend on how many others share its batch.
        visible: (N,) views that saw the Gaussian. Both are float32, on the device of the
            Gaussians since their first backward pass.
    """

    def __init__(self, count: int) -> None:
        self.gradient = torch.zeros(count)
        self.visible = torch.zeros(count)

    def move_to(self, device: torch.device) -> None:
        """Gather on a device from now on, where a backward pass adds without waiting."""
        self.gradient, self.visible = self.gradient.to(device), self.visible.to(device)

    def pull(self) -> Tensor:
        """Return the mean pull (N,) over the views that saw each Gaussian."""
        return self.gradient / self.visible.clamp(min=1)

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
        rows, columns = detector_shape

        def add(gradient: Tensor) -> None:
            self.move_to(gradient.device)
            across, down = 0.5 * num_views * columns, 0.5 * num_views * rows
            self.gradient += torch.hypot(across * gradient[:, 0], down * gradient[:, 1]).float()
            self.visible += seen.float()

        if centres.requires_grad:
            centres.register_hook(add)
