"""Row and column sums of the projection operator, which scale the steps of SIRT and SART."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import backproject, project

# Rays that graze a corner of the grid, and voxels that only such rays meet, have sums near zero;
# their reciprocals would amplify noise without bound. Below this fraction of the largest sum they
# count as not measured.
_GRAZING = 1e-3


class Weights(NamedTuple):
    """Reciprocal sums of the system matrix of one scan.

    Attributes:
        rays: (V, H, W) one over the length of every ray inside the grid, 1/mm; 0 where it misses.
        voxels: (Z, Y, X) one over the sum of every voxel's weights; 0 where no ray meets it.
    """

    rays: Tensor
    voxels: Tensor


def normalise(grid: VolumeGrid, scan: ScanGeometry, like: Tensor) -> Weights:
    """Return the weights of a scan, in the dtype and on the device of ``like``.

    Args:
        grid: the voxels.
        scan: all views of the scan, or a subset of them.
        like: any tensor of the reconstruction.
    """
    rays = project(like.new_ones(grid.shape), grid, scan)
    voxels = backproject(torch.ones_like(rays), grid, scan)
    return Weights(_reciprocal(rays), _reciprocal(voxels))


def _reciprocal(sums: Tensor) -> Tensor:
    seen = sums > _GRAZING * sums.max()
    return torch.where(seen, 1.0 / sums.clamp_min(torch.finfo(sums.dtype).tiny), 0.0)
