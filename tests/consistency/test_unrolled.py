"""Conjugate gradients that gradients pass through."""

import pytest
import torch

from diffnr_lightning.consistency import DataStep, LeastSquares, unrolled_fit
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

GRID = VolumeGrid((4, 3, 3), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(5),
    source_to_axis_mm=60.0,
    source_to_detector_mm=90.0,
    detector_shape=(6, 7),
    pixel_mm=2.0,
)


def drawn(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(GRID.shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def fit() -> LeastSquares:
    shown = project(drawn(0), GRID, SCAN)
    weights = 0.5 + torch.rand(shown.shape, generator=torch.Generator().manual_seed(1)).double()
    return LeastSquares.weighted(shown + 0.1, GRID, SCAN, weights, 1.0)


@pytest.mark.parametrize("proximity", [0.0, 0.1])
def test_it_ends_where_the_data_step_does(fit, proximity):
    step = DataStep(fit, iterations=3)
    wanted = step(drawn(2), proximity)
    found = unrolled_fit(fit, drawn(2), scale=step.scale, iterations=3, proximity=proximity)
    torch.testing.assert_close(found.volume, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.residual, fit.projections - fit.shown(wanted))


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_the_gradient_is_that_of_small_changes(fit, iterations):
    """Although step lengths are constants in it."""
    scale = 1.0 / fit.largest()

    def loss(estimate: torch.Tensor) -> torch.Tensor:
        found = unrolled_fit(fit, estimate, scale=scale, iterations=iterations)
        return (fit.weights * found.residual.square()).sum()

    estimate, change = drawn(2).requires_grad_(), drawn(3) - 0.5
    slope = float((torch.autograd.grad(loss(estimate), estimate)[0] * change).sum())
    ends = [float(loss(estimate.detach() + share * change)) for share in (-1e-4, 1e-4)]
    assert slope == pytest.approx((ends[1] - ends[0]) / 2e-4, rel=1e-5)


def test_what_fits_already_stays_with_finite_gradients(fit):
    exact = fit._replace(projections=torch.zeros_like(fit.projections))
    estimate = torch.zeros(GRID.shape, dtype=torch.float64, requires_grad=True)
    found = unrolled_fit(exact, estimate, scale=1.0, iterations=2)
    found.residual.square().sum().backward()
    assert torch.equal(found.volume, estimate)
    assert torch.equal(estimate.grad, torch.zeros_like(estimate))
