"""Views that were not measured, which an optimisation takes as if they were."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry


class NovelViews(NamedTuple):
    """Hold projections of views that nobody has measured.

    Attributes:
        scan: where they lie.
        projections: (N, H, W) line integrals.
    """

    scan: ScanGeometry
    projections: Tensor

    @classmethod
    def of(cls, scan: ScanGeometry, projections: Tensor) -> NovelViews:
        """Return the views of a scan.

        Raises:
            ValueError: another number of projections than views.
        """
        if len(scan) != len(projections):
            raise ValueError(
                f"{len(projections)} projections came for {len(scan)} views; one for each is expected."
            )
        return cls(scan, projections)

    def joined(self, more: NovelViews) -> NovelViews:
        """Return these views and more of the same detector."""
        pairs = zip(_vectors(self.scan), _vectors(more.scan), strict=True)
        vectors = [np.concatenate(pair) for pair in pairs]
        scan = ScanGeometry(self.scan.beam, self.scan.detector_shape, *vectors)
        return NovelViews(scan, torch.cat([self.projections, more.projections]))

    def to(self, device: torch.device | str) -> NovelViews:
        """Return the same views with their projections on another device."""
        return self._replace(projections=self.projections.to(device))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of them."""
        return {
            "beam": self.scan.beam,
            "vectors": torch.tensor(np.stack(_vectors(self.scan))),
            "projections": self.projections,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> NovelViews:
        """Take up what `state` returned."""
        projections = state["projections"]
        vectors = state["vectors"].cpu().numpy()
        return cls(ScanGeometry(state["beam"], tuple(projections.shape[1:]), *vectors), projections)


def _vectors(scan: ScanGeometry) -> tuple[np.ndarray, ...]:
    return scan.source_mm, scan.detector_mm, scan.u_mm, scan.v_mm
