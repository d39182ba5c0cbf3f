"""A scan so small that its matrix can be written down, and what a normal prior makes of its projections."""

import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

GRID = VolumeGrid((9, 8, 8), 2.0)
VARIANCE = 0.04


def cone(views: int, coarse: int = 1) -> ScanGeometry:
    """Return a circle of views."""
    return ScanGeometry.cone(
        angles_rad=uniform_angles(views),
        source_to_axis_mm=80.0,
        source_to_detector_mm=120.0,
        detector_shape=(13 // coarse, 12 // coarse),
        pixel_mm=2.5 * coarse,
    )


def drawn(seed: int) -> Tensor:
    """Return a volume from the normal prior of mean 0.5."""
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + VARIANCE**0.5 * torch.randn(GRID.shape, generator=generator)


def system(scan: ScanGeometry) -> Tensor:
    """Return the matrix of the projections."""
    units = torch.eye(9 * 8 * 8).reshape(-1, *GRID.shape)
    return torch.stack([project(unit, GRID, scan).flatten() for unit in units], dim=1).double()


def posterior_mean(mean: Tensor, projections: Tensor, scan: ScanGeometry) -> Tensor:
    """Return the mean (Z, Y, X) of a prior of equal variances moved by the least change that explains projections."""
    missing = (projections - project(mean, GRID, scan)).double().flatten()
    change = torch.linalg.lstsq(system(scan), missing, driver="gelsd").solution
    return mean + change.reshape(GRID.shape)


def rms(volume: Tensor) -> float:
    """Return the root of the mean square."""
    return float(volume.double().square().mean().sqrt())
