"""Laws that hold for every backend and scan."""

import numpy as np
import pytest
import torch
from operators import random_pair, relative

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import BACKENDS, backproject, project


def gaussian(grid, centre, width):
    squares = (grid.points(dtype=torch.float64) - torch.tensor(centre)).square().sum(-1)
    return torch.exp(-0.5 * squares / width**2)


def gaussian_integrals(scan, centre, width):
    """Exact integrals over whole lines through exp(-r^2 / 2 width^2)."""
    origins, directions = scan.rays(dtype=torch.float64)
    offset = torch.tensor(centre) - origins
    along = (offset * directions).sum(-1)
    squares = offset.square().sum(-1) - along.square()
    return np.sqrt(2 * np.pi) * width * torch.exp(-0.5 * squares / width**2)


def test_backprojection_is_the_adjoint(case):
    grid, scan, backends = case
    volume, measured = random_pair(grid, scan)
    for backend in backends:
        left = (project(volume, grid, scan, backend).double() * measured).sum()
        right = (backproject(measured, grid, scan, backend).double() * volume).sum()
        assert float(abs(left - right) / left) < 1e-6, backend


def test_backends_agree_with_the_reference_in_double_precision(case):
    grid, scan, backends = case
    volume, measured = random_pair(grid, scan)
    expected = project(volume.double(), grid, scan, "reference")
    expected_back = backproject(measured.double(), grid, scan, "reference")
    for backend in backends:
        assert relative(project(volume, grid, scan, backend), expected) < 1e-5, backend
        assert relative(backproject(measured, grid, scan, backend), expected_back) < 1e-5, backend


def test_gaussian_blob_projects_to_its_closed_form(case):
    grid, scan, backends = case
    centre, width = (grid.centre_mm[0] + 1.0, grid.centre_mm[1] - 1.5, grid.centre_mm[2]), 2.5
    expected = gaussian_integrals(scan, centre, width)
    # Linear interpolation between samples h apart costs a Gaussian about (h / width)^2 / 12.
    allowed = 0.13 * (max(grid.voxel_mm) / width) ** 2
    for backend in backends:
        actual = project(gaussian(grid, centre, width).float(), grid, scan, backend)
        assert relative(actual, expected) < allowed, backend


def test_projection_of_a_subset_is_the_subset_of_the_projections(case):
    grid, scan, backends = case
    volume, _ = random_pair(grid, scan)
    views = [0] if len(scan) == 1 else [len(scan) - 1, 1]
    for backend in backends:
        whole = project(volume, grid, scan, backend)
        torch.testing.assert_close(project(volume, grid, scan[views], backend), whole[views])


def test_projection_of_a_window_is_the_window_of_the_projections(case):
    grid, scan, backends = case
    volume, _ = random_pair(grid, scan)
    for rows, columns in (
        (slice(2, 9), slice(3, None)),
        (slice(1, None, 4), slice(0, None, 3)),
    ):
        for backend in backends:
            whole = project(volume, grid, scan, backend)[:, rows, columns]
            part = project(volume, grid, scan.window(rows, columns), backend)
            assert relative(part, whole) < 1e-5, backend


def test_backprojection_adds_over_views(case):
    grid, scan, backends = case
    _, measured = random_pair(grid, scan)
    for backend in backends:
        parts = [backproject(measured[v : v + 1], grid, scan[v], backend) for v in range(len(scan))]
        torch.testing.assert_close(
            torch.stack(parts).sum(0), backproject(measured, grid, scan, backend)
        )


def test_moving_volume_and_scan_together_changes_nothing(case):
    grid, scan, backends = case
    volume, _ = random_pair(grid, scan)
    shift = np.array([13.0, -7.0, 5.0])
    moved_grid = VolumeGrid(grid.shape, grid.voxel_mm, tuple(np.add(grid.centre_mm, shift)))
    moved_scan = ScanGeometry(
        scan.beam,
        scan.detector_shape,
        scan.source_mm + shift,
        scan.detector_mm + shift,
        scan.u_mm,
        scan.v_mm,
    )
    for backend in backends:
        expected = project(volume, grid, scan, backend)
        assert relative(project(volume, moved_grid, moved_scan, backend), expected) < 1e-5


