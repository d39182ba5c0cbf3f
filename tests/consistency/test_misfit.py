import pytest
import torch

from diffnr_lightning.consistency import misfit
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

GRID = VolumeGrid((10, 12, 12), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(6),
    source_to_axis_mm=100.0,
    source_to_detector_mm=150.0,
    detector_shape=(16, 18),
    pixel_mm=3.0,
)


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(0)
    truth, start = (torch.rand(GRID.shape, generator=generator) for _ in range(2))
    return truth, truth + 0.05 * start


def test_weights_count_rays_as_often_as_they_say(volumes):
    """Weights of 3 and 1 are as three copies of some views and one of the others."""
    truth, start = volumes
    projections = project(truth, GRID, SCAN)
    weights = torch.ones_like(projections)
    weights[:2] = 3.0
    often = [0, 0, 0, 1, 1, 1, 2, 3, 4, 5]
    weighted = (projections, GRID, SCAN, 7.0 * weights)
    repeated = (projections[often], GRID, SCAN[often])
    assert misfit(start, *weighted) == pytest.approx(misfit(start, *repeated), rel=1e-5)
    assert misfit(start, *weighted[:3]) != pytest.approx(misfit(start, *weighted), rel=1e-4)
