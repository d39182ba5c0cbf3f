import pytest
import torch

from diffnr_lightning.consistency import unresolved_variance
from diffnr_lightning.consistency.discrepancy import UNRESOLVED
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

SCAN = ScanGeometry.parallel(angles_rad=uniform_angles(3), detector_shape=(6, 6), pixel_mm=1.0)


@pytest.mark.parametrize("axis", range(3))
def test_a_step_counts_by_the_edge_of_voxels_along_it(axis):
    """It counted by the mean of the three edges, so that thick slices made edges within them uncertain, too."""
    grid = VolumeGrid((12, 16, 24), (3.0, 1.5, 1.0))
    along = torch.arange(grid.shape[axis], dtype=torch.float64)
    ramp = along.reshape([-1 if k == axis else 1 for k in range(3)]).expand(grid.shape)
    inner = torch.zeros(grid.shape, dtype=torch.float64)
    inner.narrow(axis, 1, grid.shape[axis] - 2).fill_(1.0)
    wanted = UNRESOLVED * grid.voxel_mm[axis] * project(inner, grid, SCAN)
    torch.testing.assert_close(unresolved_variance(ramp, grid, SCAN), wanted)


def test_voxels_of_one_edge_share_it():
    grid = VolumeGrid((6, 6, 6), 1.7)
    volume = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    squares = torch.zeros_like(volume)
    for axis in range(3):
        ahead, behind = volume.narrow(axis, 2, 4), volume.narrow(axis, 0, 4)
        squares.narrow(axis, 1, 4).add_((0.5 * (ahead - behind)).square())
    wanted = UNRESOLVED * 1.7 * project(squares, grid, SCAN)
    assert torch.equal(unresolved_variance(volume, grid, SCAN), wanted)