def test_moving_an_object_by_whole_voxels_moves_it_in_space(case):
    grid, scan, backends = case
    volume = torch.zeros(grid.shape)
    volume[4:9, 5:11, 6:12] = random_pair(grid, scan)[0][4:9, 5:11, 6:12]
    z, y, x = 3, -2, 4
    rolled = torch.roll(volume, (z, y, x), (0, 1, 2))
    ez, ey, ex = grid.voxel_mm
    centre = np.subtract(grid.centre_mm, (x * ex, y * ey, z * ez))
    behind = VolumeGrid(grid.shape, grid.voxel_mm, tuple(centre))
    for backend in backends:
        expected = project(volume, grid, scan, backend)
        assert relative(project(rolled, behind, scan, backend), expected) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_quarter_turn_of_the_object_is_a_quarter_turn_of_the_scan(backend):
    grid = VolumeGrid((16, 20, 20), 1.0)
    volume = torch.rand(grid.shape, generator=torch.Generator().manual_seed(1))
    angles = uniform_angles(5, 360, 20)
    options = {
        "source_to_axis_mm": 90.0,
        "source_to_detector_mm": 140.0,
        "detector_shape": (24, 31),
        "pixel_mm": 1.5,
        "detector_offset_mm": (1.0, 3.0),
    }
    # Counter-clockwise about +z carries +x to +y: voxel (y, x) goes to (x, -y).
    turned = torch.flip(volume.transpose(1, 2), dims=(2,))
    expected = project(volume, grid, ScanGeometry.cone(angles_rad=angles, **options), backend)
    scan = ScanGeometry.cone(angles_rad=angles + 0.5 * np.pi, **options)
    assert relative(project(turned, grid, scan, backend), expected) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_row_zero_is_the_top_and_columns_grow_along_u(backend):
    grid = VolumeGrid((16, 16, 16), 1.0)
    volume = torch.zeros(grid.shape)
    volume[13, 8, 8] = 1.0  # above the centre
    scan = ScanGeometry.parallel(angles_rad=[0.0], detector_shape=(16, 16), pixel_mm=1.0)
    image = project(volume, grid, scan, backend)[0]
    assert tuple(np.unravel_index(int(image.argmax()), image.shape)) == (2, 8)
    volume = torch.zeros(grid.shape)
    volume[8, 13, 8] = 1.0  # towards +y, which is +u at angle 0
    image = project(volume, grid, scan, backend)[0]
    assert tuple(np.unravel_index(int(image.argmax()), image.shape)) == (7, 13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_distant_cone_is_a_parallel_beam(backend, circle):
    grid, _ = circle
    volume = gaussian(grid, (2.0, -1.0, 3.0), 2.5).float()
    angles = uniform_angles(4, 180, 10)
    parallel = ScanGeometry.parallel(angles_rad=angles, detector_shape=(28, 32), pixel_mm=1.0)
    far = ScanGeometry.cone(
        angles_rad=angles,
        source_to_axis_mm=1e6,
        source_to_detector_mm=1e6,
        detector_shape=(28, 32),
        pixel_mm=1.0,
    )
    expected = project(volume, grid, parallel, backend)
    assert relative(project(volume, grid, far, backend), expected) < 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_parallel_projections_hold_the_mass_of_the_object(backend):
    grid = VolumeGrid((16, 16, 16), (1.2, 0.9, 0.7))
    volume = gaussian(grid, (0.3, -0.2, 0.5), 1.5).float()
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(7), detector_shape=(40, 40), pixel_mm=0.6
    )
    mass = float(volume.sum()) * np.prod(grid.voxel_mm)
    masses = project(volume, grid, scan, backend).sum(dim=(1, 2)) * 0.36
    torch.testing.assert_close(masses, torch.full((7,), mass), rtol=5e-3, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_lies_behind_the_source_is_not_seen(backend):
    grid = VolumeGrid((12, 12, 40), 1.0)
    volume = torch.zeros(grid.shape)
    volume[:, :, 30:] = 1.0
    scan = ScanGeometry.cone(
        angles_rad=[0.0],
        source_to_axis_mm=6.0,
        source_to_detector_mm=12.0,
        detector_shape=(8, 8),
        pixel_mm=0.5,
    )
    assert float(project(volume, grid, scan, backend).abs().max()) == 0.0
    ones = torch.ones(1, 8, 8)
    assert float(backproject(ones, grid, scan, backend)[:, :, 27:].abs().max()) == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_rays_that_miss_the_volume_are_zero(backend, circle):
    grid, scan = circle
    far_grid = VolumeGrid(grid.shape, grid.voxel_mm, (0.0, 0.0, 500.0))
    volume, measured = random_pair(grid, scan)
    assert float(project(volume, far_grid, scan, backend).abs().max()) == 0.0
    assert float(backproject(measured, far_grid, scan, backend).abs().max()) == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_the_adjoint_both_ways(backend, circle):
    grid, scan = circle
    volume, measured = random_pair(grid, scan)
    volume.requires_grad_()
    (gradient,) = torch.autograd.grad(
        (project(volume, grid, scan, backend) * measured).sum(), volume
    )
    torch.testing.assert_close(gradient, backproject(measured, grid, scan, backend))
    measured.requires_grad_()
    (gradient,) = torch.autograd.grad(
        (backproject(measured, grid, scan, backend) * volume.detach()).sum(), measured
    )
    torch.testing.assert_close(gradient, project(volume.detach(), grid, scan, backend))
