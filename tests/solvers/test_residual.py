"""The backprojected residual of a volume is nought where it fits, and its error with all views."""

import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project
from diffnr_lightning.solvers import analytic, backprojected_residual

GRID = VolumeGrid((12, 24, 24), 2.0)


def scan(views: int, beam: str = "cone") -> ScanGeometry:
    common = {
        "angles_rad": uniform_angles(views),
        "detector_shape": (24, 40),
        "pixel_mm": 2.4 if beam == "cone" else 2.0,
    }
    if beam == "parallel":
        return ScanGeometry.parallel(**common)
    return ScanGeometry.cone(source_to_axis_mm=400.0, source_to_detector_mm=500.0, **common)


def blob(shift: float) -> torch.Tensor:
    centre = torch.tensor([0.0, shift, -shift])
    return torch.exp(-0.5 * ((GRID.points() - centre) / 5.0).square().sum(-1))


def test_a_volume_that_fits_leaves_nothing() -> None:
    truth = blob(4.0)
    residual = backprojected_residual(truth, project(truth, GRID, scan(12)), GRID, scan(12))
    assert residual.abs().max() < 1e-4


def test_with_all_views_it_is_the_error() -> None:
    for beam in ("cone", "parallel"):
        views = scan(180, beam)
        truth, wrong = blob(4.0), blob(0.0)
        residual = backprojected_residual(wrong, project(truth, GRID, views), GRID, views)
        assert (residual - (truth - wrong)).norm() < 0.15 * (truth - wrong).norm()


def test_it_is_what_analytic_reconstruction_adds() -> None:
    views = scan(16)
    measured, volume = project(blob(4.0), GRID, views), blob(0.0)
    residual = backprojected_residual(volume, measured, GRID, views)
    once = analytic(measured, GRID, views) - analytic(project(volume, GRID, views), GRID, views)
    torch.testing.assert_close(residual, once, atol=1e-5, rtol=1e-4)
