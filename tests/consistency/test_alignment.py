"""Alignment moves a volume towards its projections, and nothing into the air."""

import pytest
import torch

from diffnr_lightning.consistency import align
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

GRID = VolumeGrid((16, 16, 16), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(12),
    source_to_axis_mm=100.0,
    source_to_detector_mm=150.0,
    detector_shape=(24, 24),
    pixel_mm=3.0,
)


@pytest.fixture
def ball() -> torch.Tensor:
    return (GRID.points().norm(dim=-1) < 10).float()


def test_a_volume_that_fits_stays(ball: torch.Tensor) -> None:
    aligned = align(ball, project(ball, GRID, SCAN), GRID, SCAN)
    torch.testing.assert_close(aligned, ball, atol=1e-4, rtol=0)


def test_a_wrong_volume_comes_nearer_to_the_truth_and_to_its_projections(
    ball: torch.Tensor,
) -> None:
    measured = project(ball, GRID, SCAN)
    aligned = align(0.7 * ball, measured, GRID, SCAN, iterations=20, detail=0.0)
    assert (aligned - ball).square().mean() < 0.3 * (0.3 * ball).square().mean()
    residual = project(aligned, GRID, SCAN) - measured
    assert residual.norm() < 0.3 * (0.3 * measured).norm()


def test_noise_does_not_reach_the_air(ball: torch.Tensor) -> None:
    measured = project(ball, GRID, SCAN)
    noisy = measured + torch.randn(measured.shape, generator=torch.Generator().manual_seed(0))
    aligned = align(ball, noisy, GRID, SCAN)
    assert (aligned[ball == 0] == 0).all()
    assert (aligned[ball > 0] != 1).any()
    everywhere = align(ball, noisy, GRID, SCAN, support=-1.0)
    assert (everywhere[ball == 0] > 0).any()


def test_smoothing_takes_the_noise_out_of_the_change(ball: torch.Tensor) -> None:
    measured = project(ball, GRID, SCAN)
    noisy = measured + torch.randn(measured.shape, generator=torch.Generator().manual_seed(0))
    rough, smooth = (align(ball, noisy, GRID, SCAN, smoothing=s) for s in (0.0, 1.5))
    inside = ball > 0
    assert smooth[inside].std() < 0.7 * rough[inside].std()


def test_detail_is_corrected_whatever_lies_outside_the_grid(ball: torch.Tensor) -> None:
    rod = VolumeGrid((16, 64, 64), 2.0)
    points = rod.points()
    outside = 0.3 * ((points[..., 0] > 40) & (points[..., 1].abs() < 12)).float()
    truncated = project(ball, GRID, SCAN) + project(outside, rod, SCAN)
    dented = ball.clone()
    dented[6:10, 7:9, 7:9] = 0.5
    errors = {}
    for detail in (0.0, 2.0):
        aligned = align(dented, truncated, GRID, SCAN, iterations=20, detail=detail, smoothing=0.5)
        errors[detail] = (aligned - ball).norm() / (dented - ball).norm()
    assert errors[2.0] < 0.9
    assert errors[2.0] < 0.8 * errors[0.0]


def test_no_iterations_return_the_volume(ball: torch.Tensor) -> None:
    assert align(ball, project(ball, GRID, SCAN), GRID, SCAN, iterations=0) is ball


def test_negative_numbers_are_refused(ball: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        align(ball, project(ball, GRID, SCAN), GRID, SCAN, iterations=-1)
