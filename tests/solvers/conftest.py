"""A small piecewise-constant object, and what a scanner with noise measures of it in few views."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

SCANNER = {
    "source_to_axis_mm": 200.0,
    "source_to_detector_mm": 300.0,
    "detector_shape": (60, 60),
    "pixel_mm": 1.5,
}


class Measurement(NamedTuple):
    grid: VolumeGrid
    scan: ScanGeometry
    truth: Tensor
    projections: Tensor


def ellipsoids(grid: VolumeGrid) -> Tensor:
    """Body, two hollows and a few dense spots."""
    points = grid.points() / (0.5 * grid.size_mm[0])
    volume = torch.zeros(grid.shape)
    for centre, axes, value in (
        ((0.0, 0.0, 0.0), (0.85, 0.65, 0.9), 0.5),
        ((-0.4, 0.0, 0.0), (0.25, 0.4, 0.7), 0.1),
        ((0.4, 0.0, 0.0), (0.25, 0.4, 0.7), 0.1),
        ((0.0, 0.5, 0.0), (0.1, 0.1, 0.8), 0.9),
        ((0.45, 0.05, 0.2), (0.1, 0.1, 0.1), 0.6),
        ((-0.1, -0.45, -0.3), (0.12, 0.12, 0.12), 0.8),
    ):
        away = (points - torch.tensor(centre)) / torch.tensor(axes)
        volume[away.square().sum(-1) < 1] = value
    return volume


@pytest.fixture(scope="session")
def measurement() -> Measurement:
    """20 noisy views of a 32^3 object that was projected on a grid twice as fine."""
    grid, fine = VolumeGrid((32, 32, 32), 1.5), VolumeGrid((64, 64, 64), 0.75)
    scan = ScanGeometry.cone(angles_rad=uniform_angles(20), **SCANNER)
    object_ = ellipsoids(fine)
    clean = project(object_, fine, scan)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    truth = torch.nn.functional.avg_pool3d(object_[None], 2)[0]
    return Measurement(grid, scan, truth, clean + 0.01 * clean.max() * noise)
