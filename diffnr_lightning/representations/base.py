"""What every representation promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid

# Float32 knows a place that is this many voxels away to a hundredth of a voxel.
FAR_VOXELS = 1e5


class Representation(nn.Module, ABC):
    """A learnable volume of normalised attenuation; it knows no loss and no schedule.

    Args:
        grid: the box that it represents; scenes are scaled to a unit box in here only.
    """

    def __init__(self, grid: VolumeGrid) -> None:
        super().__init__()
        self.grid = grid

    @abstractmethod
    def density(self, points: Tensor) -> Tensor:
        """Return the density at points (..., 3), x, y, z in mm of any precision, as (...) in that of the module."""

    @abstractmethod
    def render(self, scan: ScanGeometry) -> Tensor:
        """Return the line integrals (V, H, W) of the density in mm, differentiably."""

    @abstractmethod
    def query(self, grid: VolumeGrid) -> Tensor:
        """Return the density at the voxels of a grid, (Z, Y, X), differentiably."""

    def evaluate(
        self, scan: ScanGeometry, grids: Sequence[VolumeGrid]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the renderings of a scan and the density on some grids.

        A representation in which both need the same intermediate results computes them once.

        Args:
            scan: the views.
            grids: any number of them.

        Returns:
            (V, H, W) as of `render`, and a (Z, Y, X) as of `query` for each grid.
        """
        return self.render(scan), [self.query(grid) for grid in grids]

    @abstractmethod
    def initialise(
        self, volume: Tensor, projections: Tensor, scan: ScanGeometry, seed: int
    ) -> None:
        """Start from a first reconstruction.

        One that compares its renderings with the projections may take `weights` too, (V, H, W) of the rays, 0 for those
        without light, or None. A scene gives them to an `initialise` that has them in its signature.

        Args:
            volume: (Z, Y, X) on the grid of the representation.
            projections: (V, H, W) measured, line integrals in mm.
            scan: their geometry.
            seed: of everything random.

        Raises:
            ValueError: a volume on another grid.
        """

    def constrain(self) -> None:
        """Bring the parameters back into their range; called after every step of an optimiser.

        Nothing by default: most parameters may be any number.
        """

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return parameter groups for an optimiser, each with `params`, `lr` and `name`."""

    def check_volume(self, volume: Tensor) -> None:
        """Refuse a first reconstruction that is not on the grid of the representation.

        Raises:
            ValueError: naming both shapes.
        """
        if tuple(volume.shape) != self.grid.shape:
            raise ValueError(
                f"the first reconstruction has shape {tuple(volume.shape)}, but the representation's "
                f"grid is {self.grid.shape}; reconstruct on that grid."
            )

    def voxels_to_source(self, scan: ScanGeometry) -> float:
        """Return how far the farthest source of a cone beam is from the middle of the grid, in voxels.

        Where this is above `FAR_VOXELS`, float32 is too coarse for distances from the source. Parallel rays are
        described by points near to the grid, so that it is 0 for them.
        """
        if scan.beam == "parallel":
            return 0.0
        away_mm = np.linalg.norm(scan.source_mm - np.array(self.grid.centre_mm), axis=1)
        return float(away_mm.max() / min(self.grid.voxel_mm))
