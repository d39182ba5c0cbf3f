"""What tests of projectors draw, and how far apart two results are."""

import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid


def random_pair(grid: VolumeGrid, scan: ScanGeometry, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A volume (Z, Y, X) and projections (V, H, W) of values between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    volume = torch.rand(grid.shape, generator=generator)
    return volume, torch.rand(len(scan), *scan.detector_shape, generator=generator)


def relative(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a share of the norm of what is expected, in double precision."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm())
