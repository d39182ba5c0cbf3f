"""What only the general kernels do."""

import torch

from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.projectors import backproject, project, rays


def test_pieces_of_views_do_not_change_the_result(circle, monkeypatch):
    grid, scan = circle
    volume = torch.rand(grid.shape)
    measured = torch.rand(len(scan), *scan.detector_shape)
    whole = project(volume, grid, scan, "rays"), backproject(measured, grid, scan, "rays")
    monkeypatch.setattr(rays, "_RAYS", 2 * scan.detector_shape[0] * scan.detector_shape[1])
    assert torch.equal(project(volume, grid, scan, "rays"), whole[0])
    torch.testing.assert_close(backproject(measured, grid, scan, "rays"), whole[1])


def test_thin_slices_are_all_visited(circle):
    """With z slices this thin the main axis is z; a stack that sums to the same must agree."""
    _, scan = circle
    thick = VolumeGrid((10, 20, 20), (2.0, 1.0, 1.0))
    thin = VolumeGrid((200, 20, 20), (0.1, 1.0, 1.0))
    volume = torch.ones(thick.shape)
    expected = project(volume, thick, scan, "rays")
    actual = project(torch.ones(thin.shape), thin, scan, "rays")
    rows = slice(11, 17)  # away from top and bottom, where the thick voxels fade over 2 mm
    assert float((actual - expected)[:, rows].norm() / expected[:, rows].norm()) < 0.03


def test_a_volume_of_one_slice_is_served_by_the_kernel_of_others(circle):
    grid, scan = circle
    project(torch.rand(grid.shape), grid, scan, "rays")
    compiled = len(rays._project.signatures)
    for shape in ((1, 6, 8), (6, 1, 8), (6, 8, 1)):
        project(torch.rand(shape), VolumeGrid(shape, 2.0), scan, "rays")
    assert len(rays._project.signatures) == compiled
