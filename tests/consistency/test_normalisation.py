"""Sums of the projection operator, and where the steps that they scale lead to."""

import pytest
import torch

from diffnr_lightning.consistency import (
    noise_of_mean_weight,
    normalise,
    relative_weights,
    simultaneous_steps,
)
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import backproject, project

GRID = VolumeGrid((4, 6, 6), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(9),
    source_to_axis_mm=60.0,
    source_to_detector_mm=90.0,
    detector_shape=(10, 14),
    pixel_mm=2.0,
)


@pytest.fixture(scope="module")
def system() -> torch.Tensor:
    """The matrix (rays, voxels) of the scan, float64."""
    rays = [
        project(unit.reshape(GRID.shape), GRID, SCAN).flatten()
        for unit in torch.eye(4 * 6 * 6, dtype=torch.float64)
    ]
    return torch.stack(rays, dim=1)


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    """Weights over a factor of thirty, some of them zero."""
    shape = (len(SCAN), *SCAN.detector_shape)
    exponents = 1.5 * torch.rand(shape, generator=torch.Generator().manual_seed(0)).double()
    drawn = 10**exponents
    drawn[exponents < 0.05] = 0.0
    return drawn


def random_volume(seed: int) -> torch.Tensor:
    return torch.rand(GRID.shape, generator=torch.Generator().manual_seed(seed)).double()


def test_without_weights_they_are_reciprocal_sums() -> None:
    wide = ScanGeometry.cone(
        angles_rad=uniform_angles(9),
        source_to_axis_mm=60.0,
        source_to_detector_mm=90.0,
        detector_shape=(20, 24),
        pixel_mm=3.0,
    )
    rays, voxels = normalise(GRID, wide, torch.ones(1))
    lengths = project(torch.ones(GRID.shape), GRID, wide)
    seen = rays > 0
    torch.testing.assert_close(rays[seen], 1 / lengths[seen])
    assert 0 < float(lengths[~seen].max()) < 1e-2 * float(lengths.max())
    torch.testing.assert_close(voxels, 1 / backproject(torch.ones_like(rays), GRID, wide))


def test_weights_of_one_over_the_length_are_those_of_sirt() -> None:
    like = torch.ones(1, dtype=torch.float64)
    plain = normalise(GRID, SCAN, like)
    weighted = normalise(GRID, SCAN, like, plain.rays)
    scale = weighted.rays.sum() / plain.rays.sum()
    torch.testing.assert_close(weighted.rays, scale * plain.rays)
    # They differ by rays that graze the grid, which SIRT leaves out.
    torch.testing.assert_close(scale * weighted.voxels, plain.voxels, rtol=1e-3, atol=0)


def test_only_ratios_of_weights_matter(weights: torch.Tensor) -> None:
    like = torch.ones(1, dtype=torch.float64)
    for one, other in zip(
        normalise(GRID, SCAN, like, weights),
        normalise(GRID, SCAN, like, 1e30 * weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    assert float(relative_weights(weights, SCAN, like).mean()) == pytest.approx(1.0)


def test_a_power_is_taken_of_ratios_and_leaves_zeros(weights: torch.Tensor) -> None:
    like = torch.ones(1, dtype=torch.float64)
    halved = relative_weights(weights, SCAN, like, 0.5)
    torch.testing.assert_close(halved, relative_weights(weights.sqrt(), SCAN, like))
    none = relative_weights(weights, SCAN, like, 0.0)
    torch.testing.assert_close(none, relative_weights((weights > 0).double(), SCAN, like))
    with pytest.raises(ValueError, match="power is -1"):
        relative_weights(weights, SCAN, like, -1.0)


def test_voxels_bound_the_curvature(system: torch.Tensor, weights: torch.Tensor) -> None:
    """No step is too long: C A^T W A has no eigenvalue above 1."""
    rays, voxels = normalise(GRID, SCAN, weights, weights)
    scaled = system * rays.flatten().sqrt()[:, None] * voxels.flatten().sqrt()
    assert 0.99 < float(torch.linalg.svdvals(scaled)[0]) ** 2 < 1 + 1e-9


def test_consistent_projections_lead_to_the_same_volume(weights: torch.Tensor) -> None:
    truth = random_volume(1)
    clean = project(truth, GRID, SCAN)
    for chosen in (None, weights):
        volume = simultaneous_steps(
            torch.zeros_like(truth), clean, GRID, SCAN, iterations=300, weights=chosen
        )
        torch.testing.assert_close(volume, truth, rtol=0, atol=0.12)
        stayed = simultaneous_steps(truth.clone(), clean, GRID, SCAN, iterations=5, weights=chosen)
        torch.testing.assert_close(stayed, truth)


def test_noisy_projections_lead_to_the_weighted_least_squares(
    system: torch.Tensor, weights: torch.Tensor
) -> None:
    truth = random_volume(1)
    clean = project(truth, GRID, SCAN)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2)).double()
    noisy = clean + noise
    root = weights.flatten().sqrt()
    dense = torch.linalg.lstsq(system * root[:, None], noisy.flatten() * root).solution
    dense = dense.reshape(GRID.shape)
    weighted, plain = (
        simultaneous_steps(
            torch.zeros_like(dense), noisy, GRID, SCAN, iterations=300, nonnegative=False, weights=w
        )
        for w in (weights, None)
    )
    assert float((weighted - dense).norm()) < 0.08 * float(dense.norm())
    assert float((plain - dense).norm()) > 0.2 * float(dense.norm())


def test_voxels_behind_starved_rays_are_measured_all_the_same() -> None:
    """In the middle weights are a hundred thousandth of those at the rim."""
    length = project(torch.ones(GRID.shape), GRID, SCAN)
    weights = torch.exp(-12.0 * length / length.max())
    assert (normalise(GRID, SCAN, length, weights).voxels > 0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.ones(2, 3, 4), r"weights has shape \(2, 3, 4\); \(9, 10, 14\)"),
        (torch.full((9, 10, 14), -1.0), "least value of -1"),
        (torch.full((9, 10, 14), float("nan")), "nan"),
        (torch.full((9, 10, 14), float("inf")), "mean of inf"),
        (torch.zeros(9, 10, 14), "not all zero"),
    ],
)
def test_weights_that_are_none_are_refused(wrong: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise(GRID, SCAN, torch.ones(1), wrong)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_noise_is_that_of_a_ray_of_relative_weight_1(
    weights: torch.Tensor, power: float
) -> None:
    noise = noise_of_mean_weight(weights, power)
    raised = weights.double() ** power
    # Such a ray, put among the others, weighs as much as they do in the mean.
    assert noise ** (-2 * power) == pytest.approx(float(raised.mean()), rel=1e-6)
    with pytest.raises(ValueError, match="power is 0"):
        noise_of_mean_weight(weights, 0.0)
