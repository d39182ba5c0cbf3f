"""The oracle itself, against finite differences and against its own memory bound."""

import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import backproject, project, reference


def small():
    grid = VolumeGrid((4, 5, 3), (1.1, 0.9, 1.3), (0.4, -0.2, 0.1))
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(3, 360, 25),
        source_to_axis_mm=20.0,
        source_to_detector_mm=32.0,
        detector_shape=(4, 5),
        pixel_mm=1.7,
    )
    return grid, scan


def test_gradcheck_in_double_precision():
    grid, scan = small()
    volume = torch.rand(grid.shape, dtype=torch.float64, requires_grad=True)
    measured = torch.rand(len(scan), *scan.detector_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: project(v, grid, scan, "reference"), volume)
    assert torch.autograd.gradcheck(lambda p: backproject(p, grid, scan, "reference"), measured)
    assert torch.autograd.gradgradcheck(
        lambda v: project(v, grid, scan, "reference").square(), volume
    )


def test_pieces_of_rays_do_not_change_the_result(monkeypatch):
    grid, scan = small()
    volume = torch.rand(grid.shape, dtype=torch.float64)
    measured = torch.rand(len(scan), *scan.detector_shape, dtype=torch.float64)
    whole = (
        project(volume, grid, scan, "reference"),
        backproject(measured, grid, scan, "reference"),
    )
    monkeypatch.setattr(reference, "_SAMPLES", 37)
    torch.testing.assert_close(project(volume, grid, scan, "reference"), whole[0])
    torch.testing.assert_close(backproject(measured, grid, scan, "reference"), whole[1])
