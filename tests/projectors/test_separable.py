"""What only the separable kernels do."""

import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import backproject, project, weighted_backproject


def test_tilted_rows_are_refused(circle):
    grid, scan = circle
    tilted = ScanGeometry(
        "cone",
        scan.detector_shape,
        scan.source_mm,
        scan.detector_mm,
        scan.u_mm,
        scan.v_mm + 0.1 * scan.u_mm,
    )
    with pytest.raises(ValueError, match="do not run along z"):
        project(torch.ones(grid.shape), grid, tilted, "separable")
    with pytest.raises(ValueError, match="do not run along z"):
        backproject(torch.ones(len(scan), *scan.detector_shape), grid, tilted, "separable")


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 2), (40, 2, 70), (3, 37, 1)])
def test_awkward_shapes_agree_with_the_reference(shape):
    """Sizes that are no multiple of any block of the kernels."""
    grid = VolumeGrid(shape, (0.7, 0.8, 0.9), (1.0, -2.0, 0.5))
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(35, 360, 3),
        source_to_axis_mm=120.0,
        source_to_detector_mm=150.0,
        detector_shape=(13, 21),
        pixel_mm=(2.0, 2.5),
    )
    volume, measured = torch.rand(shape), torch.rand(35, 13, 21)
    for operator, array in (
        (project, volume),
        (backproject, measured),
        (weighted_backproject, measured),
    ):
        expected = operator(array.double(), grid, scan, "reference").float()
        torch.testing.assert_close(
            operator(array, grid, scan, "separable"), expected, rtol=1e-4, atol=1e-5
        )


def test_opposite_direction_of_rows_turns_the_image_over(circle):
    grid, scan = circle
    volume = torch.rand(grid.shape)
    upside_down = ScanGeometry(
        "cone", scan.detector_shape, scan.source_mm, scan.detector_mm, scan.u_mm, -scan.v_mm
    )
    torch.testing.assert_close(
        project(volume, grid, upside_down, "separable"),
        project(volume, grid, scan, "separable").flip(1),
    )
